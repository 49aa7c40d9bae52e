"""How the standard profile drives a robot: the `control` section of a request, read and checked without a robot."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simyard.core.errors import unknown
from simyard.runner.newton.fields import Field, Flag, ForJoints, Number, OfJoints, Section, Vector, read_fields, wrong
from simyard.runner.newton.mode import Mode, check_joints, check_position
from simyard.runner.newton.modes import Hold, Policy, Random, Sine, Trajectory, Zero
from simyard.runner.newton.pick_lift import PickLift
from simyard.runner.newton.robots import Robot

TASK_MODE = "task_mode"
MODES: dict[str, type[Mode]] = {
    "hold": Hold,
    "zero": Zero,
    "random": Random,
    "sine": Sine,
    "trajectory": Trajectory,
    "policy": Policy,
    "pick_lift": PickLift,
}
"""Every `task_mode`; the first is that of a request that names none."""

COMMON: dict[str, Field] = {
    "fix_base": Flag(
        about="Whether the robot's base is fixed to the world; left out it is as the file says.", default=None
    ),
    "base_position": Vector(
        about="Where the robot's frame is, in metres.", length=3, low=-1000, high=1000, default=None
    ),
    "base_yaw": Number(about="How far it is turned about the vertical, in radians.", low=-10, high=10, default=0.0),
    "initial_positions": OfJoints(
        about="The first pose, in radians or metres by joint.", low=-1e4, high=1e4, default={}
    ),
    "gains": Section(
        about="How hard joints are pulled to their targets.",
        fields={
            "stiffness": ForJoints(about="N m/rad or N/m.", low=0, high=1e9, default=None),
            "damping": ForJoints(about="N m s/rad or N s/m.", low=0, high=1e9, default=None),
        },
        default=None,
    ),
}
"""The fields that every mode takes."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """A `control` section that was read."""

    mode: Mode
    """What drives the robot."""
    fix_base: bool | None
    """Whether the base is fixed; None where the file decides."""
    base_position: tuple[float, float, float] | None
    """Of the robot's frame, in metres; None where nothing was said."""
    base_yaw: float
    """Its angle about the vertical, in radians."""
    initial_positions: Mapping[str, float]
    """The first pose, where it is not the file's."""
    stiffness: float | Mapping[str, float] | None
    """For all joints or by joint; None leaves it to the file."""
    damping: float | Mapping[str, float] | None
    """The same."""

    def check(self, robot: Robot, objects: Collection[str], policy: Path | None) -> None:
        """Refuse what this robot cannot do.

        Args:
            robot: As it stands in one world.
            objects: Names of the bodies that are free to move there.
            policy: The job's policy file, where it has one and it is on this machine.

        Raises:
            RequestError: If a joint is unknown, a position is beyond its limits, or the policy does not fit.
        """
        for field, value in (("stiffness", self.stiffness), ("damping", self.damping)):
            if isinstance(value, Mapping):
                check_joints(f"control.gains.{field}", value, robot)
        self.check_first_pose(robot)
        if not robot.targets and self.mode.DRIVES:
            raise wrong(f"control.{TASK_MODE}", _name(self.mode), "'zero', since this robot has no joint to drive")
        self.mode.check(robot, objects, policy)

    def check_first_pose(self, robot: Robot) -> None:
        """Refuse a first pose that the robot cannot take.

        Raises:
            RequestError: If a joint is unknown, or a position is beyond its limits.
        """
        check_joints("control.initial_positions", self.initial_positions, robot)
        for name, value in self.initial_positions.items():
            check_position(f"control.initial_positions.{name}", name, value, robot)


def check_control(control: Mapping[str, Any]) -> None:
    """Refuse what no robot could do.

    Raises:
        RequestError: If the mode or a field is unknown, or a value is not allowed.
    """
    read_control(control)


def read_control(control: Mapping[str, Any]) -> Control:
    """Read a `control` section.

    Raises:
        RequestError: As `check_control`.
    """
    name = control.get(TASK_MODE, next(iter(MODES)))
    if not isinstance(name, str) or name not in MODES:
        raise unknown("task_mode", name, MODES, code="unknown_mode")
    kind = MODES[name]
    given = {key: value for key, value in control.items() if key != TASK_MODE}
    values = read_fields(given, {**kind.FIELDS, **COMMON})
    gains = values["gains"] or {"stiffness": None, "damping": None}
    return Control(
        mode=kind({key: values[key] for key in kind.FIELDS}),
        fix_base=values["fix_base"],
        base_position=values["base_position"],
        base_yaw=values["base_yaw"],
        initial_positions=values["initial_positions"],
        stiffness=gains["stiffness"],
        damping=gains["damping"],
    )


def _name(mode: Mode) -> str:
    return next(name for name, kind in MODES.items() if type(mode) is kind)
