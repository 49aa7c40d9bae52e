"""A robot from its file, in the one world that is then repeated: what its joints are called, and which are driven.

- **Base.** A URDF stands fixed to the world, since it cannot say otherwise; an MJCF is free where its root has a
  `freejoint`, a USD where its root body is fixed to nothing. `fix_base` decides otherwise.
- **Joints.** Every joint that moves along or about one axis has a target, those of a `planar` or multi-axis joint too.
  A joint that mimics another follows it. Ball joints are passive.
- **Names** are the file's own, without what is above them; two that are the same keep it.
- **First pose.** Zero, or what the file says, brought within the joints' limits.
- **Self-collisions** are off: neighbouring meshes of real robots overlap.
- **Motors.** An MJCF's motors have no effect, since targets move the joints; its `position` and affine `general`
  actuators give the gains.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError, unknown
from simyard.runner.assets.safe_xml import elements

UNLIMITED = 1e6
"""A limit from which on there is none: Newton writes 1e10 where a file has none."""


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
    load(builder, path, format_, xform=pose, floating=floating)
    if format_ == "urdf":
        _tidy_urdf(builder)
    if format_ == "mjcf":
        _silence_motors(builder)
    robot = _describe(builder, path, format_)

    # The first pose is within the joints' limits.
    for target in robot.targets:
        now = float(builder.joint_q[target.coordinate])
        builder.joint_q[target.coordinate] = min(max(now, target.low), target.high)

    # No link touches another: neighbouring meshes of real robots overlap.
    own = set(robot.bodies.values())
    owners = enumerate(zip(builder.shape_body, builder.shape_flags, strict=True))
    shapes = [shape for shape, (body, flags) in owners if body in own and flags & ShapeFlags.COLLIDE_SHAPES]
    for pair in combinations(shapes, 2):
        builder.add_shape_collision_filter_pair(*pair)
    return robot


def load(builder: Any, path: Path, format_: str, **options: Any) -> None:
    """Read a file into a world.

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
        raise unreadable(path, error) from error


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


def unreadable(path: Path, error: BaseException) -> RequestError:
    """Return the error for a file that Newton does not take."""
    text = str(error).strip().splitlines()
    return RequestError(
        f"{path.name!r} cannot be simulated: {type(error).__name__}{f': {text[0][:300]}' if text else ''}.",
        code="asset_unreadable",
        advice="Newton 1.6 reads it; open it in a viewer of its format to find the fault.",
    )


def _tidy_urdf(builder: Any) -> None:
    """Tell a joint's own damping from a drive's, which no URDF has; an effort of 0 means that none was written."""
    for dof, damping in enumerate(builder.joint_target_kd):
        builder.joint_damping[dof] = damping
        builder.joint_target_kd[dof] = 0.0
        if builder.joint_effort_limit[dof] <= 0:
            builder.joint_effort_limit[dof] = UNLIMITED


def _silence_motors(builder: Any) -> None:
    """Take the gains from servos that MuJoCo would hold at 0, and the force from every motor."""
    from newton.solvers import SolverMuJoCo

    def values(name: str) -> Any:
        return builder.custom_attributes[f"mujoco:{name}"].values

    for row, source in enumerate(values("ctrl_source")):
        if source != SolverMuJoCo.CtrlSource.CTRL_DIRECT:
            continue
        bias, dof = values("actuator_biasprm")[row], int(values("actuator_trnid")[row][0])
        if int(values("actuator_trntype")[row]) == 0 and dof >= 0 and bias[1] < 0:
            builder.joint_target_ke[dof], builder.joint_target_kd[dof] = -float(bias[1]), max(0.0, -float(bias[2]))
            if values("actuator_has_forcerange")[row]:
                builder.joint_effort_limit[dof] = max(map(abs, values("actuator_forcerange")[row]))
        values("actuator_gainprm")[row] = values("actuator_biasprm")[row] = type(bias)()


