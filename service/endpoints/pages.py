"""A job's page, for a browser: plain HTML, made anew for each look."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Security
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPAuthorizationCredentials

from simyard.core.errors import RequestError, SimyardError
from simyard.core.records import ApiKey
from simyard.service.auth import BEARER, Guard, base_url
from simyard.service.endpoints.files import download_url
from simyard.service.errors import status_of
from simyard.service.job_page import error_page, job_page
from simyard.service.prefect_api import Launches
from simyard.service.settings import Settings
from simyard.service.signatures import seal

router = APIRouter(tags=["pages"])

PAGE_SECONDS = 7 * 86400.0
"""Seconds that a link to a page is valid."""
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+(?=/)")

logger = logging.getLogger("simyard.service")


def page_link(settings: Settings, base: str, api_key: ApiKey, job_id: str) -> str:
    """Return the address of a job's page; whoever has it needs no key, while the one it was made for is valid."""
    token = seal(settings.secret, "page", PAGE_SECONDS, key_id=api_key.key_id, job_id=job_id)
    return f"{base}/jobs/{job_id}?token={quote(token)}"


@router.get("/jobs/{job_id}", response_class=HTMLResponse, summary="Look at a job in a browser")
def page(
    job_id: str,
    request: Request,
    given: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)],
    token: Annotated[str | None, Query(description="Of the link that the API gives as `page_url`.")] = None,
) -> HTMLResponse:
    """Return the page of a job, by its signed link or by a key with the scope `jobs`."""
    settings: Settings = request.app.state.settings
    launches: Launches = request.app.state.launches
    nonce = secrets.token_urlsafe(16)
    try:
        api_key = _admit(request, job_id, token, given.credentials if given else None)
        store, base = settings.open(api_key.project), base_url(request)

        def link(key: str, name: str) -> str:
            return download_url(settings, base, api_key, key, name)

        until = datetime.fromtimestamp(time.time() + settings.url_seconds, UTC)
        html, links = job_page(store, job_id, launches, request.app.state.drawings, link, nonce, f"{until:%H:%M} UTC")
        return _answer(html, 200, nonce, links)
    except SimyardError as error:
        status = status_of(error)
        if status == 503:
            logger.error("%s: %s", request.url.path, error)
        return _answer(error_page(error.failure.message, _advice(error), nonce), status, nonce)
    except Exception as error:
        logger.exception("%s", request.url.path, exc_info=error)
        title = "This page cannot be shown: an unexpected error."
        return _answer(error_page(title, "The service's log has it.", nonce), 500, nonce)


def _admit(request: Request, job_id: str, token: str | None, key: str | None) -> ApiKey:
    """Return the key that opens the page: the sender's, or the one that their link was made for.

    Raises:
        RequestError: They may not look at it.
    """
    guard: Guard = request.app.state.guard
    if token is None:
        return guard.admit(key, "jobs")
    about, api_key = guard.follow("page", token)
    if about["job_id"] != job_id:
        raise RequestError(
            "This URL is for the page of another job.", code="bad_url", advice="Ask the API for another."
        )
    return api_key


def _advice(error: SimyardError) -> str:
    """Return advice for a reader with a browser."""
    if error.failure.code in ("bad_url", "url_expired"):
        return f"Take the page_url that GET /v0/jobs/{{job_id}} gives: it is good for {PAGE_SECONDS / 86400:.0f} days."
    if error.failure.code == "no_api_key":
        return "Open the page_url that GET /v0/jobs/{job_id} gives, or send a key: 'Authorization: Bearer sy_live_…'."
    return error.failure.advice


def _answer(text: str, status: int, nonce: str, links: Iterable[str] = ()) -> HTMLResponse:
    # A bucket's own server answers its links; nothing else from elsewhere is shown, and nothing at all is sent there.
    media = " ".join(["'self'", *sorted({found[0] for link in links if (found := _ORIGIN.match(link))})])
    policy = (
        "default-src 'none'", f"style-src 'nonce-{nonce}'", f"script-src 'nonce-{nonce}'", "img-src 'self' data:",
        f"media-src {media}", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'",
    )  # fmt: skip
    headers = {
        "Content-Security-Policy": "; ".join(policy),
        "Referrer-Policy": "no-referrer",  # the address has the token
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return HTMLResponse(text, status, headers)
