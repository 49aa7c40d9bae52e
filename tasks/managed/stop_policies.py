"""Stop policies of a managed training run, judged from its record alone."""

from __future__ import annotations

from collections.abc import Sequence

from simyard.core.run_records import BestCheckpoint, IterationRecord
from simyard.requests.managed import SuccessCriteria, TrainingRunRequest


def after_iteration(asked: TrainingRunRequest, iterations: Sequence[IterationRecord]) -> str | None:
    """Return the policy that ends the run after these iterations; None when it goes on.

    Args:
        asked: The request.
        iterations: Records of the iterations that have ended, in order.
    """
    if not iterations:
        return None
    loop, criteria = asked.loop_policy, asked.success_criteria
    if iterations[-1].status == "failed" and loop.stop_on_iteration_failure:
        return "iteration_failure"
    if criteria.target is not None and has_reached(criteria, iterations[-1].metric):
        return "target"
    if criteria.patience_iterations is not None and _stale(criteria, iterations) >= criteria.patience_iterations:
        return "patience"
    return "max_iterations" if len(iterations) >= loop.max_iterations else None


def before_dispatch(asked: TrainingRunRequest, seconds: float, credits: float) -> str | None:
    """Return the policy that forbids to begin anything now; None when there is none.

    Args:
        asked: The request.
        seconds: Since the run began.
        credits: What it has cost.
    """
    hours, most = asked.loop_policy.max_wallclock_hours, asked.budget_policy.max_credits
    if hours is not None and seconds >= 3600 * hours:
        return "max_wallclock_hours"
    return "max_credits" if most is not None and credits >= most else None


def has_reached(criteria: SuccessCriteria, value: float | None) -> bool:
    """Return whether a value of the metric is as good as the target."""
    if value is None or criteria.target is None:
        return False
    return value >= criteria.target if criteria.mode == "max" else value <= criteria.target


def best(criteria: SuccessCriteria, iterations: Sequence[IterationRecord]) -> BestCheckpoint | None:
    """Return the checkpoint measured best, the earliest of equal ones; the last where none was measured."""
    good = [record for record in iterations if record.status == "succeeded"]
    measured = [
        BestCheckpoint(iteration=record.iteration, checkpoint_id=record.metric_of, metric=record.metric)
        for record in good
        if record.metric is not None and record.metric_of is not None
    ]
    if measured:
        top = (max if criteria.mode == "max" else min)(measured, key=lambda one: one.metric or 0.0)
        return top
    if not good or good[-1].checkpoint_id is None:
        return None
    return BestCheckpoint(iteration=good[-1].iteration, checkpoint_id=good[-1].checkpoint_id, metric=None)


def _stale(criteria: SuccessCriteria, iterations: Sequence[IterationRecord]) -> int:
    """Return the number of last iterations with a measured metric that were no better than the best before them."""
    sign = 1.0 if criteria.mode == "max" else -1.0
    top: float | None = None
    count = 0
    for value in (record.metric for record in iterations if record.metric is not None):
        if top is None or sign * value > sign * top + criteria.min_delta:
            top, count = value, 0
        else:
            count += 1
    return count
