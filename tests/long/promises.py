"""The promises that hold after every case, whatever was killed: one function, a sentence each."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simyard.core.records import JobResult
from simyard.store.keys import JobKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.shared import history

Problem = tuple[str, str]
"""Name of the promise, and how it was broken."""
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
"""States of flow runs that nobody runs any more."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the simulator's journal, which simyard does not know."""

    at: float
    what: str
    job: str
    attempt: int
    number: int
    pid: int


@dataclass(frozen=True, kw_only=True)
class Left:
    """All that can be looked at when a case is over."""

    store: Store
    """Without any fault in between."""
    job_id: str
    kind: str
    total: int
    """Units of work that were asked for."""
    journal: list[Line]
    slack_s: float
    """How long ago something must have been saved to be safe: some periods of the upload, and every outage."""
    killed_at: list[float]
    """Times at which something was done to anybody."""
    states: list[tuple[str, str]]
    """Name and type of the state of every flow run of the job, in the order of their beginnings."""
    tracebacks: list[str]
    """The last lines of tracebacks that its owner saw."""
    processes: list[str]
    """Those that should have ended."""
    files: list[Path]
    """Those that should not be there: locks, sockets, scratch, partial files."""
    unfinished: list[str]
    """Multipart uploads that nobody has ended."""


def broken(left: Left) -> list[Problem]:
    """Return the broken promises."""
    problems: list[Problem] = []

    def promise(name: str, holds: bool, otherwise: str) -> None:
        if not holds:
            problems.append((name, otherwise))

    job = JobKeys(left.job_id)
    result = history.result_of(left.store, left.job_id)
    past = history.attempts(left.store, left.job_id)
    if result is None:
        return [("verdict", f"{left.job_id} has no result; its attempts: {[one.latest for one in past]}")]

    # The verdict: a success, since all that was done to it can be survived; and only if all is there.
    names = {entry.name for entry in result.artifacts}
    promise("verdict", result.status == "succeeded", f"it ended as {result.status}: {result.error}")
    promise(
        "verdict",
        left.store.exists(job.manifest) == (result.status == "succeeded"),
        f"it {result.status}, and a manifest is {'there' if left.store.exists(job.manifest) else 'not there'}",
    )
    for entry in result.artifacts:
        try:
            data = left.store.get_bytes(job.artifact(entry.name))
        except KeyNotFound:
            problems.append(("lost", f"the artifact {entry.name} is named and not there"))
            continue
        same = (len(data), hashlib.sha256(data).hexdigest()) == (entry.size_bytes, entry.sha256)
        promise("verdict", same, f"the artifact {entry.name} is not what the result says")
    found = {entry.key.removeprefix(f"{job.artifacts}/") for entry in left.store.list(job.artifacts)}
    promise("verdict", found == names, f"artifacts that the result does not name: {sorted(found - names)}")

    # The manifest comes last; a bucket tells whole seconds.
    if left.store.exists(job.manifest):
        at = left.store.stat(job.manifest).modified
        late = [
            e.key for e in left.store.list(job.prefix) if e.modified > at and not e.key.endswith("notification.json")
        ]
        promise("manifest last", not late, f"written after the manifest: {late}")

    # Attempts: numbered through, one at a time, each from what the one before had saved.
    numbers = [attempt.number for attempt in past]
    promise("one chain", numbers == list(range(1, len(past) + 1)), f"the attempts are {numbers}")
    promise("one chain", result.attempts == len(past), f"the result counts {result.attempts} attempts of {len(past)}")
    if left.kind == "train":
        problems += _of_a_training(left, result, past)
    elif left.kind == "evaluate" and result.status == "succeeded":
        rows = _rows(left.store, job.artifact("episodes.csv"))
        counts = Counter(int(row["episode"]) for row in rows)
        promise("lost", set(counts) == set(range(1, left.total + 1)), f"episodes: {sorted(counts)}")
        promise("doubled", max(counts.values()) == 1, f"episodes: {counts}")
    elif left.kind == "rollout" and result.status == "succeeded":
        steps = json.loads(left.store.get_bytes(job.artifact("rollout.zarr")))
        recorded = [step["step"] for step in steps]
        promise("lost", recorded == list(range(1, left.total + 1)), f"steps: {recorded}")
        promise("one chain", len({step["attempt"] for step in steps}) == 1, f"steps of several attempts: {steps}")

    return problems + left_over(left, result.status)


