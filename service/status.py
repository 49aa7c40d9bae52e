"""Status of jobs and managed runs, in the words of the API: results from the store, work not yet begun from Prefect."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import httpx
from prefect.exceptions import PrefectException

from simyard.core.errors import Category, Failure
from simyard.core.records import ArtifactEntry, JobResult, JobState, JobStatus
from simyard.core.run_records import LineageRecord, RunState
from simyard.core.specs import JobSpec
from simyard.core.wire import Wire
from simyard.service.prefect_api import Launches
from simyard.store import keys
from simyard.store.keys import JobKeys, RunKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.managed import record
from simyard.tasks.managed.run import load_run
from simyard.tasks.shared import history
from simyard.tasks.shared.history import load_spec

MANIFEST = "artifact_manifest.json"
ENDED = history.ENDED

logger = logging.getLogger("simyard.service")


@dataclass(frozen=True, kw_only=True)
class ManifestEntry(Wire):
    """The manifest, at the end of a job's artifacts."""

    name: str = MANIFEST
    kind: str = "manifest"
    size_bytes: int
    sha256: None = None
    """Nothing has its digest."""


@dataclass(frozen=True, kw_only=True)
class JobAnswer:
    """Status of a job, as the API shows it."""

    spec: JobSpec
    known: JobState
    """Status by the store alone."""
    status: str
    failure: Failure | None
    """Failure of the job; one of an attempt, which another makes good, is none."""
    artifacts: tuple[ArtifactEntry | ManifestEntry, ...]

    @property
    def stage(self) -> str | None:
        """Current activity; None where no attempt is at work."""
        return "done" if self.status in ENDED else self.known.stage if isinstance(self.known, JobStatus) else None

    @property
    def summary(self) -> dict[str, Any]:
        """Figures of an evaluation, an export or a rollout; empty where there are none."""
        return (self.known.summary if isinstance(self.known, JobResult) else None) or {}

    def to_json(self) -> dict[str, Any]:
        """Return the keys of the API."""
        spec, known = self.spec, self.known.to_json()
        return {
            "job_id": spec.job_id,
            "kind": spec.kind,
            "name": spec.name,
            "task": spec.task,
            "status": self.status,
            "stage": self.stage,
            "attempt_count": self.known.attempts,
            "error": _text_of(self.failure),
            "failure": self.failure and self.failure.to_json(),
            "artifacts": [entry.to_json() for entry in self.artifacts],
            "created_at": spec.created_at,
            **{key: known.get(key) for key in ("done", "total", "unit", "reward", "summary", "timings", "updated_at")},
        }


@dataclass(frozen=True, kw_only=True)
class RunAnswer:
    """Status of a managed run, as the API shows it."""

    known: RunState
    """Status by the store alone."""
    status: str
    failure: Failure | None

    def to_json(self) -> dict[str, Any]:
        """Return the keys of the API."""
        known = {key: value for key, value in self.known.to_json().items() if key != "store"}
        failure = self.failure and self.failure.to_json()
        return known | {"status": self.status, "error": _text_of(self.failure), "failure": failure}


def job_answer(store: Store, job_id: str, launches: Launches) -> JobAnswer:
    """Return the status of a job, as the API shows it.

    Raises:
        RequestError: There is no such job.
    """
    spec = load_spec(store, job_id)
    known = history.job_status(store, job_id)
    status, failure = _settle(known.status, known.error, job_id, launches)
    artifacts: tuple[ArtifactEntry | ManifestEntry, ...] = known.artifacts
    if status == "succeeded":
        artifacts += (ManifestEntry(size_bytes=store.stat(JobKeys(job_id).manifest).size_bytes),)
    failure = failure if status in ENDED else None
    return JobAnswer(spec=spec, known=known, status=status, failure=failure, artifacts=artifacts)


def run_answer(store: Store, run_id: str, launches: Launches) -> RunAnswer:
    """Return the status of a managed run, as the API shows it.

    Raises:
        RequestError: There is no such run.
    """
    known = record.run_status(store, run_id)
    status, failure = _settle(known.status, known.error, run_id, launches)
    return RunAnswer(known=known, status=status, failure=failure)


def _text_of(failure: Failure | None) -> str | None:
    """Return a failure as one text: what happened, then what to do."""
    return f"{failure.message} {failure.advice}".strip() if failure else None


def _settle(status: str, failure: Failure | None, own_id: str, launches: Launches) -> tuple[str, Failure | None]:
    """Return status and failure; of work that no process is known to do, those that follow from its flow run."""
    if status not in ("queued", "interrupted"):
        return status, failure
    waiting = "queued" if status == "queued" else "running"
    try:
        run = launches.find(own_id)
    except (httpx.HTTPError, PrefectException) as error:
        logger.warning("%s: Prefect does not answer: %r", own_id, error)
        return waiting, failure
    state = run.state if run else None
    if state is None or not state.is_final() or state.is_crashed():  # a crashed one is set going again
        return waiting, failure
    if state.is_cancelled():
        return "canceled", failure
    return "failed", failure or Failure(
        code="flow_failed",
        category=Category.INFRA,
        message=f"The flow run ended as {state.name}: {state.message}",
        advice="The flow run's log in the Prefect UI says more. Send the job again.",
    )


def artifact_key(job_id: str, name: str) -> str:
    """Return the key of a job's artifact in the store."""
    return JobKeys(job_id).manifest if name == MANIFEST else JobKeys(job_id).artifact(name)


def newest(store: Store, kind: Literal["job", "run"], limit: int) -> list[str]:
    """Return the ids of the newest jobs or managed runs, newest first."""
    folder = keys.JOBS if kind == "job" else keys.RUNS
    names = (name for name in reversed(store.list_dirs(folder)) if name.startswith(f"{kind}-"))
    # Ids sort by time, so no more is looked at than is asked for; what has no record yet is being staged.
    staged = (name for name in names if store.exists(JobKeys(name).job if kind == "job" else RunKeys(name).run))
    return list(islice(staged, limit))


def checkpoint(store: Store, run_id: str, checkpoint_id: str) -> LineageRecord:
    """Return the record of a checkpoint of a managed run.

    Raises:
        RequestError: There is no such run.
        KeyNotFound: The run has no such checkpoint.
    """
    load_run(store, run_id)
    found = store.get_record_or_none(RunKeys(run_id).checkpoint(checkpoint_id), LineageRecord)
    if found is None:
        raise KeyNotFound(f"{run_id} has no checkpoint {checkpoint_id!r}.")
    return found
