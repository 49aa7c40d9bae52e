"""Evaluations of a training, from the store, and as columns beside its metrics."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import replace

from simyard.core.artifacts import EVALUATIONS
from simyard.core.evaluations import METRICS, Evaluations
from simyard.runner.rl import Library, Scale
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.metrics.events import Series
from simyard.tasks.metrics.table import EVALUATED, HIGH, LOW
from simyard.tasks.shared import history


def evaluations_of(store: Store, job_id: str) -> Evaluations | None:
    """Return the evaluations of a training: those of its result, or of the newest attempt that has any; else None."""
    kept = store.get_record_or_none(JobKeys(job_id).artifact(EVALUATIONS.name), Evaluations)
    if kept is not None and history.result_of(store, job_id) is not None:
        return kept
    for attempt in reversed(history.attempts(store, job_id)):
        found = store.get_record_or_none(attempt.keys.file(EVALUATIONS.name), Evaluations)
        if found is not None:
            return found
    return kept


def with_rewards(found: Evaluations, reward: Series | None, library: Library, scale: Scale) -> Evaluations:
    """Return evaluations with the mean return that training had logged by each checkpoint.

    Args:
        found: The evaluations.
        reward: The training's column of mean returns, by step; None where there is none.
        library: Its library.
        scale: Its scale.
    """

    def logged(iteration: int) -> float | None:
        at = _row(reward, iteration, library, scale)
        return None if reward is None or at is None else reward.values[at]

    return replace(found, checkpoints=tuple(replace(one, reward=logged(one.iteration)) for one in found.checkpoints))


def columns_of(found: Evaluations, reward: Series | None, library: Library, scale: Scale) -> dict[str, Series]:
    """Return what was measured as columns of the training's metrics, each with those of its interval.

    The rows are those of the last mean return that was logged before each checkpoint.
    """
    columns: dict[str, Series] = {}
    for metric in METRICS:
        for one in found.checkpoints:
            figure, at = one.figure(metric), _row(reward, one.iteration, library, scale)
            if figure is None or at is None or reward is None:
                continue
            low, high = figure.interval_95 or (figure.value, figure.value)
            for prefix, value in ((EVALUATED, figure.value), (LOW, low), (HIGH, high)):
                row = Series(array("q", [reward.steps[at]]), array("d", [reward.walls[at]]), array("d", [value]), True)
                columns.setdefault(f"{prefix}{metric}", Series()).extend(row)
    return columns


def _row(reward: Series | None, iteration: int, library: Library, scale: Scale) -> int | None:
    """Return the index of the last mean return before a checkpoint; None where there is none."""
    if reward is None:
        return None
    at = bisect_left(reward.steps, library.first_step(library.reward_tag, iteration, scale)) - 1
    return at if at >= 0 else None
