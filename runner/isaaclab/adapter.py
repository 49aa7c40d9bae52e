"""Isaac Lab: 3.0 through its one-call Python API, 2.3 through its scripts; which of the two is probed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from simyard.core.errors import RequestError
from simyard.core.files import AttemptPaths
from simyard.core.specs import AttemptSpec, Facts, InputFile, JobSpec
from simyard.core.task_facts import TaskFacts
from simyard.runner.adapter import Adapter, UnfitProcessError
from simyard.runner.imported import when_imported
from simyard.runner.isaaclab import agent_files, kit
from simyard.runner.isaaclab import lookup as isaaclab_lookup
from simyard.runner.isaaclab import overrides as isaaclab_overrides
from simyard.runner.isaaclab import physics as isaaclab_physics
from simyard.runner.isaaclab import scripts as isaaclab_scripts
from simyard.runner.isaaclab.foreign_imports import require_registered
from simyard.runner.isaaclab.lookup import register_tasks, scripts_folder, tasks_are_registered
from simyard.runner.isaaclab.renames import as_asked
from simyard.runner.progress import say_activity
from simyard.runner.rl import LIBRARIES, get_library
from simyard.runner.rl.base import with_methods


class IsaacLab(Adapter):
    """The adapter of `simulator: isaaclab`."""

    def __init__(self) -> None:
        self._kit = False
        """Whether the job that was checked last needs Kit, which must be the first to import USD."""
        self._engine: str | None = None
        """The engine of that job."""

    def preload(self, library: str | None) -> None:
        """Import the training stack, which imports no USD.

        Without a library nothing is imported: a task package may do without Isaac Lab altogether.
        """
        if library and library in LIBRARIES and scripts_folder() is None:
            import isaaclab_rl.entrypoints  # noqa: F401
            import isaaclab_tasks.utils  # noqa: F401

            if importlib.util.find_spec(LIBRARIES[library].module):
                importlib.import_module(f"isaaclab_rl.entrypoints.backends.train_{library}")

    def import_rest(self) -> None:
        """Import environments and their physics: Isaac Lab does that when it makes the first one."""
        if "isaaclab_rl" in sys.modules and not self._kit:
            with _only_the_clip_of_moviepy():
                import isaaclab.envs.direct_rl_env
            import isaaclab.envs.manager_based_rl_env  # noqa: F401

            if self._engine == "physx":
                import isaaclab_ov.assets.articulation.articulation
                import isaaclab_ov.physics.ovphysx_manager  # noqa: F401
                import ovphysx  # noqa: F401
            else:
                import isaaclab_newton.physics.mjwarp_manager  # noqa: F401
                import mujoco_warp  # noqa: F401

    def only_one_job(self) -> str | None:
        """Kit allows one app in the life of a process."""
        if scripts_folder() is not None:
            return "Isaac Lab 2.3 trains in a process of its own"
        return "Kit allows one app in the life of a process" if kit.has_started() else None

    def left_over(self) -> str | None:
        """An environment that was not closed leaves its simulation, of which there is one."""
        context = sys.modules.get("isaaclab.sim.simulation_context")
        if context is None or context.SimulationContext.instance() is None:
            return None
        return "the job did not close its environment"

    def findings(self) -> dict[str, Any]:
        """The registered tasks with the libraries that they have configurations for, keys and physics of some."""
        if scripts_folder() is not None or not tasks_are_registered():
            return {}
        return {
            "tasks": isaaclab_lookup.registered_tasks(),
            "keys": isaaclab_overrides.KEYS,
            "physics": isaaclab_physics.PRESETS,
        }

    @classmethod
    def refuse_known(cls, job: JobSpec, findings: Mapping[str, Any]) -> None:
        """Refuse a task, an engine or an override that cannot be."""
        if job.kind == "rollout":  # its task may be a class
            return
        if job.stages is not None:
            for index in range(len(job.stages)):
                cls.refuse_known(job.in_stage(index), findings)
            return
        library = get_library(job.library)
        isaaclab_lookup.find_task(job.task, library, findings["tasks"], job.agent)
        isaaclab_physics.refuse_known(job, findings.get("physics", {}))  # those of an earlier version have none
        if job.agent_config is not None:  # it may bring keys of its own
            return
        isaaclab_overrides.refuse_known(
            job.task, library, job.overrides, findings["keys"], physics=job.physics, agent=job.agent
        )

    def check(self, job: JobSpec, overlay: Path | None, files: Mapping[str, Path]) -> Facts:
        """Look the task up, resolve its configuration, apply every override to it, and open checkpoints."""
        has_usd = "pxr" in sys.modules
        facts = self._check(job, overlay, files)
        self._kit, self._engine = facts.kit, facts.physics
        if self._kit and has_usd:
            raise UnfitProcessError("it has imported USD, and Kit must do that first")
        return facts

    def _check(self, job: JobSpec, overlay: Path | None, files: Mapping[str, Path]) -> Facts:
        if job.kind == "rollout":
            from simyard.runner.isaaclab import rollouts as isaaclab_rollouts

            return isaaclab_rollouts.check(job, overlay, files)
        library = get_library(job.library)
        if scripts_folder() is not None:
            kit.require_licence()
            return isaaclab_scripts.check(as_asked(job), library)
        isaaclab_lookup.require_installed(library)
        register_tasks(overlay, job.import_callback)
        job = isaaclab_lookup.as_registered(job)
        require_registered(job.task, overlay, isaaclab_lookup.registered_tasks())
        isaaclab_lookup.find_task(job.task, library, isaaclab_lookup.registered_tasks(), job.agent)

        def find(file: InputFile) -> Path | None:
            return files.get(file.sha256)

        with agent_files.used(job, find) as job:
            if job.stages is None:
                facts, _ = isaaclab_lookup.resolve(job, library, files)
            else:
                from simyard.runner.isaaclab import stages as isaaclab_stages

                facts = isaaclab_stages.check(job, library, files)
        return replace(facts, notes=(*facts.notes, *agent_files.notes(job, find)))

    def tasks(
        self, names: Sequence[str] | None, overlay: Path | None, import_callback: str | None, *, measure: bool
    ) -> tuple[tuple[str, ...], tuple[TaskFacts, ...]]:
        """Look at the registrations, and resolve the configurations."""
        from simyard.runner.isaaclab import catalog

        if scripts_folder() is not None:
            raise RequestError(
                "Isaac Lab 2.3 tells of its tasks in its own app alone.",
                code="no_tasks",
                advice="Ask it there: ./isaaclab.sh -p scripts/environments/list_envs.py",
            )
        isaaclab_lookup.require_installed(None)
        register_tasks(None)
        before = catalog.registrations()
        if overlay is not None:
            register_tasks(overlay, import_callback)
        registered = catalog.registrations()
        if names is None:
            names = [name for name in registered if overlay is None or registered[name] is not before.get(name)]
        known = [name for name in names if name in registered]
        if measure:
            _change_modules()
            return tuple(registered), tuple(map(catalog.measure, known))
        return tuple(registered), catalog.describe(known)

    def run(self, attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
        """Do the job's own work."""
        job = attempt.job
        # What the check has registered is still there, save what the job brings itself: that was taken away again.
        # And a rollout's task may have nothing to do with Isaac Lab.
        brings_tasks = bool(job.packages or job.import_callback)
        if facts.flavor == "api" and job.kind != "rollout" and (brings_tasks or not tasks_are_registered()):
            register_tasks(paths.overlay if job.packages else None, job.import_callback)
        if facts.flavor == "scripts":
            attempt = replace(attempt, job=as_asked(job))
        else:
            _change_modules()
            if job.renamed_from and job.kind != "rollout":
                attempt = replace(attempt, job=isaaclab_lookup.as_registered(job))
        work: Callable[[AttemptSpec, Facts, AttemptPaths], None]
        # Each is imported where it is done: the control side imports adapters too, to know what there is.
        match job.kind:
            case "train" if job.stages:
                from simyard.runner.isaaclab.stages import train_in_stages as work
            case "train":
                from simyard.runner.isaaclab.training import train as work
            case "evaluate":
                from simyard.runner.evaluation.evaluate import evaluate as work
            case "export":
                from simyard.runner.exporting.export import export_policy as work
            case "rollout":
                from simyard.runner.rollout.task import run as work
            case _:
                raise ValueError(f"no work for a job of kind {job.kind!r}")
        in_api = facts.flavor == "api" and job.kind != "rollout"  # that one registers its task later
        if in_api and job.kind == "train":
            get_library(job.library).begin_training()
        view: AbstractContextManager[None] = nullcontext()
        if attempt.view:
            from simyard.runner.isaaclab.viewer import viewed

            view = viewed()
        with (
            view,
            compilations_told(),
            agent_files.used(attempt.job, lambda file: paths.inputs / file.name if in_api else None) as job,
        ):
            work(replace(attempt, job=job), facts, paths)


