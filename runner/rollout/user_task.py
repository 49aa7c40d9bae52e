"""A user's task: made with everything it needs, seeded, and run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simyard.core.files import AttemptPaths
from simyard.core.specs import Asset, AttemptSpec, Facts
from simyard.runner.assets.robot_files import main_file
from simyard.runner.rollout.context import RolloutContext
from simyard.runner.rollout.outputs import Recording


def drive(task_class: type, recording: Recording, attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
    """Make the task with everything seeded, and run it.

    Raises:
        Exception: Whatever the task raised; it is in the task's log too.
    """
    job, wanted = attempt.job, attempt.job.rollout
    assert wanted is not None
    recorder, video = recording.open(control_period_s=wanted.dt, longest=wanted.steps, task_args=wanted.task_args)
    context = RolloutContext(
        robot=_unpacked(wanted.robot, paths, "robot"),
        scene=_unpacked(wanted.scene, paths, "scene"),
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
    _seed_everything(job.seed)
    with _told_in_the_log(recording):
        task_class(context, **wanted.task_args).run()


def _unpacked(asset: Asset | None, paths: AttemptPaths, what: str) -> Path | None:
    if asset is None:
        return None
    return main_file(paths.inputs / asset.file.name, asset.format, paths.root / f"{what}-files")


def _seed_everything(seed: int) -> None:
    """Seed every random generator of the process; Warp has none."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)  # of every device


@contextmanager
def _told_in_the_log(recording: Recording) -> Iterator[None]:
    """Write into the task's log how it ended, if it did not end by itself."""
    try:
        yield
    except Exception:
        recording.log.exception("the task failed")
        raise
    except BaseException as error:
        recording.log.error("the task was ended: %s: %s", type(error).__name__, error)
        raise
