"""Evaluations of a training, from the store, and as columns beside its metrics."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from contextlib import suppress
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
    """Return the evaluations of a training as its newest attempt has left them; None where there are none."""
    job = JobKeys(job_id)
    left = (attempt.keys.file(EVALUATIONS.name) for attempt in reversed(history.attempts(store, job_id)))
    found = (read_evaluations(store, key) for key in (*left, job.artifact(EVALUATIONS.name)))
    return next((one for one in found if one is not None), None)


def read_evaluations(store: Store, key: str) -> Evaluations | None:
    """Read a record; None where there is none, or something else: user code can write where attempts keep it."""
    with suppress(ValueError, RecursionError):
        return store.get_record_or_none(key, Evaluations)
    return None


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
