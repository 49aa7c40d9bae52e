"""The time and the price of a sweep beforehand: the sum of its trainings and evaluations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from simyard.core.records import Estimate
from simyard.core.specs import JobSpec
from simyard.requests.sweeps import FIELDS, SweepRequest
from simyard.store.store import Store
from simyard.tasks.shared.estimates import estimate, evaluation_of, in_sum, within
from simyard.tasks.sweeps.rungs import brackets_of

EVALUATED = 100
"""Environments of an evaluation whose request leaves them open, if it has as many episodes."""


def estimate_sweep(asked: SweepRequest, template: JobSpec, store: Store, usd_per_gpu_hour: float | None) -> Estimate:
    """Return the estimate of a sweep that nothing ends early but its scheduler and its budget.

    Args:
        asked: The request.
        template: A training of it, frozen; where the sweep runs is in its GPUs.
        store: Whose measurements count.
        usd_per_gpu_hour: Price of a GPU hour; None where the site names none.
    """
    # Settings that cost alike are one part: a learning rate makes no training longer.
    kinds = list(_kinds(asked, template))
    settings, seeds = asked.sweep.settings, len(asked.seeds)
    measurement = asked.sweep.evaluated.measurement if asked.sweep.evaluated else None
    parts: list[tuple[Estimate, int]] = []
    trainings = 0
    for training in kinds:
        for iterations, share in _pieces(asked, training.max_iterations):
            times = math.ceil(share * settings * seeds / len(kinds))
            trainings += times
            parts.append((estimate(replace(training, max_iterations=iterations), store, usd_per_gpu_hour), times))
            if measurement is not None:
                episodes = measurement.num_episodes
                evaluation = evaluation_of(
                    training, num_episodes=episodes, num_envs=measurement.num_envs or min(EVALUATED, episodes),
                    steps_per_episode=measurement.steps_per_episode,
                )  # fmt: skip
                parts.append((estimate(evaluation, store, usd_per_gpu_hour), times))

    # Many at once take less time, and no fewer GPU seconds. How many there is room for is measured with the first.
    parallel = asked.sweep.parallel if isinstance(asked.sweep.parallel, int) else 1
    what = f"{trainings:,} trainings" + (", each of them evaluated" if measurement is not None else "")
    budget = asked.sweep.budget
    return within(
        in_sum(parts, parallel, of=what),
        max_wallclock_hours=budget.max_wallclock_hours, max_gpu_hours=budget.max_gpu_hours,
        max_credits=budget.max_credits,
    )  # fmt: skip


def _kinds(asked: SweepRequest, template: JobSpec) -> Iterator[JobSpec]:
    """Yield a training for each combination of those values that make one longer or shorter."""
    axes: list[list[dict[str, Any]]] = [
        [{path: value} for value in parameter.points or parameter.corners]
        for path, parameter in asked.sweep.parameters.items()
        if path in FIELDS
    ]
    if asked.sweep.paired and set(asked.sweep.paired[0]).intersection(FIELDS):
        axes.append([dict(values) for values in asked.sweep.paired])
    for choice in itertools.product(*axes):
        request = asked.training({path: value for values in choice for path, value in values.items()}, 0)
        section = request.training_config
        is_renamed = section.task == asked.training_config.task
        yield replace(
            template, task=template.task if is_renamed else section.task, library=section.rl_library,
            num_envs=section.num_envs, physics=request.physics,
            max_iterations=template.max_iterations if template.stages else section.max_iterations,
        )  # fmt: skip


def _pieces(asked: SweepRequest, iterations: int) -> Iterator[tuple[int, float]]:
    """Yield the iterations of each piece of a training, and the share of settings that come to it."""
    scheduler = asked.sweep.scheduler
    brackets = brackets_of(scheduler, iterations)
    gone = 1.0 if scheduler.kind == "pbt" else 1 / scheduler.reduction_factor
    for rungs in brackets:
        for place, (before, rung) in enumerate(zip((0, *rungs), rungs, strict=False)):
            yield rung - before, gone**place / len(brackets)
