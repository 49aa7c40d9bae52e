"""Isaac Lab as it is installed here: its tasks looked up and resolved with every override, and checkpoints opened.

All of it before a simulator starts: Isaac Lab itself finds out in a minute, or not at all.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import math
import os
import site
import socket
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from simyard.core.errors import RequestError, unknown
from simyard.core.specs import SAFE_GLOBALS, Facts, JobSpec, Room
from simyard.runner import room
from simyard.runner.adapter import device_of, versions
from simyard.runner.evaluation import factors
from simyard.runner.evaluation.episode_statistics import TERMINATED, TIME_OUT
from simyard.runner.isaaclab import kit
from simyard.runner.isaaclab import overrides as isaaclab_overrides
from simyard.runner.isaaclab.agents import custom_classes, find_agent, registered_agent
from simyard.runner.isaaclab.foreign_imports import explain, require_references
from simyard.runner.isaaclab.overrides import TaskConfig
from simyard.runner.isaaclab.physics import choose, engine_in, is_selector, preset_named
from simyard.runner.isaaclab.renames import as_asked, note
from simyard.runner.rl import LIBRARIES, Library, Scale
from simyard.runner.rl.checkpoints import expected_of, inspect, load, setting

_MODEL_ENDINGS = (".usd", ".usda", ".usdc", ".usdz")
_loaded = False
"""Whether this process has imported the tasks of Isaac Lab and of installed packages."""


# --- the installation -----------------------------------------------------------------------------------------------


def scripts_folder() -> Path | None:
    """Return the folder of a 2.3 installation, or None where Isaac Lab is 3.0 or absent."""
    path = Path(os.environ.get("ISAACLAB_PATH", "/workspace/isaaclab"))
    has_scripts = (path / "isaaclab.sh").is_file() and (path / "scripts/reinforcement_learning").is_dir()
    has_api = (path / "source/isaaclab_rl/isaaclab_rl/entrypoints").is_dir()
    return path if has_scripts and not has_api else None


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


# --- its tasks ------------------------------------------------------------------------------------------------------


def use_overlay(overlay: Path | None) -> None:
    """Make the job's own packages importable, if it has any."""
    if overlay is not None:
        site.addsitedir(str(overlay))
        importlib.invalidate_caches()


def register_tasks(overlay: Path | None, import_callback: str | None = None) -> None:
    """Make the task registry whole: Isaac Lab's tasks, installed entry points, the job's package and callback.

    Args:
        overlay: Folder of the job's own packages, if it has any.
        import_callback: `package.module` or `package.module:function`, called besides.

    Raises:
        RequestError: If one of them does not import.
    """
    global _loaded
    use_overlay(overlay)
    try:
        if overlay is not None or not _loaded:  # looking for those of installed packages takes 50 ms each time
            import isaaclab_tasks  # noqa: F401
            from isaaclab.cli import load_external_tasks

            load_external_tasks()
            _loaded = True
        if import_callback:
            module, _, function = import_callback.partition(":")
            loaded = importlib.import_module(module)
            if function:
                getattr(loaded, function)()
    except Exception as error:
        raise explain(error) or RequestError(
            f"The task package does not import: {type(error).__name__}: {error}",
            code="task_package_import",
            advice="Mend the package; the traceback is in command.stderr.log.",
        ) from error


def tasks_are_registered() -> bool:
    """Return whether the registry has what is installed."""
    return _loaded


def registered_tasks() -> dict[str, list[str]]:
    """Return Isaac Lab's tasks in gymnasium's registry, each with the names of its configurations."""
    import gymnasium

    return {
        name: sorted(spec.kwargs)
        for name, spec in gymnasium.registry.items()
        if "env_cfg_entry_point" in (spec.kwargs or {})
    }


def as_registered(job: JobSpec) -> JobSpec:
    """Return the job under the id that its request gave, where a package of the job's has kept that very id."""
    return as_asked(job) if job.renamed_from in registered_tasks() else job


