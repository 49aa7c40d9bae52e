"""Isaac Lab: 3.0 through its one-call Python API, 2.3 through its scripts; which of the two is probed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from simyard.core.files import AttemptPaths
from simyard.core.specs import AttemptSpec, Facts, JobSpec
from simyard.runner.adapter import Adapter
from simyard.runner.isaaclab import lookup as isaaclab_lookup
from simyard.runner.isaaclab import overrides as isaaclab_overrides
from simyard.runner.isaaclab import scripts as isaaclab_scripts
from simyard.runner.isaaclab.cpu_graphs import replay_on_cpu
from simyard.runner.isaaclab.environment import register_tasks, tasks_are_registered
from simyard.runner.isaaclab.kernels import compilations_told
from simyard.runner.isaaclab.policies import refuse_pickled_code
from simyard.runner.rl import LIBRARIES, Library, Scale, get_library


class IsaacLab(Adapter):
    """The adapter of `simulator: isaaclab`."""

    def preload(self, library: str | None) -> None:
        """Import the training stack; with Kit nothing may be imported before the app starts.

        Without a library nothing is imported: a task package may do without Isaac Lab altogether.
        """
        if library and library in LIBRARIES and isaaclab_scripts.root() is None and isaaclab_lookup.kit_less():
            import isaaclab_rl.entrypoints  # noqa: F401
            import isaaclab_tasks.utils  # noqa: F401

            if importlib.util.find_spec(LIBRARIES[library].module):
                importlib.import_module(f"isaaclab_rl.entrypoints.backends.train_{library}")

    def import_rest(self) -> None:
        """Import environments and their physics: Isaac Lab does that when it makes the first one."""
        if "isaaclab_rl" in sys.modules and isaaclab_lookup.kit_less():
            with _only_the_clip_of_moviepy():
                import isaaclab.envs.direct_rl_env
            import isaaclab.envs.manager_based_rl_env  # noqa: F401
            import isaaclab_newton.physics.mjwarp_manager  # noqa: F401
            import mujoco_warp  # noqa: F401

    def only_one_job(self) -> str | None:
        """Kit, on which all else of Isaac Lab runs, allows one app in the life of a process."""
        if isaaclab_scripts.root() is not None:
            return "Isaac Lab 2.3 trains in a process of its own"
        return None if isaaclab_lookup.kit_less() else "Kit allows one app in the life of a process"

    def left_over(self) -> str | None:
        """An environment that was not closed leaves its simulation, of which there is one."""
        context = sys.modules.get("isaaclab.sim.simulation_context")
        if context is None or context.SimulationContext.instance() is None:
            return None
        return "the job did not close its environment"

    def findings(self) -> dict[str, Any]:
        """The registered tasks with the libraries that they have configurations for, and keys of configurations."""
        if isaaclab_scripts.root() is not None or not tasks_are_registered():
            return {}
        return {"tasks": isaaclab_lookup.registered_tasks(), "keys": isaaclab_overrides.KEYS}

    @classmethod
    def refuse_known(cls, job: JobSpec, findings: Mapping[str, Any]) -> None:
        """Refuse a task or an override that cannot be."""
        if job.kind == "rollout":  # its task may be a class
            return
        library = get_library(job.library)
        isaaclab_lookup.find_task(job.task, library, findings["tasks"])
        isaaclab_overrides.refuse_known(job.task, library, job.overrides, findings["keys"])

    def check(self, job: JobSpec, overlay: Path | None, files: Mapping[str, Path]) -> Facts:
        """Look the task up, resolve its configuration, apply every override to it, and open checkpoints."""
        isaaclab_lookup.require_licence()
        if job.kind == "rollout":
            from simyard.runner.isaaclab import rollouts as isaaclab_rollouts

            return isaaclab_rollouts.check(job, overlay, files)
        library = get_library(job.library)
        if isaaclab_scripts.root() is not None:
            return isaaclab_scripts.check(job, library)
        isaaclab_lookup.require_installed(library)
        register_tasks(overlay, job.import_callback)
        isaaclab_lookup.find_task(job.task, library, isaaclab_lookup.registered_tasks())
        facts, _ = isaaclab_lookup.resolve(job, library, files)
        return facts

    def run(self, attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
        """Do the job's own work."""
        job = attempt.job
        # What the check has registered is still there, save what the job brings itself: that was taken away again.
        # And a rollout's task may have nothing to do with Isaac Lab.
        brings_tasks = bool(job.packages or job.import_callback)
        if facts.flavor == "api" and job.kind != "rollout" and (brings_tasks or not tasks_are_registered()):
            register_tasks(paths.overlay if job.packages else None, job.import_callback)
        if facts.flavor == "api":
            replay_on_cpu()
        work: Callable[[AttemptSpec, Facts, AttemptPaths], None] = self._train
        # Each is imported where it is done: the control side imports adapters too, to know what there is.
        match job.kind:
            case "evaluate":
                from simyard.runner.evaluation.evaluate import evaluate as work
            case "export":
                from simyard.runner.exporting.export import export_policy as work
            case "rollout":
                from simyard.runner.rollout.task import run as work
        with compilations_told():
            work(attempt, facts, paths)

    def _train(self, attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
        """Train, by the code path of `isaaclab train`."""
        library = get_library(attempt.job.library)
        checkpoint = _prepare_checkpoint(attempt, library, paths)
        if facts.flavor == "scripts":
            isaaclab_scripts.run(attempt, facts, library, checkpoint, paths)
            return
        from isaaclab_rl.entrypoints import TrainingRequest, train

        request = training_request(attempt, facts, library, checkpoint, TrainingRequest)
        if attempt.world is not None:
            from simyard.runner.isaaclab.launcher import train_together

            train_together(request, attempt, attempt.world, paths)
        elif code := train(request):
            raise RuntimeError(f"isaaclab_rl.entrypoints.train returned {code}")


@contextmanager
def _only_the_clip_of_moviepy() -> Iterator[None]:
    """Give Isaac Lab's video recorder the one class that it takes from `moviepy.editor`, while the body imports it.

    The editor itself brings pygame, Matplotlib and IPython along, a second and more, and looks for a sound card.
    """
    name = "moviepy.editor"
    if name in sys.modules or importlib.util.find_spec("moviepy") is None:
        yield
        return
    editor: Any = ModuleType(name)
    try:
        editor.ImageSequenceClip = importlib.import_module("moviepy.video.io.ImageSequenceClip").ImageSequenceClip
        sys.modules[name] = editor
        yield
    finally:
        sys.modules.pop(name, None)


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
