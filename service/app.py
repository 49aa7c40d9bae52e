"""The HTTP service: a face of the flows. It keeps nothing; copies of it may run side by side."""

from __future__ import annotations

import asyncio
import logging
import pkgutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.metadata import version
from typing import Any

import anyio.to_thread
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline

from simyard.service import bodies, downloads, endpoints, notifications, recovery
from simyard.service.auth import Guard
from simyard.service.comparisons import Comparisons
from simyard.service.endpoints.health import Readiness
from simyard.service.endpoints.hooks import read_hooks
from simyard.service.errors import answer_errors
from simyard.service.home_page import Homes
from simyard.service.job_look import JobLooks
from simyard.service.job_rows import JobRows
from simyard.service.limits import Limits
from simyard.service.live import Streams
from simyard.service.monitor import Monitor
from simyard.service.prefect_api import Launches
from simyard.service.settings import Settings
from simyard.service.tables import Drawings
from simyard.service.task_book import TaskBook

THREADS = 100
"""Requests worked on at once, besides those that fetch files: most of each is waiting for the store or for Prefect."""
DELIVER_EVERY_S = 2.0
RECOVER_EVERY_S = 20.0

logger = logging.getLogger("simyard.service")


def create_app(settings: Settings) -> FastAPI:
    """Return the application, with the router of every module in `endpoints`.

    Args:
        settings: The site's; every copy has the same.
    """
    app = FastAPIOffline(  # its reference at /docs loads nothing from elsewhere
        redoc_url=None,
        title="simyard",
        version=version("simyard"),
        description="Self-hosted robot-learning jobs on NVIDIA Isaac Lab.",
        lifespan=_lifespan,
    )
    app.state.settings = settings
    app.state.guard = Guard(settings)
    app.state.downloads = downloads.Downloads()
    app.state.drawings = Drawings()
    app.state.comparisons = Comparisons()
    app.state.looks = JobLooks()
    app.state.streams = Streams()
    app.state.task_book = TaskBook(settings.machine)
    app.state.hooks = read_hooks(settings.hooks)
    for found in sorted(pkgutil.iter_modules(endpoints.__path__), key=lambda found: found.name):
        app.include_router(import_module(f"{endpoints.__name__}.{found.name}").router)
    answer_errors(app)
    app.add_middleware(bodies.BoundedBodies)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            schema.setdefault("components", {}).setdefault("schemas", {}).update(bodies.schemas())
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS + downloads.AT_ONCE
    launches = app.state.launches = await anyio.to_thread.run_sync(Launches)
    app.state.limits = Limits(settings, launches)
    app.state.job_rows = JobRows(settings, launches)
    app.state.homes = Homes(launches)
    app.state.monitor = Monitor(settings, launches, app.state.job_rows, app.state.looks, app.state.streams)
    app.state.readiness = Readiness(settings, launches)
    outbox = notifications.Outbox(settings, launches)
    chores = [
        asyncio.create_task(_every(DELIVER_EVERY_S, outbox.deliver)),
        asyncio.create_task(_every(RECOVER_EVERY_S, lambda: recovery.recover(settings, launches))),
    ]
    yield
    for chore in chores:
        chore.cancel()
    await asyncio.gather(*chores, return_exceptions=True)
    await anyio.to_thread.run_sync(launches.close)


async def _every(seconds: float, chore: Callable[[], Any]) -> None:
    while True:
        try:
            await anyio.to_thread.run_sync(chore)
        except Exception as error:
            logger.warning("%s", error)
        await asyncio.sleep(seconds)
