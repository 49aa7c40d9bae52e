"""The Prefect server of a site: its auth string, which commands in the same home find, and the process that serves it.

A server without one does as every local user says, and as a web page in any of their browsers says.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from simyard.core.errors import RequestError
from simyard.core.files import secret_of, write_atomic

if TYPE_CHECKING:
    from httpx import HTTPStatusError
    from prefect.client.orchestration import SyncPrefectClient

AUTH_FILE = "prefect-auth"
"""Name of the file in the home that has the auth string, as `user:password`."""
NAMES = ("127.0.0.1", "localhost")
"""Names under which the server answers. A page whose own name leads to this machine sends that one (DNS rebinding)."""
_FOREIGN = ("/docs", "/redoc")
"""Pages that load scripts from elsewhere, which would read the auth string that the UI keeps in the browser."""
_SERVER, _CLIENT = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"

ADVICE = (
    "Set PREFECT_SERVER_API_AUTH_STRING=USER:PASSWORD where it starts, and PREFECT_API_AUTH_STRING, the same, for "
    "workers, the service and commands; the server of `simyard up` has one."
)
"""Advice on a server that serves everybody."""
AUTH_ADVICE = "Set PREFECT_API_AUTH_STRING to the server's USER:PASSWORD; that of `simyard up` is in its home."
"""Advice on a server that asks for another auth string."""
ASK_S = 10.0
Message = MutableMapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class OwnServer:
    """The site's own Prefect server."""

    auth: str
    """The auth string that it asks for."""
    where: str
    """Place of the string, for people."""
    env: dict[str, str]
    """Variables of its process, besides those of the whole site."""


def own_server(home: Path, url: str) -> OwnServer:
    """Return what the site's own Prefect server is to be, and keep its address for commands in this home.

    The auth string is the owner's (`PREFECT_SERVER_API_AUTH_STRING`), or else one that is made at the first start.

    Args:
        home: The site's.
        url: Of the server's API.
    """
    address, where = home / "up" / "prefect-url", _SERVER
    if auth := os.environ.get(_SERVER):
        address.unlink(missing_ok=True)
    else:
        auth, where = secret_of(home / AUTH_FILE, _new_auth), f"what is in {home / AUTH_FILE}"
        write_atomic(address, url.encode())
    origins = ",".join(f"http://{name}:{urlsplit(url).port}" for name in NAMES)
    env = {_SERVER: auth, "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": origins}
    if "PREFECT_HOME" not in os.environ:  # its database is in the site's home, unless its owner put it elsewhere
        env["PREFECT_HOME"] = str(home / "prefect")
    return OwnServer(auth=auth, where=where, env=env)


def _new_auth() -> str:
    return f"simyard:{secrets.token_urlsafe(32)}"


def find_auth() -> None:
    """Have this process use the auth string of its home, where `PREFECT_API_URL` names the server of that site."""
    url = os.environ.get("PREFECT_API_URL")
    if not url or os.environ.get(_CLIENT):
        return
    from simyard.requests.settings import MachineSettings

    home = MachineSettings.from_env_in_part().home
    with suppress(OSError, ValueError):  # there is no such site, or no such address
        if _place(url) == _place((home / "up" / "prefect-url").read_text()):
            os.environ[_CLIENT] = (home / AUTH_FILE).read_text()


def prefect_auth() -> str | None:
    """Return the auth string with which this process asks its Prefect server; None for none."""
    return os.environ.get(_CLIENT) or None


def require_access(client: SyncPrefectClient) -> None:
    """Ask the Prefect server something that it tells only those who may use it.

    Raises:
        RequestError: It asks for an auth string, and has got none or a wrong one.
    """
    import httpx

    try:
        client.api_version()
    except httpx.HTTPStatusError as error:
        raise no_access(error) or error from None


def no_access(error: HTTPStatusError) -> RequestError | None:
    """Return the error for a Prefect server that asks for another auth string; None where it answers something else."""
    status, url = error.response.status_code, str(error.request.url)
    if status not in (401, 403):
        return None
    server = urlsplit(url)._replace(path="", query="").geturl()
    is_known = prefect_auth() is not None
    why = "another auth string than PREFECT_API_AUTH_STRING has" if is_known else "an auth string, and has got none"
    return RequestError(
        f"The Prefect server at {server!r} answers {status}: it asks for {why}.",
        code="no_access",
        advice=AUTH_ADVICE,
    )


def why_open(url: str) -> str | None:
    """Return the danger of a Prefect server that asks for no auth string; None where it asks, or does not answer."""
    import httpx

    parts = urlsplit(url)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    with suppress(httpx.HTTPError, httpx.InvalidURL):
        if httpx.get(f"{plain}/version", timeout=ASK_S).status_code == 200:
            near = "every program of this machine and every web page in its browsers"
            whose = near if is_loopback(url) else "everybody"
            return f"{plain} asks for no auth string: {whose} can run commands as its workers"
    return None


def is_loopback(url: str) -> bool:
    """Return whether an address means this machine alone; a name other than `localhost` may mean any."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _place(url: str) -> tuple[str | None, int | None]:
    parts = urlsplit(url)
    return ("localhost" if parts.hostname in NAMES else parts.hostname), parts.port


def serve(port: int) -> None:
    """Serve Prefect on loopback, as `prefect server start` does, to those who ask for it by its names."""
    import uvicorn
    from prefect.server.api.server import create_app
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import PlainTextResponse

    app = create_app(final=True)

    async def without_foreign_pages(
        scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        is_foreign = scope["type"] == "http" and scope["path"].rstrip("/") in _FOREIGN
        await (PlainTextResponse("Not found", 404) if is_foreign else app)(scope, receive, send)

    guarded = TrustedHostMiddleware(without_foreign_pages, NAMES, www_redirect=False)
    uvicorn.run(guarded, host=NAMES[0], port=port, log_level="warning")


if __name__ == "__main__":
    serve(int(sys.argv[1]))
