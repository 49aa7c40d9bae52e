"""Export a policy: checkpoint in, ONNX and TorchScript out, with the proof that they are the same policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from simyard.flows.stages import ending, run_request
from simyard.requests.jobs import ExportConfig, ExportRequest, FromJob, TrainRequest
from simyard.store import keys


@flow(name="export_policy", flow_run_name="{request.name}")
def export_policy(
    request: ExportRequest,
    store: str | None = None,
    pool: str | None = None,
    job_id: str | None = None,
    base: Path | None = None,
) -> State[dict[str, Any]]:
    """Export a trained policy for a robot and check it: parity, contract and pre-deployment checklist.

    Args:
        request: What to export.
        store: URL of the store, or the name of a block (`job-store/NAME`); the site's own store by default.
        pool: Work pool that has the simulator; by default the site's, or this process where it has none.
        job_id: Id of the job, by default made from the flow run's. One that is in the store is done as frozen there.
        base: Folder that relative paths of the request start from.
    """
    return ending(run_request(request, store, pool, job_id, base))


def export_trained(training: TrainRequest, job_id: str, store: str, pool: str | None) -> str | None:
    """Export the policy of a training that has just ended, as a job of its own; its id follows from the training's.

    Returns:
        The reason there is no export; None if there is one.
    """
    request = ExportRequest(
        name=f"export of {training.name}"[:200],
        simulator=training.simulator,
        export_config=ExportConfig(from_job=FromJob(job_id=job_id)),
    )
    state = export_policy(request, store, pool, keys.follow_up_job_id(job_id, "export"), return_state=True)
    return None if state.is_completed() else f"{state.name}: {state.message}"
