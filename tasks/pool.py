"""An attempt as a flow run of `run-job` in a work pool: launched once, found again, given up when lost."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed
from simyard.runner.errors import Category, Failure, RequestError, WorkloadError, unknown
from simyard.runner.spec import JobSpec
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks import history
from simyard.tasks.attempt import CANCELED, Observer
from simyard.tasks.launch import raise_failure

FLOW = "run-job"
POLL_S = 1.0
SILENCE_S = 300.0
"""A running attempt writes its status every few seconds; after this long without it is taken for lost."""


def require_pool(pool: str) -> None:
    """Raise `RequestError` unless the Prefect server has this work pool."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            pools = [known.name for known in client.read_work_pools()]
            error = unknown("pool", pool, pools, code="unknown_pool")
            raise (
                error
                if pools
                else RequestError(
                    f"There is no work pool {pool!r}.",
                    code="unknown_pool",
                    advice=f"Create it: prefect work-pool create {pool} --type process",
                )
            ) from None


def launch_in_pool(spec: JobSpec, store: Store, store_ref: str, pool: str, observer: Observer) -> None:
    """Make one attempt in a work pool and wait for its end.

    Raises:
        WorkloadError: If it failed, or was lost.
    """
    number, run = _start(spec, store, store_ref, pool)
    try:
        state = _wait(run, spec, store, number, observer)
    except BaseException as error:
        if not isinstance(error, WorkloadError):
            ask_to_cancel(store, spec.job_id)  # this control flow is being stopped; its attempt must not go on alone
        raise
    outcome = history.read_or_none(store, JobKeys(spec.job_id).attempt(number).outcome)
    if outcome is None:
        raise WorkloadError(_without_outcome(run, state))
    raise_failure(outcome)


def ask_to_cancel(store: Store, job_id: str) -> None:
    """Ask a job to stop, wherever it runs: its supervisor looks for this every few seconds."""
    store.put_json(JobKeys(job_id).cancel, {"requested_at": datetime.now(UTC).isoformat(timespec="seconds")})


def _attempt_number(spec: JobSpec, store: Store) -> int:
    """Return the attempt that is under way, or else the next one."""
    past = history.attempts(store, spec.job_id)
    if not past:
        return 1
    latest = past[-1]
    silent = latest.outcome is not None or _silence(latest.status) > SILENCE_S
    return latest.number + 1 if silent else latest.number


def _start(spec: JobSpec, store: Store, store_ref: str, pool: str) -> tuple[int, FlowRun]:
    """Launch the attempt, or return its flow run when a control flow before this one launched it already."""
    _deploy(pool)
    number = _attempt_number(spec, store)
    while True:
        key = f"{spec.job_id}-{number}"
        run = run_deployment(
            f"{FLOW}/{pool}",
            parameters={"job_id": spec.job_id, "attempt": number, "store": store_ref},
            flow_run_name=key,
            idempotency_key=key,
            timeout=0,
        )
        assert isinstance(run, FlowRun)
        died = run.state is not None and run.state.is_final()
        if not died or history.read_or_none(store, JobKeys(spec.job_id).attempt(number).outcome):
            return number, run
        number += 1


def _deploy(pool: str) -> None:
    """Make sure the pool has its deployment of `run-job`; the flow's code is part of the worker's installation."""
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name(FLOW)
        client.create_deployment(
            flow_id=flow_id,
            name=pool,
            work_pool_name=pool,
            entrypoint="simyard.flows.run_job.run_job",
            description="One attempt at a job, on the machine that has the simulator.",
            enforce_parameter_schema=False,
        )


def _wait(run: FlowRun, spec: JobSpec, store: Store, number: int, observer: Observer) -> State[Any]:
    keys = JobKeys(spec.job_id).attempt(number)
    asked = False
    with get_client(sync_client=True) as client:
        while True:
            status: dict[str, Any] | None = history.read_or_none(store, keys.status)
            if status:
                observer.progress(status)
            state = client.read_flow_run(run.id).state
            if state is not None and state.is_final():
                return state
            if observer.canceled() and not asked:
                asked = True
                ask_to_cancel(store, spec.job_id)
                if state is not None and not state.is_running():
                    client.set_flow_run_state(run.id, Cancelled(), force=True)
                    raise WorkloadError(CANCELED)
            if status and _silence(status) > SILENCE_S:
                client.set_flow_run_state(run.id, Crashed(message="Its supervisor fell silent."), force=True)
                raise WorkloadError(_lost(f"The attempt has been silent for {SILENCE_S:.0f} s."))
            time.sleep(POLL_S)


def _silence(status: dict[str, Any] | None) -> float:
    """Return the seconds since an attempt's last status."""
    if not status or "updated_at" not in status:
        return 0.0
    return (datetime.now(UTC) - datetime.fromisoformat(status["updated_at"])).total_seconds()


def _without_outcome(run: FlowRun, state: State[Any]) -> Failure:
    if state.is_crashed():
        return _lost(f"Flow run {run.name!r} crashed: {state.message}")
    if state.is_cancelled():
        return CANCELED
    return Failure(
        code="attempt_refused",
        category=Category.USER,
        message=f"Flow run {run.name!r} could not begin: {state.message}",
        advice="Its log says more; the worker must reach the same store.",
    )


def _lost(message: str) -> Failure:
    return Failure(
        code="attempt_lost",
        category=Category.INFRA,
        message=message,
        advice="Its machine or its worker died; the next attempt goes on from the last checkpoint in the store.",
    )
