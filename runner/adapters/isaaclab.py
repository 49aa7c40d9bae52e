"""Isaac Lab: 3.0 through its one-call Python API, 2.3 through its scripts; which of the two is probed."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import site
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from simyard.runner import checkpoint_files
from simyard.runner.adapters import isaaclab_overrides, isaaclab_scripts
from simyard.runner.adapters.base import Adapter
from simyard.runner.adapters.isaaclab_policies import check_policies
from simyard.runner.errors import RequestError, unknown
from simyard.runner.evaluation.evaluate import evaluate
from simyard.runner.exporting.export import export_policy
from simyard.runner.libraries import LIBRARIES, Library, Scale, get_library
from simyard.runner.paths import AttemptPaths
from simyard.runner.spec import AttemptSpec, Facts, JobSpec

_PACKAGES = (
    "isaaclab", "isaacsim", "newton", "warp-lang", "mujoco-warp", "torch", "numpy", "gymnasium",
    "rsl-rl-lib", "skrl", "rl-games", "stable-baselines3",
)  # fmt: skip
_ENGINES = {"physx": ("isaacsim", "ovphysx"), "isaacsim_physx": ("isaacsim",), "ovphysx": ("ovphysx",)}
"""Physics presets and the modules of which one must be there; Newton's are part of Isaac Lab."""


def kit_less() -> bool:
    """Return True where Isaac Sim is not installed: physics is Newton's then, and nothing needs an RTX GPU."""
    return importlib.util.find_spec("isaacsim") is None


