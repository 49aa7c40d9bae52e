"""`simyard sweep`: several settings and seeds of one training, and the verdict on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from simyard.cli.driven import KEPT_JOBS, end_as, say_canceled, say_paused
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
    emit_rows,
    open_site,
    open_site_store,
    read_request,
)
from simyard.cli.sweep_views import best, follow, say_ending, show, watch
from simyard.core.errors import RequestError

if TYPE_CHECKING:
    from simyard.core.sweep_records import SweepState
    from simyard.requests.settings import MachineSettings
    from simyard.requests.sweeps import SweepRequest
    from simyard.store.store import Store
    from simyard.tasks.sessions.pool import Sessions
    from simyard.tasks.sweeps.plan import ResolvedSweep


class _Group(Group):
    """A group whose first argument may be a config: then its default command is meant."""

    DEFAULT = "start"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command's name before what belongs to it."""
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = [self.DEFAULT, *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Group)
def sweep() -> None:
    """Compare settings of a training over several seeds: `simyard sweep CONFIG`.

    CONFIG is that of a training with `sweep`: parameters, seeds, and how to choose.
    """


for _reading in (show, watch, best):
    sweep.add_command(_reading)


@sweep.command(hidden=True)
@ARGUMENTS
@STORE
@POOL
@SETTINGS
@click.option("--wait", is_flag=True, help="Stay until the sweep has ended; without it the sweep goes on by itself.")
@JSON
def start(
    arguments: tuple[str, ...],
    store: str | None,
    pool: str | None,
    settings: tuple[str, ...],
    wait: bool,
    as_json: bool,
) -> None:
    """Train all settings, and say which is best. CONFIG is a JSON file; `start` may be left out."""
    from simyard.requests.sweeps import SweepRequest

    request, base = read_request(SweepRequest, arguments, settings)
    begin(request, base, store, pool, wait=wait, as_json=as_json)


def begin(
    request: SweepRequest, base: Path, store: str | None, pool: str | None, *, wait: bool, as_json: bool
) -> NoReturn:
    """Begin a sweep, and exit as it does, or once it goes on by itself.

    Raises:
        RequestError: If it is refused; nothing was created then.
    """
    # The request is good: what runs it is imported now.
    from simyard.cli.run import run_detached
    from simyard.core.specs import Bounds
    from simyard.store import keys
    from simyard.tasks.sessions.pool import Sessions
    from simyard.tasks.sweeps import record
    from simyard.tasks.sweeps.plan import resolve_sweep, stage_sweep

    machine, reference, opened = open_site(store)
    pool = pool or machine.pool
    resolved = resolve_sweep(request, opened, keys.new_sweep_id(), base, machine)
    sweep_id = resolved.spec.sweep_id
    if wait:
        end_as("sweep", sweep_id, _drive(resolved, sweep_id, opened, reference, pool, machine, quiet=as_json), as_json)
    if pool is None:
        with Sessions(machine, Bounds()) as sessions:
            _start_ahead(resolved, opened, sessions)
            resolved = _checked(resolved, opened, sessions, LiveLine(quiet=as_json))
    stage_sweep(resolved, opened, is_here=pool is None)
    run_detached(sweep_id, ["sweep", "resume", sweep_id, "--wait"], reference, pool, machine)
    end_as("sweep", sweep_id, record.sweep_status(opened, sweep_id), as_json)


def _drive(
    resolved: ResolvedSweep | None, sweep_id: str, store: Store, reference: str, pool: str | None,
    machine: MachineSettings, *, quiet: bool,
) -> SweepState:  # fmt: skip
    """Drive a sweep in this process, with simulators of its own for as long as it lasts; return its result.

    Raises:
        RequestError: If the simulator refuses a value of a new sweep; nothing was created then.
    """
    from simyard.cli import run as running
    from simyard.core.specs import Bounds
    from simyard.core.sweep_records import SweepResult
    from simyard.store.keys import SweepKeys
    from simyard.tasks.sessions.pool import Sessions
    from simyard.tasks.shared.estimates import as_told
    from simyard.tasks.sweeps.plan import stage_sweep

    live = LiveLine(quiet=quiet)
    with Sessions(machine, Bounds(jobs=KEPT_JOBS)) as sessions:
        is_here = resolved is not None and pool is None
        if resolved is not None and is_here:
            _start_ahead(resolved, store, sessions)
        with running.prefect_ready(pool, live):
            if resolved is not None and is_here:
                resolved = _checked(resolved, store, sessions, live)
        if resolved is not None:
            told = stage_sweep(resolved, store, is_here=pool is None)
            live.say(f"estimate:    {as_told(told)}")

        from prefect import tags

        from simyard.flows.sweep import resume_sweep

        telling = running.in_this_process(sessions, live, on_event=lambda event: live.say(event.message))
        with telling, tags(sweep_id):
            state = resume_sweep(sweep_id, reference, pool, return_state=True)
    result = store.get_record_or_none(SweepKeys(sweep_id).result, SweepResult)
    if result is None:
        raise RequestError(
            f"{sweep_id} stopped before its end: {state.message}",
            code="sweep_interrupted",
            advice=f"What is done is kept. Go on: simyard sweep resume {sweep_id} --wait --store {reference}.",
        )
    say_ending(result, live)
    return result


