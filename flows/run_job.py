"""The GPU side of a job: one attempt, as a flow run of a work pool."""

from __future__ import annotations

from dataclasses import replace

from prefect import flow, get_run_logger

from simyard.blocks.reference import open_store
from simyard.core.errors import RequestError
from simyard.core.specs import AttemptSpec
from simyard.requests.settings import MachineSettings
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import Observer, run_attempt
from simyard.tasks.cluster.cancellation import why_stopped
from simyard.tasks.launch import next_attempt, raise_failure
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.shared.history import load_spec


@flow(name="run-job", log_prints=False)
def run_job(job_id: str, attempt: int, store: str) -> None:
    """Run one attempt at a job that is in the store.

    Args:
        job_id: The job.
        attempt: The attempt's number; one before it may have died without a trace in the store.
        store: The store's URL, or the name of a block: `job-store/NAME`.
    """
    opened = open_store(store)
    spec = next_attempt(load_spec(opened, job_id), opened)
    if attempt < spec.number:
        raise RequestError(
            f"Attempt {attempt} of {job_id} was begun before; the next one is {spec.number}.",
            code="attempt_begun",
            advice="Attempts never share files: let the control flow launch a new one.",
        )
    run_here(replace(spec, number=attempt), opened)


def run_here(attempt: AttemptSpec, store: Store) -> None:
    """Run an attempt, or one machine's part of it, in this process; raise what it failed of."""
    logger = get_run_logger()
    observer = Observer(lines=lambda lines: logger.info("\n".join(lines)), why_stopped=why_stopped)
    with Sessions(MachineSettings.from_env()) as sessions:
        outcome = run_attempt(attempt, store, sessions, observer)
    raise_failure(outcome.failure)
