"""The path of a job, the same for every kind: resolve, stage, launch, collect, persist, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from simyard.blocks.reference import absolute
from simyard.flows import stages
from simyard.requests.jobs import JobRequest
from simyard.requests.settings import Site
from simyard.store import keys
from simyard.tasks.launch import refuse_without_pool


def run_request(
    request: JobRequest,
    store: str | None,
    pool: str | None,
    job_id: str | None,
    base: Path | None,
    idempotency_key: str | None = None,
) -> dict[str, Any]:
    """Take a request to its end, and return the job's result.

    Args:
        request: What to do.
        store: URL of the store, or the name of a block (`job-store/NAME`); the site's own store by default.
        pool: Work pool that has the simulator; by default the site's, or this process where it has none.
        job_id: Id for the job; by default made from the flow run's, so that a retried run goes on with its job.
        base: Folder that relative paths of the request start from.
        idempotency_key: A key that stands for one job: when it is used again, that job's standing is returned.
    """
    store = absolute(store or Site.from_env().store)
    run_id, due = UUID(flow_run.id), flow_run.scheduled_start_time
    own_id = job_id or keys.job_id_of_run(run_id, due)
    resolved = stages.resolve(request, store, own_id, base, again=flow_run.run_count > 1)
    if idempotency_key and (earlier := stages.claim(resolved, idempotency_key, store)):
        return earlier
    refuse_without_pool(resolved.spec, pool or Site.from_env().pool)
    stages.stage(resolved, store)
    return drive(resolved.spec.job_id, store, pool)


def drive(job_id: str, store: str, pool: str | None) -> dict[str, Any]:
    """Take a staged job to its end, and return its result."""
    pool = pool or Site.from_env().pool
    with stages.keeping(job_id, store):
        failure = stages.launch(job_id, store, pool)
    verdict = stages.collect(job_id, store, failure)
    result = stages.persist(job_id, verdict, store)
    stages.report(result, store)
    return result


_STATES = {"succeeded": Completed, "failed": Failed, "canceled": Cancelled}


def ending(result: dict[str, Any]) -> State[dict[str, Any]]:
    """Return the state that says how a job ended, and holds its result."""
    error = result["error"]
    message = f"{error['message']} {error['advice']}" if error else f"{result['done']} {result['unit']}s"
    if result["status"] not in _STATES:
        message = f"This idempotency key stands for {result['job_id']}, which is {result['status']}."
    state = _STATES.get(result["status"], Completed)
    return state(message=message, data=result)
