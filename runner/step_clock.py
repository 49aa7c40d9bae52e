"""The clock of a simulation's steps: the first ones load kernels and capture graphs, and are timed apart."""

from __future__ import annotations

import sys
import time
from typing import TypedDict

FIRST = 2
"""Steps that are timed apart: the first one loads kernels and captures graphs, and some record before they step."""


class StepFigures(TypedDict):
    """Speed of a simulation; None where it was too short to tell."""

    first_steps_seconds: float | None
    """Until the first two steps were done, from the environment's being there."""
    environment_steps_per_second: float | None
    """Of all environments together, in the steps after those."""


class StepClock:
    """Times the steps of all environments; it begins when it is made."""

    def __init__(self, num_envs: int, total: int | None = None) -> None:
        """Begin.

        Args:
            num_envs: Environments side by side.
            total: Steps that there will be; None where that is not known.
        """
        self._num_envs, self._total = num_envs, total
        self._began = time.monotonic()
        self._first: tuple[int, float] | None = None
        self._last = (0, self._began)

    def note(self, steps: int) -> None:
        """Note that each environment has taken so many steps, with what belongs to each."""
        if steps <= self._last[0]:
            return
        ends_first = self._first is None and steps >= FIRST
        if ends_first or steps == self._total:
            torch = sys.modules.get("torch")
            if torch is not None and torch.cuda.is_initialized():
                torch.cuda.synchronize()  # it is behind, and would be at work for steps that are counted elsewhere
        self._last = (steps, time.monotonic())
        if ends_first:
            self._first = self._last

    def figures(self) -> StepFigures:
        """Return the speed so far."""
        if self._first is None:
            return {"first_steps_seconds": None, "environment_steps_per_second": None}
        (steps, at), (all_steps, end) = self._first, self._last
        rate = (all_steps - steps) * self._num_envs / (end - at) if all_steps > steps else None
        return {
            "first_steps_seconds": round(at - self._began, 3),
            "environment_steps_per_second": rate and round(rate, 1),
        }
