"""Requests to addresses that users gave: never to this machine or its network, unless its owner lists the host.

The name is resolved once, its addresses are checked, and the connection goes to one that was checked: a name that
means something else a moment later leads nowhere. Redirects are not followed, and proxies of the environment not used.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpcore

from simyard.core.errors import RequestError
from simyard.service.addresses import why_not_public

TIMEOUT_S = 30.0
"""From one sign of life to the next."""
LOOK_S = 1.0
"""Between two looks at the clock, and at whether anybody waits for the answer."""
WINDOW_S = 30.0
"""Seconds over which the rate of an answer is measured."""

# Anything else is split in one way here and in another there: urlsplit drops line breaks, browsers turn backslashes.
_URL = re.compile(r"https?://[!-~]+", re.IGNORECASE)


class Patience:
    """Limits of one exchange, from the connection to the end of the answer."""

    def __init__(
        self, whole_s: float, *, silence_s: float = TIMEOUT_S, least_bytes_s: float = 0.0, window_s: float = WINDOW_S,
        is_gone: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        """Begin.

        Args:
            whole_s: Seconds that everything may take.
            silence_s: Seconds that the other side may take to send the next bytes.
            least_bytes_s: Bytes a second that must come, on average over a window; the first one is not counted.
            window_s: Its seconds.
            is_gone: Returns whether nobody waits for the answer any more.
        """
        self.whole_s = whole_s
        self.silence_s = silence_s
        self._least_bytes_s = least_bytes_s
        self._window_s = window_s
        self._is_gone = is_gone
        self._began = self._window_began = self._looked = time.monotonic()
        self._is_first_window = True
        self._came = 0

    def left_s(self, error: type[httpcore.TimeoutException], timeout: float | None = None) -> float:
        """Return the seconds that the next step may take.

        Args:
            error: Raised where the exchange is to end now.
            timeout: Seconds that the step may take by itself.
        """
        now = time.monotonic()
        if now - self._began >= self.whole_s:
            raise error("it took too long")
        if now - self._window_began >= self._window_s:
            if not self._is_first_window and self._came < self._least_bytes_s * (now - self._window_began):
                raise error(f"it sends fewer than {self._least_bytes_s:,.0f} bytes a second")
            self._window_began, self._came, self._is_first_window = now, 0, False
        if now - self._looked >= LOOK_S:
            self._looked = now
            if self._is_gone():
                raise error("nobody waits for it any more")
        left_s = self._began + self.whole_s - now
        return left_s if timeout is None else min(left_s, timeout)

    def note(self, count: int) -> None:
        """Count bytes that came."""
        self._came += count


def place(host: str, port: int) -> str:
    """Return a host and its port in one text, as `SIMYARD_PRIVATE_HOSTS` lists them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_url(url: str, private_hosts: frozenset[str], what: str) -> None:
    """Refuse a URL that is none, or that leads into the network of this machine.

    Args:
        url: What a user gave.
        private_hosts: `host:port` that is allowed all the same.
        what: The field's name, for errors.

    Raises:
        RequestError: It is refused.
    """
    host, port = host_and_port(url, what)
    if place(host, port) not in private_hosts:
        _public_addresses(host, port, what)


@contextmanager
def sent(
    method: str, url: str, private_hosts: frozenset[str], what: str, *, headers: Mapping[str, str] | None = None,
    body: bytes | None = None, patience: Patience,
) -> Iterator[httpcore.Response]:  # fmt: skip
    """Send a request, and close its answer in the end; the answer's content is read as a stream.

    Args:
        method: `GET`, `POST` and the like.
        url: What a user gave.
        private_hosts: As for `check_url`.
        what: The field's name, for errors.
        headers: Besides `Host`.
        body: What is sent.
        patience: How long it may take.

    Raises:
        RequestError: The URL is refused, or does not answer.
    """
    host, port = host_and_port(url, what)
    backend = _Backend(what, is_allowed=place(host, port) in private_hosts, patience=patience)
    seconds = dict.fromkeys(("connect", "read", "write", "pool"), patience.silence_s)
    given = {"Host": urlsplit(url).netloc, **(headers or {})}
    try:
        with (
            httpcore.ConnectionPool(ssl_context=ssl.create_default_context(), network_backend=backend) as pool,
            pool.stream(
                method, url, headers=list(given.items()), content=body, extensions={"timeout": seconds}
            ) as answer,
        ):
            yield answer
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        raise RequestError(
            f"{what}: {host!r} does not answer: {error or type(error).__name__}.",
            code="unreachable_url",
            advice="Check the address.",
        ) from error


