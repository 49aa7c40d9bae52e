from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simyard.runner.newton.mode import Mode

if TYPE_CHECKING:
    from simyard.runner.newton.simulation import Simulation


@dataclass(kw_only=True)
class Zero(Mode):
    """Drive no joint: the robot moves by gravity, friction and its own damping alone."""

    DRIVES = False

    def prepare(self, simulation: Simulation, policy: Path | None) -> None:
        """Do nothing."""

    def targets(self, step: int) -> None:
        """Return no targets."""
        return None
