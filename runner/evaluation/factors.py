"""Factors: the conditions that a robustness evaluation varies, a row each, and the designs that combine their levels.

A factor's name may have a part behind a dot: a body, an axis, a term. `event.NAME` is an event term of the task, whose
levels are parameters that take the place of its own.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simyard.core.errors import RequestError, unknown
from simyard.core.specs import Arm, Level

EVENT = "event"
"""The factor whose parts are the task's event terms."""
FLOOR = 0.8
"""Success rate below which an arm has failed, where nobody says otherwise."""
DESIGNS = ("one_at_a_time", "grid", "latin_hypercube")
MOST_ARMS = 256
"""Arms of an evaluation."""
_NEWTON, _PHYSX, _KAMINO = "newton", "physx", "kamino"
_DIGITS = 4
"""Digits of a level that a Latin hypercube draws."""


@dataclass(frozen=True, kw_only=True)
class Factor:
    """A condition that can be varied."""

    about: str
    """Meaning of a level."""
    unit: str
    """`x` for a multiple of what the task has, `+` for what is added to it, before the unit itself."""
    neutral: float
    """The level that changes nothing."""
    lowest: float
    highest: float
    whole: bool = False
    """Whether levels are whole numbers."""
    part: str = ""
    """Kind of what may stand behind a dot, such as `body`; empty for nothing."""
    parts: tuple[str, ...] = ()
    """The parts where they are the same for all tasks."""
    never_under: Mapping[str, str] | None = None
    """Engines that cannot vary it, each with the reason."""
    needs: str = ""
    """The section of the task's configuration without which it has no meaning."""


_SHARED = "shares one {} among all environments"
FACTORS: dict[str, Factor] = {
    "friction": Factor(
        about="friction of the robot's surfaces; under Newton the larger one of two surfaces that touch counts",
        unit="x", neutral=1, lowest=0, highest=10, never_under={_KAMINO: _SHARED.format("material")},
    ),
    "restitution": Factor(
        about="restitution of the robot's surfaces", unit="+", neutral=0, lowest=0, highest=1,
        never_under={_NEWTON: "has contacts without restitution", _KAMINO: _SHARED.format("material")},
    ),
    "mass": Factor(about="mass and inertia of every body", unit="x", neutral=1, lowest=0.01, highest=100),
    "payload": Factor(
        about="mass added to one body: the root of a robot that moves freely, the last one of one that is fixed",
        unit="+kg", neutral=0, lowest=0, highest=10_000, part="body",
    ),
    "center_of_mass": Factor(
        about="shift of the centre of mass of that body, along x where no axis is named",
        unit="+m", neutral=0, lowest=-10, highest=10, part="axis", parts=("x", "y", "z"),
    ),
    "motor_strength": Factor(
        about="torque or force that motors give, their limits included", unit="x", neutral=1, lowest=0.01, highest=10
    ),
    "stiffness": Factor(about="stiffness of the actuators", unit="x", neutral=1, lowest=0.001, highest=1000),
    "damping": Factor(about="damping of the actuators", unit="x", neutral=1, lowest=0, highest=1000),
    "joint_friction": Factor(
        about="dry and viscous friction of every joint", unit="+N m", neutral=0, lowest=0, highest=100_000
    ),
    "armature": Factor(about="armature of every joint", unit="+kg m2", neutral=0, lowest=0, highest=100_000),
    "gravity": Factor(
        about="gravity", unit="x", neutral=1, lowest=0, highest=10,
        never_under={_PHYSX: _SHARED.format("gravity")},
    ),
    "observation_noise": Factor(
        about="standard deviation of the noise on what the policy sees, in the units of its input",
        unit="+", neutral=0, lowest=0, highest=1e6, part="observation term",
    ),
    "observation_bias": Factor(
        about="constant added to what the policy sees, in the units of its input",
        unit="+", neutral=0, lowest=-1e6, highest=1e6, part="observation term",
    ),
    "action_delay": Factor(
        about="control steps by which actions come late", unit="steps", neutral=0, lowest=0, highest=100, whole=True
    ),
    "observation_delay": Factor(
        about="control steps by which observations are old", unit="steps", neutral=0, lowest=0, highest=100, whole=True
    ),
    "push": Factor(
        about="speed that a push to a side gives the root, every 2 s", unit="+m/s", neutral=0, lowest=0, highest=100
    ),
    "command_range": Factor(
        about="velocities that are commanded", unit="x", neutral=1, lowest=0, highest=10, part="command",
        needs="commands",
    ),
    "initial_state": Factor(
        about="distance of the first state from the default one", unit="x", neutral=1, lowest=0, highest=10
    ),
    "terrain": Factor(
        about="level of the terrain, counted from 0; -1 is the task's own", unit="level", neutral=-1, lowest=-1,
        highest=1000, whole=True, needs="scene.terrain.terrain_generator",
    ),
}  # fmt: skip
"""Every factor by its name."""


