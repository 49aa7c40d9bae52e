"""The API key of a request: its project and its scopes."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

import anyio.from_thread
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from simyard.core.errors import RequestError
from simyard.core.records import ApiKey
from simyard.service.downloads import Downloads
from simyard.service.limits import Limits
from simyard.service.prefect_api import Launches
from simyard.service.settings import Settings
from simyard.service.signatures import Purpose, unseal
from simyard.store.store import Store
from simyard.tasks.shared import api_keys

KNOWN_S = 2.0
"""Seconds that a key is known without a look into the store: a revoked one is good for so long at most."""
BEARER = HTTPBearer(auto_error=False, description="A key of `simyard keys create`.")


@dataclass(frozen=True)
class Caller:
    """Sender of a request, and the service that has it."""

    key: ApiKey
    settings: Settings
    launches: Launches
    limits: Limits
    downloads: Downloads
    base_url: str
    """Address at which the service was reached: links begin with it."""
    is_gone: Callable[[], bool]
    """Returns, on a thread that works on the request, whether its sender has hung up."""

    @property
    def project(self) -> str:
        """Project of the jobs that they see."""
        return self.key.project

    @property
    def store(self) -> Store:
        """Their project's."""
        return self.settings.open(self.project)

    @property
    def reference(self) -> str:
        """The same, as flows take it."""
        return self.settings.reference(self.project)


class Guard:
    """Knows keys for a moment, and how often each was used of late."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._own = settings.open()
        self._known: dict[str, tuple[float, ApiKey | None]] = {}
        self._used: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def admit(self, given: str | None, scope: str) -> ApiKey:
        """Return the record of a key.

        Raises:
            RequestError: There is no key, it is good for nothing, not for this, or it was used too often.
        """
        if not given:
            raise RequestError(
                "The request has no API key.", code="no_api_key", advice="Send 'Authorization: Bearer sy_live_…'."
            )
        # What was sent is kept as a digest alone: a mistyped key is nearly a right one.
        key = self._look(hashlib.sha256(given.encode()).hexdigest(), lambda: api_keys.find(self._own, given))
        if key is None:
            raise RequestError(
                "This API key is not valid: mistyped, or revoked.",
                code="bad_api_key",
                advice="Make one: simyard keys create.",
            )
        if not key.allows(scope):
            raise RequestError(
                f"This API key has the scopes {', '.join(key.scopes)}; this needs {scope}.",
                code="missing_scope",
                advice=f"Make one with it: simyard keys create --scope {scope}.",
            )

        # Requests of the last minute are counted.
        if key.requests_per_minute is not None:
            now = time.monotonic()
            with self._lock:
                used = self._used.setdefault(key.key_id, deque())
                while used and now - used[0] > 60.0:
                    used.popleft()
                if len(used) >= key.requests_per_minute:
                    raise RequestError(
                        f"This API key may send {key.requests_per_minute} requests a minute.",
                        code="too_many_requests",
                        advice="Wait some seconds, or poll less often.",
                    )
                used.append(now)
        return key

    def follow(self, purpose: Purpose, token: str) -> tuple[dict[str, Any], ApiKey]:
        """Return the content of a URL's token, and the key that it was made for: the URL is good while the key is.

        Raises:
            RequestError: It is none of ours, for something else, expired, or its key was revoked.
        """
        about = unseal(self._settings.secret, purpose, token)
        key_id = str(about.get("key_id"))
        key = self._look(key_id, lambda: api_keys.find_by_id(self._own, key_id))
        if key is None:
            raise RequestError(
                "The API key that this URL was made for is not valid any more.",
                code="bad_url",
                advice="Ask the API for another.",
            )
        return about, key

    def _look(self, name: str, find: Callable[[], ApiKey | None]) -> ApiKey | None:
        """Look for a key in the store, unless that was done a moment ago."""
        known, now = self._known.get(name), time.monotonic()
        if known is None or now - known[0] > KNOWN_S:
            if len(self._known) > 10_000:  # somebody guesses
                self._known.clear()
            known = self._known[name] = (now, find())
        return known[1]


def base_url(request: Request) -> str:
    """Return the service's own URL: the public one if it is set, otherwise that of the request."""
    settings: Settings = request.app.state.settings
    return settings.public_url or str(request.base_url).rstrip("/")


@cache  # FastAPI looks at a key once a request, however much depends on it
def need(scope: str) -> Callable[..., Caller]:
    """Return the dependency of an endpoint that needs a scope."""

    def caller(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]) -> Caller:
        state = request.app.state
        key = state.guard.admit(given.credentials if given else None, scope)

        def is_gone() -> bool:
            return anyio.from_thread.run(request.is_disconnected)

        return Caller(key, state.settings, state.launches, state.limits, state.downloads, base_url(request), is_gone)

    return caller


JobsCaller = Annotated[Caller, Depends(need("jobs"))]
TrainingCaller = Annotated[Caller, Depends(need("training"))]
AssetsCaller = Annotated[Caller, Depends(need("assets"))]
