"""Rungs: how long a setting is trained before the scheduler looks at it, and which of them go on.

ASHA here promotes: a setting that is measured at a rung waits there, and goes on from its checkpoint once it is among
the best of that rung (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020, algorithm 2).
Optuna's `SuccessiveHalvingPruner` is the other form, which stops a trial at the moment when it reports: it has no
setting that waits, so what was stopped early by chance is lost, and a trial that goes on later cannot be told to it.
Hyperband is ASHA in several brackets, each of which begins one rung later than the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simyard.requests.sweeps import Scheduler

_RUNGS = 3
"""Rungs of a scheduler whose shortest training is left open."""
_STEPS = 10
"""Comparisons of a population whose interval is left open."""


def brackets_of(scheduler: Scheduler, iterations: int) -> tuple[tuple[int, ...], ...]:
    """Return the iterations of each rung, from the beginning of the training, for each bracket.

    Args:
        scheduler: The rule.
        iterations: Of a training that nothing ends early.
    """
    if scheduler.kind == "pbt":
        interval = scheduler.interval or max(1, -(-iterations // _STEPS))
        return ((*range(interval, iterations, interval), iterations),)
    if scheduler.kind == "none":
        return ((iterations,),)
    factor = scheduler.reduction_factor
    rung = scheduler.min_iterations or max(1, iterations // factor ** (_RUNGS - 1))
    rungs = []
    while rung < iterations:
        rungs.append(rung)
        rung *= factor
    rungs.append(iterations)
    if scheduler.kind == "asha":
        return (tuple(rungs),)
    return tuple(tuple(rungs[first:]) for first in range(len(rungs)))


def bracket_of(brackets: Sequence[Sequence[int]], factor: int, before: Sequence[int]) -> int:
    """Return the bracket of the next setting, such that all of them cost about the same.

    Args:
        brackets: The rungs of each.
        factor: One of so many settings goes on from a rung.
        before: How many settings each of them has.
    """
    # Hyperband's own numbers: a bracket that begins s rungs before the last has eta^s / (s + 1) settings.
    weights = [factor ** (len(rungs) - 1) / len(rungs) for rungs in brackets]
    return min(range(len(brackets)), key=lambda index: ((before[index] + 1) / weights[index], index))


@dataclass(frozen=True)
class Standing:
    """A setting as its scheduler sees it."""

    number: int
    rung: int
    """The rung that it has reached, or is on its way to."""
    waits: bool
    """Whether it was measured there, and is neither at the last rung nor pruned."""
    values: tuple[float, ...]
    """The mean of the objective over its seeds at each rung where it was measured, greater is better."""
    may_come: bool
    """Whether it is on its way to `rung`."""


@dataclass(frozen=True)
class Promotion:
    """A setting that goes on to the next rung, or no further."""

    number: int
    goes_on: bool
    why: str


def next_move(bracket: Sequence[Standing], last: int, factor: int, *, is_whole: bool) -> Promotion | None:
    """Return what becomes of one setting of a bracket that waits; None where none can be decided on now.

    Args:
        bracket: Its settings so far.
        last: The last rung, counted from 0.
        factor: One of so many goes on.
        is_whole: Whether no further setting comes into the bracket.
    """
    for rung in reversed(range(last)):
        # Nobody else will be measured here: then the best goes on however few there are, and the others end.
        is_closed = is_whole and not any(
            (one.may_come and one.rung <= rung) or (one.waits and one.rung < rung) for one in bracket
        )
        there = [one for one in bracket if len(one.values) > rung]
        there.sort(key=lambda one: (-one.values[rung], one.number))
        most = len(there) // factor
        if is_closed:
            most = max(most, 1)
        for place, one in enumerate(there, 1):
            if one.waits and one.rung == rung and (place <= most or is_closed):
                goes_on = place <= most
                why = f"{_ordinal(place)} of {len(there)} at rung {rung}; {most} go{'es' * (most == 1)} on"
                return Promotion(one.number, goes_on, why)
    return None


def _ordinal(place: int) -> str:
    ends = {1: "st", 2: "nd", 3: "rd"}
    return f"{place}{'th' if place % 100 in (11, 12, 13) else ends.get(place % 10, 'th')}"
