"""Whether the service lives, and whether it can do its work."""

from __future__ import annotations

import asyncio
import time

import anyio.to_thread
import httpx
from fastapi import APIRouter, Request, Response
from prefect.exceptions import PrefectException

from simyard.core.errors import SimyardError
from simyard.service.prefect_api import Launches
from simyard.service.settings import Settings
from simyard.store import keys

router = APIRouter(tags=["health"])

KNOWN_S = 2.0
"""Seconds that the answer of `/readyz` is good for; all who ask meanwhile share it, and need no thread."""
LOOK_S = 8.0
"""Seconds that are waited for a look."""


class Readiness:
    """The last look at the store and at Prefect, or the one that is being taken."""

    def __init__(self, settings: Settings, launches: Launches) -> None:
        self._settings = settings
        self._launches = launches
        self._look: asyncio.Task[None] | None = None
        self._began = 0.0
        self._found: dict[str, str | None] = {}

    async def problems(self) -> dict[str, str | None]:
        """Return the problem of each; None is well."""
        now = time.monotonic()
        if self._look is None or (self._look.done() and now - self._began > KNOWN_S):
            self._began = now
            self._found = dict.fromkeys(("store", "prefect"), f"no answer within {LOOK_S:.0f} s")
            self._look = asyncio.create_task(anyio.to_thread.run_sync(self._fill, self._found))
        done, _ = await asyncio.wait([self._look], timeout=LOOK_S)
        for look in done:
            look.result()
        return dict(self._found)

    def _fill(self, found: dict[str, str | None]) -> None:
        try:
            self._settings.open().list_dirs(keys.SERVICE)  # a handful of folders, whatever lies in them
            found["store"] = None
        except SimyardError as error:
            found["store"] = str(error)
        try:
            found["prefect"] = self._launches.is_ready()
        except (httpx.HTTPError, PrefectException) as error:
            found["prefect"] = f"the Prefect server does not answer: {error or type(error).__name__}"


@router.get("/healthz", summary="Whether the process lives")
async def healthz() -> dict[str, str]:
    """Answer, whatever else is the matter."""
    return {"status": "ok"}


@router.get("/readyz", summary="Whether jobs can be submitted")
async def readyz(request: Request, response: Response) -> dict[str, str | None]:
    """Tell of the last look at the store and at Prefect; null is well."""
    readiness: Readiness = request.app.state.readiness
    problems = await readiness.problems()
    if any(problems.values()):
        response.status_code = 503
    return problems
