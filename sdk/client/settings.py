"""Settings of a client: the service's address, the key, timeouts and retries; for how long it waits for a job."""

from __future__ import annotations

import functools
import math
import os
import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from simyard.client.errors import (
    ApiError,
    ConfigurationError,
    JobTimeoutError,
    SimyardClientError,
    TransportError,
)

DEFAULT_URL = "http://127.0.0.1:8400"
MAX_RETRY_AFTER_S = 120.0
"""A service that asks for longer gets its error raised: the caller decides then."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
LIMITS = httpx.Limits(keepalive_expiry=3.0)
"""Of connections: given up before servers do, most after 5 s, so that no request meets one that is just closing."""
OUTAGE_S = 300.0
"""Seconds that a service may be away before those who wait for a job give up."""
OVER = ("succeeded", "failed", "canceled")
"""Statuses of jobs and runs that have ended."""
_LONGEST_PAUSE_S = 30.0
_YEAR_S = 366 * 86_400.0
_RETRIED = frozenset({429, 500, 502, 503, 504})
_BOUNDS: dict[str, tuple[float, float, str, bool]] = {
    "timeout_s": (0, 86_400, "seconds", True),
    "max_retries": (0, 100, "tries", False),
    "retry_backoff_s": (0, 3600, "seconds", False),
}
_FAMILIES = ("SIMYARD", "HARDSIM")
"""Beginnings of the variables, first come first: all are of the family that has a key, so that no key is sent to the
address of the other service."""
_VARIABLES: dict[str, tuple[str, Callable[[str], float]]] = {
    "timeout_s": ("SIMYARD_HTTP_TIMEOUT_S", float),
    "max_retries": ("SIMYARD_HTTP_RETRIES", int),
    "retry_backoff_s": ("SIMYARD_HTTP_BACKOFF_S", float),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Address, key and patience; immutable, shared by all calls of a client."""

    api_key: str = field(repr=False)
    """`sy_live_…`; never shown."""
    base_url: str = DEFAULT_URL
    """The service's address."""
    timeout_s: float = 30.0
    """Seconds to wait for a connection, and for the next bytes of an answer."""
    max_retries: int = 3
    """Further tries of a request that may be repeated."""
    retry_backoff_s: float = 0.5
    """The pause before the second try, in seconds; it doubles with each further one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "api_key", _checked_key(self.api_key))
        object.__setattr__(self, "base_url", _checked_url(self.base_url))
        for name, bounds in _BOUNDS.items():
            within(name, getattr(self, name), *bounds)
        if not isinstance(self.max_retries, int):
            raise ConfigurationError(f"max_retries is {self.max_retries!r}: give a whole number.")

    @classmethod
    def from_env(cls) -> Settings:
        """Read `SIMYARD_API_KEY`, `SIMYARD_API_URL` and `SIMYARD_HTTP_TIMEOUT_S`, `_RETRIES`, `_BACKOFF_S`.

        Without that key they are read as `HARDSIM_API_KEY`, `HARDSIM_API_URL` and so on.

        Raises:
            ConfigurationError: If the key is missing or a value is bad.
        """
        family = next((name for name in _FAMILIES if os.environ.get(f"{name}_API_KEY", "").strip()), None)
        if family is None:
            raise ConfigurationError(
                "SIMYARD_API_KEY is not set: set it, or HARDSIM_API_KEY, to a key of your project, sy_live_…."
            )
        return cls(
            api_key=os.environ[f"{family}_API_KEY"],
            base_url=os.environ.get(f"{family}_API_URL", "").strip() or DEFAULT_URL,
            timeout_s=_read(family, "timeout_s"),
            max_retries=_read(family, "max_retries"),
            retry_backoff_s=_read(family, "retry_backoff_s"),
        )

    def url(self, place: str) -> str:
        """Return the whole address of a path of the API, or of an address that the service gave."""
        return f"{self.base_url}{place}" if place.startswith("/") else urljoin(f"{self.base_url}/", place)

    def pause_s(self, tries: int, error: SimyardClientError) -> float | None:
        """Return the seconds to wait before the next try; None if there should be none.

        Args:
            tries: Tries so far.
            error: The error of the last one.
        """
        asked = error.retry_after_s or 0.0 if isinstance(error, ApiError) else 0.0
        if tries > self.max_retries or asked > MAX_RETRY_AFTER_S or not is_passing(error):
            return None
        backoff = min(_LONGEST_PAUSE_S, self.retry_backoff_s * 2.0 ** min(tries - 1, 16))
        # Jitter, so that many clients that were cut off together do not come back together.
        return max(asked, backoff * random.uniform(0.5, 1.0))


class Tries:
    """Counts the tries of one request."""

    def __init__(self, settings: Settings) -> None:
        """Take the client's settings."""
        self._settings = settings
        self._tries = 0

    def pause_s(self, error: SimyardClientError) -> float:
        """Note the failure of a try; return the seconds before the next one, raise the failure if there is none."""
        self._tries += 1
        pause_s = self._settings.pause_s(self._tries, error)
        if pause_s is None:
            raise error
        return pause_s


