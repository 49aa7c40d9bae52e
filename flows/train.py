"""Train a policy: request in, trained policy and its evidence out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from simyard.blocks.reference import absolute, open_store
from simyard.core.records import JobState
from simyard.flows import stages
from simyard.flows.endings import ended
from simyard.flows.export_policy import export_trained
from simyard.flows.stages import drive, ending, run_request
from simyard.requests.jobs import TrainRequest
from simyard.requests.settings import MachineSettings
from simyard.tasks.shared.history import load_spec


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
        pool: Work pool that has the simulator; by default the site's, or this process where it has none.
        job_id: Id of the job, by default made from the flow run's. One that is in the store is done as frozen there.
        base: Folder that relative paths of the request start from.
    """
    store = absolute(store or MachineSettings.from_env().store)
    with stages.sharing():
        return _with_export(run_request(request, store, pool, job_id, base), store, pool)


@flow(name="resume-job", flow_run_name="{job_id}")
def resume_job(job_id: str, store: str | None = None, pool: str | None = None) -> State[dict[str, Any]]:
    """Go on with a job that is in the store: a new attempt, a training's from its last valid checkpoint.

    Args:
        job_id: Which job: `job-…`, as `simyard jobs list` shows it.
        store: URL of the store, or the name of a block (`job-store/NAME`); the site's own store by default.
        pool: Work pool that has the simulator; by default the site's, or this process where it has none.
    """
    store = absolute(store or MachineSettings.from_env().store)
    stages.resume(job_id, store, pool or MachineSettings.from_env().pool)
    with stages.sharing():
        return _with_export(drive(job_id, store, pool), store, pool)


def _with_export(state: JobState, store: str, pool: str | None) -> State[dict[str, Any]]:
    """Export the policy of a training if its frozen request asks for that; return the final state of both."""
    spec = load_spec(open_store(store), state.job_id)
    if state.status == "succeeded" and spec.kind == "train" and spec.request:
        training = TrainRequest.model_validate(spec.request)
        if training.training_config.export_policy:
            problem = export_trained(training, spec.job_id, store, pool)
            if problem is not None:
                return ended("failed", state.to_json(), f"The policy was trained; its export ended as {problem}")
    return ending(state)
