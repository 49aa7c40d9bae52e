"""The lineage of a managed run: one chain of checkpoints, each with its parent and its dataset."""

from __future__ import annotations

from typing import Any

from simyard.core.run_records import IterationRecord, LineageRecord, TrainerOutcome
from simyard.core.specs import InputFile
from simyard.core.wire import now_ms
from simyard.store.keys import RunKeys
from simyard.store.store import Store
from simyard.tasks.managed import dataset
from simyard.tasks.managed.run import RunSpec


class Lineage:
    """Reads and writes the lineage records of one run."""

    def __init__(self, spec: RunSpec, store: Store, iterations: list[IterationRecord]) -> None:
        """Read nothing yet.

        Args:
            spec: The run.
            store: Its store.
            iterations: The records of its iterations, to which the loop appends.
        """
        self._spec = spec
        self._store = store
        self._keys = RunKeys(spec.run_id)
        self._iterations = iterations

    def parent(self) -> LineageRecord | None:
        """Return the record of the checkpoint to go on from: of the last good iteration, or the run's first one."""
        for ended in reversed(self._iterations):
            if ended.checkpoint_id:
                return self._store.get_record(self._keys.checkpoint(ended.checkpoint_id), LineageRecord)
        return self._enter(0, self._spec.checkpoint, None, None, {}) if self._spec.checkpoint else None

    def driver(self) -> LineageRecord | None:
        """Return the record of the checkpoint that drives the rollouts; None where none does."""
        return self.parent() if self._spec.asked.rollout_template.is_driven else None

    def enter(self, number: int, outcome: TrainerOutcome, dataset_sha256: str) -> LineageRecord:
        """Write the record of the checkpoint that an iteration made; one that is there already stays.

        Args:
            number: The iteration.
            outcome: Of the call of the trainer that left the checkpoint.
            dataset_sha256: The dataset that it was trained on.
        """
        assert outcome.checkpoint is not None and outcome.metrics is not None
        return self._enter(number, outcome.checkpoint, self.parent(), dataset_sha256, outcome.metrics)

    def measured_checkpoint(self, made: str | None) -> str | None:
        """Return the id of the checkpoint that an iteration's metric speaks of.

        Rollouts measure the checkpoint that drove them, a trainer the one that it made.

        Args:
            made: The id of the checkpoint that the iteration made.
        """
        if self._spec.asked.success_criteria.metric not in dataset.MEASURED:
            return made
        if not self._spec.asked.rollout_template.is_driven:
            return made
        parent = self.parent()
        return parent.checkpoint_id if parent else None

    def _enter(
        self, number: int, file: InputFile, parent: LineageRecord | None, dataset_sha256: str | None,
        metrics: dict[str, Any],
    ) -> LineageRecord:  # fmt: skip
        checkpoint_id = f"ckpt-{number:04d}-{file.sha256[:12]}"
        if had := self._store.get_record_or_none(self._keys.checkpoint(checkpoint_id), LineageRecord):
            return had
        lineage = LineageRecord(
            checkpoint_id=checkpoint_id,
            iteration=number,
            parent=parent.checkpoint_id if parent else None,
            dataset_sha256=dataset_sha256,
            uri=self._store.url(file.key),
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            file=file,
            metrics=metrics,
            created_at=now_ms(),
        )
        self._store.put_record(self._keys.checkpoint(checkpoint_id), lineage)
        return lineage
