"""The isaac_lab_rollout profile: a task package's own class, or a registered task that simyard drives.

A class gets a `RolloutContext`: the contract of docs/task-packages.md.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from simyard.core.files import AttemptPaths
from simyard.core.specs import Asset, AttemptSpec, Facts
from simyard.runner.assets.robot_files import main_file
from simyard.runner.isaaclab import rollouts as isaaclab_rollouts
from simyard.runner.isaaclab.lookup import use_overlay
from simyard.runner.recording.recorder import RolloutRecorder
from simyard.runner.rollout.run import Recording, rollout
from simyard.runner.rollout.user_class import find_class, import_module
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


def run(attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
    """Run the task, and leave what a rollout leaves.

    Raises:
        WorkloadError: If what the job promises is not there in the end.
        RequestError: If the task's module does not import any more.
        Exception: Whatever the simulator or the task raised.
    """
    job = attempt.job
    assert job.rollout is not None
    use_overlay(paths.overlay if job.packages else None)
    module = import_module(job.rollout.task_module) if job.rollout.task_module else None
    task_class = find_class(module, job.task) if module else None
    rollout(partial(_drive, task_class) if task_class else isaaclab_rollouts.drive, attempt, facts, paths)


def _drive(task_class: type, recording: Recording, attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
    """Make the task with everything seeded, and run it.

    Raises:
        Exception: Whatever the task raised; it is in the task's log too.
    """
    import numpy as np
    import torch

    def unpacked(asset: Asset | None, folder: str) -> Path | None:
        if asset is None:
            return None
        say = partial(recording.log.info, "%s")
        return main_file(paths.inputs / asset.file.name, asset.format, paths.root / folder, asset.entry, say)

    # The context: the request's values, and where everything goes.
    job, wanted = attempt.job, attempt.job.rollout
    assert wanted is not None
    recorder, video = recording.open(control_period_s=wanted.dt, longest=wanted.steps, task_args=wanted.task_args)
    context = RolloutContext(
        robot=unpacked(wanted.robot, "robot-files"),
        scene=unpacked(wanted.scene, "scene-files"),
        scene_id=wanted.scene_id,
        policy=paths.inputs / job.policies[0].checkpoint.name if job.policies else None,
        control=wanted.control,
        num_envs=job.num_envs,
        steps=wanted.steps,
        dt=wanted.dt,
        substeps=wanted.substeps,
        seed=job.seed,
        device=facts.device,
        output=paths.output,
        recorder=recorder,
        video=video,
        log=recording.log,
        say_step=recording.say_step,
    )

    # Every random generator of the process; Warp has none.
    random.seed(job.seed)
    np.random.seed(job.seed % 2**32)
    torch.manual_seed(job.seed)  # of every device

    # The task's log says how it ended, if it did not end by itself.
    try:
        task_class(context, **wanted.task_args).run()
    except Exception:
        recording.log.exception("the task failed")
        raise
    except BaseException as error:
        recording.log.error("the task was ended: %s: %s", type(error).__name__, error)
        raise
