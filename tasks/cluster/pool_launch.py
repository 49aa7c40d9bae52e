"""An attempt as a flow run of `run-job` in a work pool: launched once, found again, given up when lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, TerminationSignal

from simyard.core.errors import Category, Failure, RequestError, WorkloadError, unknown
from simyard.core.records import AttemptStatus, Outcome
from simyard.core.specs import JobSpec
from simyard.deployments import QUEUES
from simyard.deployments.apply import ensure_pool_flow
from simyard.runner.progress import JobProgress
from simyard.store.keys import AttemptKeys, JobKeys
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import CANCELED, Observer
from simyard.tasks.cluster.flow_run_watch import Ending, FlowRunWatch, withdraw
from simyard.tasks.cluster.gpu_limits import holding
from simyard.tasks.kinds import kind_of
from simyard.tasks.launch import ask_to_cancel, raise_failure
from simyard.tasks.shared import heartbeat, history

FLOW, NODE_FLOW = "run-job", "run-node"
POLL_S = 1.0
PATIENCE = heartbeat.PATIENCE.attempt
"""With an attempt in a pool."""


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

    Whatever interrupts the waiting, the attempt goes on, and the next call finds it again; only a cancel stops it.

    Raises:
        RequestError: The job needs more GPUs than the pool or the project may hold.
        WorkloadError: If it failed, or was lost.
    """
    with get_client(sync_client=True) as client:
        number, run = _standing(client, spec, store)
        with holding(client, spec, store_ref, pool, observer, wait=run is None):
            runs = _launch(client, spec, number, store_ref, pool)
            try:
                ending = _wait(client, runs, spec, store, number, observer)
            except (KeyboardInterrupt, TerminationSignal) as error:
                if observer.why_stopped(error).category is Category.CANCELED:
                    ask_to_cancel(store, spec.job_id)
                raise
    if ending.record is None:
        begun = number in (past.number for past in history.attempts(store, spec.job_id))
        raise WorkloadError(_without_outcome(runs[0], ending, begun=begun))
    raise_failure(ending.record.failure)


def _standing(client: SyncPrefectClient, spec: JobSpec, store: Store) -> tuple[int, FlowRun | None]:
    """Return the number of the attempt to wait for, and its flow run where it was launched before."""
    past = {attempt.number: attempt for attempt in history.attempts(store, spec.job_id)}
    number = max(past, default=1)
    while (run := _find(client, spec, number)) is not None or number in past:
        ended = run is None or (run.state and run.state.is_final()) or (number in past and past[number].outcome)
        if run is not None and not ended:
            return number, run
        number += 1
    return number, None


def _launch(client: SyncPrefectClient, spec: JobSpec, number: int, store_ref: str, pool: str) -> list[FlowRun]:
    """Launch an attempt, a flow run for each of its machines; those that were launched before are found again."""
    runs = []
    for flow in (FLOW, NODE_FLOW)[: spec.nodes]:
        ensure_pool_flow(client, pool, flow)
    for node in range(spec.nodes):
        flow, key = (FLOW, _key(spec, number)) if node == 0 else (NODE_FLOW, f"{_key(spec, number)}-node-{node}")
        launched = run_deployment(
            f"{flow}/{pool}",
            parameters={"job_id": spec.job_id, "attempt": number, "store": store_ref}
            | ({"node": node} if node else {}),
            flow_run_name=key,
            idempotency_key=key,
            timeout=0,
            work_queue_name=QUEUES[spec.priority] if spec.priority != "normal" else None,
            job_variables=None if spec.gpus is None else {"gpu_count": str(spec.gpus)},
        )
        assert isinstance(launched, FlowRun)
        runs.append(launched)
    return runs


def _key(spec: JobSpec, number: int) -> str:
    return f"{spec.job_id}-{number}"


