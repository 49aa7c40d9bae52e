"""A robot from its file, in the one world that is then repeated: what its joints are called, and which are driven.

- **Base.** A URDF stands fixed to the world, since it cannot say otherwise; an MJCF is free where its root has a
  `freejoint`, a USD where its root body is fixed to nothing. `fix_base` decides otherwise.
- **Joints.** Every joint that moves along or about one axis has a target, those of a `planar` or multi-axis joint too;
  where an MJCF has actuators, the joints that one moves. A joint that mimics another follows it. Ball joints are
  passive. Not every joint that has a motor has a drive in a USD: Isaac Lab's own humanoid bends its knees without one.
- **Names** are the file's own; in a USD without what is above them, and two that are the same keep it.
- **First pose.** That of an MJCF's keyframe, else zero or what the file says, brought within the joints' limits.
- **Self-collisions** are off: neighbouring meshes of real robots overlap.
- **What the format says** and Newton does not read is in `mjcf.py` and `urdf.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError, unknown
from simyard.runner.newton import mjcf, urdf
from simyard.runner.newton.reading import UNLIMITED, Reading, listed, settle_inertias, settle_masses, unreadable

_FLAT = 1e-5
"""Ratio of thickness to extent of a mesh that is flat to MuJoCo."""
_NOTED = 1e-3
"""Radians or metres of the first pose that are worth a note."""


@dataclass(frozen=True)
class Column:
    """One number of a state: its name, and its index in one world."""

    name: str
    index: int
    """In the world's part of `joint_q` or `joint_qd`."""


@dataclass(frozen=True)
class Driven:
    """A joint that goes to a target."""

    name: str
    coordinate: int
    """In the world's part of `joint_q`."""
    dof: int
    """In the world's part of `joint_qd`."""
    low: float
    """Radians or metres; minus infinity where there is no limit."""
    high: float
    """Radians or metres; infinity where there is no limit."""
    linear: bool
    """True for metres, False for radians."""


@dataclass(frozen=True)
class FreeBody:
    """A body that nothing holds."""

    body: int
    """Its index in the world."""
    coordinate: int
    """Index of its pose's first number in the world's part of `joint_q`."""


@dataclass(frozen=True, kw_only=True)
class Robot:
    """The joints and bodies of one world's robot."""

    positions: tuple[Column, ...]
    """Every coordinate of its joints, the free base's not among them."""
    velocities: tuple[Column, ...]
    """Every velocity of its joints."""
    targets: tuple[Driven, ...]
    """The joints that are driven, in the order of an action."""
    bodies: Mapping[str, int]
    """Index of each of its bodies in the world."""
    base: FreeBody | None
    """Its root, where that floats."""
    objects: Mapping[str, FreeBody]
    """Free bodies of its file that are no part of it."""
    reading: Reading = field(default_factory=Reading)
    """Content of its file beyond that."""

    @property
    def driven(self) -> tuple[str, ...]:
        """Names of the joints that are driven."""
        return tuple(target.name for target in self.targets)

    def limits(self, name: str) -> tuple[float, float]:
        """Return the least and the largest position of a driven joint."""
        return next((target.low, target.high) for target in self.targets if target.name == name)


def check_joints(where: str, names: Iterable[str], robot: Robot) -> None:
    """Refuse names that are none of the robot's driven joints.

    Raises:
        RequestError: With those there are, and the nearest.
    """
    for name in names:
        if name not in robot.driven:
            raise unknown(f"joint in {where}:", name, robot.driven, code="unknown_joint")


def check_position(where: str, name: str, value: float, robot: Robot) -> None:
    """Refuse a position beyond a joint's limits.

    Raises:
        RequestError: With the limits.
    """
    low, high = robot.limits(name)
    slack = 1e-4 * max(1.0, high - low) if high < float("inf") else 0.0
    if not low - slack <= value <= high + slack:
        raise RequestError(
            f"{where} is {value:g}, beyond the limits of joint {name!r}.",
            code="beyond_limits",
            advice=f"Allowed: {low:g} to {high:g}.",
        )


