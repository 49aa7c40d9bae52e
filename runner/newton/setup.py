"""The settings that every control mode takes: base, first pose and gains of the robot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from simyard.runner.newton.robots import Robot, check_joints, check_position
from simyard.runner.newton.settings import setting


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
        self.check_first_pose(robot)

    def check_first_pose(self, robot: Robot) -> None:
        """Refuse a first pose that the robot cannot take.

        Raises:
            RequestError: If a joint is unknown, or a position is beyond its limits.
        """
        check_joints("control.initial_positions", self.initial_positions, robot)
        for name, value in self.initial_positions.items():
            check_position(f"control.initial_positions.{name}", name, value, robot)