def _describe(builder: Any, path: Path, format_: str) -> Robot:
    from newton import JointType

    # Its root, where that floats, and the other bodies of its file that nothing holds.
    joints = [joint for joint in range(builder.joint_count) if builder.joint_articulation[joint] >= 0]
    free = [joint for joint in joints if builder.joint_type[joint] == JointType.FREE]
    base = _base(builder, joints, free)
    others = {builder.joint_child[joint]: joint for joint in free if joint != base}

    # Every axis of every joint, under its full name.
    positions: list[tuple[str, int]] = []
    velocities: list[tuple[str, int]] = []
    driven: list[tuple[str, int, int, bool]] = []
    mjcf_names, followers = _mjcf_joints(path) if format_ == "mjcf" else [], set(builder.constraint_mimic_joint0)
    for joint in joints:
        kind, label = builder.joint_type[joint], builder.joint_label[joint]
        q, dof = builder.joint_q_start[joint], builder.joint_qd_start[joint]
        if kind in (JointType.FREE, JointType.FIXED):
            continue
        if kind == JointType.BALL:
            positions += [(f"{label}:{part}", q + index) for index, part in enumerate("xyzw")]
            velocities += [(f"{label}:{part}", dof + index) for index, part in enumerate("xyz")]
            continue
        if kind not in (JointType.REVOLUTE, JointType.PRISMATIC, JointType.D6):
            raise RequestError(
                f"{path.name!r} has the joint {label!r} of the type {JointType(kind).name}.",
                code="asset_unreadable",
                advice="Allowed: fixed, revolute, prismatic, ball and free joints, and several axes in one.",
            )
        linear, angular = builder.joint_dof_dim[joint]
        for index, name in enumerate(_dof_names(builder, label, dof, linear + angular, mjcf_names)):
            positions.append((name, q + index))
            velocities.append((name, dof + index))
            if joint not in followers:
                driven.append((name, q + index, dof + index, index < linear))
    if not positions and base is None:
        raise RequestError(
            f"{path.name!r} has nothing that moves: no joint, and a fixed base.",
            code="robot_without_joints",
            advice="A USD needs the physics schemas: ArticulationRootAPI, RigidBodyAPI and joints."
            if format_ == "usd"
            else "Send a robot with joints, or set control.fix_base to false.",
        )

    short, bodies = short_names([name for name, _ in positions + velocities]), short_names(list(builder.body_label))
    limits = list(zip(builder.joint_limit_lower, builder.joint_limit_upper, strict=True))
    return Robot(
        positions=tuple(Column(short[name], index) for name, index in positions),
        velocities=tuple(Column(short[name], index) for name, index in velocities),
        targets=tuple(Driven(short[name], q, dof, *_limits(*limits[dof]), line) for name, q, dof, line in driven),
        bodies={bodies[label]: body for body, label in enumerate(builder.body_label) if body not in others},
        base=None if base is None else free_body(builder, base),
        objects={bodies[builder.body_label[body]]: free_body(builder, others[body]) for body in sorted(others)},
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


def _dof_names(builder: Any, label: str, dof: int, count: int, mjcf_names: Sequence[Sequence[str]]) -> list[str]:
    """Return the names of a joint's axes: Newton makes one joint of those that an MJCF gives one body."""
    if count == 1:
        return [label]
    above, _, joined = label.rpartition("/")
    for names in mjcf_names:
        for first in range(len(names) - count + 1):
            if "_".join(names[first : first + count]) == joined:
                return [f"{above}/{name}" for name in names[first : first + count]]
    written = builder.custom_attributes["mujoco:joint_dof_label"].values or {}
    own = [written.get(dof + index, "") for index in range(count)] if isinstance(written, dict) else []
    return own if own and all(own) else [f"{label}:{index}" for index in range(count)]


def _mjcf_joints(path: Path) -> list[list[str]]:
    """Return the joints of each file of an MJCF, in their order."""
    found = []
    for file in [path, *sorted(each for each in path.parent.rglob("*.xml") if each != path)]:
        with contextlib.suppress(RequestError):  # a file that is no part of it
            found.append([each.attributes.get("name", "") for each in elements(file) if each.tag == "joint"])
    return found


def _limits(low: float, high: float) -> tuple[float, float]:
    low, high = float(low), float(high)
    return (low if low > -UNLIMITED else -math.inf), (high if high < UNLIMITED else math.inf)


def short_names(labels: Sequence[str]) -> dict[str, str]:
    """Return the last part of each label; the whole one for those whose last parts are the same."""
    last = {label: label.rpartition("/")[2] for label in labels}
    counts = Counter(last.values())
    return {label: name if counts[name] == 1 else label.strip("/") for label, name in last.items()}
