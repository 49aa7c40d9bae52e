"""The Prefect server and the store, and their clocks, for `simyard doctor`."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import secrets
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from simyard.blocks.reference import open_store
from simyard.cli.prefect_server import ADVICE, AUTH_ADVICE, is_loopback, no_access, why_open
from simyard.core.errors import SimyardError, StoreError
from simyard.store import keys
from simyard.store.backend import Access
from simyard.store.store import Store
from simyard.tasks.shared.machine_checks import Check, State

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

ASK_S = 10.0
"""Seconds for one question to a server."""
CLOCK_S = 60.0
"""Seconds that two clocks may be apart: S3 refuses signatures at 15 minutes, and heartbeats are judged by time."""
_SERVER = "Prefect server"
STORE_S = 8.0
"""Seconds after which a bucket that does not answer is given up."""
_STORE = "store"


@dataclass(frozen=True, kw_only=True)
class Server:
    """A Prefect server that answers."""

    client: SyncPrefectClient
    """Of the server, connected."""
    address: str
    """Of its API, without user and password."""
    version: str
    """Of Prefect, there."""
    took_s: float
    """Seconds that its first answer took."""
    ahead_s: float | None
    """Seconds that its clock is ahead of this machine's; None if its answer has no date."""


def reach_server(stack: ExitStack, *, is_needed: bool) -> Server | Check:
    """Connect to the Prefect server of the settings.

    Args:
        stack: Closes the connection.
        is_needed: Whether it is wrong that no server is set.

    Returns:
        The server, or the check that says why there is none.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    advice = "Start one (`prefect server start`) and set PREFECT_API_URL, such as http://127.0.0.1:4200/api."
    url = PREFECT_API_URL.value()
    if not url:
        if not is_needed:
            return Check(_SERVER, "skipped", "PREFECT_API_URL is not set, and jobs without a pool need none")
        return Check(_SERVER, "failed", "PREFECT_API_URL is not set", advice)
    client = stack.enter_context(get_client(sync_client=True))
    try:
        before, began = datetime.now(UTC), time.monotonic()
        answer = client.hello()
        took_s = time.monotonic() - began
        version = client.api_version()
    except httpx.HTTPStatusError as error:
        answers = f"{_address(url)} answers {error.response.status_code}"
        return Check(_SERVER, "failed", answers, AUTH_ADVICE if no_access(error) else advice)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Check(_SERVER, "failed", f"{_address(url)} does not answer: {one_line(error)}", advice)
    except ValueError:
        return Check(_SERVER, "failed", f"{_address(url)} is no Prefect API", "Its address ends in /api, as a rule.")
    ahead_s = clock_ahead_s(answer, before, took_s)
    return Server(client=client, address=_address(url), version=version, took_s=took_s, ahead_s=ahead_s)


def check_server(server: Server) -> Check:
    """Return the check of the server: its version (this machine's or not), address and database."""
    try:
        driver = server.client.request("GET", "/admin/settings").json()["server"]["database"]["driver"]
        database = f" on {re.split(r'[^a-z]', driver)[0]}" if driver else ""
    except (httpx.HTTPError, ValueError, KeyError, TypeError):  # it does not say
        database = ""
    text = f"{server.version} at {server.address}{database}, answers in {server.took_s * 1000:.0f} ms"
    own = importlib.metadata.version("prefect")
    if server.version != own:
        return Check(_SERVER, "warning", f"{text}; here is {own}", "Have both run the same version.")
    return Check(_SERVER, "ok", text)


def check_auth(server: Server) -> Check | None:
    """Return the check of a server that serves everybody; None where it asks for an auth string."""
    danger = why_open(server.address)
    state: State = "warning" if is_loopback(server.address) else "failed"
    return Check("server auth", state, danger, ADVICE) if danger else None


def clock_ahead_s(answer: httpx.Response, before: datetime, took_s: float) -> float | None:
    """Return the seconds that a server's clock is ahead, to a second; None if its answer has no date.

    Args:
        answer: Of the server.
        before: When it was asked, by this machine's clock.
        took_s: Seconds that the answer took.
    """
    try:
        said = parsedate_to_datetime(answer.headers["Date"])
    except (KeyError, ValueError):
        return None
    if said.tzinfo is None:
        said = said.replace(tzinfo=UTC)
    return (said - before).total_seconds() - took_s / 2


def check_clock(name: str, ahead_s: float | None, whose: str) -> Check:
    """Judge a clock by how far it is ahead of this machine's; None where it is not known."""
    if ahead_s is None:
        return Check(name, "skipped", f"{whose} gives no time")
    if abs(ahead_s) <= CLOCK_S:
        return Check(name, "ok", f"{platform.node()} and {whose} are less than {abs(ahead_s) + 1:.0f} s apart")
    return Check(
        name, "failed", f"{whose} is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine",
        "Have both follow a time server: `timedatectl` shows whether this machine does.",
    )  # fmt: skip


def one_line(error: object) -> str:
    """Return an error's text in one line, without the passwords of the URLs that it quotes."""
    return re.sub(r"//\S*@", "//", " ".join(str(error).split()))[:300]


def _address(url: str) -> str:
    """Return a URL without the user and the password that it may hold."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def find_store(reference: str) -> Store | Check:
    """Open the store that a reference names, so that a dead one is given up soon; or return the check that failed."""
    try:
        store = open_store(reference)
        location, options, credentials = store.opened_with
        if location.folder:
            return store
        return Store.open(location.url, options={**options, "timeout_s": str(STORE_S)}, credentials=credentials)
    except SimyardError as error:
        return _refused(error)
    except httpx.HTTPError as error:  # a block is on the Prefect server
        return Check(_STORE, "failed", f"{reference!r} cannot be loaded: {one_line(error)}", "Mend the server first.")


def check_store(store: Store, pool_type: str | None) -> Check:
    """Say whether the store keeps what is written to it; `failed` if not.

    Args:
        store: What `find_store` returned.
        pool_type: Of the work pool whose machines must see the same store; None without a pool.
    """
    try:
        text = f"{store.url()}: {_write_and_read(store)}"
    except SimyardError as error:
        return _refused(error)
    if pool_type not in (None, "process") and store.url().startswith("file:"):
        return Check(
            _STORE, "warning", f"{text}; a folder, and workers of a pool must see the same one",
            "Mount it in every container at the same path, or take a bucket: --store s3://BUCKET/PREFIX.",
        )  # fmt: skip
    return Check(_STORE, "ok", text)


def check_clock_of_store(store: Store | None) -> Check:
    """Compare the clock of the bucket's server; None where no store could be opened."""
    name = "clock of store"
    if store is None:
        return Check(name, "skipped", "needs the store's address")
    location, options, credentials = store.opened_with
    if location.folder:
        return Check(name, "skipped", "a folder has none")
    access = Access.decide(options, credentials)
    endpoint = access.endpoint or f"https://s3.{access.region}.amazonaws.com"
    before, began = datetime.now(UTC), time.monotonic()
    try:
        answer = httpx.head(endpoint, timeout=ASK_S, verify=ssl.create_default_context(cafile=access.ca_bundle))
    except httpx.HTTPError as error:
        return Check(name, "skipped", f"the server does not answer a plain question: {one_line(error)}")
    return check_clock(name, clock_ahead_s(answer, before, time.monotonic() - began), "the store's server")


def _refused(error: SimyardError) -> Check:
    return Check(_STORE, "failed", one_line(error.failure.message), error.failure.advice)


def _write_and_read(store: Store) -> str:
    """Do with one object what jobs do with theirs.

    Raises:
        StoreError: The store does not do it.
    """
    key, data = keys.doctor(secrets.token_hex(8)), secrets.token_bytes(1024)
    acts: dict[str, Callable[[], object]] = {
        "written": lambda: store.put_bytes(key, data),
        "read": lambda: store.get_bytes(key) == data,
        "listed": lambda: key in [entry.key for entry in store.list(keys.DOCTOR)],
        "deleted": lambda: store.delete(key),
    }
    times = {}
    try:
        for what, act in acts.items():
            began = time.monotonic()
            if act() is False:
                raise StoreError(
                    f"{store.url(key)!r} was written, and cannot be {what}.",
                    advice="The store loses or changes what it is given: look at it with its own tools.",
                )
            times[what] = (time.monotonic() - began) * 1000
    except SimyardError:
        if "written" in times:  # else it would be waited for once more
            with suppress(SimyardError):
                store.delete(key)
        raise
    return ", ".join(f"{what} in {took_ms:.0f} ms" for what, took_ms in times.items())
