"""`simyard managed`: a loop of rollouts and a trainer, and what the store says of it."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from simyard.cli.driven import KEPT_JOBS, POLL_S, end_as, say_canceled, say_paused
from simyard.cli.live import LiveLine
from simyard.cli.shared import (
    ARGUMENTS,
    JSON,
    LIMIT,
    POOL,
    SETTINGS,
    STORE,
    Columns,
    Group,
    emit,
    emit_rows,
    open_site,
    open_site_store,
    read_request,
    reckoned,
)
from simyard.core.errors import EXIT_JOB_FAILED, EXIT_SUCCEEDED, RequestError

if TYPE_CHECKING:
    from simyard.core.run_records import IterationRecord, RunResult, RunState
    from simyard.requests.settings import MachineSettings
    from simyard.store.store import Store
    from simyard.tasks.managed.run import ResolvedRun


@click.group(cls=Group)
def managed() -> None:
    """Run, follow, pause, resume and cancel managed training runs."""


@managed.command()
@ARGUMENTS
@STORE
@POOL
@SETTINGS
@click.option("--wait", is_flag=True, help="Stay until the run has ended; without it the run goes on by itself.")
@JSON
def start(
    arguments: tuple[str, ...],
    store: str | None,
    pool: str | None,
    settings: tuple[str, ...],
    wait: bool,
    as_json: bool,
) -> None:
    """Train in a loop of rollouts and your own trainer. CONFIG is a JSON file.

    CONFIG is the JSON body of `POST /v1/training-runs`.
    """
    from simyard.requests.managed import TrainingRunRequest

    request, base = read_request(TrainingRunRequest, arguments, settings)
    # The request is good: what runs it is imported now.
    from simyard.cli.run import run_detached
    from simyard.store import keys
    from simyard.tasks.managed import record
    from simyard.tasks.managed.run import resolve_run, stage_run
    from simyard.tasks.managed.trainer import check_trainer

    machine, reference, opened = open_site(store)
    resolved = resolve_run(request, opened, keys.new_run_id(), base, machine)
    run_id = resolved.spec.run_id
    if pool is None:
        check_trainer(resolved.spec, machine)
    if wait:
        end_as("managed", run_id, _drive(resolved, run_id, opened, reference, pool, machine, quiet=as_json), as_json)
    stage_run(resolved, opened)
    run_detached(run_id, ["managed", "resume", run_id, "--wait"], reference, pool, machine)
    end_as("managed", run_id, record.run_status(opened, run_id), as_json)


@managed.command()
@click.argument("run_id")
@STORE
@POOL
@click.option("--wait", is_flag=True, help="Stay until the run has ended.")
@JSON
def resume(run_id: str, store: str | None, pool: str | None, wait: bool, as_json: bool) -> None:
    """Resume a run where it stopped. It was paused, or its process was lost."""
    from simyard.cli.run import run_detached
    from simyard.core.run_records import DriverStatus
    from simyard.store.keys import RunKeys
    from simyard.tasks.managed import record
    from simyard.tasks.shared.heartbeat import PATIENCE

    machine, reference, opened = open_site(store)
    record.set_desired_state(opened, run_id, "run")
    beat = opened.get_record_or_none(RunKeys(run_id).status, DriverStatus)
    if beat is None or beat.is_gone(PATIENCE.driver.silence_s):
        if wait:
            end_as("managed", run_id, _drive(None, run_id, opened, reference, pool, machine, quiet=as_json), as_json)
        run_detached(run_id, ["managed", "resume", run_id, "--wait"], reference, pool, machine)
    elif wait:
        end_as("managed", run_id, _watch(opened, run_id, quiet=as_json), as_json)
    end_as("managed", run_id, record.run_status(opened, run_id), as_json)


def _drive(
    resolved: ResolvedRun | None, run_id: str, store: Store, reference: str, pool: str | None, machine: MachineSettings,
    *, quiet: bool,
) -> RunState:  # fmt: skip
    """Drive a run in this process, with simulators of its own for as long as it lasts; return its result.

    Raises:
        RequestError: If the simulator refuses the rollouts of a new run; nothing was created then.
    """
    from simyard.cli import run as running
    from simyard.core.records import Estimate
    from simyard.core.run_records import RunResult
    from simyard.core.specs import Bounds
    from simyard.store.keys import RunKeys
    from simyard.tasks.managed.run import ResolvedRun, load_run, stage_run
    from simyard.tasks.sessions.pool import Sessions
    from simyard.tasks.shared.estimates import as_told

    live = LiveLine(quiet=quiet)
    with Sessions(machine, Bounds(jobs=KEPT_JOBS)) as sessions:
        known = resolved or ResolvedRun(load_run(store, run_id), (), None)
        first = known.first_rollout
        if pool is None:
            parallel = known.spec.asked.rollout_template.rollout_parallelism
            running.start_ahead(first, store, sessions, parallel)
        with running.prefect_ready(pool, live):
            if pool is None and resolved is not None:
                running.check_ahead(first, store, sessions, live)
        if resolved is not None:
            stage_run(resolved, store)
            live.say(f"estimate:    {as_told(store.get_record(RunKeys(run_id).estimate, Estimate))}")

        from prefect import tags

        from simyard.flows.managed_training import resume_training_run

        telling = running.in_this_process(sessions, live, on_event=lambda event: live.say(event.message))
        with telling, tags(run_id):
            state = resume_training_run(run_id, reference, pool, return_state=True)
    result = store.get_record_or_none(RunKeys(run_id).result, RunResult)
    if result is None:
        raise RequestError(
            f"{run_id} stopped before its end: {state.message}",
            code="run_interrupted",
            advice=f"What is done is kept. Go on: simyard managed resume {run_id} --wait --store {reference}.",
        )
    _say_ending(result, store, live)
    return result


def _say_ending(result: RunResult, store: Store, live: LiveLine) -> None:
    """Print the result of a run, and the URLs of its best checkpoint and its report."""
    from simyard.core.run_records import LineageRecord
    from simyard.store.keys import RunKeys
    from simyard.tasks.managed import record

    live.say(f"{result.status}: {record.summary(result)}")
    if error := result.error:
        live.say(f"error:       {error.message}\nadvice:      {error.advice}")
    live.say(f"run:         {result.run_id}")
    if result.best:
        key = RunKeys(result.run_id).checkpoint(result.best.checkpoint_id)
        live.say(f"checkpoint:  {store.get_record(key, LineageRecord).uri}")
    live.say(f"report:      {store.url(RunKeys(result.run_id).file(record.REPORT))}")


@managed.command("list")
@STORE
@LIMIT
@JSON
def list_runs(store: str | None, limit: int, as_json: bool) -> None:
    """List runs, newest first."""
    from simyard.tasks.managed import record

    columns: Columns = {
        "RUN": "run_id",
        "STATUS": "status",
        ">ITERATION": lambda row: f"{row['current_iteration']}/{row['max_iterations']}",
        ">CREDITS": lambda row: f"{row['credits']:.3g}",
        "NAME": "name",
    }
    page = record.list_runs(open_site_store(store), limit)
    found = [known.to_json() for known in page.found]
    emit_rows(found, as_json, "No managed training runs in this store yet.", columns, page.unreadable)


@managed.command()
@click.argument("run_id")
@STORE
@JSON
def show(run_id: str, store: str | None, as_json: bool) -> None:
    """Show a run's status, its iterations and its checkpoints."""
    from simyard.tasks.managed import record

    opened = open_site_store(store)
    known, iterations = record.run_status(opened, run_id), record.iterations(opened, run_id)
    history = {
        "history": [one.to_json() for one in iterations],
        "checkpoints": [one.to_json() for one in record.checkpoints(opened, run_id)[::-1]],
    }
    emit(known.to_json() | reckoned(known.estimate) | history, as_json, lambda _: _describe(known, iterations))