def find_task(
    task: str, library: Library | None, tasks: Mapping[str, Collection[str]], agent: str | None = None
) -> None:
    """Refuse a task that is not registered, or does not have the agent where a library is meant.

    Args:
        task: Its id.
        library: The library, if one is meant.
        tasks: What `registered_tasks` says.
        agent: The job's.

    Raises:
        RequestError: Naming the nearest ones that there are.
    """
    name = task.split(":")[-1]
    if name not in tasks:
        raise unknown("task", task, tasks, code="unknown_task")
    if library is not None:
        find_agent(task, library, agent, tasks[name])


def resolve(job: JobSpec, library: Library | None, files: Mapping[str, Path]) -> tuple[Facts, TaskConfig]:
    """Resolve the configuration of a registered task with every override, and open the job's checkpoints.

    Args:
        job: The job.
        library: Whose agent configuration goes with it; None for no agent.
        files: Where the job's inputs lie here, by digest.

    Returns:
        What is known of the job now, and the task's configuration.

    Raises:
        RequestError: If an override, an asset or a checkpoint does not fit.
    """
    # The device, and an engine that can run on it: of another one Isaac Lab raises only when the simulator starts.
    device = device_of(job.gpus)
    placed = library.device_overrides(device) if library else []
    preset = choose(job, device, kit_less=not kit.is_installed())
    is_ours = preset is not None and preset_named(job.overrides) is None
    own = [f"physics={preset}", *placed] if is_ours else placed

    # The configuration, and what it needs from outside.
    require_references(job.task)
    config = isaaclab_overrides.resolve(job.task, library, own, job.overrides, physics=job.physics, agent=job.agent)
    kit.require(job.task, config.kit)
    require_renderer(job.task, config)
    if job.kind == "rollout" and "possible_agents" in config.env:
        raise RequestError(
            f"Task {job.task!r} has several agents.",
            code="multi_agent",
            advice="Name a task with one agent, or write a class that drives this one.",
        )
    _require_assets(config)
    for name in dict.fromkeys(name for arm in (job.evaluation and job.evaluation.arms) or () for name in arm.levels):
        factors.refuse(name, config.env, engine_in(config.env))
    for physics in (job.evaluation and job.evaluation.across) or ():
        elsewhere = overrides_under(physics, job, device, job.overrides)
        isaaclab_overrides.resolve(job.task, library, placed, elsewhere, agent=job.agent)
    facts = Facts(
        simulator=job.simulator,
        version=importlib.metadata.version("isaaclab"),
        flavor="api",
        device=device,
        physics=engine_in(config.env),
        agent=registered_agent(job.task, library, job.agent),
        rollout=1,
        overrides=(*own, *job.overrides),
        notes=(*note(job), *config.notes),
        versions=versions(device),
        kit=bool(config.kit),
    )
    if library is None:
        return facts, config

    # The library's part: sizes that fit, checkpoints that it can play or go on from, and the room that it takes.
    facts = fit_library(job, library, config.agent, facts, own)
    facts = replace(facts, room=_room(job, library, config), classes=custom_classes(library, config.agent) or None)
    if library.is_multi_agent(config.agent) and "possible_agents" not in config.env:
        raise RequestError(
            f"Task {job.task!r} has one agent, and the agent's configuration is for several.",
            code="unknown_agent",
            advice="Name a task with several agents, or another agent.",
        )
    _check_policies(job, config, files)
    if job.resume and (path := files.get(job.resume.checkpoint.sha256)):
        if not job.resume.trusted:
            refuse_pickled_code(path)
        if library.is_teacher(config.agent, path):
            note_of_it = f"{job.resume.checkpoint.name} is the teacher's: the student begins at iteration 0"
            facts = replace(facts, first_iteration=0, notes=(*facts.notes, note_of_it))
    return facts, config


