"""The best of a sweep: the setting that its verdict ranks first, the training of it that did best, and its config."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from simyard.core.errors import RequestError
from simyard.core.sweep_records import Interval
from simyard.core.wire import ABSENT, Wire
from simyard.store.store import Store
from simyard.tasks.sweeps import record
from simyard.tasks.sweeps.plan import load_sweep


@dataclass(frozen=True, kw_only=True)
class BestOfSweep(Wire):
    """The best setting of a sweep, so far or in the end."""

    sweep_id: str
    number: int
    """The setting's."""
    values: dict[str, Any]
    """Value of each parameter by its path."""
    value: Interval
    """The objective over its seeds; of several the first."""
    others: tuple[Interval, ...] | None = field(default=None, metadata=ABSENT)
    """Of several objectives all but the first, in order; None of one."""
    metrics: tuple[str, ...] | None = field(default=None, metadata=ABSENT)
    """Metrics of several objectives, in order; None of one."""
    seed: int
    """Of the training of it that did best."""
    seed_value: float
    """The objective with that seed."""
    job_id: str
    """The job with that training's last checkpoint."""
    iterations: int
    """Iterations of it."""
    sentence: str
    """Whether the setting is better than the others, in words; of several objectives the Pareto front."""
    config: dict[str, Any]
    """The config to train it again, with this seed from the beginning."""


def best_of(store: Store, sweep_id: str) -> BestOfSweep:
    """Return the best of a sweep.

    Raises:
        RequestError: There is no such sweep, or nothing of it was measured.
    """
    asked, verdict = load_sweep(store, sweep_id).asked, record.sweep_status(store, sweep_id).verdict
    if verdict is None or not verdict.table or verdict.table[0].value is None:
        raise RequestError(
            f"No setting of {sweep_id} was measured yet, so none is the best.",
            code="nothing_measured",
            advice=f"See what became of them: simyard sweep show {sweep_id}.",
        )
    first, value = verdict.table[0], verdict.table[0].value

    # The verdict's rung is what counts: the setting may be on its way to the next one.
    decisions = record.decisions(store, sweep_id)
    runs = {
        one.run.seed: one.run
        for one in decisions
        if one.kind == "measured" and one.setting == first.number and one.run and one.run.value is not None
        and one.run.iterations == first.iterations
    }  # fmt: skip
    sign = 1.0 if asked.sweep.main.mode == "max" else -1.0
    run = max(runs.values(), key=lambda one: (sign * (one.value or 0.0), -one.seed))
    assert run.value is not None
    training = asked.training(first.values, run.seed, iterations=first.iterations)
    return BestOfSweep(
        sweep_id=sweep_id,
        number=first.number,
        values=first.values,
        value=value,
        others=first.others,
        metrics=verdict.metrics,
        seed=run.seed,
        seed_value=run.value,
        job_id=run.jobs[-1],
        iterations=first.iterations,
        sentence=verdict.sentence,
        config=training.model_dump(mode="json", by_alias=True, exclude_unset=True),
    )
