"""Pages for a browser, of jobs and tasks: plain HTML, made anew for each look."""

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
from simyard.service.comparisons import Comparisons
from simyard.service.endpoints.files import download_url
from simyard.service.errors import status_of
from simyard.service.job_list import SORTS, Wanted, job_list
from simyard.service.job_page import error_page, job_page
from simyard.service.job_rows import JobRows
from simyard.service.prefect_api import Launches
from simyard.service.settings import Settings
from simyard.service.signatures import seal
from simyard.service.status import artifact_key
from simyard.service.tables import Drawings
from simyard.service.task_pages import Link, task_page, tasks_page
from simyard.tasks.pages.compare_page import Around, comparison_page

router = APIRouter(tags=["pages"])

PAGE_SECONDS = 7 * 86400.0
"""Seconds that a link to a page is valid."""
_TASKS = "tasks"
"""Stands in the token of a link to tasks where that of a job's page has the job: no job has this id."""
_SITE = "site"
"""Stands there in the token of the links between pages, which open all pages of a project and may set labels."""
_Key = Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]
_Token = Annotated[str | None, Query(description="Of the link that the API gives as `page_url`.")]
_Word = Annotated[str, Query(max_length=200)]
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


def site_token(settings: Settings, api_key: ApiKey) -> str:
    """Return the token of the links between the pages of a key's project."""
    return seal(settings.secret, "page", PAGE_SECONDS, key_id=api_key.key_id, job_id=_SITE)


class _Way:
    """The links from one page of a project to the others: with the token that it was opened by, or a new one."""

    def __init__(self, request: Request, api_key: ApiKey, token: str | None) -> None:
        self.token = token or site_token(request.app.state.settings, api_key)
        self._base, self._query = base_url(request), f"?token={quote(self.token)}"
        self.around = Around(home=self.to("/"), jobs=self.to("/jobs"))

    def to(self, path: str) -> str:
        """Return the address of a page."""
        return f"{self._base}{path}{self._query}"

    def to_job(self, job_id: str) -> str:
        """Return the address of a job's page."""
        return self.to(f"/jobs/{job_id}")


def admit_to_site(request: Request, given: _Key, token: _Token = None) -> ApiKey:
    """Return the key of somebody who may see all pages of its project, and label its jobs.

    Raises:
        RequestError: They have neither a link between pages nor a key with the scope `jobs`.
    """
    return _admit(request, _SITE, token, given)


@router.get("/jobs", response_class=HTMLResponse, summary="Look at all jobs in a browser")
def all_jobs(
    request: Request,
    given: _Key,
    token: _Token = None,
    text: _Word = "",
    kind: _Word = "",
    task: _Word = "",
    library: _Word = "",
    status: _Word = "",
    tag: _Word = "",
    sort: Annotated[str, Query(pattern=f"^({'|'.join(SORTS)})$")] = "newest",
    turned: bool = False,
    page: Annotated[int, Query(ge=1, le=1000)] = 1,
) -> HTMLResponse:
    """Return the list of jobs, filtered and sorted, from which some are picked to be compared."""

    def make(nonce: str) -> _Page:
        api_key = admit_to_site(request, given, token)
        exact = {"kind": kind, "task": task, "library": library, "status": status, "tag": tag}
        wanted = Wanted(text=text, sort=sort, turned=turned, page=page, **exact)
        rows: JobRows = request.app.state.job_rows
        found = rows.of(api_key.project)
        way = _Way(request, api_key, token)
        html = job_list(found, rows.count(api_key.project), wanted, way.to_job, way.token, nonce, way.around.home)
        return html, ()

    return _answered(request, make, has_form=True)


@router.get("/compare", response_class=HTMLResponse, summary="Look at jobs side by side in a browser")
def side_by_side(
    request: Request,
    given: _Key,
    token: _Token = None,
    job: Annotated[
        list[_Word] | None, Query(description="Ids of two to eight jobs; a checkpoint of one as ID@model_50.pt.")
    ] = None,
) -> HTMLResponse:
    """Return the page that compares jobs with the first of them."""
    settings: Settings = request.app.state.settings

    def make(nonce: str) -> _Page:
        api_key = admit_to_site(request, given, token)
        store, base, way = settings.open(api_key.project), base_url(request), _Way(request, api_key, token)
        comparisons: Comparisons = request.app.state.comparisons
        found = comparisons.of(store, tuple(job or ()), settings.machine.usd_per_gpu_hour)
        links = []

        def link(place: int, name: str) -> str:
            key = artifact_key(found.sides[place].job_id, name)
            links.append(download_url(settings, base, api_key, key, name))
            return links[-1]

        return comparison_page(found, link, nonce, [way.to_job(side.job_id) for side in found.sides], way.around), links

    return _answered(request, make)


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

        # Whoever may see all pages finds the others from here, and may label the job.
        around, labels_url = None, None
        if token is None or request.app.state.guard.follow("page", token)[0]["job_id"] == _SITE:
            way = _Way(request, api_key, token)
            around, labels_url = way.around, way.to(f"/v0/jobs/{job_id}/labels")
        until = datetime.fromtimestamp(time.time() + settings.url_seconds, UTC)
        drawings: Drawings = request.app.state.drawings
        return job_page(store, job_id, launches, drawings, link, nonce, f"{until:%H:%M} UTC", around, labels_url)

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


def _linking(request: Request, given: HTTPAuthorizationCredentials | None, token: str | None) -> Link:
    """Admit who looks at tasks; return a function that links to the page of a task, or of all for None."""
    api_key = _admit(request, _TASKS, token, given)
    return lambda task: tasks_link(request.app.state.settings, base_url(request), api_key, task)


def _answered(request: Request, make: Callable[[str], _Page], *, has_form: bool = False) -> HTMLResponse:
    """Return the page that a function makes, with the addresses it links to, or one that says why there is none.

    Args:
        request: The request.
        make: Takes the name of the page's style and script in its policy.
        has_form: Whether it has a form that leads to another page.
    """
    nonce = secrets.token_urlsafe(16)
    try:
        html, links = make(nonce)
        return _answer(html, 200, nonce, links, forms="'self'" if has_form else "'none'")
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
    if about["job_id"] not in (job_id, _SITE):
        raise RequestError("This URL is for another page.", code="bad_url", advice="Ask the API for another.")
    return api_key


def _advice(error: SimyardError) -> str:
    """Return advice for a reader with a browser."""
    if error.failure.code in ("bad_url", "url_expired"):
        return f"Take the page_url that GET /v0/jobs/{{job_id}} gives: it is good for {PAGE_SECONDS / 86400:.0f} days."
    if error.failure.code == "no_api_key":
        return "Open the page_url that GET /v0/jobs/{job_id} gives, or send a key: 'Authorization: Bearer sy_live_…'."
    return error.failure.advice


def _answer(text: str, status: int, nonce: str, links: Iterable[str] = (), *, forms: str = "'none'") -> HTMLResponse:
    # A bucket's own server answers its links; nothing else from elsewhere is shown, and nothing at all is sent there.
    media = " ".join(["'self'", *sorted({found[0] for link in links if (found := _ORIGIN.match(link))})])
    policy = (
        "default-src 'none'", f"style-src 'nonce-{nonce}'", f"script-src 'nonce-{nonce}'", "img-src 'self' data:",
        f"media-src {media}", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", f"form-action {forms}",
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
