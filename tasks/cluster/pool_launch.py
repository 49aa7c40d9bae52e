"""An attempt as a flow run of `run-job` in a work pool: launched once, found again, given up when lost.

While it runs it holds a slot for each of its GPUs: Prefect's global concurrency limits, of the pool and of the project.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun, State
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, TerminationSignal

from simyard.core.errors import Category, Failure, RequestError, WorkloadError, unknown
from simyard.core.records import AttemptStatus, Heartbeat, MachineLost, Outcome
from simyard.core.specs import JobSpec
from simyard.deployments import QUEUES, limit_of_pool, limit_of_project
from simyard.deployments.apply import ensure_pool_flow, own_home
from simyard.runner.progress import JobProgress
from simyard.store.keys import JobKeys, project_of
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import CANCELED, Observer
from simyard.tasks.cluster.flow_run_watch import Ending, FlowRunWatch, withdraw
from simyard.tasks.cluster.lent_credentials import lend
from simyard.tasks.kinds import kind_of
from simyard.tasks.launch import ask_to_cancel, raise_failure
from simyard.tasks.shared import heartbeat, history

FLOW, NODE_FLOW = "run-job", "run-node"
POLL_S = 1.0
PATIENCE = heartbeat.PATIENCE.attempt
"""With an attempt in a pool."""
LEASE_S = 300.0
"""Seconds until the slots of a control flow that was killed are free again."""
_PAUSE_S = {"high": 1.0, "normal": 4.0, "low": 16.0}
"""Seconds between two requests of a waiting job: the more urgent one is first, as a rule, to get a returned GPU."""


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
        number, run = _find_attempt(client, spec, store)
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


def _find_attempt(client: SyncPrefectClient, spec: JobSpec, store: Store) -> tuple[int, FlowRun | None]:
    """Return the number of the attempt to wait for, and its flow run where it was launched before."""
    past = {attempt.number: attempt for attempt in history.attempts(store, spec.job_id)}
    number = max(past, default=1)
    while True:
        key = FlowRunFilterIdempotencyKey(any_=[_key(spec, number)])
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(idempotency_key=key))
        run = found[0] if found else None
        if run is None and number not in past:
            return number, None
        ended = run is None or (run.state and run.state.is_final()) or (number in past and past[number].outcome)
        if not ended:
            return number, run
        number += 1


def _launch(client: SyncPrefectClient, spec: JobSpec, number: int, store_ref: str, pool: str) -> list[FlowRun]:
    """Launch an attempt, a flow run for each of its machines; those that were launched before are found again."""
    runs = []
    for flow in (FLOW, NODE_FLOW)[: spec.nodes]:
        ensure_pool_flow(client, pool, flow)
    variables = own_home(client.read_work_pool(pool), project_of(store_ref))
    if lent := lend(spec, store_ref):
        variables["env"] = lent
    if spec.gpus is not None:
        variables["gpu_count"] = str(spec.gpus)
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
            job_variables=variables or None,
        )
        assert isinstance(launched, FlowRun)
        runs.append(launched)
    return runs


def _key(spec: JobSpec, number: int) -> str:
    return f"{spec.job_id}-{number}"


def _wait(
    client: SyncPrefectClient, runs: list[FlowRun], spec: JobSpec, store: Store, number: int, observer: Observer
) -> Ending[Outcome]:
    """Wait for the outcome of an attempt; withdraw those of its further machines that never began."""
    job = JobKeys(spec.job_id)
    attempt = job.attempt(number)
    run, *others = runs

    def read_heartbeat() -> AttemptStatus | None:
        # The first machine is told of each other one whose flow run ended without an outcome: only Prefect knows it.
        for node, other in enumerate(_read_again(client, others), start=1):
            state = other.state
            if state is None or not state.is_final() or state.is_completed() or store.exists(attempt.machine_lost):
                continue
            if not store.exists(attempt.node(node).outcome):
                message = f"Machine {node + 1}, flow run {other.name!r}, ended as {state.name!r}: {state.message}"
                store.put_record(attempt.machine_lost, MachineLost(message=message))
        return store.get_record_or_none(attempt.status, AttemptStatus)

    watch: FlowRunWatch[Outcome] = FlowRunWatch(
        client=client,
        run=run,
        record=lambda: store.get_record_or_none(attempt.outcome, Outcome),
        heartbeat=read_heartbeat,
        patience=PATIENCE,
        is_canceled=lambda: observer.canceled() or store.exists(job.cancel),
        cancel=lambda: ask_to_cancel(store, spec.job_id),
        on_look=lambda state, beat: observer.progress(_progress(spec, state, beat)),
        poll_s=lambda waited_s: POLL_S,
    )
    ending = watch.wait()
    for other in _read_again(client, others):
        withdraw(client, other)
    return ending


def _read_again(client: SyncPrefectClient, runs: list[FlowRun]) -> list[FlowRun]:
    """Return flow runs as they stand now, by one request however many there are."""
    if not runs:
        return []
    found = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in runs])))
    by_id = {run.id: run for run in found}
    return [by_id.get(run.id, run) for run in runs]


def _progress(spec: JobSpec, state: State[Any], beat: Heartbeat | None) -> JobProgress:
    """Return the progress of an attempt, which may have written no heartbeat yet."""
    if isinstance(beat, AttemptStatus):
        return JobProgress.of(beat)
    return _nothing_done(spec, "waiting for a worker" if state.is_scheduled() else "starting")


def _without_outcome(run: FlowRun, ending: Ending[Any], *, begun: bool) -> Failure:
    """Return the failure of an attempt that left no outcome."""
    state = ending.state
    assert state is not None
    if ending.reason == "withdrawn" or state.is_cancelled():
        return CANCELED
    if ending.reason == "lost":
        patience_s = PATIENCE.silence_s if begun else PATIENCE.starting_s
        return heartbeat.lost("attempt_lost", f"The attempt has had no heartbeat for {patience_s:.0f} s.")
    if state.is_crashed() or begun:
        ended = f"ended as {state.name!r}, and left no outcome: {state.message}"
        return heartbeat.lost("attempt_lost", f"Flow run {run.name!r} {ended}")
    return Failure(
        code="attempt_refused",
        category=Category.USER,
        message=f"Flow run {run.name!r} could not begin: {state.message}",
        advice="Its log says more; the worker must reach the same store.",
    )


def _nothing_done(spec: JobSpec, stage: str) -> JobProgress:
    """Return the progress of an attempt that has written no heartbeat yet."""
    kind = kind_of(spec)
    return JobProgress(stage=stage, total=kind.total(spec), unit=kind.unit)


# The GPUs that it holds


@contextmanager
def holding(
    client: SyncPrefectClient, spec: JobSpec, store_ref: str, pool: str, observer: Observer, *, wait: bool = True
) -> Iterator[None]:
    """Hold a slot for each of the job's GPUs while the body runs.

    Args:
        client: Of the Prefect server.
        spec: The job.
        store_ref: Its store, which tells the project.
        pool: The work pool it runs in.
        observer: Told that it waits; may cancel it.
        wait: False for an attempt that runs already: slots are taken where there are some.

    Raises:
        RequestError: The job needs more than the limit allows at all.
        WorkloadError: It was canceled while it waited.
    """
    need = gpus_of(spec)
    names = _limits(client, need, (limit_of_project(project_of(store_ref)), limit_of_pool(pool)))
    with ExitStack() as stack:
        while names:
            # No timeout: a request that is cut off may have been granted, and its slots stay taken for a lease.
            slots = concurrency(
                names, occupy=need, max_retries=0, lease_duration=LEASE_S, raise_on_lease_renewal_failure=False
            )
            try:
                stack.enter_context(slots)
                break
            except ConcurrencySlotAcquisitionError as error:
                refused = error.__cause__
                if not isinstance(refused, httpx.HTTPStatusError) or refused.response.status_code != httpx.codes.LOCKED:
                    raise  # the server is in trouble; it locks what it has too few of
            if not wait:
                break
            observer.progress(_nothing_done(spec, "waiting for a GPU"))
            if observer.canceled():
                raise WorkloadError(CANCELED)
            time.sleep(_PAUSE_S[spec.priority])
        yield


def gpus_of(spec: JobSpec) -> int:
    """Return the number of GPUs a job in a pool holds by its request; one that leaves it open holds one a machine."""
    return (1 if spec.gpus is None else spec.gpus) * spec.nodes


def _limits(client: SyncPrefectClient, need: int, names: tuple[str, ...]) -> list[str]:
    """Return those limits that there are; an operator need not have set any."""
    found = []
    for name in names if need else ():
        try:
            limit = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            continue
        if not limit.active:
            continue
        if need > limit.limit:
            raise RequestError(
                f"The job needs {need} GPUs at once, and {name!r} allows {limit.limit}.",
                code="too_many_gpus",
                advice="Ask for fewer with computeConfig.gpusPerNode and numNodes, or have the limit raised.",
            )
        found.append(name)
    return found
