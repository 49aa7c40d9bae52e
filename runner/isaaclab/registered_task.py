"""A registered task of Isaac Lab, driven by simyard: by nothing, by chance, or by a checkpoint."""

from __future__ import annotations

from typing import Any, Protocol

from simyard.core.errors import RequestError, unknown
from simyard.core.paths import AttemptPaths
from simyard.core.specs import AttemptSpec, Facts, JobSpec
from simyard.runner.isaaclab.environment import fresh_environment, register_tasks, settle
from simyard.runner.isaaclab.environment_recorder import EnvironmentRecorder
from simyard.runner.isaaclab.success import check_rate
from simyard.runner.rl import LIBRARIES, Library, get_library
from simyard.runner.rl.inference import load_policy
from simyard.runner.rollout.actions import RandomActions, ZeroActions
from simyard.runner.rollout.run import Recording, no_video
from simyard.runner.video.rollout_video import RolloutFilm
from simyard.runner.video.trajectories import VideoError, newton_model

MODES = ("zero", "random", "policy")
"""Values of `control.task_mode`; the first is the default."""
_FIELDS = ("task_mode", "sample")


class Driver(Protocol):
    """Driver of the steps: a policy, or actions of ours."""

    def begin(self) -> None:
        """Reset the environment."""

    def step(self) -> None:
        """Take one step."""


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
    _check_sample(control.get("sample", False), mode, job.library)
    return str(mode)


def _check_sample(sample: object, mode: str, library: str) -> None:
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
    if sample and library not in can:
        raise RequestError(
            f"control.sample is true, and a policy of {library!r} cannot be sampled here. Allowed: {', '.join(can)}.",
            code="bad_control",
            advice="Leave sample out to play the mean, or give a policy of a library that can be sampled.",
        )


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
            driver = _driver(env, agent_cfg, job, paths, inside)
            settle(env, job.seed)
            driver.begin()
            while inside.steps < wanted.steps:
                driver.step()
    recorder.close()
    says = inside.success_source is not None and check_rate(paths.recording)
    print(f"success is said by: {inside.success_source if says else 'nothing'}")


def _driver(env: Any, agent_cfg: Any, job: JobSpec, paths: AttemptPaths, inside: EnvironmentRecorder) -> Driver:
    match mode_of(job):
        case "zero":
            return ZeroActions(env)
        case "random":
            return RandomActions(env, job.seed)
    files = job.policies[0]
    normalizer = paths.inputs / files.normalizer.name if files.normalizer else None
    policy = load_policy(job.library, env, agent_cfg, paths.inputs / files.checkpoint.name, normalizer)
    if job.rollout is not None and job.rollout.control.get("sample"):
        policy.sample()
        inside.add_log_prob(lambda: policy.log_prob)
    return policy


def _longest(base: Any, steps: int) -> int:
    """Return the most steps an episode can have; for a task without a time-out, all of them."""
    manager = getattr(base, "termination_manager", None)
    times_out = manager is None or any(manager.get_term_cfg(name).time_out for name in manager.active_terms)
    return min(steps, base.max_episode_length + 1) if times_out else steps


def _watch(film: RolloutFilm, env: Any) -> None:
    """Choose the world to film, if one is to be filmed."""
    if not film.wanted:
        return
    try:
        film.watch(newton_model(env))
    except VideoError as error:
        raise no_video(error.reason) from error
