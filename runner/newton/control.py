"""The `control` section of a request of the standard profile, as the workload uses it.

A mode drives the robot; base, first pose and gains are settings beside every mode.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simyard.core.errors import unknown
from simyard.runner.newton.mode import Mode, from_plain, setting, wrong
from simyard.runner.newton.modes import DEFAULT, MODES
from simyard.runner.newton.robots import Robot, check_joints, check_position

TASK_MODE = "task_mode"


@dataclass(frozen=True, kw_only=True)
class Gains:
    """Stiffness and damping with which joints are pulled to their targets."""

    stiffness: float | Mapping[str, float] | None = setting("N m/rad or N/m.", low=0, high=1e9, default=None)
    damping: float | Mapping[str, float] | None = setting("N m s/rad or N s/m.", low=0, high=1e9, default=None)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Base, first pose and gains of a robot."""

    fix_base: bool | None = setting(
        "Whether the robot's base is fixed to the world; left out it is as the file says.", default=None
    )
    base_position: tuple[float, float, float] | None = setting(
        "Where the robot's frame is, in metres; left out it is the origin.", low=-1000, high=1000, default=None
    )
    base_yaw: float = setting("How far it is turned about the vertical, in radians.", low=-10, high=10, default=0.0)
    initial_positions: Mapping[str, float] = setting(
        'The first pose, in radians or metres by joint: {"elbow": 0.5}; joints not named are as the file says.',
        low=-1e4,
        high=1e4,
        default_factory=dict,
    )
    gains: Gains | None = setting(  # noqa: RUF009 - it is a field
        "How hard joints are pulled to their targets; left out it is as the file says.", default=None
    )

    def check(self, robot: Robot) -> None:
        """Refuse joints that the robot does not have, and a first pose that it cannot take.

        Raises:
            RequestError: If a joint is unknown, or a position is beyond its limits.
        """
        gains = self.gains or Gains()
        for field, value in (("stiffness", gains.stiffness), ("damping", gains.damping)):
            if isinstance(value, Mapping):
                check_joints(f"control.gains.{field}", value, robot)
        check_joints("control.initial_positions", self.initial_positions, robot)
        for name, value in self.initial_positions.items():
            check_position(f"control.initial_positions.{name}", name, value, robot)


@dataclass(frozen=True, kw_only=True)
class Control:
    """A `control` section."""

    name: str
    """Its `task_mode`."""
    mode: Mode
    """The mode that drives the robot."""
    setup: Setup
    """The robot's base, first pose and gains."""

    def check(self, robot: Robot, objects: Collection[str], policy: Path | None) -> None:
        """Refuse settings that this robot cannot carry out.

        Args:
            robot: As it stands in one world.
            objects: Names of the bodies that are free to move there.
            policy: The job's policy file, where it has one and it is on this machine.

        Raises:
            RequestError: If a joint is unknown, a position is beyond its limits, or the policy does not fit.
        """
        self.setup.check(robot)
        if not robot.targets and self.mode.DRIVES:
            raise wrong(f"control.{TASK_MODE}", self.name, "'zero', since this robot has no joint to drive")
        self.mode.check(robot, objects, policy)


def read_control(control: Mapping[str, Any]) -> Control:
    """Build a `control` section from values that the request's model has checked.

    Raises:
        RequestError: If the mode or a field is unknown: another version of simyard wrote the job.
    """
    name = control.get(TASK_MODE, DEFAULT)
    if name not in MODES:
        raise unknown(TASK_MODE, name, MODES, code="unknown_mode")
    common = {field.name for field in dataclasses.fields(Setup)}
    own = {key: value for key, value in control.items() if key != TASK_MODE and key not in common}
    setup = {key: value for key, value in control.items() if key in common}
    if robot := MODES[name].ROBOT:
        setup["initial_positions"] = {**robot.first_pose, **setup.get("initial_positions", {})}
    return Control(name=name, mode=from_plain(MODES[name], own), setup=from_plain(Setup, setup))
