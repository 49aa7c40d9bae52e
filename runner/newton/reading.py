"""Results of a robot file's own reader, beyond the world that Newton makes of it: names, motors, first pose, notes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simyard.core import errors
from simyard.core.errors import RequestError

UNLIMITED = 1e6
"""A limit from which on there is none: Newton writes 1e10 where a file has none."""
_NO_LIMIT = 1e10
_ROUNDING = 1e-4
"""Share of the largest moment by which A + B may be less than C: numbers of a file have five or more digits."""
_MARGIN = 1e-5
"""The same, above zero, after which the solver's float32 sees A + B = C no more."""
LEAST_KG, LEAST_KG_M2 = 1e-6, 1e-9
"""Mass and inertia of a link that has none, and carries others that have."""
_GYRATION_M = 0.01
"""Radius of gyration of a mass whose inertia is written as 0."""
_MOST_NAMED = 6


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A robot's file as its own format means it."""

    bodies: Mapping[int, str] = field(default_factory=dict)
    """Name of each body by its index in the world; those that are missing keep Newton's label."""
    joints: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Names of each joint's axes by its index in the world."""
    motors: frozenset[int] | None = None
    """Degrees of freedom with a motor; None where the format names none, so that every joint has one."""
    massless: Collection[int] = ()
    """Bodies of which the file says no mass."""
    speeds: Mapping[int, float] = field(default_factory=dict)
    """Largest velocity of each degree of freedom that the file limits."""
    compare: Callable[[Any, Any], list[str]] | None = None
    """Compares the file with Newton's model and its solver's, and returns sentences on what differs."""
    notes: tuple[str, ...] = ()
    """Sentences for the log and the report."""


def listed(items: Iterable[str]) -> str:
    """Join words for a note; of many only the first, and how many there are."""
    return errors.listed(items, _MOST_NAMED)


