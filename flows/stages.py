"""The path of a job as Prefect runs it: resolve and stage, unless that is done; launch, collect, persist, report.

What a stage does stands in `simyard.tasks`, when it is repeated stands here: after a failure of the machine or the
network, never after one of the request. The rule is `simyard.tasks.launch.worth_another`. It has two answers to an
error that names no category. An attempt, or a step that may hold one, is not repeated: a bug costs a simulation each
time. A stage is: it costs a moment, and what it meets is mostly the connection of a client library.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TagsContext
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run

from simyard.blocks.reference import absolute, open_store
from simyard.core.errors import Category, Failure, SimyardError, StoreError, WorkloadError
from simyard.core.records import Estimate, JobResult, JobState
from simyard.core.run_records import Event
from simyard.core.specs import Bounds
from simyard.flows import notices
from simyard.flows.endings import ended
from simyard.requests.jobs import JobRequest
from simyard.requests.settings import MachineSettings
from simyard.runner.progress import JobProgress
from simyard.store import keys
from simyard.tasks import collect as collecting
from simyard.tasks import launch as launching
from simyard.tasks import persist as persisting
from simyard.tasks import report as reporting
from simyard.tasks import resolve as resolving
from simyard.tasks import stage as staging
from simyard.tasks.attempt.attempt import Observer
from simyard.tasks.cluster import pool_launch as pools
from simyard.tasks.cluster.cancellation import why_stopped
from simyard.tasks.cluster.flow_run_watch import crash_killed
from simyard.tasks.kinds.base import Resolved
from simyard.tasks.metrics.table import import_plotting
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.shared import history, idempotency
from simyard.tasks.shared.estimates import as_told
from simyard.tasks.shared.history import Verdict, load_spec
from simyard.tasks.trackers.start import mirrored

PROGRESS_EVERY = 50
"""Progress artifacts are updated when this share of a job, one in so many, is done: each costs a request."""
ENDING_S = 15.0
"""Seconds that a canceled attempt in a pool may take to end; half of what Prefect's worker leaves this process."""


def worth_another(task: object, run: TaskRun, state: State[Any]) -> bool:
    """Return whether a failure is one of the machine; an unknown error is not."""
    return launching.worth_another(state.result(raise_on_failure=False))


def worth_another_or_unknown(task: object, run: TaskRun, state: State[Any]) -> bool:
    """Return whether a failure is one of the machine; an unknown error is taken for one."""
    return launching.worth_another(state.result(raise_on_failure=False), unknown=True)


PLAIN: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}
"""Options of a task that is not repeated, and whose result stays in its process."""
RETRYING: dict[str, Any] = {
    "retries": 3, "retry_delay_seconds": [1, 5, 20], "retry_condition_fn": worth_another, **PLAIN,
}  # fmt: skip
"""The same of one that is repeated."""
RETRYING_UNKNOWN: dict[str, Any] = RETRYING | {"retry_condition_fn": worth_another_or_unknown}
"""The same of one that is repeated after an unknown error too."""


def run_request(
    request: JobRequest,
    store: str | None,
    pool: str | None,
    job_id: str | None,
    base: Path | None,
    idempotency_key: str | None = None,
) -> JobState:
    """Take a job to its end, and return its result.

    Args:
        request: What to do. A job that is in the store already, which a command or the service has staged or an
            earlier run of this flow run has begun, is done as it was frozen there; the request only shows it then.
        store: URL of the store, or the name of a block (`job-store/NAME`); the site's own store by default.
        pool: Work pool that has the simulator; by default the site's, or this process where it has none.
        job_id: Id of the job; by default made from the flow run's, so that a retried run goes on with its job.
        base: Folder that relative paths of the request start from.
        idempotency_key: A key that stands for one job: when it is used again, that job's standing is returned.
    """
    store = absolute(store or MachineSettings.from_env().store)
    pool = pool or MachineSettings.from_env().pool
    job_id = job_id or keys.job_id_of_run(UUID(flow_run.id), flow_run.scheduled_start_time)

    # A job that is staged needs neither its request nor the files that this names.
    opened = open_store(store)
    if opened.exists(keys.JobKeys(keys.check_job_id(job_id)).job):
        # One that was canceled goes on when its flow run is run again: somebody wants it now.
        if flow_run.run_count > 1:
            launching.forget_cancel(opened, job_id)
        return drive(job_id, store, pool)

    # Nothing is in the store before the request has proved good; `job.json` comes last, and makes the job exist.
    resolved = resolve(request, store, job_id, base)
    if idempotency_key and (earlier := claim(resolved, idempotency_key, store)):
        return earlier
    launching.refuse_without_pool(resolved.spec, pool)
    stage(resolved, store)
    return drive(job_id, store, pool)


