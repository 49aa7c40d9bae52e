"""Evaluate a policy: checkpoint in, counted episodes with their uncertainty out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from simyard.flows.drive import ending, run_request
from simyard.requests import EvaluateRequest


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
        store: As for `train`.
        pool: As for `train`.
        job_id: As for `train`.
        base: As for `train`.
    """
    return ending(run_request(request, store, pool, job_id, base))
