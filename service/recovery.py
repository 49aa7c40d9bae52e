"""Work whose flow process was lost: found by what the store and Prefect say, and set going again.

Every copy of the service looks, and needs to remember nothing: a flow run that was set going is not lost any more.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from prefect.client.schemas.objects import FlowRun

from simyard.core.errors import SimyardError
from simyard.core.records import Ended, JobResult
from simyard.core.run_records import RunResult
from simyard.core.sweep_records import SweepResult
from simyard.service.prefect_api import Launches, id_of, project_of
from simyard.service.settings import Settings
from simyard.store.keys import keys_of
from simyard.store.store import Store
from simyard.tasks.managed.record import run_status
from simyard.tasks.shared import history
from simyard.tasks.shared.heartbeat import PATIENCE
from simyard.tasks.sweeps.record import sweep_status

MOST_RUNS = 5
"""Number of times that a flow run is begun before it is given up."""

logger = logging.getLogger("simyard.service")


def recover(settings: Settings, launches: Launches) -> int:
    """Set going again what was lost; return how much."""
    lost = 0
    for run in launches.possibly_lost():
        own_id, project = id_of(run), project_of(run)
        if own_id is None or project is None or run.run_count >= MOST_RUNS:
            continue
        try:
            why = why_lost(run, settings.open(project), own_id)
        except SimyardError as error:
            logger.warning("%s: %s", own_id, error)
            continue
        if why is None:
            continue
        logger.warning("%s goes on: %s", own_id, why)
        ended = ended_as(settings.open(project), own_id)
        if ended is None or (ended == "succeeded" and own_id.startswith("job-")):  # an export may follow it
            launches.resume(run, f"It goes on: {why}")
        else:
            launches.settle(run, ended)
        lost += 1
    return lost


def why_lost(run: FlowRun, store: Store, own_id: str) -> str | None:
    """Return the reason that this work is lost; None where a process does it, or may be about to.

    Of what has ended the flow run is lost where it crashed: its process was killed in its last moments.
    """
    state = run.state
    assert state is not None
    if ended_as(store, own_id) is not None:
        return "its process crashed after the end" if state.is_crashed() else None
    work = _job(store, own_id) if own_id.startswith("job-") else _run(store, own_id)
    if state.is_crashed():
        return "its process crashed" if work.is_gone or not work.is_under_way else None
    now = datetime.now(UTC)
    if work.is_gone and work.last_sign is not None and work.last_sign > state.timestamp:
        return "its process stopped writing heartbeats"
    # Whatever was before, a process is starting, or ought to be.
    quiet_s = (now - max(state.timestamp, work.last_sign or state.timestamp)).total_seconds()
    patience_s = PATIENCE.flow_run.silence_s if state.is_running() else PATIENCE.flow_run.starting_s
    if not work.is_under_way and quiet_s > patience_s:
        return f"it has had no heartbeat for {quiet_s:.0f} s"
    return None


@dataclass(frozen=True)
class _Work:
    """State in the store of a job, a managed run or a sweep that has not ended."""

    is_under_way: bool
    """Somebody is known to have it in hand."""
    is_gone: bool
    """Whether the process that had it in hand is gone."""
    last_sign: datetime | None
    """Time of its last heartbeat or outcome; None where there was none."""


def ended_as(store: Store, own_id: str) -> Ended | None:
    """Return how a job, a managed run or a sweep has ended; None for one that has not."""
    if own_id.startswith("job-"):
        known = history.job_status(store, own_id)
        return known.status if isinstance(known, JobResult) else None
    kind: type[RunResult | SweepResult] = SweepResult if own_id.startswith("sweep-") else RunResult
    result = store.get_record_or_none(keys_of(own_id).result, kind)
    return result.status if result else None


def _job(store: Store, job_id: str) -> _Work:
    status = history.job_status(store, job_id).status
    past = history.attempts(store, job_id)
    if not past:
        return _Work(is_under_way=False, is_gone=False, last_sign=None)
    if past[-1].outcome is not None:  # between an attempt and the next, or the job's end
        return _Work(is_under_way=False, is_gone=False, last_sign=store.stat(past[-1].keys.outcome).modified)
    is_gone = status == "interrupted"
    beat = past[-1].status
    return _Work(is_under_way=not is_gone, is_gone=is_gone, last_sign=_time(beat.updated_at if beat else None))


def _run(store: Store, run_id: str) -> _Work:
    """Return the state of a managed run or of a sweep."""
    known = (sweep_status if run_id.startswith("sweep-") else run_status)(store, run_id)
    is_gone = known.status == "interrupted"
    is_under_way = known.status in ("running", "paused") and known.updated_at is not None
    return _Work(is_under_way=is_under_way, is_gone=is_gone, last_sign=_time(known.updated_at))


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
