"""Requests to addresses that users gave: never to this machine or its network, unless its owner lists the host.

The name is resolved once, its addresses are checked, and the connection goes to one that was checked: a name that
means something else a moment later leads nowhere. Redirects are not followed, and proxies of the environment not used.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpcore

from simyard.core.errors import RequestError
from simyard.service.addresses import why_not_public

TIMEOUT_S = 30.0
"""From one sign of life to the next."""
WHOLE_S = 6 * 3600.0
"""The whole request: whoever sends a byte now and then does not hold a thread for good."""

# Anything else is split in one way here and in another there: urlsplit drops line breaks, browsers turn backslashes.
_URL = re.compile(r"https?://[!-~]+", re.IGNORECASE)


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
    body: bytes | None = None, timeout_s: float = TIMEOUT_S, whole_s: float = WHOLE_S,
) -> Iterator[httpcore.Response]:  # fmt: skip
    """Send a request, and close its answer in the end; the answer's content is read as a stream.

    Args:
        method: `GET`, `POST` and the like.
        url: What a user gave.
        private_hosts: As for `check_url`.
        what: The field's name, for errors.
        headers: Besides `Host`.
        body: What is sent.
        timeout_s: Seconds that the other side may take to send the next bytes.
        whole_s: How long everything may take, from the connection to the end of the answer.

    Raises:
        RequestError: The URL is refused, or does not answer.
    """
    host, port = host_and_port(url, what)
    backend = _Backend(what, is_allowed=place(host, port) in private_hosts, deadline=time.monotonic() + whole_s)
    seconds = dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)
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

    def __init__(self, what: str, *, is_allowed: bool, deadline: float) -> None:
        self._what = what
        self._is_allowed = is_allowed
        self._deadline = deadline
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
                left_s = _left_s(self._deadline, timeout, httpcore.ConnectTimeout)
                stream = self._plain.connect_tcp(address, port, left_s, local_address, socket_options)
                return _Stream(stream, self._deadline)
            except (httpcore.NetworkError, httpcore.TimeoutException) as failed:
                error = failed
        assert error is not None
        raise error


class _Stream(httpcore.NetworkStream):
    """A connection that ends at its deadline, however busy it is."""

    def __init__(self, plain: httpcore.NetworkStream, deadline: float) -> None:
        self._plain = plain
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the bytes that have come, `max_bytes` at most."""
        return self._plain.read(max_bytes, _left_s(self._deadline, timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send."""
        self._plain.write(buffer, _left_s(self._deadline, timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        """Let go of it."""
        self._plain.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Return the same connection, encrypted."""
        left_s = _left_s(self._deadline, timeout, httpcore.ConnectTimeout)
        return _Stream(self._plain.start_tls(ssl_context, server_hostname, left_s), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        """Return extra information about the connection, such as its socket."""
        return self._plain.get_extra_info(info)


def _left_s(deadline: float, timeout: float | None, error: type[httpcore.TimeoutException]) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise error("it took too long")
    return left_s if timeout is None else min(left_s, timeout)


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
