"""The record of a managed training run in the store: its desired state, events, iterations, status and report."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

from simyard.core.errors import RequestError
from simyard.core.files import scratch
from simyard.core.records import Estimate
from simyard.core.run_records import (
    DesiredStateMark,
    DriverStatus,
    Event,
    IterationRecord,
    LineageRecord,
    RunHeader,
    RunResult,
    RunState,
    RunStatus,
)
from simyard.store import keys
from simyard.store.keys import RunKeys
from simyard.store.store import Store
from simyard.tasks.managed.run import RunSpec, load_run
from simyard.tasks.metrics.events import Series
from simyard.tasks.metrics.table import draw_curves
from simyard.tasks.shared.documents import REPORTS
from simyard.tasks.shared.estimates import as_told
from simyard.tasks.shared.heartbeat import PATIENCE
from simyard.tasks.shared.listing import Page, newest, shown

DesiredState = Literal["run", "pause", "cancel"]
ENDED = ("succeeded", "failed", "canceled")
REPORT, CURVES = "report.md", "curves.png"
EVENT_TYPES = {
    "run.started": "the run began",
    "run.taken_up": "another process drives it now, since the one before was lost",
    "run.paused": "somebody paused it; nothing new is begun",
    "run.resumed": "it goes on",
    "iteration.started": "an iteration began",
    "rollout.succeeded": "a rollout is in the store",
    "rollout.failed": "a rollout failed for good",
    "dataset.written": "the iteration's dataset manifest is in the store",
    "trainer.started": "the trainer was called",
    "trainer.succeeded": "it left a checkpoint and metrics",
    "trainer.failed": "one call of it failed",
    "checkpoint.created": "a checkpoint is in the lineage",
    "iteration.succeeded": "everything of the iteration is in the store",
    "iteration.failed": "the iteration left no checkpoint",
    "run.ended": "the run ended; the message names the policy that ended it",
}
"""Every `event_type`, and what it means."""
_FRESH = 200
"""Number of newest events of earlier processes that a process reads when it resumes a run."""


# The desired state: to run, to pause or to end. The process that drives the run reads it.


def set_desired_state(store: Store, run_id: str, desired: DesiredState) -> None:
    """Write the desired state.

    Raises:
        RequestError: If there is no such run, it has ended, or it was canceled and cannot go on.
    """
    load_run(store, run_id)
    result = store.get_record_or_none(RunKeys(run_id).result, RunResult)
    problem = f"{run_id} has {result.status}." if result else None
    if problem is None and desired != "cancel" and desired_state(store, run_id) == "cancel":
        problem = f"{run_id} is being canceled."
    if problem is not None:
        raise RequestError(problem, code="run_ended", advice="Begin another: simyard managed start.")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    store.put_record(RunKeys(run_id).desired_state, DesiredStateMark(wanted=desired, requested_at=now))


def desired_state(store: Store, run_id: str) -> DesiredState:
    """Read the desired state; `run` where nobody has set one."""
    found = store.get_record_or_none(RunKeys(run_id).desired_state, DesiredStateMark)
    return found.wanted if found else "run"


# The events: an append-only log, one object an event, in order.


class Events:
    """The log of one run, for the one process that drives it."""

    def __init__(self, store: Store, run_id: str, on_event: Callable[[Event], None] = lambda event: None) -> None:
        """Go on after the last event.

        Args:
            store: The run's store.
            run_id: The run.
            on_event: Called with each new event.
        """
        self._store = store
        self._keys = RunKeys(run_id)
        self._on_event = on_event
        self._lock = threading.Lock()
        numbers = event_numbers(store, run_id)
        self._last = numbers[-1] if numbers else 0
        self._recorded = {event.about for event in read_events(store, run_id, numbers[-_FRESH:])}

    def record(self, event_type: str, about: str, message: str, **data: Any) -> None:
        """Write an event, unless it was written before a restart.

        Args:
            event_type: One of `EVENT_TYPES`.
            about: What tells it from every other event of the run: the same thing happens once.
            message: For people.
            data: For programs.
        """
        assert event_type in EVENT_TYPES
        about = f"{event_type} {about}".strip()
        with self._lock:
            if about in self._recorded:
                return
            self._recorded.add(about)
            # Where a process that was taken for lost writes too, each still gets a number of its own.
            is_written = False
            while not is_written:
                self._last += 1
                now = datetime.now(UTC).isoformat(timespec="milliseconds")
                event = Event(
                    event_id=f"evt-{self._last:08d}", created_at=now, event_type=event_type, about=about,
                    message=message, data=data,
                )  # fmt: skip
                is_written = self._store.put_new(self._keys.event(self._last), json.dumps(event.to_json()).encode())
            self._on_event(event)


def event_numbers(store: Store, run_id: str) -> list[int]:
    """Return the numbers of a run's events, in order."""
    names = (entry.key.rpartition("/")[2] for entry in store.list(RunKeys(run_id).events))
    return sorted(int(name.partition(".")[0]) for name in names)