class _Backend(httpcore.NetworkBackend):
    """Connects to addresses of the internet alone, unless the host is allowed; and not for ever."""

    def __init__(self, what: str, *, is_allowed: bool, patience: Patience) -> None:
        self._what = what
        self._is_allowed = is_allowed
        self._patience = patience
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:  # fmt: skip
        """Connect to the first address of the name that answers."""
        find = _addresses if self._is_allowed else _public_addresses
        error: Exception | None = None
        for address in find(host, port, self._what):
            try:
                left_s = self._patience.left_s(httpcore.ConnectTimeout, timeout)
                stream = self._plain.connect_tcp(address, port, left_s, local_address, socket_options)
                return _Stream(stream, self._patience)
            except (httpcore.NetworkError, httpcore.TimeoutException) as failed:
                error = failed
        assert error is not None
        raise error


class _Stream(httpcore.NetworkStream):
    """A connection that ends with the patience for it, however busy it is."""

    def __init__(self, plain: httpcore.NetworkStream, patience: Patience) -> None:
        self._plain = plain
        self._patience = patience

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the bytes that have come, `max_bytes` at most."""
        silent_since = time.monotonic()
        while True:
            left_s = self._patience.left_s(httpcore.ReadTimeout, LOOK_S)
            try:
                data = self._plain.read(max_bytes, left_s)
            except httpcore.ReadTimeout:
                if timeout is not None and time.monotonic() - silent_since >= timeout:
                    raise
            else:
                self._patience.note(len(data))
                return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send."""
        self._plain.write(buffer, self._patience.left_s(httpcore.WriteTimeout, timeout))

    def close(self) -> None:
        """Let go of it."""
        self._plain.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Return the same connection, encrypted."""
        left_s = self._patience.left_s(httpcore.ConnectTimeout, timeout)
        return _Stream(self._plain.start_tls(ssl_context, server_hostname, left_s), self._patience)

    def get_extra_info(self, info: str) -> Any:
        """Return extra information about the connection, such as its socket."""
        return self._plain.get_extra_info(info)


def host_and_port(url: str, what: str) -> tuple[str, int]:
    """Return the host and the port of a URL.

    Raises:
        RequestError: It is no plain http(s) URL.
    """
    if not _URL.fullmatch(url) or "\\" in url:
        raise _refused(what, "is no http(s) URL in printable ASCII characters")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _refused(what, f"is no URL: {error}") from None
    if not host or port == 0:
        raise _refused(what, "names no host and port")
    if "@" in parts.netloc:
        raise _refused(what, "has credentials in it")
    return host, port or (443 if parts.scheme == "https" else 80)


def _public_addresses(host: str, port: int, what: str) -> list[str]:
    """Return a name's addresses; one that is not of the internet spoils all."""
    found = _addresses(host, port, what)
    for text in found:
        if (why := why_not_public(text)) is not None:
            raise _refused(what, f"leads to {text}, which is no address of the internet ({why})")
    return found


def _addresses(host: str, port: int, what: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise _refused(what, f"names the host {host!r}, which has no address") from None
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def _refused(what: str, problem: str) -> RequestError:
    return RequestError(
        f"{what} {problem}.",
        code="refused_url",
        advice="Give the URL of a public host; the owner of the service may list others in SIMYARD_PRIVATE_HOSTS.",
    )
