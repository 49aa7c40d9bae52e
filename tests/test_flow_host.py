"""The commands that `flow_host.py` becomes are those that are installed."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import HANG_S, CommandLine, FlowHost
from scenario import play

pytestmark = pytest.mark.system

CLOSED = "http://127.0.0.1:9/api"
NO_JOB = "job-01m7xfw3znjmsykhm906t4fbav"


@pytest.fixture
def both(flow_host: FlowHost, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[CommandLine]:
    """The installed command and its stand-in, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    env = {**os.environ, **play.ENVIRONMENT, "SIMYARD_HOME": str(tmp_path / "home"), "SIMYARD_STORE": str(store)}
    return [CommandLine(env), CommandLine(env, flow_host)]


@pytest.mark.parametrize(
    ("arguments", "env", "code"),
    [
        pytest.param(["--version"], {}, 0, id="a word and no more"),
        pytest.param(["jobs", "list"], {}, 0, id="the store of SIMYARD_STORE"),
        pytest.param(["jobs", "show", NO_JOB, "--json"], {}, 2, id="both streams"),
        pytest.param(["train", "not there.json"], {}, 2, id="a file of the current folder"),
        pytest.param(["jobs", "lost"], {}, 2, id="click's own words"),
        pytest.param(["train", "job.json", "--pool", "p"], {"PREFECT_API_URL": CLOSED}, 2, id="Prefect's settings"),
    ],
)
def test_it_ends_and_says_what_the_installed_command_does(both, tmp_path, arguments, env, code):
    (tmp_path / "job.json").write_text('{"trainingConfig": {"task": "Scenario"}, "computeConfig": {"gpusPerNode": 0}}')
    real, hosted = (command(*arguments, **env) for command in both)
    # A machine that is slow is told what is waited for, and for how long.
    errors = [re.sub(r"(?m)^ +\d+ s  waiting for Prefect …\n", "", done.stderr) for done in (real, hosted)]
    assert (hosted.returncode, hosted.stdout, errors[1]) == (real.returncode, real.stdout, errors[0])
    assert real.returncode == code, real.stderr


def test_killed_it_says_by_which_signal(both):
    _, hosted = both
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = hosted.start("jobs", "list")
        os.killpg(process.pid, number)
        assert process.wait(HANG_S) == -number


def test_its_settings_are_its_own(both):
    _, hosted = both
    for port in (7, 9):
        url = f"http://127.0.0.1:{port}/api"
        told = replace(hosted, env={**hosted.env, "PREFECT_API_URL": url})("doctor", "--pool", "p")
        assert url in told.stdout