def _start_ahead(resolved: ResolvedSweep, store: Store, sessions: Sessions) -> None:
    """Start a simulator for a new sweep, unless what is known already refuses one of its values."""
    from simyard.tasks.sessions.fingerprint import Findings

    for probe in resolved.probes:
        Findings(sessions.machine, probe.spec).refuse()
    sessions.start_ahead(resolved.probes[0].spec, store.url())


def _checked(resolved: ResolvedSweep, store: Store, sessions: Sessions, live: LiveLine) -> ResolvedSweep:
    """Have the simulator check every value; return the sweep with the versions that it told."""
    from simyard.tasks.sweeps.check import check_values

    with live.waiting("checking the values"):
        versions = check_values(resolved, store, sessions)
    return replace(resolved, spec=replace(resolved.spec, versions=versions))


@sweep.command()
@click.argument("sweep_id")
@STORE
@POOL
@click.option("--wait", is_flag=True, help="Stay until the sweep has ended.")
@JSON
def resume(sweep_id: str, store: str | None, pool: str | None, wait: bool, as_json: bool) -> None:
    """Go on with a sweep where it stopped. It was paused, or its process was lost."""
    from simyard.cli.run import run_detached
    from simyard.core.sweep_records import SweepStatus
    from simyard.store.keys import SweepKeys
    from simyard.tasks.shared.heartbeat import PATIENCE
    from simyard.tasks.sweeps import record

    machine, reference, opened = open_site(store)
    pool = pool or machine.pool
    record.set_desired_state(opened, sweep_id, "run")
    beat = opened.get_record_or_none(SweepKeys(sweep_id).status, SweepStatus)
    if beat is None or beat.is_gone(PATIENCE.driver.silence_s):
        if wait:
            end_as("sweep", sweep_id, _drive(None, sweep_id, opened, reference, pool, machine, quiet=as_json), as_json)
        run_detached(sweep_id, ["sweep", "resume", sweep_id, "--wait"], reference, pool, machine)
    elif wait:
        end_as("sweep", sweep_id, follow(opened, sweep_id, quiet=as_json), as_json)
    end_as("sweep", sweep_id, record.sweep_status(opened, sweep_id), as_json)


@sweep.command("list")
@STORE
@LIMIT
@JSON
def list_sweeps(store: str | None, limit: int, as_json: bool) -> None:
    """List sweeps, newest first."""
    from simyard.tasks.sweeps import record

    columns: Columns = {
        "SWEEP": "sweep_id",
        "STATUS": "status",
        ">SETTINGS": "settings",
        "NAME": "name",
    }
    page = record.list_sweeps(open_site_store(store), limit)
    found = [known.to_json() for known in page.found]
    emit_rows(found, as_json, "No sweeps in this store yet.", columns, page.unreadable)


@sweep.command()
@click.argument("sweep_id")
@STORE
def pause(sweep_id: str, store: str | None) -> None:
    """Begin nothing new; what is in progress comes to its end."""
    from simyard.tasks.sweeps import record

    opened = open_site_store(store)
    record.set_desired_state(opened, sweep_id, "pause")
    say_paused("sweep", sweep_id, record.sweep_status(opened, sweep_id))


@sweep.command()
@click.argument("sweep_id")
@STORE
def cancel(sweep_id: str, store: str | None) -> None:
    """End a sweep now; what was trained and measured is kept."""
    from simyard.tasks.sweeps import record
    from simyard.tasks.sweeps.loop import cancel_undriven

    opened = open_site_store(store)
    record.set_desired_state(opened, sweep_id, "cancel")
    cancel_undriven(opened, sweep_id)
    say_canceled(sweep_id, record.sweep_status(opened, sweep_id))
