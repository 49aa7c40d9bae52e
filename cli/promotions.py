"""`simyard retrain` and `simyard promotions`: a better policy takes the promoted one's place, or does not."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Any

from simyard.blocks.reference import absolute, open_store
from simyard.cli import run as running
from simyard.cli.live import LiveLine
from simyard.cli.site_store import open_site_store
from simyard.core.errors import Category, RequestError
from simyard.core.specs import Bounds
from simyard.requests.retrain import RetrainRequest
from simyard.requests.settings import Site
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.promotion import promotions
from simyard.tasks.promotion.retrain import find_start, require_comparable
from simyard.tasks.resolve import resolve
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.shared import history
from simyard.tasks.shared.text import interval, number

MAX_WHY_CHARACTERS = 4000


def retrain(
    request: RetrainRequest, base: Path, reference: str | None, pool: str | None, *, quiet: bool
) -> tuple[dict[str, Any], str]:
    """Train, compare and decide.

    Args:
        request: The checked request.
        base: Folder that its relative paths start from.
        reference: The store, as the user named it.
        pool: The work pool; None runs everything in this process.
        quiet: Whether to print nothing.

    Returns:
        The decision as the history has it, and `succeeded` when there is one, else how the job ended that failed:
        `failed`, `canceled` or `refused`.

    Raises:
        RequestError: If the request is bad; nothing was created then.
    """
    site = Site.from_env()
    reference = absolute(reference or site.store)
    store = open_store(reference)
    job_id = keys.new_job_id()
    incumbent = promotions.read(store, request.promotion).current
    require_comparable(request, incumbent, store)
    start = find_start(request, incumbent, store, job_id)
    training = request.training.model_copy(update={"resume": start.resume})
    resolved = resolve(training, store, job_id, base)
    live = LiveLine()
    with Sessions(site, Bounds()) as sessions:
        if pool is None:
            running.start_ahead(resolved, store, sessions)
        with running.prefect_ready(pool, live, quiet=quiet):
            if pool is None:
                running.check_ahead(resolved, store, sessions, live, quiet=quiet)
        from simyard.flows.retrain import retrain as flow

        if not quiet:
            live.say(f"beginning from {start.said}")
        with running.in_this_process(sessions, live, (lambda status: None) if quiet else live):
            state = flow(request, reference, pool, job_id, base, return_state=True)
    written = [e for e in promotions.read(store, request.promotion).history if e["job_id"] == job_id]
    if not written:
        state.result()  # raises what ended the flow
    entry = written[-1]
    if not quiet:
        _say(entry, store, request.promotion, live)
    return entry, _status(entry, store)


def _status(entry: dict[str, Any], store: Store) -> str:
    error = entry["error"]
    if error is None:
        return "succeeded"
    if error["category"] == Category.CANCELED:
        return "canceled"
    trained = history.read_or_none(store, keys.JobKeys(entry["job_id"]).result)
    return "refused" if trained and trained["refused"] else "failed"


def _say(entry: dict[str, Any], store: Store, name: str, live: LiveLine) -> None:
    """Print what was decided, and on what grounds."""
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


def list_promotions(reference: str | None) -> list[dict[str, Any]]:
    """Return the records of a store, each with its newest decision alone."""
    store = open_site_store(reference)
    records = [promotions.read(store, name).to_json() for name in promotions.names(store)]
    return [record | {"history": record["history"][-1:]} for record in records]


def show(name: str, reference: str | None) -> dict[str, Any]:
    """Return a record.

    Raises:
        RequestError: If there is none of this name.
    """
    return promotions.require(open_site_store(reference), name).to_json()


def roll_back(name: str, reference: str | None, why: str) -> dict[str, Any]:
    """Go back to the policy that was promoted before; return the entry in the history.

    Raises:
        RequestError: If there is none, or the reason is a book.
    """
    if len(why) > MAX_WHY_CHARACTERS:
        raise RequestError(
            f"--why has {len(why)} characters.", code="bad_command", advice=f"Allowed: {MAX_WHY_CHARACTERS:,}."
        )
    return promotions.rollback(open_site_store(reference), name, why=why, by=_user())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"


def table(records: list[dict[str, Any]]) -> str:
    """Return the list as text."""
    if not records:
        return "Nothing has been retrained in this store yet."
    lines = [f"{'PROMOTION':24} {'PROMOTED':31} {'METRIC':>8}  LAST DECISION"]
    for record in records:
        current, last = record["current"], record["history"][-1]
        job_id = current["job_id"] if current else "none"
        mean = number(current["evaluation"]["mean"]) if current else ""
        lines.append(f"{record['name']:24} {job_id:31} {mean:>8}  {_line(last)}")
    return "\n".join(lines)


def describe(record: dict[str, Any]) -> str:
    """Return a record as text."""
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
