"""`/metrics`: figures for Prometheus and what reads its format."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from simyard.service.auth import JobsCaller
from simyard.service.monitor import Monitor

router = APIRouter(tags=["health"])


@router.get("/metrics", summary="Read figures for monitors")
def metrics(caller: JobsCaller, request: Request) -> Response:
    """Return the figures of the key's project; an `admin` of the default one gets those of all projects."""
    monitor: Monitor = request.app.state.monitor
    return Response(monitor.text(caller.key), media_type=CONTENT_TYPE_LATEST)