def fit_library(job: JobSpec, library: Library, agent: Mapping[str, Any], facts: Facts, own: Sequence[str]) -> Facts:
    """Return the facts with the library's part: the steps of an iteration, and what makes the agent fit the job.

    Args:
        job: The job.
        library: Its library.
        agent: The agent's configuration with every override.
        facts: What is known so far.
        own: The adapter's overrides, before the user's.

    Raises:
        RequestError: If the configuration does not fit, or the job resumes what cannot be resumed.
    """
    scale = Scale(num_envs=job.num_envs, rollout=library.rollout(agent))
    fitted, notes = library.fit(agent, scale, set(job.overridden))
    if problem := library.agent_problem(job.agent, agent):
        raise RequestError(
            f"The agent {problem}.", code="unknown_agent", advice="Name that one, or leave agent out: it is the task's."
        )
    not_resumable = library.not_resumable(agent)
    if job.resume and not_resumable and job.resume.state is None:
        raise RequestError(
            f"This job cannot resume: {not_resumable}, and no state was kept beside this one.",
            code="not_resumable",
            advice="Train from scratch, or go on from a checkpoint of a job in this store, with resume.fromJob.",
        )
    return replace(
        facts,
        rollout=scale.rollout,
        overrides=(*own, *fitted, *job.overrides),
        not_resumable=not_resumable,
        notes=(*facts.notes, *notes),
    )


def _room(job: JobSpec, library: Library, config: TaskConfig) -> Room | None:
    """Return the room that a job's checkpoints or films will take, about."""
    if job.kind == "train":
        scale = Scale(num_envs=job.num_envs, rollout=library.rollout(config.agent))
        return room.of_training(job, library, config, scale)
    if job.evaluation is None:
        return None
    step_s = (setting(config.env, "sim.dt") or 0.0) * (setting(config.env, "decimation") or 1)
    longest_s = min(job.evaluation.steps_per_episode * step_s, setting(config.env, "episode_length_s") or math.inf)
    return room.of_films([longest_s] * (len(job.evaluation.videos) * len(job.policies)))


def overrides_under(physics: str, job: JobSpec, device: str, overrides: Sequence[str]) -> list[str]:
    """Return Hydra arguments of a job with another engine's preset in the place of its own.

    Raises:
        RequestError: If the task or this machine does not have the engine.
    """
    other = replace(job, physics=physics, overrides=tuple(one for one in job.overrides if not is_selector(one)))
    preset = choose(other, device, kit_less=not kit.is_installed())
    return [f"physics={preset}", *(one for one in overrides if not is_selector(one))]


def require_renderer(task: str, config: TaskConfig) -> None:
    """Refuse cameras of a renderer that is not here: Isaac Lab raises in the midst of making the environment.

    What needs Kit is refused before; automatic RTX without Kit is OVRTX.
    """
    wanted = {value for key, value in isaaclab_overrides.flatten(config.env) if key.endswith("renderer_type")}
    if wanted & {"ovrtx", "auto_rtx"} and importlib.util.find_spec("ovrtx") is None and not config.kit:
        raise RequestError(
            f"Task {task!r} draws its cameras with OVRTX, which {sys.executable!r} does not have.",
            code="engine_absent",
            advice="Leave the override renderer= out, or set it to newton_renderer: Newton's own, which runs without "
            "Kit and without a GPU too.",
        )


