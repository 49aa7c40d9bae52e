"""The GPU side of a job that needs several machines: one of those besides the first."""

from __future__ import annotations

from prefect import flow

from simyard.blocks.reference import open_store
from simyard.flows.run_job import run_here
from simyard.tasks.cluster.rendezvous import join
from simyard.tasks.shared.history import load_spec


@flow(name="run-node", log_prints=False)
def run_node(job_id: str, attempt: int, node: int, store: str) -> None:
    """Do one machine's part of an attempt, where and when the first machine says.

    Args:
        job_id: The job.
        attempt: The attempt's number.
        node: Which machine this is; the first one, 0, is the flow run of the attempt itself.
        store: The store's URL, or the name of a block: `job-store/NAME`.
    """
    opened = open_store(store)
    run_here(join(opened, load_spec(opened, job_id), attempt, node), opened)
