"""Isaac Lab's registered tasks: looked up and resolved with every override, before the simulator starts."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import socket
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from simyard.core.errors import RequestError, unknown
from simyard.core.specs import Facts, JobSpec
from simyard.runner.devices import device_of, versions
from simyard.runner.isaaclab import overrides as isaaclab_overrides
from simyard.runner.isaaclab import scripts as isaaclab_scripts
from simyard.runner.isaaclab.policies import check_policies, refuse_pickled_code
from simyard.runner.rl import LIBRARIES, Library, Scale

_ENGINES = {"physx": ("isaacsim", "ovphysx"), "isaacsim_physx": ("isaacsim",), "ovphysx": ("ovphysx",)}
"""Physics presets and the modules of which one must be there; Newton's are part of Isaac Lab."""


def kit_less() -> bool:
    """Return True where Isaac Sim is not installed: physics is Newton's then, and nothing needs an RTX GPU."""
    return importlib.util.find_spec("isaacsim") is None


def require_licence() -> None:
    """Raise `RequestError` where Isaac Sim is installed and nobody has accepted its licence: it would ask, and wait."""
    if (kit_less() and isaaclab_scripts.root() is None) or os.environ.get("ACCEPT_EULA") == "Y":
        return
    raise RequestError(
        "This machine has Isaac Sim, whose licence nobody has accepted.",
        code="eula_not_accepted",
        advice="Read NVIDIA's licence, then accept it for the job with computeConfig.acceptNvidiaEula: true, or for "
        "the site with SIMYARD_ACCEPT_NVIDIA_EULA=on; images without Kit need neither.",
    )


def require_installed(library: Library | None) -> None:
    """Raise `RequestError` unless Isaac Lab is here, and the library where one is meant."""
    if importlib.util.find_spec("isaaclab_rl") is None:
        raise RequestError(
            f"Isaac Lab is not installed for {sys.executable!r}.",
            code="no_simulator",
            advice="Install 'isaaclab==3.0.0' there, set ISAACLAB_PATH to a 2.3 checkout, or name a Python that has "
            "it in SIMYARD_PYTHON.",
        )
    if library is not None and importlib.util.find_spec(library.module) is None:
        raise RequestError(
            f"rlLibrary {library.name!r} is not installed for {sys.executable!r}.",
            code="library_absent",
            advice=f"Install it: {library.install}",
        )


def registered_tasks() -> dict[str, list[str]]:
    """Return Isaac Lab's tasks in gymnasium's registry, each with the names of its configurations."""
    import gymnasium

    return {
        name: sorted(spec.kwargs)
        for name, spec in gymnasium.registry.items()
        if "env_cfg_entry_point" in (spec.kwargs or {})
    }


def find_task(task: str, library: Library | None, tasks: Mapping[str, Collection[str]]) -> None:
    """Refuse a task that is not registered, or has no configuration for the library where one is meant.

    Args:
        task: Its id.
        library: The library, if one is meant.
        tasks: What `registered_tasks` says.

    Raises:
        RequestError: Naming the nearest ones that there are.
    """
    name = task.split(":")[-1]
    if name not in tasks:
        base, _, version = name.rpartition("-v")
        if version.isdigit() and base in tasks:
            raise RequestError(
                f"Unknown task {task!r}: ids of Isaac Lab 3.0 have no '-v{version}'.",
                code="unknown_task",
                advice=f"Use {base!r}.",
            )
        raise unknown("task", task, tasks, code="unknown_task")
    if library is not None and library.agent_key not in tasks[name]:
        have = sorted(other.name for other in LIBRARIES.values() if other.agent_key in tasks[name])
        raise RequestError(
            f"Task {task!r} has no configuration for rlLibrary {library.name!r}.",
            code="library_without_config",
            advice=f"It has one for: {', '.join(map(repr, have)) or 'none of those simyard knows'}.",
        )


