"""A job's metrics, settings and artifacts in a tracker, while it runs: a process of its own that reads the store.

It knows of the job what the store has, so nothing of the job waits for it, and what it could not tell yet it tells the
next time: `trackers/<name>.json` beside the job says how far it has come.
"""

from __future__ import annotations

import csv
import io
import math
import re
import select
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from simyard.blocks.reference import open_store
from simyard.core.artifacts import METRICS
from simyard.core.records import ArtifactEntry, JobResult, TrackerRecord
from simyard.core.specs import JobSpec
from simyard.core.wire import now
from simyard.requests.settings import TRACKERS, MachineSettings
from simyard.store import keys
from simyard.store.keys import JobKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.shared import history

LOOK_S = 5.0
"""Between two looks at the store; where one takes long, so much more that they cost little."""
SHARE = 0.05
"""Part of a processor that looks may cost."""
MAX_METRICS_BYTES = 64_000_000
"""Of a larger table nothing is told."""


@dataclass(frozen=True)
class Row:
    """A row of a job's table of metrics."""

    step: int
    wall_time: float
    values: dict[str, float]
    """By column; finite ones alone."""


@dataclass(frozen=True)
class Mirrored:
    """The job, as a tracker begins a run with it."""

    spec: JobSpec
    url: str
    """Of the job's folder."""
    sweep: str | None
    """Id of the sweep whose training it is."""
    folder: Path
    """Folder for what the tracker keeps on this machine."""

    def settings(self) -> dict[str, Any]:
        """Return what a person would compare runs by."""
        spec = self.spec
        own = {
            "kind": spec.kind, "task": spec.task, "library": spec.library, "physics": spec.physics, "seed": spec.seed,
            "num_envs": spec.num_envs, "max_iterations": spec.max_iterations, "gpus": spec.gpus, "nodes": spec.nodes,
            "from_job": spec.from_job,
        }  # fmt: skip
        overrides = dict(text.lstrip("+~").partition("=")[::2] for text in spec.overrides)
        return {name: value for name, value in (own | overrides).items() if value not in (None, "")}


class Tracker(Protocol):
    """A connection to a tracker, with one run of it for the job."""

    def begin(self, job: Mirrored, run_id: str | None) -> tuple[str, str | None]:
        """Begin the job's run, or go on with it; return its id and address."""

    def log(self, rows: Sequence[Row]) -> None:
        """Send rows of metrics."""

    def end(self, result: JobResult, artifacts: dict[str, ArtifactEntry]) -> None:
        """Send figures and addresses of the artifacts, and end the run."""

    def close(self) -> None:
        """Let go of the run, which has not ended."""


