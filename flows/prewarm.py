"""Leave a warm simulator on the machines of a pool: kernels compiled, task loaded, for jobs to come."""

from __future__ import annotations

import time
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.runtime import deployment

from simyard.blocks.reference import absolute, open_store
from simyard.core.errors import Category, Failure, WorkloadError
from simyard.core.specs import Bounds
from simyard.requests.jobs import TrainRequest
from simyard.requests.settings import MachineSettings
from simyard.store import keys
from simyard.tasks.resolve import resolve
from simyard.tasks.sessions import kept as kept_sessions

POLL_S = 1.0
NODE_QUEUE = "node-"
"""Prefix of the name of a work queue that one machine's worker alone serves."""


@flow(name="prewarm", log_prints=False)
def prewarm(
    request: TrainRequest,
    store: str | None = None,
    idle_seconds: float = 3600.0,
    video: bool = False,
    here: bool = False,
) -> None:
    """Start a session for jobs like this one on every machine of the pool that has none, and warm it up.

    A machine is told apart by its worker's own work queue, `node-NAME`; a pool without such queues warms up the
    machine that takes this run. The machine of a process worker keeps the session. A container's ends with it: there
    the compiled kernels stay, in the cache that the next one mounts.

    Args:
        request: The training to be ready for; one iteration of it is run.
        store: URL of the store of those jobs, or the name of a block; the site's own store by default.
        idle_seconds: How long a session waits for a job.
        video: Whether a picture of the task is drawn too, so that the first film takes no longer than others.
        here: Warm up this machine alone.
    """
    if not here and (queues := _node_queues()):
        _warm_all(queues, request, store, idle_seconds, video)
        return
    machine = MachineSettings.from_env()
    opened = open_store(absolute(store or machine.store))
    warm_up = resolve(request, opened, keys.new_job_id(), Path.cwd())
    logger = get_run_logger()
    state = kept_sessions.keep_one(warm_up, opened, machine, Bounds(idle_s=idle_seconds), logger.info, video=video)
    logger.info(f"{state.session_id} is ready for jobs of {opened.url()}")


def _node_queues() -> list[str]:
    """Return the queues of this pool that belong to one machine each; a deployment has its pool's name."""
    if deployment.name is None:
        return []
    with get_client(sync_client=True) as client:
        queues = client.read_work_queues(work_pool_name=deployment.name)
    return sorted(queue.name for queue in queues if queue.name.startswith(NODE_QUEUE))


def _warm_all(queues: list[str], request: TrainRequest, store: str | None, idle_seconds: float, video: bool) -> None:
    parameters = {
        "request": request.model_dump(mode="json", by_alias=True, exclude_unset=True),
        "store": store, "idle_seconds": idle_seconds, "video": video, "here": True,
    }  # fmt: skip
    launched = [
        run_deployment(f"prewarm/{deployment.name}", parameters=parameters, work_queue_name=queue, timeout=0)
        for queue in queues
    ]
    failed = []
    with get_client(sync_client=True) as client:
        for queue, run in zip(queues, launched, strict=True):
            assert isinstance(run, FlowRun)
            while (state := client.read_flow_run(run.id).state) is None or not state.is_final():
                time.sleep(POLL_S)
            if not state.is_completed():
                failed.append(f"{queue}: {state.name}: {state.message}")
    if failed:
        raise WorkloadError(
            Failure(
                code="not_warm",
                category=Category.INFRA,
                message="; ".join(failed),
                advice="Look at the logs of those flow runs; a machine whose worker is gone waits for it.",
            )
        )
