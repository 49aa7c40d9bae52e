"""Run a rollout: robot, scene and control in, the arrays of every environment out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from simyard.flows.stages import ending, run_request
from simyard.requests.rollout import RolloutRequest


@flow(name="rollout", flow_run_name="{request.name}")
def rollout(
    request: RolloutRequest,
    store: str | None = None,
    pool: str | None = None,
    job_id: str | None = None,
    base: Path | None = None,
    idempotency_key: str | None = None,
) -> State[dict[str, Any]]:
    """Simulate, record every environment, and keep the arrays.

    Args:
        request: What to simulate.
        store: URL of the store, or the name of a block (`job-store/NAME`); the site's own store by default.
        pool: Work pool that has the simulator; by default the site's, or this process where it has none.
        job_id: Id of the job, by default made from the flow run's. One that is in the store is done as frozen there.
        base: Folder that relative paths of the request start from.
        idempotency_key: The same key with the same request is the same job; with another request it is an error.
    """
    return ending(run_request(request, store, pool, job_id, base, idempotency_key))
