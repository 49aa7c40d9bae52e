"""What the store says of a job: its attempts, their checkpoints, how it stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from simyard.core.errors import RequestError
from simyard.core.specs import InputFile, JobSpec, ResumePoint
from simyard.store.keys import AttemptKeys, JobKeys, check_job_id
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.shared.heartbeat import PATIENCE, is_gone

ENDED = ("succeeded", "failed", "canceled")
"""The statuses that a job keeps, unless it is retried."""


@dataclass(frozen=True)
class PastAttempt:
    """One attempt's record in the store."""

    number: int
    keys: AttemptKeys
    status: dict[str, Any] | None
    """Its last heartbeat."""
    outcome: dict[str, Any] | None
    """None while it runs, or when it died without a word."""
    checkpoints: list[dict[str, Any]]
    """Its valid checkpoints, oldest first."""


def load_spec(store: Store, job_id: str) -> JobSpec:
    """Read a job's frozen spec.

    Raises:
        RequestError: If the store has no such job.
    """
    try:
        return JobSpec.from_json(store.get_json(JobKeys(check_job_id(job_id)).job))
    except KeyNotFound as error:
        raise RequestError(
            f"There is no job {job_id!r} in {store.url()}.", code="unknown_job", advice="See `simyard jobs list`."
        ) from error


def attempts(store: Store, job_id: str) -> list[PastAttempt]:
    """Return a job's attempts in order."""
    job = JobKeys(job_id)
    numbers = sorted(int(name) for name in store.list_dirs(job.attempts) if name.isdigit())
    return [_attempt(store, number, job.attempt(number)) for number in numbers]


def resume_points(store: Store, job_id: str, *, before: int | None = None) -> list[ResumePoint]:
    """Return the valid checkpoints of all attempts, fewest iterations first.

    Args:
        store: The job's store.
        job_id: The job.
        before: Leave out those with this many iterations or more.
    """
    return sorted(
        (
            ResumePoint(
                checkpoint=InputFile(
                    name=record["name"], key=record["key"], sha256=record["sha256"], size_bytes=record["size_bytes"]
                ),
                iteration=record["iteration"],
                trusted=True,
            )
            for attempt in attempts(store, job_id)
            for record in attempt.checkpoints
            if record["iteration"] is not None and (before is None or record["iteration"] < before)
        ),
        key=lambda point: point.iteration,
    )


def chain(past: list[PastAttempt]) -> Iterator[tuple[PastAttempt, int | None]]:
    """Yield each attempt whose work was kept, with the iteration at which a later one took over (None: the last)."""
    takeover: int | None = None
    kept = []
    for attempt in reversed(past):
        start = (attempt.status or {}).get("start_iteration")
        if start is None or (takeover is not None and start >= takeover):
            continue
        kept.append((attempt, takeover))
        takeover = start
    yield from reversed(kept)


def job_status(store: Store, job_id: str) -> dict[str, Any]:
    """Return how a job stands, from the store alone: `queued`, `running`, `interrupted`, or how it ended.

    A job has succeeded when its manifest is there; a result that says so without one was interrupted.
    """
    job = JobKeys(job_id)
    result = read_or_none(store, job.result)
    past = attempts(store, job_id)
    if result and result["attempts"] >= len(past) and (result["status"] != "succeeded" or store.exists(job.manifest)):
        return dict(result)
    latest: dict[str, Any] = (past[-1].outcome or past[-1].status or {}) if past else {}
    return {
        "job_id": job_id,
        "status": _standing(past),
        "store": store.url(job.prefix),
        "attempts": len(past),
        "stage": latest.get("stage"),
        "done": latest.get("done"),
        "total": latest.get("total"),
        "unit": latest.get("unit"),
        "reward": latest.get("reward"),
        "updated_at": latest.get("updated_at"),
        "error": latest.get("failure"),
        "artifacts": [],
    }


def _standing(past: list[PastAttempt]) -> str:
    """Return the status of a job that nobody has judged yet."""
    if not past:
        return "queued"
    if past[-1].outcome:
        return "canceled" if past[-1].outcome["status"] == "canceled" else "running"
    return "interrupted" if is_gone(past[-1].status or {}, PATIENCE.supervisor.silence_s) else "running"


def read_or_none(store: Store, key: str) -> Any:
    """Return a JSON object of the store, or None where there is none yet."""
    try:
        return store.get_json(key)
    except KeyNotFound:
        return None


def _attempt(store: Store, number: int, keys: AttemptKeys) -> PastAttempt:
    return PastAttempt(
        number=number,
        keys=keys,
        status=read_or_none(store, keys.status),
        outcome=read_or_none(store, keys.outcome),
        checkpoints=read_or_none(store, keys.checkpoints) or [],
    )
