"""The base of every control mode."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from simyard.runner.newton.robots import Robot, check_joints
from simyard.runner.newton.settings import Problem

if TYPE_CHECKING:
    import torch

    from simyard.runner.newton.simulation import Simulation


class Mode:
    """One way to drive a robot.

    To add one, write a file in `modes/`, named as its `task_mode`, with one subclass: a dataclass whose fields are its
    settings (`simyard.runner.newton.settings`), and whose docstring begins with what it does. The request's model, the
    OpenAPI document and Prefect's forms follow from it.

    A mode is checked against the robot before anything is simulated, and asked for targets once a control step, for all
    worlds at once.
    """

    DRIVES: ClassVar[bool] = True
    """Whether the mode drives the joints."""

    def problems(self) -> Iterator[Problem]:
        """Yield the rules between settings that are broken; each setting by itself is within its limits."""
        yield from ()

    def check(self, robot: Robot, objects: Collection[str], policy: Path | None) -> None:
        """Refuse settings that this robot cannot carry out.

        Args:
            robot: As it stands in one world.
            objects: Names of the bodies that are free to move there.
            policy: The job's policy file, where it has one and it is on this machine.

        Raises:
            RequestError: If a joint is unknown.
        """
        assert dataclasses.is_dataclass(self), "a mode is a dataclass of its settings"
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Mapping):
                check_joints(f"control.{field.name}", value, robot)

    def prepare(self, simulation: Simulation, policy: Path | None) -> None:
        """Get ready for `targets`: make what lies on the simulation's device, and open the policy."""
        raise NotImplementedError

    def targets(self, step: int) -> torch.Tensor | None:
        """Return the targets of the driven joints from this control step on, `(num_envs, driven)`.

        Radians or metres, on the simulation's device; None where nothing pulls at them.
        """
        raise NotImplementedError

    def success(self) -> torch.Tensor | None:
        """Return True for each world that has reached the goal, `(num_envs,)`; None for a mode without success."""
        return None