def _find(client: SyncPrefectClient, spec: JobSpec, number: int) -> FlowRun | None:
    """Return the flow run of an attempt, if it was ever launched in a pool."""
    key = FlowRunFilterIdempotencyKey(any_=[_key(spec, number)])
    found = client.read_flow_runs(flow_run_filter=FlowRunFilter(idempotency_key=key))
    return found[0] if found else None


def _wait(
    client: SyncPrefectClient, runs: list[FlowRun], spec: JobSpec, store: Store, number: int, observer: Observer
) -> Ending[Outcome]:
    """Wait for the outcome of an attempt; withdraw those of its further machines that never began."""
    job = JobKeys(spec.job_id)
    attempt = job.attempt(number)
    run, *others = runs

    def read_heartbeat() -> dict[str, Any] | None:
        _tell_of_lost(client, others, store, attempt)
        status: dict[str, Any] | None = store.get_json_or_none(attempt.status)
        return status

    watch: FlowRunWatch[Outcome] = FlowRunWatch(
        client=client,
        run=run,
        record=lambda: store.get_record_or_none(attempt.outcome, Outcome),
        heartbeat=read_heartbeat,
        patience=PATIENCE,
        is_canceled=lambda: observer.canceled() or store.exists(job.cancel),
        cancel=lambda: ask_to_cancel(store, spec.job_id),
        on_look=lambda state, status: observer.progress(_progress(spec, state, status)),
        poll_s=lambda waited_s: POLL_S,
    )
    ending = watch.wait()
    for other in _now(client, others):
        withdraw(client, other)
    return ending


def _tell_of_lost(client: SyncPrefectClient, others: list[FlowRun], store: Store, attempt: AttemptKeys) -> None:
    """Report to the first machine each other one whose flow run ended without an outcome: only Prefect knows it."""
    for node, run in enumerate(_now(client, others), start=1):
        state = run.state
        if state is None or not state.is_final() or state.is_completed() or store.exists(attempt.machine_lost):
            continue
        if not store.exists(attempt.node(node).outcome):
            message = f"Machine {node + 1}, flow run {run.name!r}, ended as {state.name!r}: {state.message}"
            store.put_json(attempt.machine_lost, {"message": message})


def _now(client: SyncPrefectClient, runs: list[FlowRun]) -> list[FlowRun]:
    """Return flow runs as they stand now, by one request however many there are."""
    if not runs:
        return []
    found = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in runs])))
    by_id = {run.id: run for run in found}
    return [by_id.get(run.id, run) for run in runs]


def _progress(spec: JobSpec, state: State[Any], heartbeat: Mapping[str, Any] | None) -> JobProgress:
    """Return the progress of an attempt, which may have written no heartbeat yet."""
    if heartbeat:
        now = AttemptStatus.from_json(dict(heartbeat))
        return JobProgress(stage=now.stage, done=now.done, total=now.total, unit=now.unit, reward=now.reward)
    stage = "waiting for a worker" if state.is_scheduled() else "starting"
    kind = kind_of(spec)
    return JobProgress(stage=stage, total=kind.total(spec), unit=kind.unit)


def _without_outcome(run: FlowRun, ending: Ending[Any], *, begun: bool) -> Failure:
    """Return the failure of an attempt that left no outcome."""
    state = ending.state
    assert state is not None
    if ending.reason == "withdrawn" or state.is_cancelled():
        return CANCELED
    if ending.reason == "lost":
        patience_s = PATIENCE.silence_s if begun else PATIENCE.starting_s
        return _lost(f"The attempt has had no heartbeat for {patience_s:.0f} s.")
    if state.is_crashed() or begun:
        return _lost(f"Flow run {run.name!r} ended as {state.name!r}, and left no outcome: {state.message}")
    return Failure(
        code="attempt_refused",
        category=Category.USER,
        message=f"Flow run {run.name!r} could not begin: {state.message}",
        advice="Its log says more; the worker must reach the same store.",
    )


def _lost(message: str) -> Failure:
    return heartbeat.lost("attempt_lost", message, heartbeat.FROM_LAST_CHECKPOINT)
