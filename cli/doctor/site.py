"""The checks of `simyard doctor`, from the settings to a machine of a pool, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from contextvars import copy_context
from typing import TypeVar

import click

from simyard.blocks.reference import BLOCK_PREFIX
from simyard.cli.doctor.pool import (
    Pool,
    Queues,
    ask_machine,
    check_deployments,
    check_image,
    check_pool,
    check_projects,
    check_queues,
    check_worker,
    find_pool,
    read_queues,
    warn_of_loopback,
)
from simyard.cli.doctor.server import (
    ASK_S,
    Server,
    check_auth,
    check_clock,
    check_clock_of_store,
    check_server,
    check_store,
    find_store,
    one_line,
    reach_server,
)
from simyard.core.terminal import plain
from simyard.store.backend import parse_url
from simyard.store.store import Store
from simyard.tasks.shared.machine_checks import Check, check_expat, machine_checks, read_settings

CHECK_S = 60.0
"""Seconds for one check; a folder on a dead file server never answers."""
_NEEDS_SERVER = "needs the Prefect server"
_Found = TypeVar("_Found", Server, Pool, Queues, Store)


def check_site(pool: str | None, reference: str | None, *, quiet: bool) -> list[Check]:
    """Look at the site, and print each check when it ends.

    Args:
        pool: The work pool to look at; its machine makes the checks of the simulator. None for this machine.
        reference: The store, as the user named it; None for the site's own.
        quiet: Print nothing.

    Raises:
        RequestError: The store's address is malformed.
    """
    if reference is not None and not reference.startswith(BLOCK_PREFIX):
        parse_url(reference)
    # Importing Prefect takes seconds, and a bad address needs none.
    from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    found = []
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: ASK_S}):
        for check in _checks(pool, reference):
            found.append(check)
            if not quiet:
                click.echo(plain(line(check)))
    return found


def line(check: Check) -> str:
    """Return a check as it is printed, with its fix on a second line."""
    fix = f"\n{'':8}Fix: {check.fix}" if check.fix else ""
    state = "FAILED" if check.state == "failed" else check.state
    return f"{state:8}{check.name:17}{check.text}{fix}"


def _checks(name: str | None, given: str | None) -> Iterator[Check]:
    """Make the checks, in an order in which none waits for one that comes later."""
    settings, machine = read_settings()
    reference = given or machine.store
    yield settings
    yield check_expat()
    with ExitStack() as stack:
        answers, server = _look("Prefect server", lambda: reach_server(stack, is_needed=name is not None), check_server)
        yield answers
        if server and (open_to_all := check_auth(server)):
            yield open_to_all
        lack = "needs --pool" if name is None else _NEEDS_SERVER if server is None else "needs the pool"

        def skip(what: str) -> Check:
            return Check(what, "skipped", lack)

        starts, pool = _look(
            "pool", lambda: skip("pool") if server is None or name is None else find_pool(server, name), check_pool
        )
        yield starts
        if pool and (warning := warn_of_loopback(pool)):
            yield warning
        yield _bounded("deployments", lambda: check_deployments(pool) if pool else skip("deployments"))
        hand_out, queues = _look("queues", lambda: read_queues(pool) if pool else skip("queues"), check_queues)
        yield hand_out
        worker = _bounded("worker", lambda: check_worker(pool) if pool else skip("worker"))
        yield worker
        if server:
            yield check_clock("clock", server.ahead_s, "the Prefect server")
        else:
            yield Check("clock", "skipped", _NEEDS_SERVER)

        # A store that refuses what is written stays: its clock may say why.
        pool_type = pool.work_pool.type if pool else None
        keeps, store = _look("store", lambda: find_store(reference), lambda store: check_store(store, pool_type))
        yield keeps
        yield _bounded("clock of store", lambda: check_clock_of_store(store))

        yield _bounded("projects", lambda: check_projects(pool, store) if pool and store else skip("projects"))
        yield _bounded("image", lambda: check_image(pool) if pool else skip("image"))
        if name is None:
            yield from machine_checks(machine)
        elif pool is None:
            yield skip("machine")
        else:
            queue = "high" if queues and "high" in queues.running else None
            kept_store = None if keeps.state == "failed" else store
            yield from ask_machine(pool, queue, reference, kept_store, has_worker=worker.state == "ok")


def _look(
    name: str, find: Callable[[], _Found | Check], judge: Callable[[_Found], Check]
) -> tuple[Check, _Found | None]:
    """Find the subject of a check, which later checks need, and judge it.

    Args:
        name: Of the check.
        find: Returns it, or the check that says why it is not there.
        judge: Makes the check of what was found.

    Returns:
        The check, and what was found, be it that judging it took too long or broke; None where nothing was.
    """
    kept: list[_Found] = []

    def make() -> Check:
        found = find()
        if isinstance(found, Check):
            return found
        kept.append(found)
        return judge(found)

    check = _bounded(name, make)
    return check, kept[0] if kept else None


def _bounded(name: str, make: Callable[[], Check]) -> Check:
    """Make a check, and go on without it when it takes too long or breaks."""
    made: list[Check] = []

    def run() -> None:
        try:
            made.append(make())
        except Exception as error:  # one check that breaks must not keep the others from being made
            why = f"{type(error).__name__}: {one_line(error)}"
            made.append(Check(name, "failed", why, "Mend that, then try again."))

    # A daemon: it may hang in the file system for good, and must not keep this process.
    thread = threading.Thread(target=copy_context().run, args=(run,), name=name, daemon=True)
    thread.start()
    thread.join(CHECK_S)
    return made[0] if made else Check(name, "failed", f"no end within {CHECK_S:.0f} s", "See what it waits for.")
