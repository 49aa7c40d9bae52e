"""The pools, their workers and queues, and the schedules of the site, as its Prefect server knows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort

from simyard.deployments import limit_of_pool

MOST_POOLS = 20
MOST_SCHEDULES = 50
_PAGE = 200
_WAITING = (StateType.SCHEDULED, StateType.PENDING)
_RUNNING = (StateType.RUNNING, StateType.CANCELLING)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A work pool."""

    name: str
    type: str
    is_paused: bool
    workers: int
    """Those that have been heard of late."""
    waiting: int
    """Flow runs that no worker has begun."""
    running: int
    gpus_held: int | None
    """GPUs of its limit that attempts hold; None where it has no limit."""
    gpus: int | None
    """GPUs that its limit allows."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A schedule of a deployment."""

    deployment: str
    when: str
    is_active: bool
    next_at: str | None
    """Time of its deployment's next flow run; None where none is planned."""


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """All of them."""

    pools: tuple[Pool, ...] = ()
    schedules: tuple[Schedule, ...] = ()


def read_fleet(client: SyncPrefectClient) -> Fleet:
    """Ask a Prefect server: four questions a pool, and three more."""
    limits = {limit.name: limit for limit in client.read_global_concurrency_limits(limit=_PAGE)}
    pools = []
    for pool in client.read_work_pools(limit=MOST_POOLS):
        limit = limits.get(limit_of_pool(pool.name))
        workers = client.read_workers_for_work_pool(pool.name, limit=_PAGE)
        found = Pool(
            name=pool.name,
            type=pool.type,
            is_paused=bool(pool.is_paused),
            workers=sum(str(getattr(worker.status, "value", worker.status)) == "ONLINE" for worker in workers),
            waiting=_count(client, pool.name, _WAITING),
            running=_count(client, pool.name, _RUNNING),
            gpus_held=limit.active_slots if limit else None,
            gpus=limit.limit if limit else None,
        )
        pools.append(found)

    # Deployments with a schedule, and the next flow run of each.
    planned = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])))
    runs = client.read_flow_runs(flow_run_filter=planned, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=_PAGE)
    soonest: dict[Any, str] = {}
    for run in runs:
        if run.auto_scheduled and run.expected_start_time:
            soonest.setdefault(run.deployment_id, run.expected_start_time.isoformat(timespec="seconds"))
    schedules = [
        Schedule(
            deployment=deployment.name,
            when=_when(entry.schedule),
            is_active=bool(entry.active) and not deployment.paused,
            next_at=soonest.get(deployment.id),
        )
        for deployment in client.read_deployments(limit=_PAGE)
        for entry in deployment.schedules
    ]
    return Fleet(pools=tuple(pools), schedules=tuple(schedules[:MOST_SCHEDULES]))


def _count(client: SyncPrefectClient, pool: str, types: tuple[StateType, ...]) -> int:
    return client.count_flow_runs(
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types)))),
    )


def _when(schedule: Any) -> str:
    """Return a schedule in words."""
    if cron := getattr(schedule, "cron", None):
        return f"{cron} ({schedule.timezone or 'UTC'})"
    if interval := getattr(schedule, "interval", None):
        return f"every {interval}"
    return str(getattr(schedule, "rrule", schedule))[:200]
