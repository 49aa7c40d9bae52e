from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simyard.runner.newton.mode import Mode, of_joint, setting

if TYPE_CHECKING:
    import torch

    from simyard.runner.newton.simulation import Simulation


@dataclass(kw_only=True)
class Sine(Mode):
    """Swing each joint around its first position, within its limits."""

    amplitude: float | Mapping[str, float] = setting(
        "Radians or metres; of joints that are not named 0.", low=0, high=100, default=0.2
    )
    frequency_hz: float | Mapping[str, float] = setting(
        "Swings a second; of joints that are not named 0.5.", low=0, high=1000, default=0.5
    )
    phase: float | Mapping[str, float] = setting(
        "Radians; of joints that are not named 0.", low=-1000, high=1000, default=0.0
    )

    def prepare(self, simulation: Simulation, policy: Path | None) -> None:
        """Put the numbers of each joint where the simulation is."""
        import torch

        def tensor(values: Iterable[float]) -> torch.Tensor:
            return torch.tensor(list(values), dtype=torch.float32, device=simulation.device)

        names = simulation.robot.driven
        self._dt, self._middle, self._num_envs = simulation.dt, simulation.first_targets[0], simulation.num_envs
        self._amplitude = tensor(of_joint(self.amplitude, name, 0.0) for name in names)
        self._rate = tensor(2 * math.pi * of_joint(self.frequency_hz, name, 0.5) for name in names)
        self._phase = tensor(of_joint(self.phase, name, 0.0) for name in names)
        self._low = tensor(target.low for target in simulation.robot.targets)
        self._high = tensor(target.high for target in simulation.robot.targets)

    def targets(self, step: int) -> torch.Tensor:
        """Return the value of each joint's sine at this step, within the joint's limits."""
        import torch

        wave = self._middle + self._amplitude * torch.sin(self._rate * (step * self._dt) + self._phase)
        return torch.clamp(wave, self._low, self._high).expand(self._num_envs, -1)
