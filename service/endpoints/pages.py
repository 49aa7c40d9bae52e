"""Pages for a browser, a job's and those of tasks: plain HTML, made anew for each look."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable
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
from simyard.service.status import sweep_answers
from simyard.service.sweep_page import MOST_SWEEPS, SweepLinks, sweep_page, sweeps_page
from simyard.service.task_pages import Link, task_page, tasks_page

router = APIRouter(tags=["pages"])

PAGE_SECONDS = 7 * 86400.0
"""Seconds that a link to a page is valid."""
_SWEEPS = "sweeps"
_TASKS = "tasks"
"""Stands in the token of a link to tasks where that of a job's page has the job: no job has this id."""
_Key = Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]
_Token = Annotated[str | None, Query(description="Of the link that the API gives as `page_url`.")]
_Page = tuple[str, Iterable[str]]
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+(?=/)")

logger = logging.getLogger("simyard.service")


def page_link(settings: Settings, base: str, api_key: ApiKey, job_id: str) -> str:
    """Return the address of a job's page; whoever has it needs no key, while the one it was made for is valid."""
    token = seal(settings.secret, "page", PAGE_SECONDS, key_id=api_key.key_id, job_id=job_id)
    return f"{base}/jobs/{job_id}?token={quote(token)}"


def tasks_link(settings: Settings, base: str, api_key: ApiKey, task: str | None = None) -> str:
    """Return the address of the list of tasks, or of one task's page; who has it needs no key, as for a job's page."""
    token = seal(settings.secret, "page", PAGE_SECONDS, key_id=api_key.key_id, job_id=_TASKS)
    return f"{base}/tasks{'' if task is None else f'/{quote(task)}'}?token={quote(token)}"


def sweep_link(settings: Settings, base: str, api_key: ApiKey, sweep_id: str | None = None) -> str:
    """Return the address of a sweep's page, or of the list of all; who has it needs no key, as for a job's page."""
    token = seal(settings.secret, "page", PAGE_SECONDS, key_id=api_key.key_id, job_id=sweep_id or _SWEEPS)
    return f"{base}/sweeps{'' if sweep_id is None else f'/{sweep_id}'}?token={quote(token)}"


@router.get("/jobs/{job_id}", response_class=HTMLResponse, summary="Look at a job in a browser")
def page(job_id: str, request: Request, given: _Key, token: _Token = None) -> HTMLResponse:
    """Return the page of a job, by its signed link or by a key with the scope `jobs`."""
    settings: Settings = request.app.state.settings
    launches: Launches = request.app.state.launches

    def make(nonce: str) -> _Page:
        api_key = _admit(request, job_id, token, given)
        store, base = settings.open(api_key.project), base_url(request)

        def link(key: str, name: str) -> str:
            return download_url(settings, base, api_key, key, name)

        until = datetime.fromtimestamp(time.time() + settings.url_seconds, UTC)
        return job_page(store, job_id, launches, request.app.state.drawings, link, nonce, f"{until:%H:%M} UTC")

    return _answered(request, make)


@router.get("/tasks", response_class=HTMLResponse, summary="Look at all tasks in a browser")
def all_tasks(request: Request, given: _Key, token: _Token = None) -> HTMLResponse:
    """Return the page of all tasks, by its signed link or by a key with the scope `jobs`."""

    def make(nonce: str) -> _Page:
        link = _linking(request, given, token)
        return tasks_page(request.app.state.task_book.tasks(), link, nonce, PAGE_SECONDS), ()

    return _answered(request, make)


@router.get("/tasks/{task}", response_class=HTMLResponse, summary="Look at a task in a browser")
def one_task(task: str, request: Request, given: _Key, token: _Token = None) -> HTMLResponse:
    """Return the page of a task, by the signed link of the list or its own, or by a key with the scope `jobs`."""

    def make(nonce: str) -> _Page:
        link = _linking(request, given, token)
        return task_page(request.app.state.task_book.task(task), link, nonce), ()

    return _answered(request, make)


@router.get("/sweeps", response_class=HTMLResponse, summary="Look at all sweeps in a browser")
def all_sweeps(request: Request, given: _Key, token: _Token = None) -> HTMLResponse:
    """Return the page of the newest sweeps, by its signed link or by a key with the scope `jobs`."""
    settings: Settings = request.app.state.settings

    def make(nonce: str) -> _Page:
        api_key = _admit(request, _SWEEPS, token, given)
        found = sweep_answers(settings.open(api_key.project), request.app.state.launches, MOST_SWEEPS, None).found
        links = {one.id: sweep_link(settings, base_url(request), api_key, one.id) for one in found}
        return sweeps_page(found, links, nonce), ()

    return _answered(request, make)


@router.get("/sweeps/{sweep_id}", response_class=HTMLResponse, summary="Look at a sweep in a browser")
def one_sweep(sweep_id: str, request: Request, given: _Key, token: _Token = None) -> HTMLResponse:
    """Return the page of a sweep, by its signed link or by a key with the scope `jobs`."""
    settings: Settings = request.app.state.settings

    def make(nonce: str) -> _Page:
        api_key, base = _admit(request, sweep_id, token, given), base_url(request)
        links = SweepLinks(
            all=sweep_link(settings, base, api_key), job=lambda job_id: page_link(settings, base, api_key, job_id)
        )
        return sweep_page(settings.open(api_key.project), sweep_id, request.app.state.launches, links, nonce), ()

    return _answered(request, make)


def _linking(request: Request, given: HTTPAuthorizationCredentials | None, token: str | None) -> Link:
    """Admit who looks at tasks; return a function that links to the page of a task, or of all for None."""
    api_key = _admit(request, _TASKS, token, given)
    return lambda task: tasks_link(request.app.state.settings, base_url(request), api_key, task)


def _answered(request: Request, make: Callable[[str], _Page]) -> HTMLResponse:
    """Return the page that a function makes, with the addresses it links to, or one that says why there is none.

    Args:
        request: The request.
        make: Takes the name of the page's style and script in its policy.
    """
    nonce = secrets.token_urlsafe(16)
    try:
        html, links = make(nonce)
        return _answer(html, 200, nonce, links)
    except SimyardError as error:
        status, failure = status_of(error), error.failure
        if not isinstance(error, RequestError):
            logger.error("%s: %s", request.url.path, error)
        live = failure.code == "tasks_being_read"
        return _answer(error_page(failure.message, _advice(error), nonce, live=live), status, nonce)
    except Exception as error:
        logger.exception("%s", request.url.path, exc_info=error)
        title = "This page cannot be shown: an unexpected error."
        return _answer(error_page(title, "The service's log has it.", nonce), 500, nonce)


def _admit(request: Request, job_id: str, token: str | None, given: HTTPAuthorizationCredentials | None) -> ApiKey:
    """Return the key that opens the page: the sender's, or the one that their link was made for.

    Raises:
        RequestError: They may not look at it.
    """
    guard: Guard = request.app.state.guard
    if token is None:
        return guard.admit(given.credentials if given else None, "jobs")
    about, api_key = guard.follow("page", token)
    if about["job_id"] != job_id:
        raise RequestError("This URL is for another page.", code="bad_url", advice="Ask the API for another.")
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
