"""Sweeps on the scenario simulator, by the real command line."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import CommandLine, last_json, wait_until
from scenario import play

from simyard.store.store import Store

PATIENCE_S = 480


@dataclass(frozen=True)
class Sweeps:
    """A machine and a store for sweeps."""

    command: CommandLine
    folder: Path
    store: Path

    def write(self, scenario: str = "", *, iterations: int = 6, **sweep: Any) -> Path:
        """Write a config of two settings, with these fields of `sweep`."""
        config = play.config(scenario, iterations=iterations, name="sweep")
        path = self.folder / "sweep.json"
        given = {"parameters": {"agent.x": {"values": [1, 2]}}, "parallel": 2} | sweep
        path.write_text(json.dumps(config | {"sweep": given}))
        return path

    def run(self, scenario: str = "", *arguments: str, **sweep: Any) -> "Sweep":
        """Run a sweep to its end."""
        path = self.write(scenario, **sweep)
        done = self.command("sweep", path, "--wait", "--store", self.store, "--json", *arguments, timeout_s=PATIENCE_S)
        found = last_json(done)
        assert "sweep_id" in found, done.stderr
        return Sweep(self, found["sweep_id"], done.returncode)

    def begin(self, scenario: str = "", **sweep: Any) -> Any:
        """Start one, and return its process."""
        return self.command.start("sweep", self.write(scenario, **sweep), "--wait", "--store", self.store)

    def newest(self) -> "Sweep":
        """Return the newest sweep, once there is one."""
        below = self.store / "sweeps"
        before = wait_until(lambda: sorted(below.glob("*/sweep.json")), PATIENCE_S, "a sweep in the store")
        return Sweep(self, before[-1].parent.name, None)


@dataclass(frozen=True)
class Sweep:
    """A sweep in the store."""

    sweeps: Sweeps
    sweep_id: str
    exit_code: int | None

    @property
    def folder(self) -> Path:
        return self.sweeps.store / "sweeps" / self.sweep_id

    @property
    def result(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "result.json").read_text()))

    def records(self, name: str) -> list[dict[str, Any]]:
        """The records of a folder, in order."""
        return [json.loads(path.read_text()) for path in sorted((self.folder / name).glob("*.json"))]

    @property
    def events(self) -> list[str]:
        return [event["event_type"] for event in self.records("events")]

    def do(self, *arguments: str) -> Any:
        verb, *more = arguments
        return self.sweeps.command("sweep", verb, self.sweep_id, "--store", self.sweeps.store, *more)

    def job(self, job_id: str) -> play.Left:
        """What a job of it left."""
        folder = self.sweeps.store / "jobs" / job_id
        return play.Left(Store.open(str(self.sweeps.store)), folder, json.loads((folder / "result.json").read_text()))

    def wait_for(self, event: str, count: int = 1) -> None:
        """Wait until so many such events were written."""
        wait_until(lambda: self.events.count(event) >= count, PATIENCE_S, f"{count} {event} of {self.sweep_id}")

    def assert_sound(self) -> None:
        """Each training was run once, did its own iterations once, and goes on from the one before it."""
        measured = [one for one in self.records("decisions") if one["kind"] == "measured"]
        assert len({(one["setting"], one["rung"], one["run"]["seed"]) for one in measured}) == len(measured)
        for one in measured:
            before = 0
            for job_id in one["run"]["jobs"]:
                left = self.job(job_id)
                assert left.result["status"] == "succeeded", left.error
                spec = json.loads((left.folder / "job.json").read_text())
                assert (spec["resume"] or {"iteration": 0})["iteration"] == before
                before += spec["max_iterations"]
                said = re.findall(r"every weight is \[(\d+)\.0\]", left.stdout(len(left.attempts)))
                assert said == [str(before)], "an iteration was skipped, or made twice"
            assert before == one["run"]["iterations"]
        jobs = {job_id for one in measured for job_id in one["run"]["jobs"]}
        trained = [path.parent.name for path in (self.sweeps.store / "jobs").glob("*/job.json")]
        assert jobs <= set(trained)
