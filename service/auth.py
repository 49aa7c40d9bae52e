"""The API key of a request: its project and its scopes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from simyard.core.errors import RequestError
from simyard.core.records import ApiKey
from simyard.service.limits import Limits
from simyard.service.prefect_api import Launches
from simyard.service.settings import Settings
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
    base_url: str
    """Address at which the service was reached: links begin with it."""

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
        # The key is looked for in the store, unless it was a moment ago.
        known, now = self._known.get(given), time.monotonic()
        if known is None or now - known[0] > KNOWN_S:
            if len(self._known) > 10_000:  # somebody guesses
                self._known.clear()
            known = self._known[given] = (now, api_keys.find(self._own, given))
        key = known[1]
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


def base_url(request: Request) -> str:
    """Return the service's own URL: the public one if it is set, otherwise that of the request."""
    settings: Settings = request.app.state.settings
    return settings.public_url or str(request.base_url).rstrip("/")


def need(scope: str) -> Callable[..., Caller]:
    """Return the dependency of an endpoint that needs a scope."""

    def caller(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]) -> Caller:
        state = request.app.state
        key = state.guard.admit(given.credentials if given else None, scope)
        return Caller(key, state.settings, state.launches, state.limits, base_url(request))

    return caller


JobsCaller = Annotated[Caller, Depends(need("jobs"))]
TrainingCaller = Annotated[Caller, Depends(need("training"))]
AssetsCaller = Annotated[Caller, Depends(need("assets"))]
