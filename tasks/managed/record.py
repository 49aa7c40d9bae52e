"""The record of a managed training run in the store: its desired state, events, iterations, status and report."""

from __future__ import annotations

from dataclasses import replace

from simyard.core.errors import RequestError
from simyard.core.files import scratch
from simyard.core.records import Estimate
from simyard.core.run_records import (
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
from simyard.tasks.shared.control import DesiredState, desired_state_at, driven_status, why_not, write_desired_state
from simyard.tasks.shared.documents import REPORTS
from simyard.tasks.shared.estimates import as_told
from simyard.tasks.shared.events import events_at, numbers_of_events
from simyard.tasks.shared.listing import Page, newest, shown

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


# The desired state: to run, to pause or to end. The process that drives the run reads it.


def set_desired_state(store: Store, run_id: str, desired: DesiredState) -> None:
    """Write the desired state.

    Raises:
        RequestError: If there is no such run, it has ended, or it was canceled and cannot go on.
    """
    load_run(store, run_id)
    result = store.get_record_or_none(RunKeys(run_id).result, RunResult)
    if problem := why_not(run_id, result, store, RunKeys(run_id).desired_state, desired):
        raise RequestError(problem, code="run_ended", advice="Begin another: simyard managed start.")
    write_desired_state(store, RunKeys(run_id).desired_state, desired)


def desired_state(store: Store, run_id: str) -> DesiredState:
    """Read the desired state; `run` where nobody has set one."""
    return desired_state_at(store, RunKeys(run_id).desired_state)


def event_numbers(store: Store, run_id: str) -> list[int]:
    """Return the numbers of a run's events, in order."""
    return numbers_of_events(store, RunKeys(run_id))


def read_events(store: Store, run_id: str, numbers: list[int]) -> list[Event]:
    """Return these events."""
    return events_at(store, RunKeys(run_id), numbers)


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
    told = header(spec, store)
    return RunStatus(
        **vars(replace(told, estimate=(beat and beat.estimate) or told.estimate)),
        status=driven_status(beat, desired_state(store, run_id)),
        stage=beat.stage if beat else None,
        current_iteration=beat.current_iteration if beat else 0,
        credits=beat.credits if beat else 0.0,
        updated_at=beat.updated_at if beat else None,
    )


def list_runs(store: Store, limit: int) -> Page[RunState]:
    """Return a page of the status of each run, newest first."""
    names = [name for name in store.list_dirs(keys.RUNS) if name.startswith("run-")]
    return newest(names, lambda run_id: shown(run_status(store, run_id)), limit)


# The report: what the run reached and cost, where time went, which checkpoint is best.


def write_report(run: RunSpec, result: RunResult, ended: list[IterationRecord], store: Store) -> None:
    """Write the report and the curves into the store."""
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
