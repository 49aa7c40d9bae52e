"""Fields of every frozen job, whatever its kind, and those that it takes over from another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from simyard.core.errors import RequestError
from simyard.core.specs import JobSpec, Limits
from simyard.requests.jobs import LATEST, FromJob, JobRequest
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.shared.history import load_spec
from simyard.tasks.shared.inputs import LocalInput


@dataclass(frozen=True)
class Resolved:
    """A frozen job and the local files it needs in the store."""

    spec: JobSpec
    inputs: tuple[LocalInput, ...] = ()


def frame(request: JobRequest, job_id: str, **own: Any) -> JobSpec:
    """Return the job with what all kinds have in common; `own` are the fields that its kind knows."""
    limits, compute = request.timeouts, request.compute_config
    return JobSpec(
        job_id=job_id,
        name=request.name,
        description=request.description,
        gpus=compute.gpus_per_node if compute.num_nodes == 1 else compute.gpus_per_node or 1,
        nodes=compute.num_nodes,
        priority=compute.priority,
        accepts_eula=compute.accept_nvidia_eula,
        overrides=request.overrides,
        limits=Limits(
            wall_s=limits.wall_seconds,
            first_iteration_s=limits.first_iteration_seconds,
            iteration_s=limits.iteration_seconds,
            term_grace_s=limits.grace_seconds,
            close_grace_s=limits.close_seconds,
        ),
        session=compute.session == "auto" and compute.num_nodes * (compute.gpus_per_node or 1) == 1,
        retries=request.retries,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        request=request.model_dump(mode="json", by_alias=True, exclude_unset=True),
        **own,
    )


def newest_training(store: Store, task: str | None = None, library: str | None = None) -> JobSpec | None:
    """Return the newest training that has succeeded; None where there is none.

    Args:
        store: Where to look.
        task: Of this task alone.
        library: With this library alone.
    """
    for job_id in reversed(store.list_dirs(keys.JOBS)):
        if store.exists(keys.JobKeys(job_id).manifest):
            spec = load_spec(store, job_id)
            if spec.kind == "train" and task in (None, spec.task) and library in (None, spec.library):
                return spec
    return None


def training_of(source: FromJob | None, store: Store) -> JobSpec | None:
    """Return the training whose policy a request means; None where it names none.

    Raises:
        RequestError: If there is no such job, or it is no training.
    """
    if source is None:
        return None
    if source.job_id == LATEST:
        newest = newest_training(store)
        if newest is None:
            raise RequestError(
                f"No training has succeeded in {store.url()}.",
                code="unknown_job",
                advice="Train first, or name another store.",
            )
        return newest
    spec = load_spec(store, source.job_id)
    if spec.kind != "train":
        raise RequestError(
            f"fromJob: {spec.job_id!r} is a job of kind {spec.kind!r}.",
            code="not_a_training",
            advice="Name a training job: see `simyard jobs list`.",
        )
    return spec


def inherit(spec: JobSpec, trained_by: JobSpec, task: str | None) -> JobSpec:
    """Take over what a training says of its task: library, package and overrides, save those given anew."""
    given = {override.partition("=")[0] for override in spec.overrides}
    inherited = tuple(o for o in trained_by.overrides if o.partition("=")[0] not in given)
    return replace(
        spec,
        task=task or trained_by.task,
        library=trained_by.library,
        overrides=(*inherited, *spec.overrides),
        packages=spec.packages or trained_by.packages,
        import_callback=spec.import_callback or trained_by.import_callback,
        from_job=trained_by.job_id,
    )