def unreadable(path: Path, error: BaseException) -> RequestError:
    """Return the error for a file that the engine does not take, with the lines that name an element of it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines[1:] if re.search(r"\b[Ee]lement|\bline \d|'[^']+'", line)]
    text = "; ".join([*lines[:1], *named[:3]]).removeprefix("Error: ")
    return RequestError(
        f"{path.name!r} cannot be simulated: {text[:600] or type(error).__name__}".rstrip(".") + ".",
        code="asset_unreadable",
        advice=next((advice for part, advice in _ADVICE.items() if part in text), _NO_ADVICE),
    )


_ADVICE = {
    "mjMINVAL": "Give every link after a moving joint a mass: an inertial element, or a geom that has some.",
    "must satisfy A + B >= C": "Correct the inertia: no principal moment of a body is above the sum of the others.",
    "axis too small": "Give the joint an axis that is not zero, such as 0 0 1.",
    "invalid range": "Write the lower limit first, and the upper one after it.",
    "range[0] should be smaller": "Write the lower limit first, and the upper one after it.",
    "unrecognized": "Write it as MuJoCo's XML reference has it; MuJoCo's viewer finds the same error.",
    "decoder": "MuJoCo's meshes are binary STL and OBJ, its textures PNG: convert it.",
    "Error opening file": "Put the file into the bundle, where the compiler's meshdir or texturedir says.",
}
_NO_ADVICE = "Newton 1.6 reads it; open it in a viewer of its format to find the fault."


def set_inertia(builder: Any, body: int, mass: float, com: Sequence[float], inertia: Any) -> None:
    """Set mass, centre and inertia (3 by 3, about the centre, in the body's axes) of a body."""
    import numpy as np
    import warp

    tensor = warp.mat33(np.asarray(inertia, dtype=np.float32))
    builder.body_mass[body], builder.body_com[body] = float(mass), warp.vec3(*(float(x) for x in com))
    builder.body_inv_mass[body] = 1.0 / mass if mass > 0 else 0.0
    builder.body_inertia[body] = tensor
    builder.body_inv_inertia[body] = warp.inverse(tensor) if np.any(inertia) else tensor


def set_limits(builder: Any, dof: int, limits: tuple[float, float] | None) -> None:
    """Set the limits of a degree of freedom; None for none."""
    low, high = limits or (-_NO_LIMIT, _NO_LIMIT)
    builder.joint_limit_lower[dof], builder.joint_limit_upper[dof] = float(low), float(high)


def settle_masses(builder: Any, path: Path, reading: Reading, bodies: Sequence[int]) -> list[str]:
    """Give every body a mass and an inertia that there can be, and return what had to be done for it.

    A link without a mass in the file has none, as its format says, where what it is fixed to has one or does not move.
    Where a joint would move nothing at all, shapes give it one, at Newton's density.

    Args:
        builder: The world's `newton.ModelBuilder`.
        path: The robot's file, for messages.
        reading: What its own reader found.
        bodies: The robot's bodies.

    Raises:
        RequestError: If a joint moves no mass at all.
    """
    import numpy as np
    from newton import JointType

    # Bodies that move as one; those of the world stand still.
    tree = [joint for joint in range(builder.joint_count) if builder.joint_articulation[joint] >= 0]
    group, parent = {-1: -1}, {}
    for joint in tree:  # parents come before their children
        above, body = builder.joint_parent[joint], builder.joint_child[joint]
        parent[body] = above
        group[body] = group.get(above, above) if builder.joint_type[joint] == JointType.FIXED else body
    weighs = {group[body] for body in bodies if body not in reading.massless and builder.body_mass[body] > 0}
    notes: list[str] = []

    # What the file gives no mass: none, or that of its shapes.
    guessed = []
    for body in sorted(set(reading.massless) & set(group)):
        if group[body] == -1 or group[body] in weighs:
            set_inertia(builder, body, 0.0, (0.0, 0.0, 0.0), np.zeros((3, 3)))
        elif builder.body_mass[body] > 0:
            guessed.append(body)
    if guessed:
        total = sum(builder.body_mass[body] for body in bodies)
        shares = sorted(guessed, key=lambda body: -builder.body_mass[body])
        density = builder.default_shape_cfg.density
        notes.append(
            f"{len(guessed)} of {len(bodies)} links have no inertial element: their masses are those of their shapes "
            f"at {density:g} kg/m3, {sum(builder.body_mass[body] for body in guessed):,.6g} of {total:,.6g} kg: "
            + listed(f"{reading.bodies[body]!r} {builder.body_mass[body]:,.6g} kg" for body in shares)
        )

    # A link that moves without a mass, and carries others, gets next to none: the solver divides by it.
    carrying = set[int]()
    for body in reversed(bodies):
        if builder.body_mass[body] > 0 or body in carrying:
            carrying.add(parent.get(body, -1))
    heavy = {group.get(body, body) for body in bodies if builder.body_mass[body] > 0}
    light = [body for body in bodies if group.get(body) == body and body not in heavy]
    for body in light:
        if body not in carrying:
            by = next((names for joint, names in reading.joints.items() if builder.joint_child[joint] == body), ())
            how = f" by joint {by[0]!r}" if by else ""
            raise RequestError(
                f"{path.name!r}: link {reading.bodies[body]!r} moves{how} and has no mass.",
                code="asset_unreadable",
                advice="Give it an inertial element with mass and inertia, or a collision shape, or fix it.",
            )
        set_inertia(builder, body, LEAST_KG, (0.0, 0.0, 0.0), np.eye(3) * LEAST_KG_M2)
    if light:
        named = listed(repr(reading.bodies[body]) for body in light)
        notes.append(f"no mass in the file for {named}, which moves and carries others: 1 mg is assumed for each")

    return notes


def settle_inertias(builder: Any, reading: Reading, bodies: Iterable[int]) -> list[str]:
    """Give every body that has a mass an inertia that there can be, and return what had to be done for it.

    Rounding in a file, or of float32, must not make one impossible; a quarter of real URDFs have some that are so
    beyond it, and those of meshes that are not closed may be.

    Args:
        builder: The world's `newton.ModelBuilder`.
        reading: What the robot's own reader found.
        bodies: The robot's bodies.
    """
    import numpy as np

    notes: list[str] = []
    balanced, points = [], []
    for body in bodies:
        if builder.body_mass[body] <= 0:
            continue
        inertia = np.asarray(builder.body_inertia[body], dtype=np.float64).reshape(3, 3)
        least, middle, most = (float(moment) for moment in np.linalg.eigvalsh(inertia))
        label = reading.bodies[body]
        if least == most == 0:
            most = least = middle = builder.body_mass[body] * _GYRATION_M**2
            set_inertia(builder, body, builder.body_mass[body], builder.body_com[body], np.eye(3) * most)
            points.append(repr(label))
            continue
        scale = max(abs(least), abs(most))
        if least < -_ROUNDING * scale or least + middle < most - _ROUNDING * scale:
            balanced.append(f"{label!r} {least:.3g}, {middle:.3g}, {most:.3g}")
        lacking = max(most + _MARGIN * scale - least - middle, _MARGIN * scale - least)
        if lacking > 0:
            inertia += np.eye(3) * lacking
            set_inertia(builder, body, builder.body_mass[body], builder.body_com[body], inertia)
    if balanced:
        notes.append(
            "no body has these principal moments (kg m2), one below 0 or above the sum of the others; they were "
            f"enlarged until one has: {listed(balanced)}"
        )
    if points:
        notes.append(f"mass without inertia, taken to be {_GYRATION_M * 100:g} cm from its centre: {listed(points)}")
    return notes
