"""The isaac_lab_rollout profile: a task package's own class, or a registered task that simyard drives."""

from __future__ import annotations

from functools import partial

from simyard.core.files import AttemptPaths
from simyard.core.specs import AttemptSpec, Facts
from simyard.runner.isaaclab import rollouts as isaaclab_rollouts
from simyard.runner.isaaclab.lookup import use_overlay
from simyard.runner.rollout import user_task
from simyard.runner.rollout.run import rollout
from simyard.runner.rollout.user_class import find_class, import_module


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
    drive = partial(user_task.drive, task_class) if task_class else isaaclab_rollouts.drive
    rollout(drive, attempt, facts, paths)
