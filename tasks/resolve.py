"""request -> JobSpec: everything fixed, everything checked that needs no simulator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from simyard.requests import EvaluateRequest, ExportRequest, JobRequest, PolicyConfig, Resume, TrainRequest
from simyard.runner.adapters import get_adapter
from simyard.runner.archives import inspect
from simyard.runner.errors import RequestError
from simyard.runner.libraries import get_library
from simyard.runner.spec import Evaluation, Export, JobSpec, Limits, ResumePoint
from simyard.store import keys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks import history
from simyard.tasks.inputs import LocalInput, find_input
from simyard.tasks.policies import find_policies

DEFAULT_SEED = 42


@dataclass(frozen=True)
class Resolved:
    """A frozen job and the local files it needs in the store."""

    spec: JobSpec
    inputs: tuple[LocalInput, ...] = ()


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
    get_adapter(request.simulator)
    frame = _frame(request, job_id, base)
    match request:
        case TrainRequest():
            return _train(request, frame, store, base)
        case EvaluateRequest():
            return _evaluate(request, frame, store, base)
        case ExportRequest():
            return _export(request, frame, store, base)
    raise TypeError(f"no kind of job for {type(request).__name__}")


def _frame(request: JobRequest, job_id: str, base: Path) -> Resolved:
    """Fix what all kinds have in common."""
    inputs: list[LocalInput] = []
    if package := request.custom_environment_path or request.custom_environment_s3_uri:
        inputs.append(find_input(package, base, "customEnvironment"))
        inspect(inputs[0].path)
    limits, section = request.timeouts, request.section
    spec = JobSpec(
        job_id=job_id,
        kind="",
        name=request.name,
        description=request.description,
        simulator=request.simulator,
        task=section.task or "",
        library=section.rl_library or "",
        num_envs=section.num_envs,
        seed=DEFAULT_SEED if section.seed is None else section.seed,
        gpus=request.compute_config.gpus_per_node,
        overrides=request.overrides,
        packages=tuple(found.file for found in inputs),
        import_callback=request.custom_environment_callback,
        limits=Limits(
            wall_s=limits.wall_seconds,
            first_iteration_s=limits.first_iteration_seconds,
            iteration_s=limits.iteration_seconds,
            term_grace_s=limits.grace_seconds,
            close_grace_s=limits.close_seconds,
        ),
        retries=request.retries,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        request=request.model_dump(mode="json", by_alias=True, exclude_unset=True),
    )
    return Resolved(spec, tuple(inputs))


def _train(request: TrainRequest, frame: Resolved, store: Store, base: Path) -> Resolved:
    library = get_library(request.training_config.rl_library)
    resume, local = _resume(request.resume, store, base, library.name) if request.resume else (None, None)
    spec = replace(frame.spec, kind="train", max_iterations=request.training_config.max_iterations, resume=resume)
    return Resolved(spec, (*frame.inputs, *([local] if local else [])))


def _evaluate(request: EvaluateRequest, frame: Resolved, store: Store, base: Path) -> Resolved:
    wanted = request.training_config
    films = tuple(map(str, wanted.video_episodes)) if wanted.record_video or wanted.require_video else ()
    evaluation = Evaluation(
        num_episodes=wanted.num_episodes,
        steps_per_episode=wanted.steps_per_episode,
        success_termination=wanted.success_termination,
        videos=films,
        require_video=wanted.require_video,
    )
    resolved = _with_policies(wanted, frame, store, base)
    # An environment without an episode of its own would only cost time.
    num_envs = min(wanted.num_envs, wanted.num_episodes)
    return replace(resolved, spec=replace(resolved.spec, kind="evaluate", evaluation=evaluation, num_envs=num_envs))


def _export(request: ExportRequest, frame: Resolved, store: Store, base: Path) -> Resolved:
    wanted = request.export_config
    export = Export(
        num_episodes=wanted.num_episodes,
        other_physics=wanted.other_physics,
        action_limits={
            joint: limits.model_dump(mode="json", exclude_none=True) for joint, limits in wanted.action_limits.items()
        },
        answers={
            item: {**answer.model_dump(mode="json"), "at": frame.spec.created_at}
            for item, answer in wanted.checklist_answers.items()
        },
    )
    resolved = _with_policies(wanted, frame, store, base)
    if resolved.spec.from_job is not None:
        export = replace(export, curriculum=_curriculum(store, resolved.spec.from_job))
    num_envs = min(wanted.num_envs, wanted.num_episodes)
    return replace(resolved, spec=replace(resolved.spec, kind="export", export=export, num_envs=num_envs))


def _curriculum(store: Store, job_id: str) -> dict[str, float] | None:
    """Return the last logged stage of each curriculum term of a training; None where none was logged."""
    logged = history.read_or_none(store, keys.JobKeys(job_id).artifact("metrics.json")) or {}
    terms = {tag.partition("Curriculum/")[2]: fact["final"]["value"] for tag, fact in logged.items()}
    return {term: value for term, value in terms.items() if term} or None


def _with_policies(wanted: PolicyConfig, frame: Resolved, store: Store, base: Path) -> Resolved:
    """Add the policies, and what the job that trained them says of their task."""
    trained_by = load_spec(store, wanted.from_job.job_id) if wanted.from_job else None
    if trained_by is not None and trained_by.kind != "train":
        raise RequestError(
            f"fromJob: {trained_by.job_id!r} is a job of kind {trained_by.kind!r}.",
            code="not_a_training",
            advice="Name a training job: see `simyard jobs list`.",
        )
    found = find_policies(wanted, trained_by, store, base)
    spec = replace(frame.spec, policies=found.policies, library=frame.spec.library or "rsl_rl")
    if trained_by is not None:
        given = {override.partition("=")[0] for override in spec.overrides}
        inherited = tuple(o for o in trained_by.overrides if o.partition("=")[0] not in given)
        spec = replace(
            spec,
            task=wanted.task or trained_by.task,
            library=trained_by.library,
            overrides=(*inherited, *spec.overrides),
            packages=spec.packages or trained_by.packages,
            import_callback=spec.import_callback or trained_by.import_callback,
            from_job=trained_by.job_id,
        )
    return Resolved(spec, (*frame.inputs, *found.inputs))


def load_spec(store: Store, job_id: str) -> JobSpec:
    """Read a job's frozen spec.

    Raises:
        RequestError: If the store has no such job.
    """
    try:
        return JobSpec.from_json(store.get_json(keys.JobKeys(keys.check_job_id(job_id)).job))
    except KeyNotFound as error:
        raise RequestError(
            f"There is no job {job_id!r} in {store.url()}.", code="unknown_job", advice="See `simyard jobs list`."
        ) from error


def take_up(store: Store, job_id: str) -> JobSpec:
    """Read the spec of a job that is to go on, and forget that somebody canceled it."""
    spec = load_spec(store, job_id)
    store.delete(keys.JobKeys(job_id).cancel)
    return spec


def _resume(resume: Resume, store: Store, base: Path, library: str) -> tuple[ResumePoint, LocalInput | None]:
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