def _describe(known: RunState, iterations: list[IterationRecord]) -> str:
    from simyard.tasks.shared.estimates import as_told

    lines = [
        f"{known.run_id}  {known.status}",
        f"store       {known.store}",
        f"iteration   {known.current_iteration} of {known.max_iterations} at most",
        f"cost        {known.credits:.4g} credits",
    ]
    if known.estimate:
        lines.append(f"estimate    {as_told(known.estimate)}")
    if known.ended_by:
        lines.append(f"ended by    {known.ended_by}")
    if error := known.error:
        lines += [f"error       {error.message}", f"advice      {error.advice}"]
    for ended in iterations:
        metric = "not measured" if ended.metric is None else f"{ended.metric:.4g}"
        what = ended.failure.message if ended.failure else f"{metric:>12}  {ended.checkpoint_id}"
        lines.append(f"  {ended.iteration:>5}  {what}")
    return "\n".join(lines)


@managed.command()
@click.argument("run_id")
@STORE
@JSON
def watch(run_id: str, store: str | None, as_json: bool) -> None:
    """Follow a run's events until it has ended. Exits as the run does."""
    end_as("managed", run_id, _watch(open_site_store(store), run_id, quiet=as_json), as_json)


def _watch(store: Store, run_id: str, *, quiet: bool) -> RunState:
    """Print a run's events as they come, until it has ended or nobody drives it any more."""
    from simyard.core.run_records import RunResult
    from simyard.tasks.managed import record
    from simyard.tasks.managed.run import load_run

    load_run(store, run_id)
    live = LiveLine()
    shown = 0
    while True:
        known = record.run_status(store, run_id)
        if not quiet:
            new = [number for number in record.event_numbers(store, run_id) if number > shown]
            for event in record.read_events(store, run_id, new):
                live.say(f"{event.created_at[11:19]}  {event.event_type:20} {event.message}")
                shown = int(event.event_id.removeprefix("evt-"))
            if not isinstance(known, RunResult):
                live.stage(known.stage or known.status)
        if isinstance(known, RunResult) or known.status == "interrupted":
            if isinstance(known, RunResult) and not quiet:
                _say_ending(known, store, live)
            return known
        time.sleep(POLL_S)


