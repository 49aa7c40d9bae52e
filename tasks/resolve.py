"""request -> JobSpec: everything fixed, everything checked that needs no simulator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from simyard.core.artifacts import METRICS_SUMMARY
from simyard.core.errors import RequestError, unknown
from simyard.core.specs import Answer, Evaluation, Export, JobSpec, JointLimits, ResumePoint
from simyard.requests.jobs import (
    EvaluateRequest,
    ExportRequest,
    JobRequest,
    PolicyConfig,
    Resume,
    TaskRequest,
    TrainRequest,
)
from simyard.requests.rollout import RolloutRequest
from simyard.runner.adapter import SIMULATORS, adapter_of
from simyard.runner.assets.archives import inspect
from simyard.runner.isaaclab.physics import engine_of, require_one_engine
from simyard.runner.isaaclab.renames import with_current_id
from simyard.runner.rl import DEFAULT_LIBRARY, LIBRARIES, get_library
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.kinds.base import Resolved, common_fields
from simyard.tasks.kinds.policy_sources import find_policies, inherit, training_of
from simyard.tasks.kinds.rollout import resolve_rollout
from simyard.tasks.packages.pack import find_package
from simyard.tasks.shared import history
from simyard.tasks.shared.history import load_spec
from simyard.tasks.shared.inputs import LocalInput, find_input
from simyard.tasks.shared.limited import limited

DEFAULT_SEED = 42


def resolve(request: JobRequest, store: Store, job_id: str, base: Path | None = None) -> Resolved:
    """Turn a request into a frozen job; writes nothing.

    Args:
        request: The checked request.
        store: Where the job will live; jobs to go on from are looked up here.
        job_id: The new job's id.
        base: Folder that relative paths start from; the current one by default.

    Raises:
        RequestError: If a file is missing, or there is nothing to go on from.
    """
    base = base or Path.cwd()
    keys.check_job_id(job_id)
    match request:
        case TrainRequest():
            resolved = _train(request, _task_fields(request, job_id, base), store, base)
        case EvaluateRequest():
            resolved = _evaluate(request, _task_fields(request, job_id, base), store, base)
        case ExportRequest():
            resolved = _export(request, _task_fields(request, job_id, base), store, base)
        case RolloutRequest():
            resolved = resolve_rollout(request, job_id, store, base)
        case _:
            raise TypeError(f"no kind of job for {type(request).__name__}")
    if resolved.spec.simulator == "isaaclab":
        resolved = replace(resolved, spec=with_current_id(resolved.spec))
    spec = resolved.spec
    require_one_engine(spec)

    # The simulator must be there, and do this kind of job.
    if spec.kind not in adapter_of(spec.simulator).kinds:
        able = [name for name in SIMULATORS if spec.kind in adapter_of(name).kinds]
        raise unknown(f"simulator for a job of kind {spec.kind!r}:", spec.simulator, able, code="unknown_simulator")

    # Only a training takes several GPUs, and not with every library.
    if spec.ranks > 1 and spec.kind != "train":
        raise RequestError(
            f"The job asks for {spec.ranks} GPUs, and a job of kind {spec.kind!r} runs on one.",
            code="too_many_gpus",
            advice="Set computeConfig.gpusPerNode and numNodes to 1; only a training takes several.",
        )
    able = [name for name, library in LIBRARIES.items() if library.multi_gpu]
    if spec.ranks > 1 and spec.library not in able:
        raise RequestError(
            f"The job asks for {spec.ranks} GPUs, and rlLibrary {spec.library!r} trains on one.",
            code="too_many_gpus",
            advice=f"Those that train on several: {', '.join(map(repr, able))}.",
        )
    return resolved


def _task_fields(request: TaskRequest, job_id: str, base: Path) -> Resolved:
    """Fix the fields that all jobs on a task of Isaac Lab have in common."""
    inputs: list[LocalInput] = []
    if package := request.custom_environment_path or request.custom_environment_s3_uri:
        inputs.append(find_package(package, base, "customEnvironment"))
        limited(inspect, inputs[0].path)
    section = request.section
    spec = common_fields(
        request,
        job_id,
        kind="",
        simulator=request.simulator,
        task=section.task or "",
        library=section.rl_library or "",
        physics=request.physics,
        num_envs=_environments(section),
        seed=DEFAULT_SEED if section.seed is None else section.seed,
        packages=tuple(found.file for found in inputs),
        import_callback=request.custom_environment_callback,
    )
    return Resolved(spec, tuple(inputs))


def _environments(section: Any) -> int:
    """Return the environments asked for; where that was left open, none without an episode: it only costs time."""
    if section.num_envs is not None:
        return int(section.num_envs)
    return min(int(section.MOST_ENVS), int(section.num_episodes))


def _train(request: TrainRequest, common: Resolved, store: Store, base: Path) -> Resolved:
    library = get_library(request.training_config.rl_library)
    resume, local = _resume(request.resume, store, base, library.name) if request.resume else (None, None)
    exact = None if request.resume is None or request.resume.exact else False
    iterations = request.training_config.max_iterations
    spec = replace(common.spec, kind="train", max_iterations=iterations, resume=resume, exact=exact)
    return Resolved(spec, (*common.inputs, *([local] if local else [])))


def _evaluate(request: EvaluateRequest, common: Resolved, store: Store, base: Path) -> Resolved:
    wanted = request.training_config
    is_filmed = wanted.record_video if wanted.record_video is not None else wanted.task is not None
    films = tuple(map(str, wanted.video_episodes)) if is_filmed or wanted.require_video else ()
    evaluation = Evaluation(
        num_episodes=wanted.num_episodes,
        steps_per_episode=wanted.steps_per_episode,
        success_termination=wanted.success_termination,
        videos=films,
        require_video=wanted.require_video,
        across=wanted.across or None,
    )
    if wanted.across:
        common = replace(common, spec=_in_first_engine(common.spec, wanted.across))
    resolved = _with_policies(wanted, common, store, base)
    # The first episodes of environments are pairs: each has an environment of its own.
    num_envs = wanted.num_episodes if wanted.across else resolved.spec.num_envs
    return replace(resolved, spec=replace(resolved.spec, kind="evaluate", evaluation=evaluation, num_envs=num_envs))


def _in_first_engine(spec: JobSpec, across: tuple[str, ...]) -> JobSpec:
    """Return a job in the first of several engines.

    Raises:
        RequestError: If it names another.
    """
    if (named := engine_of(spec)) not in (None, across[0]):
        raise RequestError(
            f"physics is {named!r}, and across begins with {across[0]!r}, which the others are compared with.",
            code="two_engines",
            advice=f"Leave physics out, or name {named!r} first in across.",
        )
    return replace(spec, physics=across[0])


def _export(request: ExportRequest, common: Resolved, store: Store, base: Path) -> Resolved:
    wanted = request.export_config
    export = Export(
        num_episodes=wanted.num_episodes,
        other_physics=wanted.other_physics,
        action_limits={joint: JointLimits(**limits.model_dump()) for joint, limits in wanted.action_limits.items()},
        answers={
            item: Answer(**answer.model_dump(), at=common.spec.created_at)
            for item, answer in wanted.checklist_answers.items()
        },
    )
    resolved = _with_policies(wanted, common, store, base)
    if resolved.spec.from_job is not None:
        export = replace(export, curriculum=_curriculum(store, resolved.spec.from_job))
    return replace(resolved, spec=replace(resolved.spec, kind="export", export=export))


def _curriculum(store: Store, job_id: str) -> dict[str, float] | None:
    """Return the last logged stage of each curriculum term of a training; None where none was logged."""
    logged = store.get_json_or_none(keys.JobKeys(job_id).artifact(METRICS_SUMMARY.name)) or {}
    terms = {tag.partition("Curriculum/")[2]: fact["final"]["value"] for tag, fact in logged.items()}
    return {term: value for term, value in terms.items() if term} or None


def _with_policies(wanted: PolicyConfig, common: Resolved, store: Store, base: Path) -> Resolved:
    """Add the policies, and what the job that trained them says of their task."""
    trained_by = training_of(wanted.from_job, store)
    policies, local, notes = find_policies(wanted, trained_by, store, base)
    spec = replace(common.spec, policies=policies, notes=notes or None, library=common.spec.library or DEFAULT_LIBRARY)
    if trained_by is not None:
        spec = inherit(spec, trained_by, wanted.task)
    return Resolved(spec, (*common.inputs, *local))


def _resume(resume: Resume, store: Store, base: Path, library: str) -> tuple[ResumePoint | None, LocalInput | None]:
    if resume.checkpoint is None and resume.from_job is None:
        return None, None
    if resume.checkpoint is not None:
        found = find_input(resume.checkpoint, base, "resume.checkpoint")
        named = get_library(library).iteration_in_name(found.path.name) or 0
        iteration = named if resume.iteration is None else resume.iteration
        return ResumePoint(checkpoint=found.file, iteration=iteration), found
    assert resume.from_job is not None
    earlier = load_spec(store, resume.from_job)
    if earlier.library != library:
        raise RequestError(
            f"resume.from_job: {resume.from_job!r} trained with {earlier.library!r}, this job with {library!r}.",
            code="wrong_library",
            advice=f"Set rlLibrary to {earlier.library!r}.",
        )
    points = history.resume_points(store, earlier.job_id)
    chosen = [point for point in points if resume.iteration in (None, point.iteration)]
    if not chosen:
        have = ", ".join(str(point.iteration) for point in points)
        raise RequestError(
            f"resume.from_job: {resume.from_job!r} has no valid checkpoint"
            + (f" of iteration {resume.iteration}." if resume.iteration is not None else "."),
            code="no_checkpoint",
            advice=f"It has iterations {have}." if have else "Train from scratch.",
        )
    return chosen[-1], None
