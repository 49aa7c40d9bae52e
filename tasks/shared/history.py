"""History of a job in the store: its attempts, their checkpoints, its status, and the verdict on it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from simyard.core.errors import Failure, RequestError
from simyard.core.records import (
    AttemptStatus,
    CheckpointRecord,
    Ended,
    Estimate,
    JobResult,
    JobState,
    JobStatus,
    Outcome,
    by_iteration,
)
from simyard.core.specs import Facts, JobSpec, ResumePoint
from simyard.store.keys import AttemptKeys, JobKeys, check_job_id
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.shared.heartbeat import PATIENCE

ENDED = ("succeeded", "failed", "canceled")
"""The statuses that a job keeps, unless it is retried."""


@dataclass(frozen=True)
class PastAttempt:
    """One attempt's record in the store."""

    number: int
    keys: AttemptKeys
    status: AttemptStatus | None
    """Its last heartbeat."""
    outcome: Outcome | None
    """None while it runs, and where it ended without reporting one."""
    checkpoints: list[CheckpointRecord]
    """Its valid checkpoints, in the order of `by_iteration`."""

    @property
    def latest(self) -> Outcome | AttemptStatus | None:
        """The newest record of what was done; None where there is none yet."""
        return self.outcome or self.status

    @property
    def facts(self) -> Facts | None:
        """The simulator's facts about the job; None where it has reported none."""
        reported = (record.facts for record in (self.outcome, self.status) if record is not None)
        return next(filter(None, reported), None)

    @property
    def failure(self) -> Failure | None:
        """Failure of the attempt; None while it runs, and for a success."""
        return self.outcome.failure if self.outcome else None

    @property
    def timings(self) -> dict[str, float | None]:
        """Its timings in seconds; empty where it has no outcome."""
        return self.outcome.timings if self.outcome else {}


def load_spec(store: Store, job_id: str) -> JobSpec:
    """Read a job's frozen spec.

    Raises:
        RequestError: If the store has no such job.
    """
    try:
        return store.get_record(JobKeys(check_job_id(job_id)).job, JobSpec)
    except KeyNotFound as error:
        raise unknown_job(store, job_id) from error


def unknown_job(store: Store, job_id: str) -> RequestError:
    """Return the error of a job that a store has not."""
    return RequestError(
        f"There is no job {job_id!r} in {store.url()}.", code="unknown_job", advice="See `simyard jobs list`."
    )


def attempts(store: Store, job_id: str, there: Collection[str] | None = None) -> list[PastAttempt]:
    """Return a job's attempts in order.

    Args:
        store: The job's store.
        job_id: The job.
        there: The keys of all that the job has, where they were listed: then nothing is read that is not among them.
    """
    job = JobKeys(job_id)
    if there is None:
        numbers = sorted(int(name) for name in store.list_dirs(job.attempts) if name.isdigit())
    else:
        numbers = attempt_numbers(job_id, there)
    return [_attempt(store, number, job.attempt(number), there) for number in numbers]


def attempt_numbers(job_id: str, there: Iterable[str]) -> list[int]:
    """Return the numbers of a job's attempts by the keys of all that it has, in order."""
    folder = f"{JobKeys(job_id).attempts}/"
    names = {key.removeprefix(folder).partition("/")[0] for key in there if key.startswith(folder)}
    return sorted(int(name) for name in names if name.isdigit())


def resume_points(store: Store, job_id: str, *, before: int | None = None) -> list[ResumePoint]:
    """Return the valid checkpoints of all attempts, fewest iterations first.

    Args:
        store: The job's store.
        job_id: The job.
        before: Leave out those with this many iterations or more.
    """
    left = by_iteration(record for attempt in attempts(store, job_id) for record in attempt.checkpoints)
    named = {record.name: record.file for record in left}
    return [
        ResumePoint(
            checkpoint=record.file,
            iteration=record.iteration,
            trusted=True,
            state=record.state,
            stages=record.stages,
            others=tuple(named[name] for name in _wanted(record) if name in named) or None,
        )
        for record in left
        if record.iteration is not None and (before is None or record.iteration < before)
    ]


def _wanted(record: CheckpointRecord) -> list[str]:
    """Return the earlier checkpoints that a stage may begin with, where a job goes on from this one."""
    last = record.stages.runs[-1] if record.stages and record.stages.runs else None
    names = [last.start, last.best.name if last.best else None] if last else []
    if record.stages:  # teachers and students are compared in the end
        names += [name for run in record.stages.runs if run.kind == "distill" for name in (run.start, run.last)]
    return [name for name in dict.fromkeys(names) if name is not None and name != record.name]


