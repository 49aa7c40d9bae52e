"""`simyard retrain` and `simyard promotions`: a better policy takes the promoted one's place, or does not."""

from __future__ import annotations

import getpass
import json
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from simyard.cli.live import LiveLine
from simyard.cli.shared import (
    ARGUMENTS,
    EXITS,
    JSON,
    POOL,
    SETTINGS,
    STORE,
    Columns,
    Command,
    Group,
    emit,
    emit_rows,
    open_site,
    open_site_store,
    read_request,
    reckoned,
)
from simyard.core.errors import EXIT_BAD_REQUEST, Category, RequestError

if TYPE_CHECKING:
    from simyard.core.run_records import PolicyRecord, Promotion, PromotionDecision
    from simyard.store.store import Store

MAX_WHY_CHARACTERS = 4000


@click.command(cls=Command)
@ARGUMENTS
@STORE
@POOL
@SETTINGS
@JSON
def retrain(
    arguments: tuple[str, ...], store: str | None, pool: str | None, settings: tuple[str, ...], as_json: bool
) -> None:
    """Train, and promote the policy if it is better. Better means beyond noise; CONFIG is a JSON file.

    Exits 0 when that was decided, either way.
    """
    from simyard.requests.jobs import RetrainRequest

    request, base = read_request(RetrainRequest, arguments, settings)
    # The request is good: what runs it is imported now.
    from simyard.cli import run as running
    from simyard.core.specs import Bounds
    from simyard.store import keys
    from simyard.tasks.promotion import promotions
    from simyard.tasks.promotion.retrain import estimate_retraining, find_start, require_comparable
    from simyard.tasks.resolve import resolve
    from simyard.tasks.sessions.pool import Sessions
    from simyard.tasks.shared.estimates import as_placed, as_told
    from simyard.tasks.shared.usage import cost_in_words

    machine, reference, opened = open_site(store)
    job_id = keys.new_job_id()
    incumbent = promotions.read(opened, request.promotion).current
    require_comparable(request, incumbent, opened)
    start = find_start(request, incumbent, opened, job_id)
    training = request.training.model_copy(update={"resume": start.resume})
    resolved = resolve(training, opened, job_id, base)
    live = LiveLine(quiet=as_json)
    told = estimate_retraining(
        request, as_placed(resolved.spec, pool or machine.pool), incumbent, opened, machine.usd_per_gpu_hour
    )
    live.say(f"estimate:    {as_told(told)}")
    with Sessions(machine, Bounds()) as sessions:
        if pool is None:
            running.start_ahead(resolved, opened, sessions)
        with running.prefect_ready(pool, live):
            if pool is None:
                running.check_ahead(resolved, opened, sessions, live)
        from simyard.flows.retrain import retrain as flow

        live.say(f"beginning from {start.described}")
        with running.in_this_process(sessions, live):
            state = flow(request, reference, pool, job_id, base, return_state=True)

    written = [made for made in promotions.read(opened, request.promotion).history if made.job_id == job_id]
    if not written:
        state.result()  # raises what ended the flow
    decision = written[-1]
    if as_json:
        click.echo(json.dumps(decision.to_json() | reckoned(decision.estimate)))
    else:
        # The decision and its grounds.
        live.say(f"{decision.decision.replace('_', ' ')}: {decision.why}")
        if decision.error:
            live.say(f"advice:      {decision.error.advice}")
        live.say(f"job:         {decision.job_id}")
        if decision.cost and decision.cost.gpu_seconds:
            live.say(f"cost:        {cost_in_words(decision.cost)}")
        for label, policy in (("new", decision.candidate), ("before", decision.incumbent)):
            if policy is not None:
                live.say(f"{label + ':':12} {_figures(policy)}")
        live.say(f"record:      {opened.url(keys.PromotionKeys(request.promotion).record)}")
    sys.exit(_exit_code(decision, opened))


def _exit_code(decision: PromotionDecision, store: Store) -> int:
    """Return 0 where something was decided, else the code of the job that failed."""
    from simyard.tasks.shared import history

    if decision.error is None:
        return EXITS["succeeded"]
    if decision.error.category is Category.CANCELED:
        return EXITS["canceled"]
    assert decision.job_id is not None
    trained = history.result_of(store, decision.job_id)
    return EXIT_BAD_REQUEST if trained and trained.refused else EXITS["failed"]


def _figures(policy: PolicyRecord) -> str:
    from simyard.tasks.shared.documents import interval, number

    found = policy.evaluation
    return f"{found.metric} {number(found.mean)} {interval(found.interval_95)} in {found.episodes} episodes"


@click.group(cls=Group)
def promotions() -> None:
    """Look at what retrainings have promoted, and go back."""


@promotions.command("list")
@STORE
@JSON
def list_promotions(store: str | None, as_json: bool) -> None:
    """List the promotions, each with its policy and its newest decision."""
    from simyard.tasks.promotion import promotions
    from simyard.tasks.shared.documents import number
    from simyard.tasks.shared.listing import newest, shown

    opened = open_site_store(store)
    page = newest(promotions.names(opened), lambda name: shown(promotions.require(opened, name)))
    found = {promotion.name: promotion for promotion in reversed(page.found)}
    columns: Columns = {
        "PROMOTION": "name",
        "PROMOTED": lambda row: row["current"]["job_id"] if row["current"] else "none",
        ">METRIC": lambda row: number(row["current"]["evaluation"]["mean"]) if row["current"] else "",
        "LAST DECISION": lambda row: _line(found[row["name"]].history[-1]),
    }
    rows = [replace(promotion, history=promotion.history[-1:]).to_json() for promotion in found.values()]
    emit_rows(rows, as_json, "Nothing has been retrained in this store yet.", columns, page.unreadable)


@promotions.command()
@click.argument("name")
@STORE
@JSON
def show(name: str, store: str | None, as_json: bool) -> None:
    """Show the promoted policy, and every decision."""
    from simyard.tasks.promotion import promotions

    promotion = promotions.require(open_site_store(store), name)
    emit(promotion.to_json(), as_json, lambda _: _describe(promotion))


@promotions.command()
@click.argument("name")
@STORE
@click.option("--why", default="", metavar="TEXT", help="The reason, for the history.")
@JSON
def rollback(name: str, store: str | None, why: str, as_json: bool) -> None:
    """Go back to the policy that was promoted before; the history keeps both."""
    from simyard.tasks.promotion import promotions

    if len(why) > MAX_WHY_CHARACTERS:
        raise RequestError(
            f"--why has {len(why)} characters.", code="bad_command", advice=f"Allowed: {MAX_WHY_CHARACTERS:,}."
        )
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"user {os.getuid()}"
    decision = promotions.rollback(open_site_store(store), name, why=why, by=user)
    emit(decision.to_json(), as_json, lambda made: f"{name} is {made['candidate']['job_id']} again.")


def _describe(promotion: Promotion) -> str:
    lines = [promotion.name]
    if current := promotion.current:
        since = (current.promoted_at or "")[:16]
        lines += [
            f"promoted    {current.job_id}, {current.checkpoint.name}, since {since}",
            f"task        {current.task} with {current.library}",
            f"measured    {_figures(current)}",
        ]
    else:
        lines.append("promoted    none")
    lines += [f"  {_line(made)}\n      {made.why}" for made in promotion.history[::-1]]
    return "\n".join(lines)


def _line(made: PromotionDecision) -> str:
    back_to = made.candidate.job_id if made.candidate else ""
    return f"{made.at[:16]}  {made.decision.replace('_', ' '):12} {made.job_id or f'to {back_to} by {made.by}'}"
