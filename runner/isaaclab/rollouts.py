"""Rollouts of the isaac_lab_rollout profile: checked before anything is simulated, and driven where no class does it.

A registered task of Isaac Lab is driven by simyard: by nothing, by chance, or by a checkpoint.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from simyard.core.errors import RequestError, unknown
from simyard.core.files import AttemptPaths
from simyard.core.specs import AttemptSpec, Facts, JobSpec, Rollout
from simyard.runner.adapter import device_of, versions
from simyard.runner.assets.robot_files import main_file
from simyard.runner.isaaclab import lookup as isaaclab_lookup
from simyard.runner.isaaclab.agent_files import used
from simyard.runner.isaaclab.environment import fresh_environment, settle
from simyard.runner.isaaclab.environment_recorder import EnvironmentRecorder, check_rate
from simyard.runner.isaaclab.foreign_imports import require_registered
from simyard.runner.isaaclab.lookup import register_tasks, scripts_folder, use_overlay
from simyard.runner.isaaclab.scripts import cannot
from simyard.runner.newton.robots import short_names
from simyard.runner.recording.geometry import GEOMETRY, Geometry, geometry_of
from simyard.runner.rl import LIBRARIES, Library, get_library
from simyard.runner.rl.inference import load_policy
from simyard.runner.rollout.actions import RandomActions, ZeroActions
from simyard.runner.rollout.run import Recording, no_pictures, no_video
from simyard.runner.rollout.user_class import check_class, class_names, find_class, import_module
from simyard.runner.room import of_rollout
from simyard.runner.video.cameras import Cameras
from simyard.runner.video.trajectories import Drawn, VideoError, part

MODES = ("zero", "random", "policy")
"""Values of `control.task_mode`; the first is the default."""
_FIELDS = ("task_mode", "sample")


# --- before the simulation ------------------------------------------------------------------------------------------


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

    # A class of the task package's own.
    use_overlay(overlay)
    module = import_module(wanted.task_module) if wanted.task_module else None
    task_class = find_class(module, job.task) if module else None
    if task_class is not None:
        check_class(task_class, wanted.task_args)
        return _check_class_job(job, wanted, files)

    # Else a registered task.
    if scripts_folder() is not None:
        raise cannot(job.kind)
    isaaclab_lookup.require_installed(None)
    register_tasks(overlay, job.import_callback)
    job = isaaclab_lookup.as_registered(job)
    require_registered(job.task, overlay, isaaclab_lookup.registered_tasks(), "isaac_lab.task_module")
    if module is not None and job.task not in (tasks := isaaclab_lookup.registered_tasks()):
        what = f"class in module {module.__name__!r}, or registered task,"
        raise unknown(what, job.task, [*class_names(module), *tasks], code="unknown_task_class")
    library = library_of(job)
    isaaclab_lookup.require_installed(library)
    isaaclab_lookup.find_task(job.task, library, isaaclab_lookup.registered_tasks(), job.agent)
    if wanted.task_args:
        raise RequestError(
            f"task_args are for a class, and {job.task!r} is a registered task.",
            code="unknown_task_argument",
            advice="Change its configuration by overrides, 'env.episode_length_s=2.0' say.",
        )
    with used(job, lambda file: files.get(file.sha256)) as job:
        facts, config = isaaclab_lookup.resolve(job, library, files)

    # Fields of the request that such a task ignores.
    notes = []
    substeps = config.env["decimation"]
    period = config.env["sim"]["dt"] * substeps
    if (round(period, 9), substeps) != (round(wanted.dt, 9), wanted.substeps):
        notes.append(
            f"the task's own control step of {period:.6g} s with {substeps} physics steps holds, not physics.dt "
            f"{wanted.dt:g} s with {wanted.substeps} substeps"
        )
    notes += [
        f"camera {camera.name!r} takes {1 / period:g} pictures a second, one a control step, not {camera.fps:g}"
        for camera in wanted.cameras or ()
        if camera.fps * period > 1 + 1e-6
    ]
    given = [name for name in ("robot", "scene", "scene_id") if getattr(wanted, name) is not None]
    if given:
        notes.append(f"the task has its own robot and scene; not used: {', '.join(given)}")
    return replace(facts, notes=(*facts.notes, *notes), room=of_rollout(job, period))


def _check_class_job(job: JobSpec, wanted: Rollout, files: Mapping[str, Path]) -> Facts:
    if wanted.cameras:
        raise RequestError(
            f"outputs.cameras are for the standard profile and registered tasks, and {job.task!r} is a class of "
            f"{wanted.task_module!r}.",
            code="bad_cameras",
            advice="Have the class record its pictures itself: any uint8 quantity of (num_envs, height, width, 3).",
        )
    if job.overrides:
        raise RequestError(
            f"overrides are for a registered task, and {job.task!r} is a class of {wanted.task_module!r}.",
            code="bad_override",
            advice="Give the class what it needs in task_args.",
        )
    if job.physics is not None:
        raise RequestError(
            f"isaac_lab.physics is for a registered task, and {job.task!r} is a class of {wanted.task_module!r}.",
            code="engine_not_of_task",
            advice="Leave it out: the class makes its own simulation.",
        )
    for asset in (wanted.robot, wanted.scene):
        if asset is not None and (path := files.get(asset.file.sha256)):
            with tempfile.TemporaryDirectory(prefix="simyard-asset-") as folder:
                main_file(path, asset.format, Path(folder) / "asset", asset.entry)
    device = device_of(job.gpus)
    found = versions(device)
    return Facts(
        simulator=job.simulator,
        version=found.get("isaaclab", "not installed"),
        flavor="api" if scripts_folder() is None else "scripts",
        device=device,
        rollout=1,
        overrides=(),
        versions=found,
    )


def mode_of(job: JobSpec) -> str:
    """Return the mode that drives a registered task.

    Raises:
        RequestError: If `control` says what there is not.
    """
    assert job.rollout is not None
    control = job.rollout.control
    if extra := sorted(set(control) - set(_FIELDS)):
        raise unknown("field of control", extra[0], _FIELDS, code="bad_control")
    mode = control.get("task_mode") or MODES[0]
    if mode not in MODES:
        raise unknown("control.task_mode", mode, MODES, code="bad_control")
    if (mode == "policy") != bool(job.policies):
        raise RequestError(
            f"control.task_mode is {mode!r}, and the job has {'a' if job.policies else 'no'} policy.",
            code="bad_control",
            advice="A policy and task_mode 'policy' go together.",
        )
    sample = control.get("sample", False)
    if not isinstance(sample, bool):
        raise RequestError(
            f"control.sample is {sample!r}. Allowed: true, false.",
            code="bad_control",
            advice="true draws actions from the policy's distribution; false, the default, plays its mean.",
        )
    if sample and mode != "policy":
        raise RequestError(
            f"control.sample is true, and control.task_mode is {mode!r}: only a policy has a distribution.",
            code="bad_control",
            advice="Set task_mode to 'policy' and give one, or leave sample out.",
        )
    can = [name for name, known in LIBRARIES.items() if known.policy.can_sample]
    if sample and job.library not in can:
        raise RequestError(
            f"control.sample is true, and a policy of {job.library!r} cannot be sampled here. "
            f"Allowed: {', '.join(can)}.",
            code="bad_control",
            advice="Leave sample out to play the mean, or give a policy of a library that can be sampled.",
        )
    return str(mode)


def library_of(job: JobSpec) -> Library | None:
    """Return the library whose policy drives the task; None where none does."""
    return get_library(job.library) if mode_of(job) == "policy" else None


# --- the simulation -------------------------------------------------------------------------------------------------


class Driver(Protocol):
    """Driver of the steps: a policy, or actions of ours."""

    def begin(self) -> None:
        """Reset the environment."""

    def step(self) -> None:
        """Take one step."""


def drive(recording: Recording, attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
    """Take the steps in a fresh environment.

    Raises:
        WorkloadError: If a film is wanted of what cannot be filmed.
        Exception: Whatever the simulator or the task raised.
    """
    job, wanted, mode = attempt.job, attempt.job.rollout, mode_of(attempt.job)
    assert wanted is not None
    register_tasks(paths.overlay if job.packages else None, job.import_callback)
    trained = (job.policies[0].iteration or 0) if mode == "policy" else 0
    job = isaaclab_lookup.as_registered(job)
    with used(job, lambda file: paths.inputs / file.name) as job, fresh_environment(
        job.task, library_of(job), facts.overrides, num_envs=job.num_envs, seed=job.seed, device=facts.device,
        steps_done=trained * facts.rollout, drawn=wanted.video or bool(wanted.cameras), agent=job.agent,
        order=job.order,
    ) as (env, agent_cfg):  # fmt: skip
        # Record and film. Without a time-out an episode can have all of the steps.
        base = env.unwrapped
        manager = getattr(base, "termination_manager", None)
        times_out = manager is None or any(manager.get_term_cfg(name).time_out for name in manager.active_terms)
        longest = min(wanted.steps, base.max_episode_length + 1) if times_out else wanted.steps
        recorder, film = recording.open(
            control_period_s=base.step_dt, longest=longest, driven_by=mode, **_geometry(env)
        )
        if film.wanted:
            try:
                film.watch_drawn(Drawn.of_environment(env))
            except VideoError as error:
                raise no_video(error.reason) from error

        with EnvironmentRecorder(env, recorder, film) as inside, ExitStack() as opened:
            if wanted.cameras:
                inside.add_cameras(*opened.enter_context(_cameras(recording, env)))

            # Drive.
            driver: Driver
            if mode == "policy":
                files = job.policies[0]
                normalizer = paths.inputs / files.normalizer.name if files.normalizer else None
                driver = policy = load_policy(
                    job.library, env, agent_cfg, paths.inputs / files.checkpoint.name, normalizer
                )
                if wanted.control.get("sample"):
                    policy.sample()
                    inside.add_log_prob(lambda: policy.log_prob)
            else:
                driver = RandomActions(env, job.seed) if mode == "random" else ZeroActions(env)
            settle(env, job.seed)
            driver.begin()
            while inside.steps < wanted.steps:
                driver.step()
    recorder.close()
    says = inside.success_source is not None and check_rate(paths.recording)
    print(f"success is said by: {inside.success_source if says else 'nothing'}")


def _geometry(env: Any) -> dict[str, Geometry]:
    """Return how the robot's bodies follow from what is recorded of it; nothing where Newton does not simulate it."""
    base = env.unwrapped
    robots = list(base.scene.articulations.values())
    if len(robots) != 1 or base.sim.physics_manager.video_capture_backend() != "newton_gl":
        return {}
    from newton import JointType

    # Joints by their names, of which the engine's end in Isaac Lab's.
    model, robot = base.sim.physics_manager.get_model(), robots[0]
    places = {name: number for number, name in enumerate(robot.joint_names)}
    first_q, own = int(model.joint_coord_world_start.numpy()[0]), part(model.body_world_start, 0)
    starts, kinds, children = (getattr(model, f"joint_{name}").numpy() for name in ("q_start", "type", "child"))
    columns: dict[int, tuple[str, int]] = {}
    poses: dict[int, tuple[str, int | None]] = {}
    for joint, label in enumerate(model.joint_label):
        if own.start <= children[joint] < own.stop:
            if (name := str(label).rpartition("/")[2]) in places and kinds[joint] != JointType.FREE:
                columns[int(starts[joint]) - first_q] = ("joint_position", places[name])
            elif kinds[joint] == JointType.FREE and not robot.is_fixed_base:
                body = str(model.body_label[children[joint]]).rpartition("/")[2]
                if body == robot.body_names[0]:
                    poses[int(children[joint]) - own.start] = ("root_pose", None)
    return {GEOMETRY: geometry_of(model, columns, poses, base.scene.env_origins[0].tolist())}


@contextmanager
def _cameras(recording: Recording, env: Any) -> Iterator[tuple[Cameras, Callable[[], Any]]]:
    """Open the cameras in an environment; yield them and what returns the poses of all bodies.

    Raises:
        WorkloadError: If it cannot be drawn.
    """
    import newton

    try:
        drawn = Drawn.of_environment(env)
    except VideoError as error:
        raise no_pictures(error.reason) from error
    model = drawn.model
    first = part(model.body_world_start, 0)
    names = short_names([*model.body_label[first]])
    bodies = {name: index for index, name in enumerate(names.values())}
    origins = env.unwrapped.scene.env_origins.cpu().numpy()
    forward = model.state()

    def poses() -> Any:
        now = drawn.state()
        if drawn.by_joints:  # after a reset the bodies follow their joints only with the next step
            newton.eval_fk(model, now.joint_q, now.joint_qd, forward)
            now = forward
        found = now.body_q.numpy()[first.start :].reshape(model.world_count, -1, 7)
        found[..., :3] += (origins[0] - origins)[:, None]
        return found

    with recording.cameras(model, drawn.state(), bodies, origins[0]) as cameras:
        yield cameras, poses
