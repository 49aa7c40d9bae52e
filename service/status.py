"""Status of jobs and managed runs, in the words of the API: results from the store, work not yet begun from Prefect."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import islice
from typing import Any

import httpx
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException

from simyard.core.errors import Category, Failure
from simyard.core.run_records import LineageRecord
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
_UNSETTLED = ("queued", "interrupted")
"""Statuses in the store of work that no process is known to do."""

logger = logging.getLogger("simyard.service")


def job_standing(store: Store, job_id: str, launches: Launches) -> dict[str, Any]:
    """Return the status of a job, as the API shows it.

    Raises:
        RequestError: There is no such job.
    """
    spec = load_spec(store, job_id)
    standing = history.job_status(store, job_id).to_json()
    status, failure = standing["status"], standing["error"]
    if status in _UNSETTLED:
        status, failure = _settle(status, failure, job_id, launches)
    failure = failure if status in ENDED else None  # that of an attempt, which another makes good
    return {
        "job_id": job_id,
        "kind": spec.kind,
        "name": spec.name,
        "task": spec.task,
        "status": status,
        "stage": "done" if status in ENDED else standing.get("stage"),
        "done": standing["done"],
        "total": standing["total"],
        "unit": standing["unit"],
        "reward": standing["reward"],
        "attempt_count": standing["attempts"],
        "error": text_of(failure),
        "failure": failure,
        "artifacts": [*standing["artifacts"], *_manifest(store, job_id, status)],
        "summary": standing.get("summary"),
        "timings": standing.get("timings"),
        "created_at": spec.created_at,
        "updated_at": standing.get("updated_at"),
    }


def run_standing(store: Store, run_id: str, launches: Launches) -> dict[str, Any]:
    """Return the status of a managed run, as the API shows it.

    Raises:
        RequestError: There is no such run.
    """
    standing = record.run_status(store, run_id).to_json()
    status, failure = standing["status"], standing["error"]
    if status in _UNSETTLED:
        status, failure = _settle(status, failure, run_id, launches)
    hidden = ("store", "error", "status")
    return {name: value for name, value in standing.items() if name not in hidden} | {
        "run_id": run_id,
        "status": status,
        "stage": standing.get("stage"),
        "error": text_of(failure),
        "failure": failure,
    }


def text_of(failure: dict[str, Any] | None) -> str | None:
    """Return a failure as one text: what happened, then what to do."""
    return f"{failure['message']} {failure.get('advice') or ''}".strip() if failure else None


def _settle(
    status: str, failure: dict[str, Any] | None, own_id: str, launches: Launches
) -> tuple[str, dict[str, Any] | None]:
    """Return status and failure, by Prefect's flow run, of work that no process is known to do."""
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
    return "failed", failure or _without_record(state)


def _without_record(state: State[Any]) -> dict[str, Any]:
    return Failure(
        code="flow_failed",
        category=Category.INFRA,
        message=f"The flow run ended as {state.name}: {state.message}",
        advice="The flow run's log in the Prefect UI says more. Send the job again.",
    ).to_json()


def _manifest(store: Store, job_id: str, status: str) -> list[dict[str, Any]]:
    if status != "succeeded":
        return []
    size = store.stat(JobKeys(job_id).manifest).size_bytes
    return [{"name": MANIFEST, "kind": "manifest", "size_bytes": size, "sha256": None}]


def artifact_key(job_id: str, name: str) -> str:
    """Return the key of a job's artifact in the store."""
    return JobKeys(job_id).manifest if name == MANIFEST else JobKeys(job_id).artifact(name)


def find_artifact(store: Store, job_id: str, name: str) -> tuple[str, str | None]:
    """Return the key of a job's artifact in the store, and its digest where one is kept.

    Raises:
        RequestError: There is no such job.
        KeyNotFound: The job has no such artifact.
    """
    load_spec(store, job_id)
    if name == MANIFEST:
        return artifact_key(job_id, name), None
    result = store.get_json_or_none(JobKeys(job_id).result) or {"artifacts": []}
    entry = next((entry for entry in result["artifacts"] if entry["name"] == name), None)
    if entry is None:
        raise KeyNotFound(f"{job_id} has no artifact {name!r}.")
    return artifact_key(job_id, name), entry["sha256"]


def newest_jobs(store: Store, limit: int) -> list[str]:
    """Return the ids of the newest jobs, newest first."""
    return _newest(store, keys.JOBS, "job-", lambda job_id: JobKeys(job_id).job, limit)


def newest_runs(store: Store, limit: int) -> list[str]:
    """Return the ids of the newest managed runs, newest first."""
    return _newest(store, keys.RUNS, "run-", lambda run_id: RunKeys(run_id).run, limit)


def _newest(store: Store, folder: str, kind: str, record: Callable[[str], str], limit: int) -> list[str]:
    # Ids sort by time, so no more is looked at than is asked for; what has no record yet is being staged.
    names = (name for name in reversed(store.list_dirs(folder)) if name.startswith(kind))
    return list(islice((name for name in names if store.exists(record(name))), limit))


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