def split(name: str) -> tuple[str, str]:
    """Return the factor that a name means, and the part behind its dot; empty for none."""
    factor, _, part = name.partition(".")
    return factor, part


def canonical(name: str) -> str:
    """Return a name as it is kept: the factor's in snake_case, its part as it was given.

    Raises:
        RequestError: There is no such factor, or it has no such part.
    """
    factor, part = split(name)
    known = re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", factor).lower()
    if known not in (*FACTORS, EVENT):
        raise unknown("factor", factor, [*FACTORS, f"{EVENT}.NAME"], code="unknown_factor", most=30)
    if known == EVENT:
        if not part:
            raise RequestError(
                f"Factor {name!r} names no event.",
                code="unknown_factor",
                advice="Write event.NAME, with the name of an event term of the task.",
            )
        return f"{EVENT}.{part}"
    row = FACTORS[known]
    if part and not row.part:
        raise RequestError(
            f"Factor {known!r} has no parts, and {name!r} names one.", code="unknown_factor", advice=f"Write {known!r}."
        )
    if part and row.parts and part not in row.parts:
        raise unknown(f"{row.part} of factor {known!r}", part, row.parts, code="unknown_factor")
    return f"{known}.{part}" if part else known


def check_level(name: str, level: object) -> None:
    """Refuse a level that a factor cannot have.

    Raises:
        RequestError: Naming the bounds.
    """
    factor, _ = split(name)
    if factor == EVENT:
        if not isinstance(level, dict) or not level:
            raise RequestError(
                f"{name}: a level of an event is the parameters that take the place of its own, not {level!r}.",
                code="bad_level",
                advice='Such as {"velocity_range": {"x": [-1, 1]}}.',
            )
        return
    row = FACTORS[factor]
    number = float(level) if isinstance(level, int | float) and not isinstance(level, bool) else math.nan
    if not row.lowest <= number <= row.highest or (row.whole and number != int(number)):
        kind = "whole numbers" if row.whole else "numbers"
        raise RequestError(
            f"{name}: {level!r} is no level of it.",
            code="bad_level",
            advice=f"Allowed are {kind} from {row.lowest:g} to {row.highest:g} ({row.unit}): {row.about}.",
        )


def refuse(name: str, level: Level, env: Mapping[str, Any], engine: str | None) -> None:
    """Refuse a factor that a task or its engine cannot vary, as far as its configuration tells.

    Args:
        name: The factor, in its canonical form.
        level: One of its levels.
        env: The environment's configuration, as plain dictionaries.
        engine: The physics engine; None where nothing says.

    Raises:
        RequestError: With the reason, and the nearest name where it is one.
    """
    factor, part = split(name)
    if "possible_agents" in env:
        raise _cannot(name, "it has several agents")
    if factor == EVENT:
        events = {key for key, term in (env.get("events") or {}).items() if isinstance(term, Mapping)}
        if part not in events:
            if not events:
                raise _cannot(name, "it has no event terms")
            raise unknown("event term", part, events, code="unknown_factor")
        own = env["events"][part].get("params") or {}
        for key in level if isinstance(level, Mapping) else ():
            if key not in own or key.endswith("_cfg"):
                plain = [name for name in own if not name.endswith("_cfg")]
                raise unknown(f"parameter of event {part!r}", key, plain, code="unknown_factor")
        return
    row = FACTORS[factor]
    if engine is not None and (why := (row.never_under or {}).get(engine)):
        raise _cannot(name, f"its engine {engine!r} {why}")
    found: Any = env
    for key in row.needs.split(".") if row.needs else ():
        found = found.get(key) if isinstance(found, Mapping) else None
    if not found:
        raise _cannot(name, f"it has no {row.needs.rpartition('.')[2].replace('_', ' ')}")
    terms: Any = {"command": env.get("commands"), "observation term": (env.get("observations") or {}).get("policy")}
    if part and row.part in terms:
        names = {key for key, term in (terms[row.part] or {}).items() if isinstance(term, Mapping)}
        if not names:
            raise _cannot(name, f"it has no {row.part}s by name")
        if part not in names:
            raise unknown(row.part, part, names, code="unknown_factor")


