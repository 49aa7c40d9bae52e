"""The GPU side of a managed training run: one rollout worker, which keeps its simulator warm until the run is over."""

from __future__ import annotations

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from simyard.blocks.reference import open_store
from simyard.requests.settings import MachineSettings
from simyard.tasks.attempt.attempt import Observer
from simyard.tasks.cluster.cancellation import why_stopped
from simyard.tasks.managed.pool_executor import serve_worker


@flow(name="run-worker", log_prints=False)
def run_worker(run_id: str, slot: int, store: str) -> None:
    """Do the rollouts of one worker, and call the trainer where it is the first.

    Args:
        run_id: The managed training run.
        slot: Which rollout worker, counted from 0.
        store: The store's URL, or the name of a block: `job-store/NAME`.
    """
    logger = get_run_logger()
    observer = Observer(lines=lambda lines: logger.info("\n".join(lines)), why_stopped=why_stopped)
    serve_worker(run_id, slot, str(flow_run.id), open_store(store), MachineSettings.from_env(), observer)
