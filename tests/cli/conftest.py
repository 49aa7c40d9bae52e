"""The command line with the scenario simulator, and commands that must be refused before any simulator starts."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import click.testing
import pytest
from helpers import CommandLine, wait_until
from scenario import play

from simyard.cli.main import main

PATIENCE_S = 240.0
"""Waits end when what they wait for has happened; a machine that has other work may take this long."""


@dataclass(frozen=True)
class Shell:
    """The `simyard` command on a machine whose simulator plays scenarios."""

    command: CommandLine
    store: Path
    home: Path
    config: Path

    def write(self, scenario, **changes):
        """Write a config that plays a scenario."""
        self.config.write_text(json.dumps(play.config(scenario, **changes)))
        return self.config

    def run(self, *arguments, **env):
        return self.command(*arguments, "--store", self.store, timeout_s=PATIENCE_S, **env)

    def start(self, *arguments):
        return self.command.start(*arguments, "--store", self.store)

    def job(self):
        """Return the id of the only job, once it is there."""
        return wait_until(
            lambda: [path.name for path in self.store.glob("jobs/job-*")], PATIENCE_S, "a job in the store"
        )[0]

    def reach(self, iteration, attempt=1):
        """Wait until an attempt has done this many iterations; return what it has printed."""

        def printed():
            found = [path.read_text() for path in self.home.glob(f"work/job-*/{attempt:03d}-*/command.stdout.log")]
            return [text for text in found if f"Learning iteration {iteration - 1}/" in text]

        return wait_until(printed, PATIENCE_S, f"iteration {iteration}")[0]

    def left(self, result):
        return play.Left(play.Store.open(str(self.store)), self.store / "jobs" / result["job_id"], result)

    def result(self, job_id):
        return json.loads((self.store / "jobs" / job_id / "result.json").read_text())


@pytest.fixture
def shell(simyard, store, tmp_path):
    """A machine of its own; nothing runs on it at the end."""
    home = tmp_path / "home"
    machine = replace(simyard, env={**simyard.env, **play.ENVIRONMENT, "SIMYARD_HOME": str(home)})
    yield Shell(machine, store, home, tmp_path / "config.json")
    wait_until(lambda: play.running_below(tmp_path) == [], PATIENCE_S, "the end of all that was started")


@pytest.fixture
def refuse(tmp_path, store, monkeypatch):
    """Run a command that must be refused: quickly, in words, with exit code 2, and without a trace in the store."""
    # Whatever is not refused fails at once, and with another exit code.
    monkeypatch.setenv("SIMYARD_PYTHON", "/bin/false")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("SIMYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SIMYARD_STORE", str(store))
    monkeypatch.chdir(tmp_path)

    def run(*arguments, said):
        before = sorted(store.rglob("*"))
        began = time.process_time()
        result = click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments])
        took = time.process_time() - began
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output
        for text in said:
            assert text in result.stderr
        assert len(result.stderr) < 3000
        assert sorted(store.rglob("*")) == before
        assert not (tmp_path / "home" / "work").exists(), "a workload was started"
        assert took < 2
        return result

    return run


@pytest.fixture
def write(tmp_path):
    def write_config(content):
        path = tmp_path / "config.json"
        path.write_bytes(
            content if isinstance(content, bytes) else json.dumps(content).replace("Infinity", "1e999").encode()
        )
        return path

    return write_config
