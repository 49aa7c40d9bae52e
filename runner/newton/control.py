"""The `control` section of a request of the standard profile, as the workload uses it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simyard.core.errors import unknown
from simyard.runner.newton.mode import Mode
from simyard.runner.newton.modes import DEFAULT, MODES
from simyard.runner.newton.robots import Robot
from simyard.runner.newton.settings import from_plain, wrong
from simyard.runner.newton.setup import Setup

TASK_MODE = "task_mode"


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
    return Control(name=name, mode=from_plain(MODES[name], own), setup=from_plain(Setup, setup))
