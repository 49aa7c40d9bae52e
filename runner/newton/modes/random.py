from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simyard.runner.newton.mode import Mode, setting

if TYPE_CHECKING:
    import torch

    from simyard.runner.newton.simulation import Simulation

FREE_RANGE_RAD, FREE_RANGE_M = math.pi / 2, 0.25
"""Range of a joint without limits to either side of the first pose, in radians and in metres."""


@dataclass(kw_only=True)
class Random(Mode):
    """Move from one random pose to the next, in each world to others."""

    period_s: float = setting("Seconds from one pose to the next.", low=1e-3, high=1e4, default=0.5)
    range: float = setting(
        "Which part of each joint's limits is used, around their middle.", low=0, high=1, default=1.0
    )
    smooth: bool = setting("Whether targets move there at one speed; else they jump and stay.", default=True)

    def prepare(self, simulation: Simulation, policy: Path | None) -> None:
        """Find the range of each joint."""
        self._simulation, self._low, self._width = simulation, [], []
        for target, now in zip(simulation.robot.targets, simulation.first_targets[0].tolist(), strict=True):
            reach = FREE_RANGE_M if target.linear else FREE_RANGE_RAD
            low = target.low if target.low > -math.inf else min(now, target.high) - reach
            high = target.high if target.high < math.inf else max(now, low) + reach
            middle, width = (low + high) / 2, (high - low) * self.range
            self._low.append(middle - width / 2)
            self._width.append(width)
        self._segment = -1
        self._next = simulation.first_targets

    def targets(self, step: int) -> torch.Tensor:
        """Return the pose on the way to the next one, or that one itself."""
        import numpy as np
        import torch

        simulation = self._simulation
        at = step * simulation.dt / self.period_s
        segment = int(at + 1e-9)
        while self._segment < segment:
            # Drawn by seed and number alone, so that the count of worlds changes none of them.
            self._segment += 1
            random = np.random.default_rng([simulation.seed, self._segment])
            drawn = random.uniform(size=(simulation.num_envs, len(self._low))) * self._width + self._low
            self._last, self._next = self._next, torch.as_tensor(drawn, dtype=torch.float32, device=simulation.device)
        if not self.smooth:
            return self._next
        return self._last + (at - segment) * (self._next - self._last)