def left_over(left: Left, status: str) -> list[Problem]:
    """Return what is left over, where Prefect says something else than the store, and what was said without words."""
    problems: list[Problem] = []
    found = {"processes": left.processes, "files": [str(file) for file in left.files], "uploads": left.unfinished}
    problems += [("left over", f"{name}: {names}") for name, names in found.items() if names]
    if left.tracebacks:
        problems.append(("said in words", f"tracebacks: {left.tracebacks}"))
    final = {"succeeded": "COMPLETED", "failed": "FAILED", "canceled": "CANCELLED"}[status]
    problems += [
        ("Prefect agrees", f"the flow run {name} is {state}, and nobody runs it any more")
        for name, state in left.states
        if state not in FINAL
    ]
    if left.states and left.states[-1][1] != final:
        problems.append(("Prefect agrees", f"it {status}, its last flow run is {left.states[-1][1]}"))
    return problems


def _of_a_training(left: Left, result: JobResult, past: list[history.PastAttempt]) -> list[Problem]:
    """Return the broken promises about iterations, checkpoints and metrics."""
    problems: list[Problem] = []
    job = JobKeys(left.job_id)

    # What was saved long enough before an attempt's end is where the next one goes on, or later.
    for before, after in itertools.pairwise(past):
        mine = [line for line in left.journal if line.attempt == before.number]
        if not mine or after.status is None:
            continue
        # It ended by something that was done after its last sign of life, at the earliest.
        end = min((at for at in left.killed_at if at >= mine[-1].at - 0.05), default=mine[-1].at)
        safe = [
            line.number
            for line in left.journal
            if line.what == "saved" and line.attempt <= before.number and line.at < end - left.slack_s
        ]
        if safe and after.status.start_iteration < min(max(safe), left.total - 1):
            problems.append((
                "lost",
                f"attempt {after.number} began with iteration {after.status.start_iteration}; {max(safe)} was saved "
                f"{left.slack_s:.1f} s or more before attempt {before.number} ended",
            ))  # fmt: skip
    if result.status != "succeeded":
        return problems

    # Each iteration once, in the metrics and in the policy; one chain of checkpoints, the last of which is whole.
    steps = [int(row["step"]) for row in _rows(left.store, job.artifact("metrics.csv"))]
    if missing := sorted(set(range(left.total)) - set(steps)):
        problems.append(("lost", f"metrics.csv lacks the steps {missing}"))
    if steps != sorted(set(steps)) or set(steps) - set(range(left.total)):
        problems.append(("doubled", f"metrics.csv has the steps {steps}"))
    checkpoints = sorted((e for e in result.artifacts if e.kind == "checkpoint"), key=lambda e: e.iteration or 0)
    have = [entry.iteration for entry in checkpoints]
    if have != sorted(set(have)):
        problems.append(("doubled", f"checkpoints of the iterations {have}"))
    if lacking := {*range(1, left.total, 2), left.total} - set(have):
        problems.append(("lost", f"no checkpoints of the iterations {sorted(lacking)}"))
    parents = [entry.parent for entry in checkpoints]
    if parents != [None, *(entry.sha256 for entry in checkpoints[:-1])]:
        problems.append(("one chain", f"the parents of the checkpoints of {have} are no chain"))
    said = left.store.get_bytes(past[-1].keys.file("command.stdout.log")).decode()
    if f"has seen {left.total} iterations" not in said:
        problems.append(("doubled", f"the last policy has not seen {left.total} iterations: {said[-300:]!r}"))
    return problems


def _rows(store: Store, key: str) -> list[dict[str, str]]:
    return list(csv.DictReader(store.get_bytes(key).decode().splitlines()))


def read_journal(path: Path, job_id: str) -> list[Line]:
    """Return the lines of one job."""
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    return [Line(**line) for line in lines if line["job"] == job_id]
