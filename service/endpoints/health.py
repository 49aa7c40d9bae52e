"""Whether the service lives, and whether it can do its work."""

from __future__ import annotations

import httpx
from fastapi import APIRouter, Request, Response
from prefect.exceptions import PrefectException

from simyard.core.errors import SimyardError
from simyard.service.prefect_api import Launches
from simyard.service.settings import Settings
from simyard.store import keys

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Whether the process lives")
async def healthz() -> dict[str, str]:
    """Answer."""
    return {"status": "ok"}


@router.get("/readyz", summary="Whether jobs can be submitted")
def readyz(request: Request, response: Response) -> dict[str, str | None]:
    """Look at the store and at Prefect; null is well."""
    settings: Settings = request.app.state.settings
    launches: Launches = request.app.state.launches
    problems: dict[str, str | None] = {"store": None, "prefect": None}
    try:
        settings.open().list_dirs(keys.JOBS)
    except SimyardError as error:
        problems["store"] = str(error)
    try:
        problems["prefect"] = launches.is_ready()
    except (httpx.HTTPError, PrefectException) as error:
        problems["prefect"] = f"the Prefect server does not answer: {error or type(error).__name__}"
    if any(problems.values()):
        response.status_code = 503
    return problems
