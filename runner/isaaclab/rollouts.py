"""Rollouts of the isaac_lab_rollout profile, checked before anything is simulated."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError, unknown
from simyard.core.specs import Facts, JobSpec, Rollout
from simyard.runner.assets.robot_files import main_file
from simyard.runner.devices import device_of, versions
from simyard.runner.isaaclab import lookup as isaaclab_lookup
from simyard.runner.isaaclab import registered_task as registered
from simyard.runner.isaaclab import scripts as isaaclab_scripts
from simyard.runner.isaaclab.environment import register_tasks, use_overlay
from simyard.runner.rollout.user_class import check_class, class_names, find_class, import_module


def check(job: JobSpec, overlay: Path | None, files: Mapping[str, Path]) -> Facts:
    """Find the task's class, or the registered task, and check what the job gives it.

    Args:
        job: The job.
        overlay: Folder of the job's own packages, if it has any.
        files: Where its inputs lie here, by digest.

    Raises:
        RequestError: If there is no such task, or it does not take what it is given.
    """
    wanted = job.rollout
    assert wanted is not None
    use_overlay(overlay)
    module = import_module(wanted.task_module) if wanted.task_module else None
    task_class = find_class(module, job.task) if module else None
    if task_class is not None:
        check_class(task_class, wanted.task_args)
        return _check_class_job(job, wanted, files)
    if isaaclab_scripts.root() is not None:
        raise isaaclab_scripts.cannot(job.kind)
    isaaclab_lookup.require_installed(None)
    register_tasks(overlay, job.import_callback)
    if module is not None and job.task not in (tasks := isaaclab_lookup.registered_tasks()):
        what = f"class in module {module.__name__!r}, or registered task,"
        raise unknown(what, job.task, [*class_names(module), *tasks], code="unknown_task_class")
    library = registered.library_of(job)
    isaaclab_lookup.require_installed(library)
    isaaclab_lookup.find_task(job.task, library, isaaclab_lookup.registered_tasks())
    if wanted.task_args:
        raise RequestError(
            f"task_args are for a class, and {job.task!r} is a registered task.",
            code="unknown_task_argument",
            advice="Change its configuration by overrides, 'env.episode_length_s=2.0' say.",
        )
    facts, env_cfg = isaaclab_lookup.resolve(job, library, files)
    return replace(facts, notes=(*facts.notes, *_notes(wanted, env_cfg)))


def _check_class_job(job: JobSpec, wanted: Rollout, files: Mapping[str, Path]) -> Facts:
    if job.overrides:
        raise RequestError(
            f"overrides are for a registered task, and {job.task!r} is a class of {wanted.task_module!r}.",
            code="bad_override",
            advice="Give the class what it needs in task_args.",
        )
    for asset in (wanted.robot, wanted.scene):
        if asset is not None and (path := files.get(asset.file.sha256)):
            with tempfile.TemporaryDirectory(prefix="simyard-asset-") as folder:
                main_file(path, asset.format, Path(folder) / "asset")
    device = device_of(job.gpus)
    found = versions(device)
    return Facts(
        simulator=job.simulator,
        version=found.get("isaaclab", "not installed"),
        flavor="api" if isaaclab_scripts.root() is None else "scripts",
        device=device,
        rollout=1,
        overrides=(),
        versions=found,
    )


def _notes(wanted: Rollout, env_cfg: dict[str, Any]) -> list[str]:
    """Return notes on the fields of the request that a registered task ignores."""
    notes = []
    period, substeps = env_cfg["sim"]["dt"] * env_cfg["decimation"], env_cfg["decimation"]
    if (round(period, 9), substeps) != (round(wanted.dt, 9), wanted.substeps):
        notes.append(
            f"the task's own control step of {period:.6g} s with {substeps} physics steps holds, not physics.dt "
            f"{wanted.dt:g} s with {wanted.substeps} substeps"
        )
    given = [name for name in ("robot", "scene", "scene_id") if getattr(wanted, name) is not None]
    if given:
        notes.append(f"the task has its own robot and scene; not used: {', '.join(given)}")
    return notes
