"""Verifies a managed training run: one chain of checkpoints, every file there with its digest, nothing done twice."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable

from simyard.core.artifacts import ROLLOUT
from simyard.core.run_records import DatasetManifest, IterationRecord, LineageRecord
from simyard.store.keys import JobKeys, RunKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.managed import record
from simyard.tasks.managed.record import EVENT_TYPES, event_numbers, read_events
from simyard.tasks.managed.run import load_run
from simyard.tasks.managed.trainer import past_outcomes
from simyard.tasks.shared.history import attempts

_ONCE = ("run.started", "run.ended", "iteration.started", "iteration.succeeded", "iteration.failed",
         "checkpoint.created", "dataset.written", "rollout.succeeded", "trainer.succeeded")  # fmt: skip
"""Events of what happens once, whoever drives the run."""


def verify(store: Store, run_id: str, on_step: Callable[[str], None] = lambda what: None) -> list[str]:
    """Read everything of a run, and hash it.

    Returns:
        What is wrong, in words; nothing where all is well.

    Raises:
        RequestError: If there is no such run.
    """
    load_run(store, run_id)
    found = _Problems(store, run_id)
    iterations = record.iterations(store, run_id)
    lineage = {entry.checkpoint_id: entry for entry in record.checkpoints(store, run_id)}
    found.require([entry.iteration for entry in iterations] == [*range(1, len(iterations) + 1)],
                 f"the iterations are {[entry.iteration for entry in iterations]}, with a gap")  # fmt: skip
    parent = next((name for name, entry in lineage.items() if entry.iteration == 0), None)
    for ended in iterations:
        on_step(f"iteration {ended.iteration} of {len(iterations)}")
        if ended.status == "succeeded":
            found.iteration(ended, lineage, parent)
            parent = ended.checkpoint_id
    on_step("checkpoints and events")
    for entry in lineage.values():
        found.file(entry.file.key, entry.sha256, f"checkpoint {entry.checkpoint_id}")
    named = {ended.checkpoint_id for ended in iterations if ended.checkpoint_id}
    # One more may be there: of an iteration that was about to be committed when its process was killed.
    extra = sorted(name for name, entry in lineage.items() if name not in named and entry.iteration != 0)
    found.require(len(extra) <= 1, f"no iteration names the checkpoints {extra}")
    found.events()
    return found.problems


class _Problems:
    """The problems found so far."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.problems: list[str] = []
        self._store = store
        self._run_id = run_id
        self._keys = RunKeys(run_id)

    def require(self, holds: bool, problem: str) -> None:
        """Note a problem, unless it holds."""
        if not holds:
            self.problems.append(problem)

    def file(self, key: str, sha256: str, what: str) -> bytes | None:
        """Require an object with this content; return it."""
        try:
            data = self._store.get_bytes(key)
        except KeyNotFound:
            self.problems.append(f"{what} is gone: {key}")
            return None
        self.require(hashlib.sha256(data).hexdigest() == sha256, f"{what} is not what it was: {key}")
        return data

    def iteration(self, ended: IterationRecord, lineage: dict[str, LineageRecord], parent: str | None) -> None:
        """Check one iteration that succeeded: its dataset, rollouts, call of the trainer and checkpoint."""
        what = ended.iteration_id
        made = lineage.get(ended.checkpoint_id or "")
        if made is None or ended.dataset_sha256 is None:
            self.problems.append(f"{what}: checkpoint {ended.checkpoint_id} has no lineage record")
            return
        self.require(made.parent == parent, f"{what}: the parent is {made.parent}, not {parent}")
        self.require(made.dataset_sha256 == ended.dataset_sha256, f"{what}: lineage names another dataset")
        data = self.file(self._keys.dataset(ended.dataset_sha256), ended.dataset_sha256, f"{what}: the dataset")

        # The dataset's rollouts: driven by the parent, each there, and done once.
        try:
            manifest = DatasetManifest.from_json(json.loads(data)) if data is not None else None
        except ValueError as error:
            self.problems.append(f"{what}: the dataset cannot be read: {error}")
            manifest = None
        driven = manifest.checkpoint if manifest else None
        self.require(driven is None or driven.checkpoint_id == parent, f"{what}: others drove the rollouts")
        for row in manifest.rollouts if manifest else ():
            job = JobKeys(row.job_id)
            self.file(job.manifest, row.manifest_sha256, f"{what}: the manifest of {row.job_id}")
            self.file(job.artifact(ROLLOUT.name), row.sha256, f"{what}: the rollout of {row.job_id}")
            times = sum(past.outcome is not None and not past.failure for past in attempts(self._store, row.job_id))
            self.require(times == 1, f"{what}: {row.job_id} was done {times} times")

        # The trainer: it succeeded once, and left what the lineage says.
        outcomes = past_outcomes(self._store, self._run_id, ended.iteration)
        good = [outcome for outcome in outcomes if outcome.status == "succeeded"]
        self.require(len(good) == 1, f"{what}: the trainer succeeded {len(good)} times")
        for outcome in good:
            same = outcome.checkpoint == made.file and outcome.metrics == made.metrics
            self.require(same, f"{what}: the lineage is not what the trainer left")

    def events(self) -> None:
        """Check that events are numbered through, of known types, and that nothing happened twice."""
        numbers = event_numbers(self._store, self._run_id)
        self.require(numbers == [*range(1, len(numbers) + 1)], "the events are not numbered through")
        events = read_events(self._store, self._run_id, numbers)
        strange = sorted({event.event_type for event in events} - set(EVENT_TYPES))
        self.require(not strange, f"there are events of unknown types: {strange}")
        counted = Counter(event.about for event in events if event.event_type in _ONCE)
        twice = sorted(about for about, count in counted.items() if count > 1)
        self.require(not twice, f"events say twice: {', '.join(twice[:5])}")
