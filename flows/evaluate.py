"""Evaluate a policy: checkpoint in, counted episodes with their uncertainty out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from simyard.flows.stages import ending, run_request
from simyard.requests.jobs import EvaluateRequest


@flow(name="evaluate", flow_run_name="{request.name}")
def evaluate(
    request: EvaluateRequest,
    store: str | None = None,
    pool: str | None = None,
    job_id: str | None = None,
    base: Path | None = None,
) -> State[dict[str, Any]]:
    """Measure a policy, or several checkpoints of one job, over a fixed number of completed episodes.

    Args:
        request: What to measure.
        store: URL of the store, or the name of a block (`job-store/NAME`); the site's own store by default.
        pool: Work pool that has the simulator; by default the site's, or this process where it has none.
        job_id: Id of the job, by default made from the flow run's. One that is in the store is done as frozen there.
        base: Folder that relative paths of the request start from.
    """
    return ending(run_request(request, store, pool, job_id, base))