def _require_assets(config: TaskConfig) -> None:
    """Refuse a task whose assets cannot be had, before Isaac Lab looks for them for a minute and raises.

    A local asset root is looked at file by file; of a root on the network only the host is asked for.
    """
    from isaaclab.utils import assets

    root: str = assets.NUCLEUS_ASSET_ROOT_DIR
    wanted = needed_assets(config, root)

    # A robot of the user's, named by an override.
    if lost := sorted(path for path in _models(config) if "://" not in path and not path.startswith(root + "/")
                      and not Path(path).is_file()):  # fmt: skip
        raise RequestError(
            f"There is no file {lost[0]!r} on the machine that simulates.",
            code="missing_file",
            advice="Name a USD file by its whole path there; `simyard upload robot.urdf --to usd` makes one.",
        )

    def names(paths: set[str]) -> str:
        return ", ".join(sorted(path.removeprefix(root).lstrip("/") for path in paths))

    if "://" in root:
        if wanted and not reachable(urlsplit(root)):
            raise RequestError(
                f"The task needs {names(wanted)}, and there is no route to {root!r}.",
                code="assets_unreachable",
                advice="`simyard assets build` makes robots from packages. Or run `simyard assets mirror TASK` where "
                "the store is reached, and set ISAACSIM_ASSET_ROOT to that folder.",
            )
    elif missing := {path for path in wanted if not Path(path).exists()}:
        raise RequestError(
            f"The task needs assets that are not below {root!r}: {names(missing)}.",
            code="assets_missing",
            advice="`simyard assets build` makes robots from packages, and `simyard assets mirror TASK` copies "
            "NVIDIA's; or set ISAACSIM_ASSET_ROOT to a folder with a copy of the asset store.",
        )


def _models(config: TaskConfig) -> set[str]:
    """Return the USD files that a configuration names."""
    return {path for path in _texts(config) if Path(path).suffix in _MODEL_ENDINGS}


def needed_assets(config: TaskConfig, root: str) -> set[str]:
    """Return the files below an asset root without which a task does not run: models, and networks of actuators.

    Nothing but the looks of a film comes from textures and materials.
    """
    return {path for path in wanted_assets(config, root) if Path(path).suffix in (*_MODEL_ENDINGS, ".pt")}


def wanted_assets(config: TaskConfig, root: str) -> set[str]:
    """Return the files below an asset root that a configuration names."""
    return {path for path in _texts(config) if path.startswith(f"{root}/") and Path(path).suffix}


def _texts(config: TaskConfig) -> set[str]:
    return {value for _, value in isaaclab_overrides.flatten(config.env) if isinstance(value, str)}


def reachable(root: SplitResult) -> bool:
    """Tell whether the host of an asset root answers at all."""
    try:
        with socket.create_connection((root.hostname or "", root.port or 443), timeout=5):
            return True
    except OSError:
        return False


# --- checkpoints ----------------------------------------------------------------------------------------------------


def _check_policies(job: JobSpec, config: TaskConfig, files: Mapping[str, Path]) -> None:
    """Refuse a job whose policies do not fit its task; every checkpoint that is here is opened."""
    several = "possible_agents" in config.env
    if several and (job.kind == "export" or (job.evaluation and job.evaluation.across)):
        raise RequestError(
            f"Task {job.task!r} has several agents.",
            code="multi_agent",
            advice="Evaluation in one engine takes it; exports and comparisons of engines are of one agent's policy.",
        )
    if job.evaluation and (wanted := job.evaluation.success_termination):
        terms = config.env.get("terminations")
        known = [key for key, value in terms.items() if value is not None] if terms else [TERMINATED, TIME_OUT]
        if wanted not in known:
            raise unknown("successTermination", wanted, known, code="unknown_termination")
    here = [path for policy in job.policies if (path := files.get(policy.checkpoint.sha256))]
    expected = expected_of(job.library, config.env, config.agent, job.task) if here else None
    allowed = tuple(name.strip() for name in os.environ.get(SAFE_GLOBALS, "").split(",") if name.strip())
    for path in here:
        inspect(path, library=job.library, expected=expected, allowed_globals=allowed)


def refuse_pickled_code(checkpoint: Path) -> None:
    """Raise `RequestError` unless the checkpoint loads as plain tensors and containers.

    Every library loads checkpoints with pickle, which runs whatever code a file from outside names.
    """
    load(checkpoint)
    for name, library in LIBRARIES.items():
        if library.has_pickled_settings(checkpoint):
            raise RequestError(
                f"Checkpoint {checkpoint.name!r} is not plain weights: {name} pickles its settings beside them, and "
                "runs them to resume.",
                code="unsafe_checkpoint",
                advice=f"Only {name} checkpoints that a job of this store wrote can be resumed: use resume.from_job.",
            )
