from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from simyard.runner.newton.mode import OwnRobot, setting, wrong
from simyard.runner.newton.modes.pick_lift import PickLift

_PHYSICS_S = 0.0025
"""Longest physics step: with longer ones what is gripped slips."""
_STEP_S = 0.1
"""Longest control step: with longer ones the arm jerks from pose to pose."""


@dataclass(kw_only=True)
class FR3PickLiftBlock(PickLift):
    """Pick up a free object as `pick_lift` does, with a Franka FR3 and its hand, which this mode brings."""

    ROBOT: ClassVar[OwnRobot | None] = OwnRobot(
        file=Path(__file__).parents[1] / "models" / "fr3.zip",
        format="urdf",
        first_pose={
            "fr3_joint1": 0.0, "fr3_joint2": -0.785, "fr3_joint3": 0.0, "fr3_joint4": -2.356, "fr3_joint5": 0.0,
            "fr3_joint6": 1.571, "fr3_joint7": 0.785,
        },
    )  # fmt: skip

    duration_s: float = setting(
        "Seconds that all steps take together: each is as long as that needs.", low=0.5, high=60, default=3.0
    )
    ee_body: str = setting("The body between the fingertips.", default="fr3_hand_tcp")
    finger_joints: tuple[str, ...] = setting("The joints of the hand.", default=("fr3_finger_joint1",))

    def own_time(self, steps: int) -> tuple[float, int]:
        """Return the seconds of a control step that share `duration_s` out, and the physics steps that it needs.

        Raises:
            RequestError: There are too few steps.
        """
        dt = self.duration_s / steps
        if dt > _STEP_S:
            least = math.ceil(self.duration_s / _STEP_S)
            raise wrong("execution.steps", steps, f"{least} or more, since they take {self.duration_s:g} s together")
        return dt, math.ceil(dt / _PHYSICS_S)