def drive(job_id: str, store: str, pool: str | None) -> JobResult:
    """Take a staged job to its end, and return its result; one that has succeeded is there."""
    opened = open_store(store)
    done = history.result_of(opened, job_id) if opened.exists(keys.JobKeys(job_id).manifest) else None
    if done is not None:  # who brought it to that died before its own end
        report(done, store)
        return done
    with untagged(), mirrored(job_id, store, get_run_logger().warning):
        with persisting_when_terminated(job_id, store):
            failure = launch(job_id, store, pool or MachineSettings.from_env().pool)
        verdict = collect(job_id, store, failure)
        try:
            result = persist(job_id, verdict, store)
        except StoreError as error:
            if failure is not None and failure.code == error.failure.code:  # the attempt says where its files are kept
                raise WorkloadError(failure) from error
            raise
        report(result, store)
    with suppress(StoreError):  # all is kept by now: nobody is told, and nothing else is lost
        notices.tell_job(result, load_spec(opened, job_id).name)
    return result


def untagged() -> TagsContext:
    """Return a context in which task runs have no tags: Prefect asks its server for a slot of each before it begins."""
    return TagsContext(current_tags=set())


def ending(known: JobState) -> State[dict[str, Any]]:
    """Return the state that says how a job ended, and holds its result."""
    if isinstance(known, JobResult):
        return ended(known.status, known.to_json(), f"{known.done} {known.unit}s", known.error)
    said = f"This idempotency key stands for {known.job_id}, which is {known.status}."
    return ended("succeeded", known.to_json(), said)


# --- the caller's own simulators and callbacks ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Inline:
    """Callbacks and resources that a caller in the same process gives the flows that it runs."""

    on_progress: Callable[[JobProgress], None] = lambda progress: None
    """Takes the job's progress, several times a second."""
    on_event: Callable[[Event], None] = lambda event: None
    """Takes the events of a managed run."""
    canceled: Callable[[], bool] = lambda: False
    """Says whether the job is to stop."""
    on_viewer: Callable[[str], None] | None = None
    """Takes the address at which the simulation can be looked at; None has none shown."""
    sessions: Sessions
    """The simulators that its jobs share."""
    head_start: launching.HeadStart | None = None
    """A first attempt that has begun already."""


@contextmanager
def inline(given: Inline) -> Iterator[None]:
    """Have flows in this context use what their caller gives."""
    token = _INLINE.set(given)
    try:
        yield
    finally:
        _INLINE.reset(token)


@contextmanager
def sharing() -> Iterator[Inline]:
    """Have the jobs of a flow that runs several share simulators; yield what the caller gave, or stands in for that."""
    if (given := _INLINE.get()) is not None:
        yield given
        return
    with Sessions(MachineSettings.from_env(), Bounds()) as sessions, inline(given := Inline(sessions=sessions)):
        yield given


_INLINE: ContextVar[Inline | None] = ContextVar("inline", default=None)


# --- the stages -------------------------------------------------------------------------------------------------------


@task(name="resolve", **RETRYING_UNKNOWN)
def resolve(request: JobRequest, store: str, job_id: str, base: Path | None) -> Resolved:
    """Fix everything about the job."""
    return resolving.resolve(request, open_store(store), job_id, base)


@task(name="claim", **RETRYING_UNKNOWN)
def claim(resolved: Resolved, key: str, store: str) -> JobState | None:
    """Take the idempotency key for this job; return how the job stands that had it before, if one did and exists."""
    opened = open_store(store)
    job_id = idempotency.claim(opened, key, resolved.spec.job_id, idempotency.content_of(resolved.spec))
    if job_id == resolved.spec.job_id or not opened.exists(keys.JobKeys(job_id).job):
        return None
    return history.job_status(opened, job_id)


@task(name="stage", **RETRYING_UNKNOWN)
def stage(resolved: Resolved, store: str) -> None:
    """Put the inputs into the store."""
    staging.stage(resolved, open_store(store))


@task(name="resume", **RETRYING_UNKNOWN)
def resume(job_id: str, store: str, pool: str | None) -> None:
    """Check that the job can go on, and forget that somebody canceled it."""
    opened = open_store(store)
    launching.forget_cancel(opened, job_id)
    launching.refuse_succeeded(opened, job_id)
    if pool is None:  # with one, the control flow before this one may be alive
        crash_killed(job_id)