def add_robot(builder: Any, path: Path, format_: str, *, fix_base: bool | None, at: Sequence[float]) -> Robot:
    """Add a robot to a world.

    Args:
        builder: The world's `newton.ModelBuilder`, with the robot as its first content.
        path: The main file, in a folder with all that it refers to.
        format_: `urdf`, `mjcf` or `usd`.
        fix_base: Whether its base is fixed; None leaves it to the file.
        at: x, y, z in metres and the angle about the vertical in radians, of its frame.

    Raises:
        RequestError: If Newton cannot read it, or there is nothing in it that moves.
    """
    import warp
    from newton import ShapeFlags

    half = at[3] / 2
    pose = warp.transform(warp.vec3(*at[:3]), warp.quat(0.0, 0.0, math.sin(half), math.cos(half)))
    floating = None if fix_base is None else not fix_base
    first_body, first_joint = builder.body_count, builder.joint_count

    def added() -> tuple[range, range]:
        return range(first_body, builder.body_count), range(first_joint, builder.joint_count)

    # Each format as it means it, and then bodies that there can be.
    if format_ == "mjcf":
        compiled = mjcf.compile_mjcf(path, fix_base=fix_base)
        load(builder, compiled.copy, format_, named=path, xform=pose, floating=floating)
        reading = mjcf.apply(builder, path, compiled, *added(), pose)
    elif format_ == "urdf":
        tidied = urdf.tidy_urdf(path)
        load(builder, tidied.copy, format_, named=path, xform=pose, floating=floating)
        reading = urdf.apply(builder, tidied, *added())
    else:
        load(builder, path, format_, xform=pose, floating=floating)
        reading = _read_usd(builder, *added())
    settled = settle_masses(builder, path, reading, added()[0])
    settled += settle_inertias(builder, reading, reading.bodies)
    settled += _spare_flat_shapes(builder, reading)
    robot = _describe(builder, path, format_, reading)

    # The first pose is within the joints' limits.
    moved = []
    for joint in reading.joints:
        for axis, dof in enumerate(_axes(builder, joint)):
            q, (low, high) = builder.joint_q_start[joint] + axis, _limits(builder, dof)
            now = float(builder.joint_q[q])
            builder.joint_q[q] = within = min(max(now, low), high)
            if abs(within - now) > _NOTED:
                moved.append(f"{reading.joints[joint][axis]!r} {now:.4g} to {within:.4g}")
    if moved:
        settled.append(f"first pose brought within the joints' limits: {listed(moved)}")

    # No link touches another: neighbouring meshes of real robots overlap.
    own = set(robot.bodies.values())
    owners = enumerate(zip(builder.shape_body, builder.shape_flags, strict=True))
    shapes = [shape for shape, (body, flags) in owners if body in own and flags & ShapeFlags.COLLIDE_SHAPES]
    for pair in combinations(shapes, 2):
        builder.add_shape_collision_filter_pair(*pair)
    return replace(robot, reading=replace(reading, notes=(*reading.notes, *settled)))


def _spare_flat_shapes(builder: Any, reading: Reading) -> list[str]:
    """Let shapes without a thickness touch nothing; return a note on whose they are.

    MuJoCo refuses such meshes, and Newton gives other shapes that lack a size the size that they have elsewhere.
    """
    import numpy as np
    from newton import GeoType, ShapeFlags

    sizes = {GeoType.SPHERE: 1, GeoType.CAPSULE: 2, GeoType.CYLINDER: 2, GeoType.CONE: 2}
    sizes |= {GeoType.ELLIPSOID: 3, GeoType.BOX: 3}
    flat: list[str] = []
    for shape, body in enumerate(builder.shape_body):
        if body not in reading.bodies or not builder.shape_flags[shape] & ShapeFlags.COLLIDE_SHAPES:
            continue
        vertices = getattr(builder.shape_source[shape], "vertices", None)
        if vertices is None:
            is_flat = min(builder.shape_scale[shape][: sizes.get(builder.shape_type[shape], 0)], default=1.0) <= 0
        else:
            points = np.asarray(vertices, dtype=np.float64) - np.mean(vertices, axis=0)
            thickness = np.linalg.svd(points, compute_uv=False)[-1] / len(points) ** 0.5 if len(points) > 3 else 0.0
            is_flat = thickness <= _FLAT * np.abs(points).max(initial=0.0)
        if is_flat:
            builder.shape_flags[shape] &= ~int(ShapeFlags.COLLIDE_SHAPES)
            flat.append(repr(reading.bodies[body]))
    return [f"shapes without a thickness touch nothing: of {listed(flat)}"] if flat else []