def read_events(store: Store, run_id: str, numbers: list[int]) -> list[Event]:
    """Return these events."""
    return [store.get_record(RunKeys(run_id).event(number), Event) for number in numbers]


# What has been done, and how the run stands.


def iterations(store: Store, run_id: str) -> list[IterationRecord]:
    """Return the records of the iterations that have ended, in order."""
    run = RunKeys(run_id)
    numbers = sorted(int(name) for name in store.list_dirs(run.iterations) if name.isdigit())
    found = (store.get_record_or_none(run.iteration(number).record, IterationRecord) for number in numbers)
    return [record for record in found if record is not None]


def checkpoints(store: Store, run_id: str) -> list[LineageRecord]:
    """Return the lineage: a record for each checkpoint of the run, oldest first."""
    return [store.get_record(entry.key, LineageRecord) for entry in store.list(RunKeys(run_id).checkpoints)]


def header(spec: RunSpec, store: Store) -> RunHeader:
    """Return the fields that every answer about a run begins with."""
    return RunHeader(
        run_id=spec.run_id,
        name=spec.asked.name,
        project_id=spec.asked.project_id,
        max_iterations=spec.asked.loop_policy.max_iterations,
        store=store.url(RunKeys(spec.run_id).prefix),
        created_at=spec.created_at,
        estimate=store.get_record_or_none(RunKeys(spec.run_id).estimate, Estimate),
    )


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
    told = header(spec, store)
    return RunStatus(
        **vars(replace(told, estimate=(beat and beat.estimate) or told.estimate)),
        status=status,
        stage=beat.stage if beat else None,
        current_iteration=beat.current_iteration if beat else 0,
        credits=beat.credits if beat else 0.0,
        updated_at=beat.updated_at if beat else None,
    )


def list_runs(store: Store, limit: int, after: str | None = None) -> Page[RunState]:
    """Return a page of the status of each run, newest first."""
    names = [name for name in store.list_dirs(keys.RUNS) if name.startswith("run-")]
    return newest(names, lambda run_id: shown(run_status(store, run_id)), limit, after)


# The report: what the run reached and cost, where time went, which checkpoint is best.


def write_report(run: RunSpec, result: RunResult, ended: list[IterationRecord], store: Store) -> None:
    """Write the report and the curves into the store.

    Args:
        run: The run.
        result: How it ended.
        ended: Its iterations, in order.
        store: Its store.
    """
    # The rollouts' mean return, and every number of the trainer's, over iterations.
    columns: dict[str, Series] = {}
    for one in ended:
        values = {"mean_return": one.mean_return, "success_rate": one.success_rate, **one.metrics}
        for name, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                series = columns.setdefault(name, Series())
                series.steps.append(one.iteration)
                series.values.append(float(value))
    run_keys, metric = RunKeys(run.run_id), run.asked.success_criteria.metric
    with scratch("report") as folder:
        picture = folder / CURVES
        if draw_curves(columns, metric, run.asked.name, picture):
            store.put_file(run_keys.file(CURVES), picture)
    text = REPORTS.render(
        "managed_run.md.j2",
        name=run.asked.name,
        run_id=run.run_id,
        metric=metric,
        curves=CURVES,
        result=result,
        iterations=ended,
        lineage=checkpoints(store, run.run_id),
        estimate=result.estimate and as_told(result.estimate),
    )
    store.put_bytes(run_keys.file(REPORT), text.encode())


def summary(result: RunResult) -> str:
    """Return the result of a run in one line."""
    count, best = result.iterations.succeeded, ""
    if result.best:
        measured = "" if result.best.metric is None else f" ({result.best.metric:.4g})"
        best = f", best {result.best.checkpoint_id}{measured}"
    return f"{count} iteration{'s' * (count != 1)} ({result.ended_by}){best}"
