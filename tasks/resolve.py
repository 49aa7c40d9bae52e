"""request -> JobSpec: everything fixed, everything checked that needs no simulator."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from simyard.requests import Resume, TrainRequest
from simyard.runner.adapters import get_adapter
from simyard.runner.archives import inspect
from simyard.runner.errors import RequestError
from simyard.runner.libraries import get_library
from simyard.runner.spec import JobSpec, Limits, ResumePoint
from simyard.store import keys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks import history
from simyard.tasks.inputs import LocalInput, find_input

DEFAULT_SEED = 42


@dataclass(frozen=True)
class Resolved:
    """A frozen job and the local files it needs in the store."""

    spec: JobSpec
    inputs: tuple[LocalInput, ...] = ()


def resolve(request: TrainRequest, store: Store, job_id: str, base: Path | None = None) -> Resolved:
    """Turn a request into a frozen job; writes nothing.

    Args:
        request: The checked request.
        store: Where the job will live; jobs to resume from are looked up here.
        job_id: The new job's id.
        base: Folder that relative paths start from; the current one by default.

    Raises:
        RequestError: If a file is missing, or there is nothing to resume from.
    """
    base = base or Path.cwd()
    training = request.training_config
    get_adapter(request.simulator)
    library = get_library(training.rl_library)
    inputs: list[LocalInput] = []
    if package := request.custom_environment_path or request.custom_environment_s3_uri:
        inputs.append(find_input(package, base, "customEnvironment"))
        inspect(inputs[0].path)
    packages = tuple(found.file for found in inputs)
    resume = None
    if request.resume:
        resume, local = _resume(request.resume, store, base, library.name)
        inputs += [local] if local else []
    limits = request.timeouts
    spec = JobSpec(
        job_id=keys.check_job_id(job_id),
        kind="train",
        name=request.name,
        description=request.description,
        simulator=request.simulator,
        task=training.task,
        library=library.name,
        num_envs=training.num_envs,
        max_iterations=training.max_iterations,
        seed=DEFAULT_SEED if training.seed is None else training.seed,
        gpus=request.compute_config.gpus_per_node,
        overrides=request.overrides,
        packages=packages,
        import_callback=request.custom_environment_callback,
        resume=resume,
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
