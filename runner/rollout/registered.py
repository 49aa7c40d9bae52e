"""A registered task of Isaac Lab, driven by simyard: by nothing, by chance, or by a checkpoint."""

from __future__ import annotations

from typing import Any, Protocol

from simyard.runner.environment import fresh_environment, register_tasks, settle
from simyard.runner.errors import RequestError, WorkloadError, unknown
from simyard.runner.evaluation.trajectories import VideoError, newton_model
from simyard.runner.libraries import Library, get_library
from simyard.runner.paths import AttemptPaths
from simyard.runner.policies import load_policy
from simyard.runner.rollout.actions import RandomActions, ZeroActions
from simyard.runner.rollout.environment_recorder import EnvironmentRecorder
from simyard.runner.rollout.film import RolloutFilm
from simyard.runner.rollout.recording import Recording, no_video
from simyard.runner.rollout.success import check_rate
from simyard.runner.spec import AttemptSpec, Facts, JobSpec

MODES = ("zero", "random", "policy")
"""Values of `control.task_mode`; the first is the default."""


class Driver(Protocol):
    """What takes the steps; see `simyard.runner.policies.Policy`."""

    def begin(self) -> None:
        """Reset the environment."""

    def step(self) -> None:
        """Take one step."""


def mode_of(job: JobSpec) -> str:
    """Return how a registered task is to be driven.

    Raises:
        RequestError: If `control` says what there is not.
    """
    assert job.rollout is not None
    control = job.rollout.control
    if extra := sorted(set(control) - {"task_mode"}):
        raise unknown("field of control", extra[0], ["task_mode"], code="bad_control")
    mode = control.get("task_mode") or MODES[0]
    if mode not in MODES:
        raise unknown("control.task_mode", mode, MODES, code="bad_control")
    if (mode == "policy") != bool(job.policies):
        raise RequestError(
            f"control.task_mode is {mode!r}, and the job has {'a' if job.policies else 'no'} policy.",
            code="bad_control",
            advice="A policy and task_mode 'policy' go together.",
        )
    return str(mode)


def library_of(job: JobSpec) -> Library | None:
    """Return the library whose policy drives the task; None where none does."""
    return get_library(job.library) if mode_of(job) == "policy" else None


def drive(recording: Recording, attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
    """Take the steps in a fresh environment.

    Raises:
        WorkloadError: If a film is wanted of what cannot be filmed.
        Exception: Whatever the simulator or the task raised.
    """
    job, wanted = attempt.job, attempt.job.rollout
    assert wanted is not None
    register_tasks(paths.overlay if job.packages else None, job.import_callback)
    with fresh_environment(
        job.task, library_of(job), facts.overrides, num_envs=job.num_envs, seed=job.seed, device=facts.device
    ) as (env, agent_cfg):
        base = env.unwrapped
        recorder, film = recording.open(
            control_period_s=base.step_dt, longest=_longest(base, wanted.steps), driven_by=mode_of(job)
        )
        _watch(film, env)
        with EnvironmentRecorder(env, recorder, film) as inside:
            driver = _driver(env, agent_cfg, job, paths)
            settle(env, job.seed)
            driver.begin()
            while inside.steps < wanted.steps:
                driver.step()
    recorder.close()
    says = inside.success_source is not None and check_rate(paths.recording)
    print(f"success is said by: {inside.success_source if says else 'nothing'}")


def _driver(env: Any, agent_cfg: Any, job: JobSpec, paths: AttemptPaths) -> Driver:
    match mode_of(job):
        case "zero":
            return ZeroActions(env)
        case "random":
            return RandomActions(env, job.seed)
    policy = job.policies[0]
    normalizer = paths.inputs / policy.normalizer.name if policy.normalizer else None
    return load_policy(job.library, env, agent_cfg, paths.inputs / policy.checkpoint.name, normalizer)


def _longest(base: Any, steps: int) -> int:
    """Return how many steps an episode can have; of a task without a time-out, all of them."""
    manager = getattr(base, "termination_manager", None)
    times_out = manager is None or any(manager.get_term_cfg(name).time_out for name in manager.active_terms)
    return min(steps, base.max_episode_length + 1) if times_out else steps


def _watch(film: RolloutFilm, env: Any) -> None:
    """Say what is filmed, if anything is."""
    if not film.wanted:
        return
    try:
        film.watch(newton_model(env))
    except VideoError as error:
        raise WorkloadError(no_video(error.reason)) from error
