"""Population based training: the worst of a population take up the state of the best, with values near theirs.

As in Jaderberg et al., "Population Based Training of Neural Networks" (2017): exploit is truncation selection, explore
multiplies by one of two factors or draws anew. All that are alive are compared at the same rung, so that what is
decided does not depend on who finishes first.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simyard.requests.sweeps import SweepConfig
from simyard.tasks.sweeps.study import clipped, draw, place_of


@dataclass(frozen=True)
class Step:
    """What a member of the population does next."""

    number: int
    source: int | None
    """The member whose state it takes up; None where it goes on with its own."""
    values: dict[str, Any] | None
    """Its new values; None where it keeps its own."""
    why: str


def steps(
    measured: Sequence[tuple[int, float]], values: Mapping[int, dict[str, Any]], rung: int, config: SweepConfig
) -> list[Step]:
    """Return what each member does after a rung, in the order of their numbers.

    Args:
        measured: Number and value of each that was measured there, greater is better.
        values: Those that each member has.
        rung: Counted from 0.
        config: The parameters and the rule.
    """
    ranked = [number for number, _ in sorted(measured, key=lambda one: (-one[1], one[0]))]
    share = min(math.ceil(config.scheduler.quantile * len(ranked)), len(ranked) // 2)
    best, worst = ranked[:share], set(ranked[len(ranked) - share :])
    found = []
    for number in sorted(ranked):
        place = f"{ranked.index(number) + 1} of {len(ranked)} at rung {rung}"
        if number not in worst:
            found.append(Step(number, None, None, f"place {place}"))
            continue
        chance = random.Random(f"{config.seed}/{number}/{rung}")
        source = chance.choice(best)
        found.append(Step(number, source, _explored(values[source], config, chance), f"place {place}"))
    return found


def _explored(values: Mapping[str, Any], config: SweepConfig, chance: random.Random) -> dict[str, Any]:
    """Return values near those of another member: each is drawn anew, or moved a little."""
    found = {path: values[path] for path in values}
    for path, parameter in sorted(config.parameters.items()):
        if chance.random() < config.scheduler.resample_probability:
            found[path] = draw(config, path, _seed(chance))
        elif parameter.values is not None:
            found[path] = _beside(values[path], parameter.values, chance)
        else:
            found[path] = clipped(parameter, values[path] * chance.choice(config.scheduler.factors))
    if config.paired:
        together = {path: values[path] for path in config.paired[0]}
        again = chance.random() < config.scheduler.resample_probability
        found |= draw(config, "paired", _seed(chance)) if again else _beside(together, config.paired, chance)
    return found


def _beside(value: Any, values: Sequence[Any], chance: random.Random) -> Any:
    """Return the value before or behind one in a list; at an end it may stay."""
    place = place_of(value, values) + chance.choice((-1, 1))
    return values[min(max(place, 0), len(values) - 1)]


def _seed(chance: random.Random) -> int:
    return int(hashlib.sha256(str(chance.random()).encode()).hexdigest()[:8], 16)
