"""`simyard managed-train` and `simyard runs`: a loop of rollouts and a trainer, and what the store says of it."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from simyard.blocks.reference import absolute, open_store
from simyard.cli import run as running
from simyard.cli.detached import go_on_alone
from simyard.cli.live import LiveLine
from simyard.cli.site_store import open_site_store
from simyard.core.errors import RequestError
from simyard.core.specs import Bounds
from simyard.requests.managed import TrainingRunRequest
from simyard.requests.settings import Site
from simyard.store import keys
from simyard.store.keys import RunKeys
from simyard.store.store import Store
from simyard.tasks.managed import record
from simyard.tasks.managed import report as run_report
from simyard.tasks.managed import verify as verifying
from simyard.tasks.managed.desired_state import Wish, wish
from simyard.tasks.managed.driver import Driver, DriverObserver
from simyard.tasks.managed.events import event_numbers, read_events
from simyard.tasks.managed.executor import summary
from simyard.tasks.managed.run import ResolvedRun, load_run, resolve_run, stage_run
from simyard.tasks.managed.trainer import check_trainer
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.shared.heartbeat import PATIENCE, is_gone
from simyard.tasks.shared.history import read_or_none

POLL_S = 1.0
KEPT_JOBS = 1_000_000
"""A simulator of a run is not replaced for having served many rollouts, only for its memory."""


def start(
    request: TrainingRunRequest, base: Path, reference: str | None, pool: str | None, *, wait: bool, quiet: bool
) -> dict[str, Any]:
    """Begin a managed training run.

    Args:
        request: The checked request.
        base: Folder that its relative paths start from.
        reference: The store, as the user named it.
        pool: The work pool; None does everything on this machine.
        wait: Whether to stay until the run has ended.
        quiet: Whether to print nothing meanwhile.

    Returns:
        The run's result, or how it stands where nobody waits.

    Raises:
        RequestError: If the request is bad; nothing was created then.
    """
    site = Site.from_env()
    reference = absolute(reference or site.store)
    store = open_store(reference)
    resolved = resolve_run(request, store, keys.new_run_id(), base, site)
    if pool is None:
        check_trainer(resolved.spec, site)
    if wait:
        return _drive(resolved, resolved.spec.run_id, store, reference, pool, site, quiet=quiet)
    stage_run(resolved, store)
    _leave(resolved.spec.run_id, reference, pool, site)
    return record.run_status(store, resolved.spec.run_id)


def resume(run_id: str, reference: str | None, pool: str | None, *, wait: bool, quiet: bool) -> dict[str, Any]:
    """Let a paused run go on, and drive one that nobody drives any more.

    Raises:
        RequestError: If there is no such run, or it has ended.
    """
    site = Site.from_env()
    reference = absolute(reference or site.store)
    store = open_store(reference)
    wish(store, run_id, "run")
    beat = read_or_none(store, RunKeys(run_id).status)
    if beat is not None and not is_gone(beat, PATIENCE.driver.silence_s):
        return watch(store, run_id, quiet=quiet) if wait else record.run_status(store, run_id)
    if wait:
        return _drive(None, run_id, store, reference, pool, site, quiet=quiet)
    _leave(run_id, reference, pool, site)
    return record.run_status(store, run_id)


def _leave(run_id: str, reference: str, pool: str | None, site: Site) -> None:
    """Have a process of its own drive the run; it outlives this one and its terminal."""
    go_on_alone(run_id, ["runs", "resume", run_id, "--wait"], reference, pool, site)


def _drive(
    resolved: ResolvedRun | None, run_id: str, store: Store, reference: str, pool: str | None, site: Site,
    *, quiet: bool,
) -> dict[str, Any]:  # fmt: skip
    """Drive a run in this process, with simulators of its own for as long as it lasts; return its result.

    Raises:
        RequestError: If the simulator refuses the rollouts of a new run; nothing was created then.
    """
    live = LiveLine()
    with Sessions(site, Bounds(jobs=KEPT_JOBS)) as sessions:
        known = resolved or ResolvedRun(load_run(store, run_id), (), None)
        first = known.first_rollout
        if pool is None:
            parallel = known.spec.asked.rollout_template.rollout_parallelism
            running.start_ahead(first, store, sessions, parallel)
        with running.prefect_ready(pool, live, quiet=quiet):
            if pool is None and resolved is not None:
                running.check_ahead(first, store, sessions, live, quiet=quiet)
        if resolved is not None:
            stage_run(resolved, store)

        def hear(status: dict[str, Any]) -> None:
            if event := status.get("event"):
                live.say(event["message"])
            else:
                live(status)

        from simyard.flows.managed_training import resume_training_run

        with running.in_this_process(sessions, live, (lambda status: None) if quiet else hear):
            state = resume_training_run(run_id, reference, pool, return_state=True)
    result = read_or_none(store, RunKeys(run_id).result)
    if result is None:
        raise RequestError(
            f"{run_id} stopped before its end: {state.message}",
            code="run_interrupted",
            advice=f"What is done is kept. Go on: simyard runs resume {run_id} --wait --store {reference}.",
        )
    if not quiet:
        say_ending(result, store, live)
    return dict(result)


def say_ending(result: dict[str, Any], store: Store, live: LiveLine) -> None:
    """Print how a run ended, and where what matters of it lies."""
    live.say(f"{result['status']}: {summary(result)}")
    if error := result["error"]:
        live.say(f"error:       {error['message']}\nadvice:      {error['advice']}")
    live.say(f"run:         {result['run_id']}")
    if result["best"]:
        uri = store.get_json(RunKeys(result["run_id"]).checkpoint(result["best"]["checkpoint_id"]))["uri"]
        live.say(f"checkpoint:  {uri}")
    live.say(f"report:      {store.url(RunKeys(result['run_id']).file(run_report.REPORT))}")


def watch(store: Store, run_id: str, *, quiet: bool = False) -> dict[str, Any]:
    """Print a run's events as they come, until it has ended or nobody drives it any more.

    Raises:
        RequestError: If there is no such run.
    """
    load_run(store, run_id)
    live = LiveLine()
    shown = 0
    while True:
        standing = record.run_status(store, run_id)
        if not quiet:
            for event in read_events(store, run_id, [n for n in event_numbers(store, run_id) if n > shown]):
                live.say(describe_event(event))
                shown = int(event["event_id"].removeprefix("evt-"))
            if standing["status"] not in record.ENDED:
                live({"stage": standing["stage"] or standing["status"], "done": 0, "total": 0})
        if standing["status"] in (*record.ENDED, "interrupted"):
            if standing["status"] in record.ENDED and not quiet:
                say_ending(standing, store, live)
            return standing
        time.sleep(POLL_S)


def describe_event(event: dict[str, Any]) -> str:
    """Return an event as one line."""
    return f"{event['created_at'][11:19]}  {event['event_type']:20} {event['message']}"


def say(run_id: str, reference: str | None, wanted: Wish) -> dict[str, Any]:
    """Say what is wanted of a run; return how it stands. A run that nobody drives is canceled at once.

    Raises:
        RequestError: If there is no such run, or it has ended.
    """
    site = Site.from_env()
    store = open_store(reference or site.store)
    wish(store, run_id, wanted)
    if wanted == "cancel" and record.run_status(store, run_id)["status"] in ("queued", "interrupted"):
        with suppress(RequestError):  # a process has just taken it up, and sees what is wanted
            Driver(load_run(store, run_id), store, site, DriverObserver()).end_now("canceled")
    return record.run_status(store, run_id)


def verify(run_id: str, reference: str | None, *, quiet: bool) -> list[str]:
    """Return what is wrong with a run.

    Raises:
        RequestError: If there is no such run.
    """
    store = open_site_store(reference)
    live = LiveLine()

    def show(what: str) -> None:
        if not quiet:
            live({"stage": what, "done": 0, "total": 0})

    return verifying.verify(store, run_id, show)


def show(run_id: str, reference: str | None) -> dict[str, Any]:
    """Return how a run stands, with its iterations and checkpoints."""
    store = open_site_store(reference)
    standing = record.run_status(store, run_id)
    return standing | {
        "history": record.iterations(store, run_id),
        "checkpoints": record.checkpoints(store, run_id)[::-1],
    }


def describe(standing: dict[str, Any]) -> str:
    """Return a run as text."""
    lines = [f"{standing['run_id']}  {standing['status']}", f"store       {standing['store']}"]
    lines.append(f"iteration   {standing['current_iteration']} of {standing['max_iterations']} at most")
    lines.append(f"cost        {standing['credits']:.4g} credits")
    if standing["ended_by"]:
        lines.append(f"ended by    {standing['ended_by']}")
    if error := standing["error"]:
        lines += [f"error       {error['message']}", f"advice      {error['advice']}"]
    for ended in standing["history"]:
        metric = "not measured" if ended["metric"] is None else f"{ended['metric']:.4g}"
        what = ended["failure"]["message"] if ended["failure"] else f"{metric:>12}  {ended['checkpoint_id']}"
        lines.append(f"  {ended['iteration']:>5}  {what}")
    return "\n".join(lines)


def list_runs(reference: str | None, limit: int) -> list[dict[str, Any]]:
    """Return how the newest runs stand."""
    return record.list_runs(open_site_store(reference), limit)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the list as text."""
    if not rows:
        return "No managed training runs in this store yet."
    lines = [f"{'RUN':31} {'STATUS':11} {'ITERATION':>10} {'CREDITS':>8}  NAME"]
    for row in rows:
        done = f"{row['current_iteration']}/{row['max_iterations']}"
        lines.append(f"{row['run_id']:31} {row['status']:11} {done:>10} {row['credits']:>8.3g}  {row['name']}")
    return "\n".join(lines)