def load(builder: Any, path: Path, format_: str, *, named: Path | None = None, **options: Any) -> None:
    """Read a file into a world.

    Args:
        builder: The world's `newton.ModelBuilder`.
        path: The file.
        format_: `urdf`, `mjcf` or `usd`.
        named: The user's file, where `path` is a copy of it that is not needed any more.
        options: For Newton's reader.

    Raises:
        RequestError: If Newton cannot read it, or it is a USD in other units than metres.
    """
    try:
        if format_ == "urdf":
            builder.add_urdf(str(path), **options)
        elif format_ == "mjcf":
            builder.add_mjcf(str(path), **options)
        else:
            _require_metres(path)
            builder.add_usd(str(path), **options)
    except RequestError:
        raise
    except (Exception, RecursionError) as error:
        raise unreadable(named or path, error) from error
    finally:
        if named is not None:
            path.unlink(missing_ok=True)


def _require_metres(path: Path) -> None:
    """Refuse a USD in other units: Newton reads its numbers as metres."""
    from pxr import Usd, UsdGeom

    stage = Usd.Stage.Open(str(path))
    unit = UsdGeom.GetStageMetersPerUnit(stage)
    if not math.isclose(unit, 1.0, rel_tol=1e-6):
        silent = not UsdGeom.StageHasAuthoredMetersPerUnit(stage)
        raise RequestError(
            f"{path.name!r} is in units of {unit:g} m{', since it names none' if silent else ''}.",
            code="asset_units",
            advice="Allowed: metersPerUnit = 1. Write it, and scale the content if it is in other units.",
        )


def _read_usd(builder: Any, bodies: range, joints: range) -> Reading:
    """Take names from the labels."""
    from newton import JointType

    body_names = short_names([builder.body_label[body] for body in bodies])
    labels: dict[int, list[str]] = {}
    for joint in joints:
        first, count = builder.joint_qd_start[joint], sum(builder.joint_dof_dim[joint])
        if builder.joint_type[joint] in (JointType.REVOLUTE, JointType.PRISMATIC, JointType.D6):
            labels[joint] = _dof_labels(builder, builder.joint_label[joint], first, count)
        else:
            labels[joint] = [builder.joint_label[joint]]
    short = short_names([label for axes in labels.values() for label in axes])
    moving = [dof for joint in joints for dof in _axes(builder, joint)]
    limits = {dof: float(builder.joint_velocity_limit[dof]) for dof in moving}
    return Reading(
        bodies={body: body_names[builder.body_label[body]] for body in bodies},
        joints={joint: [short[label] for label in axes] for joint, axes in labels.items()},
        speeds={dof: limit for dof, limit in limits.items() if 0 < limit < UNLIMITED},
    )


def _axes(builder: Any, joint: int) -> range:
    """Return the degrees of freedom of a joint that moves along or about single axes."""
    from newton import JointType

    if builder.joint_type[joint] not in (JointType.REVOLUTE, JointType.PRISMATIC, JointType.D6):
        return range(0)
    first = builder.joint_qd_start[joint]
    return range(first, first + sum(builder.joint_dof_dim[joint]))


