"""What drives a robot: the base of every `task_mode`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simyard.core.errors import RequestError, unknown
from simyard.runner.newton.fields import Field

if TYPE_CHECKING:
    import torch

    from simyard.runner.newton.robots import Robot
    from simyard.runner.newton.simulation import Simulation


class Mode:
    """One way to drive a robot. To add one: a subclass, and its name in `control.MODES`.

    It is made with its fields when the request is read, checked against the robot before anything is simulated, and
    asked for targets once a control step, for all worlds at once.
    """

    ABOUT: ClassVar[str]
    """One sentence."""
    FIELDS: ClassVar[Mapping[str, Field]] = {}
    """Its own fields, besides those that every mode takes."""
    DRIVES: ClassVar[bool] = True
    """False where nothing pulls at the joints."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Take the fields, read and complete."""
        self.values = values

    def check(self, robot: Robot, objects: Collection[str], policy: Path | None) -> None:
        """Refuse what this robot cannot do.

        Args:
            robot: As it stands in one world.
            objects: Names of the bodies that are free to move there.
            policy: The job's policy file, where it has one and it is on this machine.

        Raises:
            RequestError: If a joint is unknown.
        """
        for name, field in self.FIELDS.items():
            check_joints(f"control.{name}", field.joints(self.values[name]), robot)

    def prepare(self, simulation: Simulation, policy: Path | None) -> None:
        """Get ready for `targets`: make what lies on the simulation's device, and open the policy."""
        raise NotImplementedError

    def targets(self, step: int) -> torch.Tensor | None:
        """Return where the driven joints are to go from this control step on, `(num_envs, driven)`.

        Radians or metres, on the simulation's device; None where nothing pulls at them.
        """
        raise NotImplementedError

    def success(self) -> torch.Tensor | None:
        """Return which worlds have done what was to be done, `(num_envs,)` bools; None where nothing measures it."""
        return None


def check_joints(where: str, names: Any, robot: Robot) -> None:
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
