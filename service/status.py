"""Status of jobs, managed runs and sweeps, in the words of the API: by the store, and by Prefect where none began."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import httpx
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectException

from simyard.core.errors import Category, Failure
from simyard.core.records import ArtifactEntry, JobResult, JobState, JobStatus
from simyard.core.run_records import LineageRecord, RunState
from simyard.core.specs import JobSpec
from simyard.core.sweep_records import SweepProgress, SweepResult, SweepState
from simyard.core.wire import Wire
from simyard.service.prefect_api import Launches
from simyard.store import keys
from simyard.store.keys import JobKeys, RunKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.managed import record
from simyard.tasks.managed.run import load_run
from simyard.tasks.shared import history, listing
from simyard.tasks.shared.history import load_spec
from simyard.tasks.shared.listing import Page, shown
from simyard.tasks.sweeps.record import sweep_status

MANIFEST = "artifact_manifest.json"
ENDED = history.ENDED
_UNSETTLED = ("queued", "interrupted")
"""The statuses of work that no process is known to do."""

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

    NOUN: ClassVar[str] = "job"
    """First word of the events that tell of its end."""

    id: str
    """The job's."""
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
            **priced(known),
        }


@dataclass(frozen=True, kw_only=True)
class RunAnswer:
    """Status of a managed run, as the API shows it."""

    NOUN: ClassVar[str] = "training_run"

    id: str
    """The run's."""
    known: RunState
    """Status by the store alone."""
    status: str
    failure: Failure | None

    def to_json(self) -> dict[str, Any]:
        """Return the keys of the API."""
        known = {key: value for key, value in self.known.to_json().items() if key != "store"}
        failure = self.failure and self.failure.to_json()
        return known | {"status": self.status, "error": _text_of(self.failure), "failure": failure} | priced(known)


def priced(known: dict[str, Any]) -> dict[str, Any]:
    """Return the keys about time and price, of jobs, sweeps and managed runs alike; a credit is one USD."""
    estimate = known.get("estimate")
    seconds, usd = (estimate["seconds"], estimate["usd"]) if estimate else (None, None)
    told = {"estimated_seconds": seconds, "estimated_usd": usd, "estimated_credits": usd, "estimate": estimate}
    return {"cost": known.get("cost"), **told}


@dataclass(frozen=True, kw_only=True)
class SweepAnswer:
    """Status of a sweep, as the API shows it."""

    NOUN: ClassVar[str] = "sweep"

    id: str
    """The sweep's."""
    known: SweepState
    """Status by the store alone."""
    status: str
    failure: Failure | None

    def to_json(self) -> dict[str, Any]:
        """Return the keys of the API: the same whether it runs or has ended, null where it has not come to that."""
        known = dict.fromkeys(_OF_SWEEP) | self.known.to_json()
        known = {key: value for key, value in known.items() if key not in ("store", "error")}
        failure, verdict = self.failure and self.failure.to_json(), self.known.verdict
        first = next((row for row in verdict.table if row.value), None) if verdict else None
        return known | {
            "status": self.status,
            "best": first and first.value and first.value.mean,
            "best_setting": first and first.number,
            "error": _text_of(self.failure),
            "failure": failure,
            **priced(known),
        }


_OF_SWEEP = tuple(
    dict.fromkeys(field.name for kind in (SweepProgress, SweepResult) for field in dataclasses.fields(kind))
)
Answer = JobAnswer | RunAnswer | SweepAnswer
AnyAnswer = TypeVar("AnyAnswer", JobAnswer, RunAnswer, SweepAnswer)


def job_answer(store: Store, job_id: str, launches: Launches) -> JobAnswer:
    """Return the status of a job, as the API shows it.

    Raises:
        RequestError: There is no such job.
    """
    return settled([stored_job(store, job_id)], lambda ids: {job_id: launches.find(job_id)})[0]


def job_answers(store: Store, launches: Launches, limit: int, after: str | None) -> Page[JobAnswer]:
    """Return a page of a project's jobs, the newest first: few reads each, and one question to Prefect for many.

    Args:
        store: The project's.
        launches: Prefect.
        limit: The most that the page may have.
        after: What the page before said that the next one begins at.
    """
    return _page(store, keys.JOBS, "job-", stored_job, launches, limit, after)


def run_answer(store: Store, run_id: str, launches: Launches) -> RunAnswer:
    """Return the status of a managed run, as the API shows it.

    Raises:
        RequestError: There is no such run.
    """
    return settled([_run(store, run_id)], lambda ids: {run_id: launches.find(run_id)})[0]