def _describe(builder: Any, path: Path, format_: str, reading: Reading) -> Robot:
    from newton import JointType

    # Its root, where that floats, and the other bodies of its file that nothing holds.
    joints = [joint for joint in range(builder.joint_count) if builder.joint_articulation[joint] >= 0]
    free = [joint for joint in joints if builder.joint_type[joint] == JointType.FREE]
    base = _base(builder, joints, free)
    others = {builder.joint_child[joint]: joint for joint in free if joint != base}

    # Every axis of every joint, and those with a motor.
    positions: list[Column] = []
    velocities: list[Column] = []
    driven: list[Driven] = []
    followers = set(builder.constraint_mimic_joint0)
    for joint in joints:
        kind = builder.joint_type[joint]
        q, dof = builder.joint_q_start[joint], builder.joint_qd_start[joint]
        if kind in (JointType.FREE, JointType.FIXED):
            continue
        names = reading.joints[joint]
        if kind == JointType.BALL:
            positions += [Column(f"{names[0]}:{part}", q + index) for index, part in enumerate("xyzw")]
            velocities += [Column(f"{names[0]}:{part}", dof + index) for index, part in enumerate("xyz")]
            continue
        if kind not in (JointType.REVOLUTE, JointType.PRISMATIC, JointType.D6):
            raise RequestError(
                f"{path.name!r} has the joint {names[0]!r} of the type {JointType(kind).name}.",
                code="asset_unreadable",
                advice="Allowed: fixed, revolute, prismatic, ball and free joints, and several axes in one.",
            )
        linear = builder.joint_dof_dim[joint][0]
        for index, name in enumerate(names):
            positions.append(Column(name, q + index))
            velocities.append(Column(name, dof + index))
            if joint not in followers if reading.motors is None else dof + index in reading.motors:
                low, high = _limits(builder, dof + index)
                driven.append(Driven(name, q + index, dof + index, low, high, index < linear))
    if not positions and base is None:
        raise RequestError(
            f"{path.name!r} has nothing that moves: no joint, and a fixed base.",
            code="robot_without_joints",
            advice="A USD needs the physics schemas: ArticulationRootAPI, RigidBodyAPI and joints."
            if format_ == "usd"
            else "Send a robot with joints, or set control.fix_base to false.",
        )
    return Robot(
        positions=tuple(positions),
        velocities=tuple(velocities),
        targets=tuple(driven),
        bodies={name: body for body, name in reading.bodies.items() if body not in others},
        base=None if base is None else free_body(builder, base),
        objects={reading.bodies[body]: free_body(builder, others[body]) for body in sorted(others)},
        reading=reading,
    )


def free_body(builder: Any, joint: int) -> FreeBody:
    """Return the body that a free joint moves."""
    return FreeBody(builder.joint_child[joint], builder.joint_q_start[joint])


def _base(builder: Any, joints: Iterable[int], free: Sequence[int]) -> int | None:
    """Return the free joint that carries the robot: of several the one with most joints after it."""
    if not free:
        return None
    in_articulation = Counter(builder.joint_articulation[joint] for joint in joints)
    best = max(free, key=lambda joint: (in_articulation[builder.joint_articulation[joint]], -joint))
    alone = in_articulation[builder.joint_articulation[best]] == 1
    others_move = any(joint not in free for joint in joints)
    return None if alone and others_move else best


def _dof_labels(builder: Any, label: str, dof: int, count: int) -> list[str]:
    """Return the labels of a joint's axes."""
    if count == 1:
        return [label]
    written = builder.custom_attributes["mujoco:joint_dof_label"].values or {}
    own = [written.get(dof + index, "") for index in range(count)] if isinstance(written, dict) else []
    return own if own and all(own) else [f"{label}:{index}" for index in range(count)]


def _limits(builder: Any, dof: int) -> tuple[float, float]:
    low, high = float(builder.joint_limit_lower[dof]), float(builder.joint_limit_upper[dof])
    return (low if low > -UNLIMITED else -math.inf), (high if high < UNLIMITED else math.inf)


def short_names(labels: Sequence[str]) -> dict[str, str]:
    """Return the last part of each label; the whole one for those whose last parts are the same."""
    last = {label: label.rpartition("/")[2] for label in labels}
    counts = Counter(last.values())
    return {label: name if counts[name] == 1 else label.strip("/") for label, name in last.items()}
