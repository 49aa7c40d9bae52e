from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simyard.runner.newton.mode import Mode

if TYPE_CHECKING:
    import torch

    from simyard.runner.newton.simulation import Simulation


@dataclass(kw_only=True)
class Hold(Mode):
    """Hold the first pose."""

    def prepare(self, simulation: Simulation, policy: Path | None) -> None:
        """Take the first pose as the target."""
        self._pose = simulation.first_targets.clone()

    def targets(self, step: int) -> torch.Tensor:
        """Return the first pose."""
        return self._pose
