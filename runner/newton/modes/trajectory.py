from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from simyard.runner.newton.mode import Mode, Problem, setting
from simyard.runner.newton.robots import Robot, check_joints, check_position

if TYPE_CHECKING:
    import torch

    from simyard.runner.newton.simulation import Simulation


@dataclass(frozen=True, kw_only=True)
class Keyframe:
    """Positions of some joints at one time."""

    time_s: float = setting("Seconds from the beginning, more than of the keyframe before.", low=0, high=1e6)
    positions: Mapping[str, float] = setting("Radians or metres by joint.", low=-1e4, high=1e4)


@dataclass(kw_only=True)
class Trajectory(Mode):
    """Follow keyframes: straight from one to the next, from the first pose on; the last one is held."""

    keyframes: tuple[Keyframe, ...] = setting(
        "Positions of some or all joints, at times that increase.",
        most=10_000,
        example='[{"time_s": 1.0, "positions": {"elbow": 0.5}}, …]',
    )

    def problems(self) -> Iterator[Problem]:
        """Yield the keyframes that are not later than the one before."""
        for index, (before, frame) in enumerate(pairwise(self.keyframes), start=1):
            if frame.time_s <= before.time_s:
                allowed = f"more than that of the one before, {before.time_s:g}"
                yield Problem(("keyframes", index, "time_s"), frame.time_s, allowed)

    def check(self, robot: Robot, objects: Collection[str], policy: Path | None) -> None:
        """Refuse joints that the robot does not have, and positions beyond their limits."""
        check_joints("control.keyframes", (name for frame in self.keyframes for name in frame.positions), robot)
        for index, frame in enumerate(self.keyframes):
            for name, value in frame.positions.items():
                check_position(f"control.keyframes[{index}].positions.{name}", name, value, robot)

    def prepare(self, simulation: Simulation, policy: Path | None) -> None:
        """Lay out times and positions, joint by joint: a keyframe need not name all."""
        self._dt, self._num_envs, self._device = simulation.dt, simulation.num_envs, simulation.device
        self._ways = []
        for name, first in zip(simulation.robot.driven, simulation.first_targets[0].tolist(), strict=True):
            named = [(frame.time_s, frame.positions[name]) for frame in self.keyframes if name in frame.positions]
            if not named or named[0][0] > 0:
                named.insert(0, (0.0, first))
            self._ways.append(tuple(zip(*named, strict=True)))

    def targets(self, step: int) -> torch.Tensor:
        """Return the positions between two keyframes at this step."""
        import numpy as np
        import torch

        row = [float(np.interp(step * self._dt, times, positions)) for times, positions in self._ways]
        return torch.tensor(row, dtype=torch.float32, device=self._device).expand(self._num_envs, -1)