class IsaacLab(Adapter):
    """The adapter of `simulator: isaaclab`."""

    def preload(self, library: str | None) -> None:
        """Import the training stack; with Kit nothing may be imported before the app starts."""
        if isaaclab_scripts.root() is None and kit_less():
            import isaaclab_rl.entrypoints  # noqa: F401
            import isaaclab_tasks.utils  # noqa: F401

            if library in LIBRARIES and importlib.util.find_spec(LIBRARIES[library].module):
                importlib.import_module(f"isaaclab_rl.entrypoints.backends.train_{library}")

    def check(self, job: JobSpec, overlay: Path | None, files: Mapping[str, Path]) -> Facts:
        """Look the task up, resolve its configuration, apply every override to it, and open checkpoints."""
        library = get_library(job.library)
        if isaaclab_scripts.root() is not None:
            return isaaclab_scripts.check(job, library)
        _require(library)
        _register_tasks(job, overlay)
        _find_task(job.task, library)
        return _resolve(job, library, files)

    def run(self, attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
        """Do the job's own work."""
        work = {"train": self._train, "evaluate": evaluate, "export": export_policy}
        work[attempt.job.kind](attempt, facts, paths)

    def _train(self, attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
        """Train, by the code path of `isaaclab train`."""
        library = get_library(attempt.job.library)
        checkpoint = _prepare_checkpoint(attempt, library, paths)
        if facts.flavor == "scripts":
            isaaclab_scripts.run(attempt, facts, library, checkpoint)
            return
        from isaaclab_rl.entrypoints import TrainingRequest, train

        code = train(training_request(attempt, facts, library, checkpoint, TrainingRequest))
        if code:
            raise RuntimeError(f"isaaclab_rl.entrypoints.train returned {code}")


def training_request(
    attempt: AttemptSpec, facts: Facts, library: Library, checkpoint: Path | None, request: Any
) -> Any:
    """Return the arguments of the one-call API; `request` is Isaac Lab's `TrainingRequest`."""
    job = attempt.job
    scale = Scale(num_envs=job.num_envs, rollout=facts.rollout)
    until = job.last_iteration if library.absolute_iterations else job.last_iteration - attempt.start_iteration
    return request(
        backend=job.library,
        task=job.task,
        checkpoint=str(checkpoint) if checkpoint else None,
        num_envs=job.num_envs,
        seed=job.seed,
        max_iterations=until,
        device=facts.device,
        backend_args=tuple(library.arguments(scale)),
        hydra_args=facts.overrides,
    )


def _require(library: Library) -> None:
    if importlib.util.find_spec("isaaclab_rl") is None:
        raise RequestError(
            f"Isaac Lab is not installed for {sys.executable!r}.",
            code="no_simulator",
            advice="Install 'isaaclab==3.0.0' there, set ISAACLAB_PATH to a 2.3 checkout, or name a Python that has "
            "it in SIMYARD_PYTHON.",
        )
    if importlib.util.find_spec(library.module) is None:
        raise RequestError(
            f"rlLibrary {library.name!r} is not installed for {sys.executable!r}.",
            code="library_absent",
            advice=f"Install it: {library.install}",
        )


def _register_tasks(job: JobSpec, overlay: Path | None) -> None:
    """Make the task registry whole: Isaac Lab's tasks, installed entry points, the job's package and callback."""
    import isaaclab_tasks  # noqa: F401
    from isaaclab.cli import load_external_tasks

    if overlay is not None:
        site.addsitedir(str(overlay))
        importlib.invalidate_caches()
    try:
        load_external_tasks()
        if job.import_callback:
            module, _, function = job.import_callback.partition(":")
            loaded = importlib.import_module(module)
            if function:
                getattr(loaded, function)()
    except Exception as error:
        raise RequestError(
            f"The task package does not import: {type(error).__name__}: {error}",
            code="task_package_import",
            advice="Mend the package; the traceback is in command.stderr.log.",
        ) from error


def _find_task(task: str, library: Library) -> None:
    import gymnasium

    tasks = {name: spec for name, spec in gymnasium.registry.items() if "env_cfg_entry_point" in (spec.kwargs or {})}
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
    if library.agent_key not in tasks[name].kwargs:
        have = sorted(other.name for other in LIBRARIES.values() if other.agent_key in tasks[name].kwargs)
        raise RequestError(
            f"Task {task!r} has no configuration for rlLibrary {library.name!r}.",
            code="library_without_config",
            advice=f"It has one for: {', '.join(map(repr, have)) or 'none of those simyard knows'}.",
        )


def _device(gpus: int | None) -> str:
    import torch

    if gpus == 0:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda:0"
    if gpus:
        raise RequestError(
            f"computeConfig.gpusPerNode is {gpus}, but this machine has no usable CUDA device.",
            code="no_gpu",
            advice="Use 0 to train on the CPU, or run through a pool that has GPUs.",
        )
    return "cpu"


def _resolve(job: JobSpec, library: Library, files: Mapping[str, Path]) -> Facts:
    device = _device(job.gpus)
    own = library.device_overrides(device)
    if kit_less() and not any(override.startswith("physics=") for override in job.overrides):
        own.insert(0, "physics=newton_mjwarp")
    _require_physics(job)
    env_cfg, agent_cfg = isaaclab_overrides.resolve(job.task, library, own, job.overrides)
    _require_assets(env_cfg)
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
    return Facts(
        simulator=job.simulator,
        version=importlib.metadata.version("isaaclab"),
        flavor="api",
        device=device,
        rollout=scale.rollout,
        overrides=(*own, *fitted, *job.overrides),
        not_resumable=not_resumable,
        notes=tuple(notes),
        versions=_versions(device),
    )


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
        if wanted and not _reachable(urlsplit(root)):
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


def _reachable(root: SplitResult) -> bool:
    try:
        with socket.create_connection((root.hostname or "", root.port or 443), timeout=5):
            return True
    except OSError:
        return False


def _prepare_checkpoint(attempt: AttemptSpec, library: Library, paths: AttemptPaths) -> Path | None:
    """Open the checkpoint safely, then let the library shape it for its own way of resuming."""
    if attempt.resume is None:
        return None
    source = paths.inputs / attempt.resume.checkpoint.name
    if not attempt.resume.trusted:
        refuse_pickled_code(source)
    folder = paths.inputs / "resume"
    folder.mkdir(exist_ok=True)
    return library.prepare_resume(source, folder, attempt.start_iteration)


def refuse_pickled_code(checkpoint: Path) -> None:
    """Raise `RequestError` unless the checkpoint loads as plain tensors and containers.

    Every library loads checkpoints with pickle, which runs whatever code a file from outside names.
    """
    checkpoint_files.load(checkpoint)
    if checkpoint_files.holds_settings(checkpoint):
        raise RequestError(
            f"Checkpoint {checkpoint.name!r} is not plain weights: sb3 pickles its settings beside them, and runs "
            "them to resume.",
            code="unsafe_checkpoint",
            advice="Only sb3 checkpoints that a job of this store wrote can be resumed: use resume.from_job.",
        )


def _versions(device: str) -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if device != "cpu":
        import torch

        found["cuda"] = str(torch.version.cuda)
    return found
