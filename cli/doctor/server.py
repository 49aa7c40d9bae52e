"""The Prefect server and its clock, for `simyard doctor`; also how clocks are compared and errors are quoted."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from simyard.tasks.shared.machine_checks import Check

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

ASK_S = 10.0
"""Seconds for one question to a server."""
CLOCK_S = 60.0
"""Seconds that two clocks may be apart: S3 refuses signatures at 15 minutes, and heartbeats are judged by time."""
_NAME = "Prefect server"


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
            return Check(_NAME, "skipped", "PREFECT_API_URL is not set, and jobs without a pool need none")
        return Check(_NAME, "failed", "PREFECT_API_URL is not set", advice)
    client = stack.enter_context(get_client(sync_client=True))
    try:
        before, began = datetime.now(UTC), time.monotonic()
        answer = client.hello()
        took_s = time.monotonic() - began
        version = client.api_version()
    except httpx.HTTPStatusError as error:
        code = error.response.status_code
        if code in (401, 403):
            advice = "Set PREFECT_API_AUTH_STRING to the server's user:password."
        return Check(_NAME, "failed", f"{_address(url)} answers {code}", advice)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Check(_NAME, "failed", f"{_address(url)} does not answer: {one_line(error)}", advice)
    except ValueError:
        return Check(_NAME, "failed", f"{_address(url)} is no Prefect API", "Its address ends in /api, as a rule.")
    ahead_s = clock_ahead_s(answer, before, took_s)
    return Server(client=client, address=_address(url), version=version, took_s=took_s, ahead_s=ahead_s)


def check_server(server: Server) -> Check:
    """Return the check of the server: its version (this machine's or not), address and database."""
    text = f"{server.version} at {server.address}{_database(server.client)}, answers in {server.took_s * 1000:.0f} ms"
    own = importlib.metadata.version("prefect")
    if server.version != own:
        return Check(_NAME, "warning", f"{text}; here is {own}", "Have both run the same version.")
    return Check(_NAME, "ok", text)


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


def _database(client: SyncPrefectClient) -> str:
    """Return the kind of the server's database, as the end of a phrase; empty if the server does not give it."""
    try:
        driver = client.request("GET", "/admin/settings").json()["server"]["database"]["driver"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return ""
    return f" on {re.split(r'[^a-z]', driver)[0]}" if isinstance(driver, str) and driver else ""


def _address(url: str) -> str:
    """Return a URL without the user and the password that it may hold."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