def run_answers(store: Store, launches: Launches, limit: int, after: str | None) -> Page[RunAnswer]:
    """Return a page of a project's managed runs, as `job_answers` does of its jobs."""
    return _page(store, keys.RUNS, "run-", _run, launches, limit, after)


def sweep_answer(store: Store, sweep_id: str, launches: Launches) -> SweepAnswer:
    """Return the status of a sweep, as the API shows it.

    Raises:
        RequestError: There is no such sweep.
    """
    return settled([_sweep(store, sweep_id)], lambda ids: {sweep_id: launches.find(sweep_id)})[0]


def sweep_answers(store: Store, launches: Launches, limit: int, after: str | None) -> Page[SweepAnswer]:
    """Return a page of a project's sweeps, as `job_answers` does of its jobs."""
    return _page(store, keys.SWEEPS, "sweep-", _sweep, launches, limit, after)


def answer_of(store: Store, own_id: str, launches: Launches) -> Answer:
    """Return the status of a job, a managed run or a sweep, by its id.

    Raises:
        RequestError: There is none.
    """
    if own_id.startswith("sweep-"):
        return sweep_answer(store, own_id, launches)
    return (job_answer if own_id.startswith("job-") else run_answer)(store, own_id, launches)


def _page(
    store: Store, folder: str, prefix: str, read: Callable[[Store, str], AnyAnswer], launches: Launches, limit: int,
    after: str | None,
) -> Page[AnyAnswer]:  # fmt: skip
    """Return a page of the answers about what lies in a folder of the store, the newest first."""
    ids = [name for name in store.list_dirs(folder) if name.startswith(prefix)]
    page = listing.newest(ids, lambda own_id: shown(read(store, own_id)), limit, after)
    return replace(page, found=settled(page.found, launches.find_all))


def stored_job(store: Store, job_id: str) -> JobAnswer:
    """Return the status of a job by the store alone."""
    spec = load_spec(store, job_id)
    known = history.job_status(store, job_id)
    artifacts: tuple[ArtifactEntry | ManifestEntry, ...] = known.artifacts
    if known.status == "succeeded":
        artifacts += (ManifestEntry(size_bytes=store.stat(JobKeys(job_id).manifest).size_bytes),)
    return JobAnswer(id=job_id, spec=spec, known=known, status=known.status, failure=known.error, artifacts=artifacts)


def _run(store: Store, run_id: str) -> RunAnswer:
    """Return the status of a managed run by the store alone."""
    known = record.run_status(store, run_id)
    return RunAnswer(id=run_id, known=known, status=known.status, failure=known.error)


def _sweep(store: Store, sweep_id: str) -> SweepAnswer:
    """Return the status of a sweep by the store alone."""
    known = sweep_status(store, sweep_id)
    failure = known.error if isinstance(known, SweepResult) else None
    return SweepAnswer(id=sweep_id, known=known, status=known.status, failure=failure)


def _text_of(failure: Failure | None) -> str | None:
    """Return a failure as one text: what happened, then what to do."""
    return f"{failure.message} {failure.advice}".strip() if failure else None


def settled(answers: list[AnyAnswer], find: Callable[[list[str]], Mapping[str, FlowRun | None]]) -> list[AnyAnswer]:
    """Return answers with the status that follows from the flow run where no process is known to do the work."""
    unsettled = [answer.id for answer in answers if answer.status in _UNSETTLED]
    runs: Mapping[str, FlowRun | None] = {}
    try:
        runs = find(unsettled) if unsettled else {}
    except (httpx.HTTPError, PrefectException) as error:
        logger.warning("%s: Prefect does not answer: %r", ", ".join(unsettled[:5]), error)
    settled = []
    for answer in answers:
        status, failure = answer.status, answer.failure
        if status in _UNSETTLED:
            status, failure = _by_flow_run(status, failure, runs.get(answer.id))
        if isinstance(answer, JobAnswer) and status not in ENDED:  # an attempt's failure is made good by another
            failure = None
        settled.append(replace(answer, status=status, failure=failure))
    return settled


def _by_flow_run(status: str, failure: Failure | None, run: FlowRun | None) -> tuple[str, Failure | None]:
    """Return status and failure of work that no process is known to do."""
    state = run.state if run else None
    if state is None or not state.is_final() or state.is_crashed():  # a crashed one is set going again
        return "queued" if status == "queued" else "running", failure
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