class Mirror:
    """A job's run in one tracker.

    Args:
        name: The tracker's.
        store: The job's store.
        job_id: The job.
        folder: Folder for what the tracker keeps on this machine.
    """

    def __init__(self, name: str, store: Store, job_id: str, folder: Path) -> None:
        self.store, self.job = store, JobKeys(job_id)
        self._key = self.job.tracker(name)
        known = store.get_record_or_none(self._key, TrackerRecord)
        self.record = known or TrackerRecord(
            tracker=name, run_id=None, url=None, last_step=None, ended=False, problem=None, updated_at=now()
        )
        self._name, self._folder = name, folder
        self._tracker: Tracker | None = None
        self._seen: tuple[str, object] | None = None

    def look(self) -> bool:
        """Tell the tracker what is new; return whether the job has ended and all is told.

        What goes wrong is noted, and tried again the next time.
        """
        try:
            if self._tracker is None:
                self._tracker = self._begun()
            self._send_rows(self._tracker)
            state = history.job_status(self.store, self.job.job_id)
            if isinstance(state, JobResult):
                addresses = {self.store.url(self.job.artifact(one.name)): one for one in state.artifacts}
                self._tracker.end(state, addresses)
                self._tracker = None
                self._note(ended=True, problem=None)
            elif self.record.problem:
                self._note(problem=None)
        except Exception as error:  # a tracker's library may raise anything, and none of it may matter
            self._tracker = None
            self._note(problem=f"{type(error).__name__}: {error}".partition("\n")[0][:300])
        return self.record.ended

    def close(self) -> None:
        """Let go of the tracker."""
        if self._tracker is not None:
            self._tracker.close()

    def _begun(self) -> Tracker:
        spec = history.load_spec(self.store, self.job.job_id)
        if find_spec(self._name) is None:
            raise ModuleNotFoundError(f"{self._name} is not installed here: pip install 'simyard[{self._name}]'")
        tracker: Tracker = import_module(f"simyard.tasks.trackers.{self._name}_run").Run()
        job = Mirrored(spec, self.store.url(self.job.prefix), _sweep_of(self.store, spec.job_id), self._folder)
        run_id, url = tracker.begin(job, self.record.run_id)
        self._note(run_id=run_id, url=url, ended=False)
        return tracker

    def _send_rows(self, tracker: Tracker) -> None:
        """Send the rows behind the last one that was sent; an attempt that goes on repeats none."""
        key, stat = self._table()
        if key is None or (key, stat) == self._seen:
            return
        last = self.record.last_step
        rows = [row for row in read_rows(self.store.get_bytes(key)) if last is None or row.step > last]
        if rows:
            tracker.log(rows)
            self._note(last_step=rows[-1].step)
        self._seen = (key, stat)

    def _table(self) -> tuple[str | None, object]:
        """Return the key of the table of all attempts, or of the newest that has one, and what tells its versions."""
        numbers = sorted(filter(str.isdigit, self.store.list_dirs(self.job.attempts)), reverse=True)
        for key in (
            self.job.artifact(METRICS.name),
            *(self.job.attempt(int(number)).file(METRICS.name) for number in numbers),
        ):
            try:
                stat = self.store.stat(key)
            except KeyNotFound:
                continue
            return (None, None) if stat.size_bytes > MAX_METRICS_BYTES else (key, stat)
        return None, None

    def _note(self, **changes: Any) -> None:
        self.record = replace(self.record, **changes, updated_at=now())
        self.store.put_record(self._key, self.record)


def read_rows(table: bytes) -> Iterator[Row]:
    """Yield the rows of a table of metrics; a workload wrote it, so what is no number is left out."""
    try:
        for row in csv.DictReader(io.StringIO(table.decode(errors="replace"))):
            values = {name: number for name, text in row.items() if name and (number := _number(text)) is not None}
            step = values.pop("step", None)
            wall_time = values.pop("wall_time", 0.0)
            if step is not None and values:
                yield Row(int(step), wall_time, values)
    except csv.Error:
        return


def _number(text: Any) -> float | None:
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _sweep_of(store: Store, job_id: str) -> str | None:
    """Return the id of the newest sweep that goes on and names a job."""
    for sweep_id in reversed(store.list_dirs(keys.SWEEPS)):
        entries = [entry.key for entry in store.list(f"{keys.SWEEPS}/{sweep_id}") if entry.key.endswith(".json")]
        own = [key for key in entries if "/settings/" in key or "/decisions/" in key]
        if not any(key.endswith(f"{sweep_id}/result.json") for key in entries):
            for key in reversed(own):
                if job_id.encode() in store.get_bytes(key):
                    return sweep_id
    return None


def plain_name(text: str) -> str:
    """Return a name that every tracker takes."""
    return re.sub(r"[^\w\-./ ]", "_", text, flags=re.ASCII)[:250]


def figures(result: JobResult) -> dict[str, float]:
    """Return the numbers of a result that stand beside its curves."""
    found = {"done": float(result.done), "attempts": float(result.attempts), "reward": result.reward}
    found |= {f"timings/{name}": value for name, value in result.timings.items()}
    summary = result.summary or {}
    found |= {f"summary/{name}": value for name, value in summary.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def follow(mirror: Mirror) -> None:
    """Tell a tracker of a job until it has ended, or until standard input closes: the process that drives it is done.

    Then one more look is made.
    """
    while True:
        began = time.process_time()
        if mirror.look():
            return
        pause_s = max(LOOK_S, (time.process_time() - began) / SHARE)
        if select.select([sys.stdin], [], [], pause_s)[0]:  # it closed
            mirror.look()
            return


def main() -> None:
    """Mirror one job: `python -m simyard.tasks.trackers.mirror TRACKER STORE JOB`."""
    name, reference, job_id = sys.argv[1:]
    assert name in TRACKERS
    folder = MachineSettings.from_env_in_part().home / "trackers" / name
    folder.mkdir(parents=True, exist_ok=True)
    mirror = Mirror(name, open_store(reference), job_id, folder)
    follow(mirror)
    mirror.close()


if __name__ == "__main__":
    main()