class Outage:
    """Tolerates a service that is away for a while."""

    def __init__(self, settings: Settings, *, answered: bool = False) -> None:
        """Take the client's settings.

        Args:
            settings: Without retries no outage is tolerated.
            answered: Whether the service answered before; one that never did is not waited for.
        """
        self._settings = settings
        self._answered = answered
        self._since: float | None = None

    def end(self) -> None:
        """Note that the service answered."""
        self._answered, self._since = True, None

    def tolerate(self, error: SimyardClientError) -> None:
        """Note a failure; raise it if it is lasting or the service has been away for too long."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        is_known = self._answered and self._settings.max_retries > 0
        if not is_known or not is_passing(error) or now - self._since > OUTAGE_S:
            raise error


class Deadline:
    """Pauses between requests, until time is up."""

    def __init__(self, about: str, poll_interval_s: float, timeout_s: float) -> None:
        """Begin to count.

        Raises:
            ConfigurationError: If a number is out of bounds.
        """
        within("poll_interval_s", poll_interval_s, 0, 86_400, "seconds", above=True)
        within("timeout_s", timeout_s, 0, _YEAR_S, "seconds", above=True)
        self._about = about
        self._poll_interval_s = poll_interval_s
        self._timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s

    def pause_s(self) -> float:
        """Return the pause before the next request, in seconds.

        Raises:
            JobTimeoutError: If time is up.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise JobTimeoutError(
                f"{self._about} was not over after {self._timeout_s:g} s. It goes on; cancel it if it should not."
            )
        return min(self._poll_interval_s, left)


@functools.cache
def certificates() -> ssl.SSLContext:
    """Return the certificates that clients trust: read once, because that takes longer than many a request."""
    return httpx.create_ssl_context()


def is_passing(error: SimyardClientError) -> bool:
    """Return whether the same request may succeed later."""
    return isinstance(error, TransportError) or (isinstance(error, ApiError) and error.status_code in _RETRIED)


def within(name: str, value: object, least: float, most: float, unit: str, above: bool = False) -> None:
    """Refuse a number that is out of bounds; NaN is within none.

    Args:
        name: What the number is called.
        value: The number.
        least: The smallest that is allowed.
        most: The largest.
        unit: Of the number.
        above: Whether `least` itself is too small.

    Raises:
        ConfigurationError: If it is, or is no number.
    """
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not least <= number <= most or (above and number == least):
        bounds = f"more than {least:g}" if above else f"at least {least:g}"
        raise ConfigurationError(f"{name} is {value!r}: give {unit}, {bounds} and at most {most:,.0f}.")


def _read(family: str, field_name: str) -> Any:
    """Return a setting from the environment, its default where there is none."""
    own, kind = _VARIABLES[field_name]
    name = own.replace(_FAMILIES[0], family)
    default = getattr(Settings, field_name)
    if not (text := os.environ.get(name, "").strip()):
        return default
    try:
        value = kind(text)
    except ValueError:
        whole = "whole " if kind is int else ""
        raise ConfigurationError(f"{name} is {text!r}: give a {whole}number, such as {default}.") from None
    within(name, value, *_BOUNDS[field_name])
    return value


def _checked_key(key: object) -> str:
    # Never shown, not even a wrong one: it may be right but for a line break.
    if not isinstance(key, str) or not key.strip():
        raise ConfigurationError("api_key is empty: give a key of your project, sy_live_….")
    if not (key := key.strip()).isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError("api_key holds characters that no key has, such as a space or a line break.")
    return key


def _checked_url(url: object) -> str:
    advice = f"give http:// or https:// and a host, such as {DEFAULT_URL}"
    if not isinstance(url, str):
        raise ConfigurationError(f"base_url is {url!r}: {advice}.")
    try:
        parts = urlsplit(url.strip())
        _ = parts.port
    except ValueError:
        raise ConfigurationError(f"base_url {url!r} is no address: {advice}.") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("base_url holds a user name or a password: leave them out; the key is api_key.")
    bad = any(char.isspace() or not char.isprintable() for char in url.strip())
    if bad or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigurationError(f"base_url {url!r} is no address of a service: {advice}.")
    return url.strip().rstrip("/")