def launch(job_id: str, store: str, pool: str | None) -> Failure | None:
    """Make attempts until one succeeds or no other is worth it; return the failure that ended them, if any."""
    opened = open_store(store)
    spec = load_spec(opened, job_id)
    if (told := opened.get_record_or_none(keys.JobKeys(job_id).estimate, Estimate)) is not None:
        get_run_logger().info("estimate: %s", as_told(told, spec))
    launching.refuse_without_pool(spec, pool)
    state: State[Any] = _attempt.with_options(retries=spec.retries)(job_id, store, pool, return_state=True)
    error = state.result(raise_on_failure=False)
    if isinstance(error, SimyardError):
        return error.failure
    if isinstance(error, BaseException):
        raise error
    return None


@task(name="launch", retry_delay_seconds=2, retry_condition_fn=worth_another, **PLAIN)
def _attempt(job_id: str, store: str, pool: str | None) -> None:
    """Make one attempt; a failure of the machine makes another, from the last valid checkpoint."""
    opened = open_store(store)
    spec = load_spec(opened, job_id)
    logger = get_run_logger()
    with sharing() as given:
        # An attempt that began while Prefect was imported is joined; one that has succeeded is not made again.
        begun = given.head_start if given.head_start and given.head_start.is_first_of(job_id) else None
        if begun is None and launching.is_done(spec, opened):
            return
        import_plotting()
        observer = Observer(
            progress=ProgressArtifact(job_id, given.on_progress),
            lines=lambda lines: logger.info("\n".join(lines)),
            viewer=given.on_viewer,
            canceled=given.canceled,
            why_stopped=why_stopped,
        )
        try:
            if begun is not None:
                begun.join(observer)
            elif pool:
                pools.launch_in_pool(spec, opened, store, pool, observer)
            else:
                launching.launch_inline(spec, opened, given.sessions, observer)
        except WorkloadError as error:
            if error.failure.code in notices.STALLS:
                notices.tell_stall(job_id, spec.name, error.failure)
            raise


@contextmanager
def persisting_when_terminated(job_id: str, store: str) -> Iterator[None]:
    """Persist the job's outputs if this process is asked to end meanwhile and no later process will do it."""
    try:
        yield
    except TerminationSignal as error:
        failure = why_stopped(error)
        canceled = failure.category is Category.CANCELED
        if not canceled and launching.AUTO_RESUME in flow_run.tags:
            raise  # it goes on elsewhere
        opened = open_store(store)
        spec = load_spec(opened, job_id)
        # An attempt in a pool may go on without this process, unless it was told to end.
        if launching.await_outcome(spec, opened, ENDING_S if canceled else 0.0) or canceled:
            persisting.persist(spec, collecting.collect(spec, opened, failure), opened)
        raise


@task(name="collect", **RETRYING_UNKNOWN)
def collect(job_id: str, store: str, failure: Failure | None) -> Verdict:
    """Judge the job by what is in the store."""
    opened = open_store(store)
    return collecting.collect(load_spec(opened, job_id), opened, failure)


@task(name="persist", **RETRYING_UNKNOWN)
def persist(job_id: str, verdict: Verdict, store: str) -> JobResult:
    """Persist the outputs of the job; the manifest comes last."""
    opened = open_store(store)
    return persisting.persist(load_spec(opened, job_id), verdict, opened)


@task(name="report", **RETRYING_UNKNOWN)
def report(result: JobResult, store: str) -> None:
    """Publish the report in the Prefect UI."""
    reporting.report(result, open_store(store))


class ProgressArtifact:
    """Passes progress on, and shows some of it as an artifact while Prefect's server answers."""

    def __init__(self, job_id: str, on_progress: Callable[[JobProgress], None]) -> None:
        self._on_progress = on_progress
        self._shown = 0
        self.artifact: Any = None
        """Its id, where there is one."""
        with suppress(httpx.HTTPError):  # an attempt does without it
            made = create_progress_artifact(0.0, key=f"{job_id}-progress", description="Work done")
            self.artifact = cast(UUID, made)

    def __call__(self, progress: JobProgress) -> None:
        """Pass it on."""
        self._on_progress(progress)
        part = PROGRESS_EVERY * progress.done // max(progress.total, 1)
        if part > self._shown and self.artifact is not None:
            self._shown = part
            percent = 100.0 * progress.done / progress.total
            # The supervisor must not wait for a server that is slow or away.
            threading.Thread(target=_update, args=(self.artifact, percent), name="progress", daemon=True).start()


def _update(artifact: Any, percent: float) -> None:
    with suppress(httpx.HTTPError):  # the next one tells more
        update_progress_artifact(artifact, percent)