# --- changes to modules of others -----------------------------------------------------------------------------------


def _change_modules() -> None:
    """Make all of them, before an environment is made."""
    replay_on_cpu()
    without_pinned_memory()
    kit.stay_open()
    give_joints_drives()


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


def replay_on_cpu() -> None:
    """Let every Newton solver that Isaac Lab builds on the CPU from now on replay its step; once is enough.

    Isaac Lab captures a simulation step as a graph on CUDA only. On the CPU each substep is about a hundred kernel
    launches from Python, which take ten times longer than the kernels of a small robot. Warp has graphs for the CPU
    too: the same kernels in the same order. What a step computes is the same to the bit, loops that end when they have
    converged included. A solver that Isaac Lab would not capture on CUDA is left as it is, and
    `env.sim.physics.use_cuda_graph=false` leaves all.
    """
    when_imported("isaaclab_newton.physics.newton_manager", _wrap_solvers)


def _wrap_solvers() -> None:
    from isaaclab_newton.physics.newton_manager import NewtonManager

    bound: Any = NewtonManager._invalidate_graph
    invalidate_graph = bound.__func__
    if invalidate_graph.__module__ == __name__:
        return

    def wrap(cls: Any) -> None:
        from isaaclab.physics import PhysicsManager

        # Isaac Lab calls it whenever a graph of old would no longer be right: for a new solver, after a hard reset.
        invalidate_graph(cls)
        cfg, solver = PhysicsManager._cfg, NewtonManager._solver
        if cfg.use_cuda_graph and str(PhysicsManager._device) == "cpu" and cls._supports_cuda_graph_capture():
            solver.step = _Replay(type(solver).step.__get__(solver))

    NewtonManager._invalidate_graph = classmethod(wrap)


