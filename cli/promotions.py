"""`simyard retrain` and `simyard promotions`: a better policy takes the promoted one's place, or does not."""

from __future__ import annotations

import getpass
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from simyard.cli.live import LiveLine
from simyard.cli.options import ARGUMENTS, JSON, POOL, SETTINGS, STORE, read_request
from simyard.cli.output import EXITS, Columns, Command, Group, emit, emit_rows
from simyard.cli.site_store import open_site, open_site_store
from simyard.core.errors import EXIT_BAD_REQUEST, Category, RequestError
from simyard.tasks.shared.documents import interval, number

if TYPE_CHECKING:
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
    from simyard.tasks.promotion.retrain import find_start, require_comparable
    from simyard.tasks.resolve import resolve
    from simyard.tasks.sessions.pool import Sessions

    site, reference, opened = open_site(store)
    job_id = keys.new_job_id()
    incumbent = promotions.read(opened, request.promotion).current
    require_comparable(request, incumbent, opened)
    start = find_start(request, incumbent, opened, job_id)
    training = request.training.model_copy(update={"resume": start.resume})
    resolved = resolve(training, opened, job_id, base)
    live = LiveLine()
    with Sessions(site, Bounds()) as sessions:
        if pool is None:
            running.start_ahead(resolved, opened, sessions)
        with running.prefect_ready(pool, live, quiet=as_json):
            if pool is None:
                running.check_ahead(resolved, opened, sessions, live, quiet=as_json)
        from simyard.flows.retrain import retrain as flow

        if not as_json:
            live.say(f"beginning from {start.described}")
        with running.in_this_process(sessions, live, (lambda status: None) if as_json else live):
            state = flow(request, reference, pool, job_id, base, return_state=True)

    written = [e for e in promotions.read(opened, request.promotion).history if e["job_id"] == job_id]
    if not written:
        state.result()  # raises what ended the flow
    entry = written[-1]
    if as_json:
        click.echo(json.dumps(entry))
    else:
        _say(entry, opened, request.promotion, live)
    sys.exit(_exit_code(entry, opened))


def _exit_code(entry: dict[str, Any], store: Store) -> int:
    """Return 0 where something was decided, else the code of the job that failed."""
    from simyard.store import keys

    error = entry["error"]
    if error is None:
        return EXITS["succeeded"]
    if error["category"] == Category.CANCELED:
        return EXITS["canceled"]
    trained = store.get_json_or_none(keys.JobKeys(entry["job_id"]).result)
    return EXIT_BAD_REQUEST if trained and trained["refused"] else EXITS["failed"]


def _say(entry: dict[str, Any], store: Store, name: str, live: LiveLine) -> None:
    """Print the decision and its grounds."""
    from simyard.store import keys

    live.say(f"{entry['decision'].replace('_', ' ')}: {entry['why']}")
    if error := entry["error"]:
        live.say(f"advice:      {error['advice']}")
    live.say(f"job:         {entry['job_id']}")
    for label, policy in (("new", entry["candidate"]), ("before", entry["incumbent"])):
        if policy is not None:
            live.say(f"{label + ':':12} {_figures(policy)}")
    live.say(f"record:      {store.url(keys.PromotionKeys(name).record)}")


def _figures(policy: dict[str, Any]) -> str:
    found = policy["evaluation"]
    return f"{found['metric']} {number(found['mean'])} {interval(found['interval_95'])} in {found['episodes']} episodes"


@click.group(cls=Group)
def promotions() -> None:
    """Look at what retrainings have promoted, and go back."""


@promotions.command("list")
@STORE
@JSON
def list_promotions(store: str | None, as_json: bool) -> None:
    """List the promotions, each with its policy and its newest decision."""
    from simyard.tasks.promotion import promotions

    opened = open_site_store(store)
    records = [promotions.read(opened, name).to_json() for name in promotions.names(opened)]
    columns: Columns = {
        "PROMOTION": "name",
        "PROMOTED": lambda record: record["current"]["job_id"] if record["current"] else "none",
        ">METRIC": lambda record: number(record["current"]["evaluation"]["mean"]) if record["current"] else "",
        "LAST DECISION": lambda record: _line(record["history"][-1]),
    }
    newest = [record | {"history": record["history"][-1:]} for record in records]
    emit_rows(newest, as_json, "Nothing has been retrained in this store yet.", columns)


@promotions.command()
@click.argument("name")
@STORE
@JSON
def show(name: str, store: str | None, as_json: bool) -> None:
    """Show the promoted policy, and every decision."""
    from simyard.tasks.promotion import promotions

    emit(promotions.require(open_site_store(store), name).to_json(), as_json, _describe)


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
    entry = promotions.rollback(open_site_store(store), name, why=why, by=user)
    emit(entry, as_json, lambda entry: f"{name} is {entry['candidate']['job_id']} again.")


def _describe(record: dict[str, Any]) -> str:
    lines = [record["name"]]
    if current := record["current"]:
        lines += [
            f"promoted    {current['job_id']}, {current['checkpoint']['name']}, since {current['promoted_at'][:16]}",
            f"task        {current['task']} with {current['library']}",
            f"measured    {_figures(current)}",
        ]
    else:
        lines.append("promoted    none")
    lines += [f"  {_line(entry)}\n      {entry['why']}" for entry in record["history"][::-1]]
    return "\n".join(lines)


def _line(entry: dict[str, Any]) -> str:
    what = entry["job_id"] or f"to {entry['candidate']['job_id']} by {entry['by']}"
    return f"{entry['at'][:16]}  {entry['decision'].replace('_', ' '):12} {what}"
