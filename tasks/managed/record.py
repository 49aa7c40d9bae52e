"""Reads a managed training run from the store: its iterations, checkpoints and status."""

from __future__ import annotations

from typing import Any, Literal

from simyard.core.records import DriverStatus, IterationRecord, LineageRecord, RunResult, RunState, RunStatus
from simyard.store import keys
from simyard.store.keys import RunKeys
from simyard.store.store import Store
from simyard.tasks.managed.desired_state import desired_state
from simyard.tasks.managed.run import RunSpec, load_run
from simyard.tasks.shared.heartbeat import PATIENCE

ENDED = ("succeeded", "failed", "canceled")


def iterations(store: Store, run_id: str) -> list[IterationRecord]:
    """Return the records of the iterations that have ended, in order."""
    run = RunKeys(run_id)
    numbers = sorted(int(name) for name in store.list_dirs(run.iterations) if name.isdigit())
    found = (store.get_record_or_none(run.iteration(number).record, IterationRecord) for number in numbers)
    return [record for record in found if record is not None]


def checkpoints(store: Store, run_id: str) -> list[LineageRecord]:
    """Return the lineage: a record for each checkpoint of the run, oldest first."""
    return [store.get_record(entry.key, LineageRecord) for entry in store.list(RunKeys(run_id).checkpoints)]


def run_status(store: Store, run_id: str) -> RunState:
    """Return the status of a run, from the store alone.

    `status` is `queued`, `running`, `paused`, `interrupted` (nobody drives it any more) or how it ended.

    Raises:
        RequestError: If there is no such run.
    """
    spec = load_run(store, run_id)
    run = RunKeys(run_id)
    if (result := store.get_record_or_none(run.result, RunResult)) is not None:
        return result
    beat = store.get_record_or_none(run.status, DriverStatus)
    status: Literal["queued", "running", "paused", "interrupted"] = "queued" if beat is None else "running"
    if beat is not None and beat.is_gone(PATIENCE.driver.silence_s):
        status = "interrupted"
    elif "pause" in (desired_state(store, run_id), beat and beat.wanted):
        status = "paused"
    return RunStatus(
        **frame(spec, store),
        status=status,
        stage=beat.stage if beat else None,
        current_iteration=beat.current_iteration if beat else 0,
        credits=beat.credits if beat else 0.0,
        updated_at=beat.updated_at if beat else None,
    )


def frame(spec: RunSpec, store: Store) -> dict[str, Any]:
    """Return the fields that every answer about a run begins with."""
    asked = spec.asked
    return {
        "run_id": spec.run_id,
        "name": asked.name,
        "project_id": asked.project_id,
        "max_iterations": asked.loop_policy.max_iterations,
        "store": store.url(RunKeys(spec.run_id).prefix),
        "created_at": spec.created_at,
    }


def list_runs(store: Store, limit: int) -> list[RunState]:
    """Return the status of each of the newest runs, newest first."""
    names = [name for name in store.list_dirs(keys.RUNS) if name.startswith("run-")]
    return [run_status(store, name) for name in sorted(names, reverse=True)[:limit]]