def _cannot(name: str, why: str) -> RequestError:
    return RequestError(
        f"variations: {name!r} cannot be varied in this task: {why}.",
        code="factor_not_of_task",
        advice="Leave it out; docs/robustness.md says what each factor needs.",
    )


# --- designs --------------------------------------------------------------------------------------------------------


def arms(variations: Mapping[str, Sequence[Any]], design: str, samples: int, seed: int) -> tuple[Arm, ...]:
    """Return the arms of a design, without the control arm.

    Args:
        variations: Levels of each factor, by its canonical name.
        design: One of `DESIGNS`.
        samples: Arms of a Latin hypercube.
        seed: Of its draws.

    Raises:
        RequestError: There is none, or there are too many; or the design cannot have a factor.
    """
    match design:
        case "one_at_a_time":
            choices = [{name: level} for name, levels in variations.items() for level in levels]
        case "grid":
            combined = itertools.product(*variations.values())
            choices = [dict(zip(variations, levels, strict=True)) for levels in itertools.islice(combined, 10_000)]
        case "latin_hypercube":
            choices = _latin_hypercube(variations, samples, random.Random(seed))
        case _:
            raise unknown("design", design, DESIGNS)
    # A factor at its neutral level is not varied: an arm of those alone is the control arm.
    kept = [{name: level for name, level in choice.items() if level != neutral(name)} for choice in choices]
    different = [levels for index, levels in enumerate(kept) if levels and levels not in kept[:index]]
    if not 0 < len(different) <= MOST_ARMS:
        raise RequestError(
            f"variations: the design {design!r} has {len(different)} arms besides the control arm.",
            code="bad_design",
            advice=f"Allowed are 1 to {MOST_ARMS}: give levels that change something, or fewer of them.",
        )
    names = [", ".join(f"{name}={_short(level)}" for name, level in levels.items()) for levels in different]
    twice = {name for name in names if names.count(name) > 1}  # cut off where they differ
    return tuple(
        Arm(name=f"{name} #{index + 1}" if name in twice else name, levels=levels)
        for index, (name, levels) in enumerate(zip(names, different, strict=True))
    )


def _latin_hypercube(
    variations: Mapping[str, Sequence[Level]], samples: int, rng: random.Random
) -> list[dict[str, Level]]:
    """Return samples of which each factor's are spread evenly between its lowest and its highest level."""
    columns: dict[str, list[Level]] = {}
    for name, levels in variations.items():
        numbers = [level for level in levels if not isinstance(level, dict)]
        low, high = (min(numbers), max(numbers)) if numbers else (0.0, 0.0)
        if len(numbers) < len(levels) or low == high:
            raise RequestError(
                f"variations: {name!r} has no range of numbers, which a Latin hypercube draws from.",
                code="bad_design",
                advice="Give its lowest and its highest level, or choose another design.",
            )
        places = rng.sample(range(samples), samples)
        drawn = [low + (place + rng.random()) / samples * (high - low) for place in places]
        is_whole = FACTORS[split(name)[0]].whole
        columns[name] = [float(round(value)) if is_whole else float(f"{value:.{_DIGITS}g}") for value in drawn]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def neutral(name: str) -> float | None:
    """Return the level of a factor that changes nothing; None for an event, whose own parameters are that."""
    factor, _ = split(name)
    return None if factor == EVENT else FACTORS[factor].neutral


def _short(level: Level) -> str:
    text = repr(level) if isinstance(level, dict) else f"{level:g}"
    return text if len(text) <= 60 else f"{text[:57]}..."
