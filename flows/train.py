"""Train a policy: request in, trained policy and its evidence out."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from simyard.blocks.reference import absolute
from simyard.flows import stages
from simyard.requests import TrainRequest
from simyard.site import Site
from simyard.store import keys


@flow(name="train", flow_run_name="{request.name}")
def train(
    request: TrainRequest,
    store: str | None = None,
    pool: str | None = None,
    job_id: str | None = None,
    base: Path | None = None,
) -> State[dict[str, Any]]:
    """Train a policy on Isaac Lab and keep checkpoints, metrics, curves and a verdict in the store.

    Args:
        request: What to train.
        store: URL of the store, or the name of a block (`job-store/NAME`); the site's own store by default.
        pool: Work pool that has the simulator; by default the job runs in this process.
        job_id: Id for the job; by default made from the flow run's, so that a retried run goes on with its job.
        base: Folder that relative paths of the request start from.
    """
    store = absolute(store or Site.from_env().store)
    run_id, due = UUID(flow_run.id), flow_run.scheduled_start_time
    resolved = stages.resolve(request, store, job_id or keys.job_id_of_run(run_id, due), base)
    stages.stage(resolved, store)
    return drive(resolved.spec.job_id, store, pool)


@flow(name="rerun", flow_run_name="{job_id}")
def rerun(job_id: str, store: str | None = None, pool: str | None = None) -> State[dict[str, Any]]:
    """Go on with a job that is in the store: a new attempt, from its last valid checkpoint.

    Args:
        job_id: The job.
        store: As for `train`.
        pool: As for `train`.
    """
    store = absolute(store or Site.from_env().store)
    stages.take_up(job_id, store)
    return drive(job_id, store, pool)


def drive(job_id: str, store: str, pool: str | None) -> State[dict[str, Any]]:
    """Take a staged job to its end; the state says how it ended, and holds the result."""
    with stages.keeping(job_id, store):
        failure = stages.launch(job_id, store, pool)
    verdict = stages.collect(job_id, store, failure)
    result = stages.persist(job_id, verdict, store)
    stages.report(result, store)
    error = result["error"]
    message = f"{error['message']} {error['advice']}" if error else f"{result['iteration']} iterations"
    ending = {"succeeded": Completed, "failed": Failed, "canceled": Cancelled}[result["status"]]
    return ending(message=message, data=result)