@managed.command()
@click.argument("run_id")
@STORE
def pause(run_id: str, store: str | None) -> None:
    """Begin nothing new; what is in progress comes to its end."""
    from simyard.tasks.managed import record

    opened = open_site_store(store)
    record.set_desired_state(opened, run_id, "pause")
    say_paused("managed", run_id, record.run_status(opened, run_id))


@managed.command()
@click.argument("run_id")
@STORE
def cancel(run_id: str, store: str | None) -> None:
    """End a run now; its checkpoints are kept."""
    from simyard.tasks.managed import record
    from simyard.tasks.managed.loop import cancel_undriven

    machine, _, opened = open_site(store)
    record.set_desired_state(opened, run_id, "cancel")
    cancel_undriven(opened, run_id, machine)
    say_canceled(run_id, record.run_status(opened, run_id))


@managed.command()
@click.argument("run_id")
@STORE
@JSON
def verify(run_id: str, store: str | None, as_json: bool) -> None:
    """Check a run's digests, lineage and events. Exits with 1 if something is wrong."""
    from simyard.tasks.managed.verify import verify as find_problems

    live = LiveLine()

    def show(what: str) -> None:
        if not as_json:
            live.stage(what)

    problems = find_problems(open_site_store(store), run_id, show)
    sound = f"{run_id}: every checkpoint, dataset, rollout and event is what it says."
    emit({"run_id": run_id, "problems": problems}, as_json, lambda found: "\n".join(problems) or sound)
    sys.exit(EXIT_JOB_FAILED if problems else EXIT_SUCCEEDED)
