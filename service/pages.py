"""A job's page, for a browser: plain HTML, made anew for each look."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter

from simyard.service.settings import Settings
from simyard.service.signing import seal

router = APIRouter(tags=["pages"])

PAGE_SECONDS = 7 * 86400.0
"""How long a link to a page is good."""


def page_link(settings: Settings, base: str, project: str, job_id: str) -> str:
    """Return the address of a job's page; whoever has it needs no key."""
    token = seal(settings.secret, "page", PAGE_SECONDS, project=project, job_id=job_id)
    return f"{base}/jobs/{job_id}?token={quote(token)}"