def without_pinned_memory() -> None:
    """Let PhysX without Kit have its page-locked memory from the ordinary allocator where there is no CUDA.

    Isaac Lab asks Warp for it whatever the device; it is CUDA's, and serves copies to a GPU alone.
    """
    when_imported("isaaclab_ov.physics.ovphysx_manager", _allocate_without_cuda)


def _allocate_without_cuda() -> None:
    import warp

    if not warp.is_cuda_available():
        cpu: Any = warp.get_device("cpu")
        cpu.pinned_allocator = cpu.default_allocator


def give_joints_drives() -> None:
    """Let every joint of a robot that PhysX simulates have a drive, for its actuator to work through.

    Newton makes one of every joint. PhysX takes an actuator's stiffness and damping for the drive that the robot's file
    has, and drops them without a word where it has none: so are newton's cartpole, and robots converted from URDF.
    """
    when_imported("isaaclab.sim.spawners.from_files.from_files", _wrap_spawner)


def _wrap_spawner() -> None:
    from isaaclab.sim.spawners.from_files import from_files

    apply: Any = from_files._apply_articulation_schema_properties
    if apply.__module__ == __name__:
        return

    def with_drives(prim_path: str, cfg: Any) -> None:
        from isaaclab.sim import SimulationContext
        from isaaclab.sim.schemas.schemas import drive_instance_name, skip_joint_drive
        from pxr import Usd, UsdPhysics

        apply(prim_path, cfg)
        simulation = SimulationContext.instance()
        if simulation is None or hasattr(simulation.cfg.physics, "solver_cfg"):  # that is Newton's
            return
        for prim in Usd.PrimRange(simulation.stage.GetPrimAtPath(prim_path)):
            name = drive_instance_name(prim)
            if name is not None and not skip_joint_drive(prim) and not UsdPhysics.DriveAPI(prim, name):
                UsdPhysics.DriveAPI.Apply(prim, name)

    from_files._apply_articulation_schema_properties = with_drives


class _Replay:
    """A solver's `step`: the first call for some states computes and then records, all others replay."""

    def __init__(self, step: Any) -> None:
        self._step = step
        self._graphs: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}

    def __call__(self, *arguments: Any) -> None:
        import warp

        key = tuple(item if isinstance(item, float) else id(item) for item in arguments)
        if key in self._graphs:
            warp.capture_launch(self._graphs[key][0])
            return
        self._step(*arguments)  # outside of the recording, since it may allocate and load kernels
        with warp.ScopedCapture(device="cpu") as capture:
            self._step(*arguments)
        self._graphs[key] = capture.graph, arguments  # kept, so that no other object gets their ids


@contextmanager
def compilations_told() -> Iterator[None]:
    """Say of every module of kernels that it is being compiled, while the body runs; those in the cache are not.

    How many there will be nobody knows: each is made when the solver first needs it.
    """
    if "warp" not in sys.modules:
        yield
        return
    from warp._src import build

    count = 0

    def told(compile_module: Any) -> Any:
        def compile_and_tell(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            say_activity(f"compiling kernels: {count} so far")
            return compile_module(*arguments, **options)

        return compile_and_tell

    with with_methods(build, build_cpu=told(build.build_cpu), build_cuda=told(build.build_cuda)):
        yield
