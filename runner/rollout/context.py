"""Context of a task of the `isaac_lab_rollout` profile: the contract of docs/task-packages.md."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simyard.runner.recording.recorder import RolloutRecorder
from simyard.runner.video.films import RolloutFilm


@dataclass(frozen=True, kw_only=True)
class RolloutContext:
    """The first argument of a task's class; the job's `task_args` follow as keywords."""

    robot: Path | None
    """The robot's main file (URDF, MJCF or USD), unpacked with what it refers to; None where none was sent."""
    scene: Path | None
    """The scene's main file; None where none was sent."""
    scene_id: str | None
    """The request's `scene.scene_id`, if it has one; what it means is the task's."""
    policy: Path | None
    """The policy's file, where the request sends one."""
    control: dict[str, Any]
    """The request's `control`, as it came."""
    num_envs: int
    """Environments side by side."""
    steps: int
    """Control steps that each environment is to take."""
    dt: float
    """Seconds of a control step, `physics.dt` of the request."""
    substeps: int
    """Physics steps in each control step, of `dt / substeps` seconds."""
    seed: int
    """Seed for everything random; Python, NumPy and torch are seeded with it before the class is made."""
    device: str
    """`cpu` or `cuda:0`."""
    output: Path
    """Folder for files of the task's own; each becomes an artifact. Write beside, under a dot, and rename."""
    recorder: RolloutRecorder
    """Takes one step of all environments after another, and becomes `rollout.zarr`; episodes are of `steps` at most."""
    video: RolloutFilm
    """Becomes `render.mp4`, where the request asks for one: `watch` and `capture`, or `add`."""
    log: logging.Logger
    """Writes `user_job.log`."""
    say_step: Callable[[int], None]
    """Reports the number of control steps done, for a task that does not record every step."""