def chain(past: list[PastAttempt]) -> Iterator[tuple[PastAttempt, int | None]]:
    """Yield each attempt whose work was kept, with the iteration at which a later one took over (None: the last)."""
    takeover: int | None = None
    kept = []
    for attempt in reversed(past):
        if attempt.status is None or (takeover is not None and attempt.status.start_iteration >= takeover):
            continue
        kept.append((attempt, takeover))
        takeover = attempt.status.start_iteration
    yield from reversed(kept)


def result_of(store: Store, job_id: str) -> JobResult | None:
    """Return the last result of a job, or None where it has none; a retry may be under way since."""
    return store.get_record_or_none(JobKeys(job_id).result, JobResult)


def job_status(store: Store, job_id: str) -> JobState:
    """Return the status of a job, from the store alone: its result, or one made of its attempts.

    A job has succeeded when its manifest is there; a result that says so without one was interrupted.
    """
    past = attempts(store, job_id)
    return state_of(store, job_id, result_of(store, job_id), past, lambda: store.exists(JobKeys(job_id).manifest))


def state_of(
    store: Store, job_id: str, result: JobResult | None, past: list[PastAttempt], has_manifest: Callable[[], bool]
) -> JobState:
    """Return the status of a job of which all is read; nothing of it is read here but whether it has a manifest."""
    job = JobKeys(job_id)
    if result and result.attempts >= len(past) and (result.status != "succeeded" or has_manifest()):
        return result
    latest = past[-1].latest if past else None
    running = latest if isinstance(latest, AttemptStatus) else None
    return JobStatus(
        job_id=job_id,
        status=_status(past),
        store=store.url(job.prefix),
        attempts=len(past),
        stage=running.stage if running else None,
        done=latest.done if latest else None,
        total=latest.total if latest else None,
        unit=latest.unit if latest else None,
        reward=latest.reward if latest else None,
        updated_at=running.updated_at if running else None,
        error=past[-1].failure if past else None,
        estimate=(running and running.estimate) or store.get_record_or_none(job.estimate, Estimate),
    )


def is_abandoned(store: Store, job_id: str) -> bool:
    """Return whether the process of the last attempt is gone; of a job without a work pool it would judge it, too."""
    past = attempts(store, job_id)
    beat = past[-1].status if past else None
    return beat is not None and beat.is_gone(PATIENCE.supervisor.silence_s)


def _status(past: list[PastAttempt]) -> Literal["queued", "running", "interrupted", "canceled"]:
    """Return the status of a job that nobody has judged yet."""
    if not past:
        return "queued"
    if outcome := past[-1].outcome:
        return "canceled" if outcome.status == "canceled" else "running"
    status = past[-1].status
    return "interrupted" if status and status.is_gone(PATIENCE.supervisor.silence_s) else "running"


def _attempt(store: Store, number: int, keys: AttemptKeys, there: Collection[str] | None) -> PastAttempt:
    def has(key: str) -> bool:
        return there is None or key in there

    return PastAttempt(
        number=number,
        keys=keys,
        status=store.get_record_or_none(keys.status, AttemptStatus) if has(keys.status) else None,
        outcome=store.get_record_or_none(keys.outcome, Outcome) if has(keys.outcome) else None,
        checkpoints=store.get_records(keys.checkpoints, CheckpointRecord) if has(keys.checkpoints) else [],
    )


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file of the job."""

    name: str
    """Path below `artifacts/`."""
    kind: str
    key: str
    """Present key in the store."""
    size_bytes: int
    sha256: str | None = None
    """Known for what was hashed and opened before it left the machine; the others are hashed when kept."""
    iteration: int | None = None
    """Of a checkpoint, as in its record."""
    parent: str | None = None
    """Of a checkpoint, as in its record."""
    stage: str | None = None
    """Of a checkpoint, the stage that it was saved in."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Result of the job."""

    status: Ended
    failure: Failure | None
    artifacts: tuple[Artifact, ...]
    attempts: tuple[PastAttempt, ...]
    chain: tuple[tuple[PastAttempt, int | None], ...]
    """The attempts whose work was kept, each with the iteration at which the next took over."""

    @property
    def outcome(self) -> Outcome | None:
        """The last attempt's own account; None when it left none."""
        return self.attempts[-1].outcome if self.attempts else None