def resolve(job: JobSpec, library: Library | None, files: Mapping[str, Path]) -> tuple[Facts, dict[str, Any]]:
    """Resolve the configuration of a registered task with every override, and open the job's checkpoints.

    Args:
        job: The job.
        library: Whose agent configuration goes with it; None for no agent.
        files: Where the job's inputs lie here, by digest.

    Returns:
        What is known of the job now, and the environment's configuration as a plain dictionary.

    Raises:
        RequestError: If an override, an asset or a checkpoint does not fit.
    """
    device = device_of(job.gpus)
    own = library.device_overrides(device) if library else []
    if kit_less() and not any(override.startswith("physics=") for override in job.overrides):
        own.insert(0, "physics=newton_mjwarp")
    _require_physics(job)
    env_cfg, agent_cfg = isaaclab_overrides.resolve(job.task, library, own, job.overrides)
    if job.kind == "rollout" and "possible_agents" in env_cfg:
        raise RequestError(
            f"Task {job.task!r} has several agents.",
            code="multi_agent",
            advice="Name a task with one agent, or write a class that drives this one.",
        )
    _require_assets(env_cfg)
    facts = Facts(
        simulator=job.simulator,
        version=importlib.metadata.version("isaaclab"),
        flavor="api",
        device=device,
        rollout=1,
        overrides=(*own, *job.overrides),
        versions=versions(device),
    )
    if library is None:
        return facts, env_cfg
    scale = Scale(num_envs=job.num_envs, rollout=library.rollout(agent_cfg))
    fitted, notes = library.fit(agent_cfg, scale, {override.partition("=")[0] for override in job.overrides})
    not_resumable = library.not_resumable(agent_cfg)
    if job.resume and not_resumable:
        raise RequestError(
            f"This job cannot resume: {not_resumable}.", code="not_resumable", advice="Train from scratch."
        )
    check_policies(job, env_cfg, agent_cfg, files)
    if job.resume and not job.resume.trusted and (path := files.get(job.resume.checkpoint.sha256)):
        refuse_pickled_code(path)
    facts = replace(
        facts,
        rollout=scale.rollout,
        overrides=(*own, *fitted, *job.overrides),
        not_resumable=not_resumable,
        notes=tuple(notes),
    )
    return facts, env_cfg


def _require_physics(job: JobSpec) -> None:
    """Refuse an engine that is not installed: Isaac Lab raises only when the simulator starts."""
    for override in job.overrides:
        modules = _ENGINES.get(override.removeprefix("physics="), ())
        if override.startswith("physics=") and modules and not any(map(importlib.util.find_spec, modules)):
            raise RequestError(
                f"Override {override!r} needs {' or '.join(modules)}, which is not installed for {sys.executable!r}.",
                code="bad_override",
                advice="Without it use physics=newton_mjwarp.",
            )


def _require_assets(env_cfg: dict[str, Any]) -> None:
    """Refuse a task whose assets cannot be had, before Isaac Lab looks for them for a minute and raises.

    A local asset root is looked at file by file; of a root on the network only the host is asked for.
    """
    from isaaclab.utils import assets

    root: str = assets.NUCLEUS_ASSET_ROOT_DIR
    strings = {value for _, value in isaaclab_overrides.flatten(env_cfg) if isinstance(value, str)}
    wanted = {path for path in strings if path.startswith(root) and Path(path).suffix.startswith(".usd")}
    if "://" in root:
        if wanted and not reachable(urlsplit(root)):
            raise RequestError(
                f"The task needs {_assets(wanted, root)}, and there is no route to {root!r}.",
                code="assets_unreachable",
                advice="Set ISAACSIM_ASSET_ROOT to a folder with a copy of the asset store.",
            )
        return
    if missing := {path for path in wanted if not Path(path).exists()}:
        raise RequestError(
            f"The task needs assets that are not below {root!r}: {_assets(missing, root)}.",
            code="assets_missing",
            advice="Set ISAACSIM_ASSET_ROOT to a copy of the asset store, or unset it to fetch them from NVIDIA's.",
        )


def _assets(paths: set[str], root: str) -> str:
    return ", ".join(sorted(path.removeprefix(root).lstrip("/") for path in paths))


def reachable(root: SplitResult) -> bool:
    """Tell whether the host of an asset root answers at all."""
    try:
        with socket.create_connection((root.hostname or "", root.port or 443), timeout=5):
            return True
    except OSError:
        return False
