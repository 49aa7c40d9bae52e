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

import anyio.to_thread
from fastapi import APIRouter, Path, Query, Request, Response, Security
from fastapi.responses import HTMLResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials

from simyard.core.artifacts import shown_as
from simyard.core.errors import RequestError, SimyardError
from simyard.core.records import ApiKey
from simyard.service.auth import BEARER, Guard, base_url
from simyard.service.comparisons import Comparisons
from simyard.service.endpoints.files import download_url
from simyard.service.errors import status_of
from simyard.service.home_page import home_page
from simyard.service.job_list import SORTS, Wanted, job_list
from simyard.service.job_look import SHARED_S, JobLook
from simyard.service.job_page import PARTS, Viewer, error_page, job_page, job_part, job_sections
from simyard.service.job_rows import JobRows
from simyard.service.live import Follower, stream
from simyard.service.playback_page import episode_of, playback_page, rollout_of
from simyard.service.settings import Settings
from simyard.service.signatures import seal
from simyard.service.status import artifact_key, sweep_answers
from simyard.service.sweep_page import MOST_SWEEPS, SweepLinks, sweep_page, sweeps_page
from simyard.service.task_pages import Link, task_page, tasks_page
from simyard.store.store import Store
from simyard.tasks.pages.compare_page import Around, comparison_page
from simyard.tasks.shared import labels

router = APIRouter(tags=["pages"])

PAGE_SECONDS = 7 * 86400.0
"""Seconds that a link to a page is valid."""
_SWEEPS = "sweeps"
_TASKS = "tasks"
"""Stands in the token of a link to tasks where that of a job's page has the job: no job has this id."""
_SITE = "site"
"""Stands there in the token of the links between pages, which open all pages of a project and may set labels."""
_Key = Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]
_Token = Annotated[str | None, Query(description="Of the link that the API gives as `page_url`.")]
_Word = Annotated[str, Query(max_length=200)]
_PartName = Annotated[str, Path(pattern=f"^({'|'.join([*PARTS, *(re.escape(row.name) for row in shown_as('log'))])})$")]
_Page = tuple[str, Iterable[str]]
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+(?=/)")

logger = logging.getLogger("simyard.service")


class EventStream(StreamingResponse):
    """Server-sent events."""

    media_type = "text/event-stream"


def _token(settings: Settings, api_key: ApiKey, page: str) -> str:
    """Return the token of a link to a page: a job's or a sweep's by its id, or those of a name above."""
    return seal(settings.secret, "page", PAGE_SECONDS, key_id=api_key.key_id, job_id=page)


def page_link(settings: Settings, base: str, api_key: ApiKey, job_id: str) -> str:
    """Return the address of a job's page; whoever has it needs no key, while the one it was made for is valid."""
    token = _token(settings, api_key, job_id)
    return f"{base}/jobs/{job_id}?token={quote(token)}"


def tasks_link(settings: Settings, base: str, api_key: ApiKey, task: str | None = None) -> str:
    """Return the address of the list of tasks, or of one task's page; who has it needs no key, as for a job's page."""
    token = _token(settings, api_key, _TASKS)
    return f"{base}/tasks{'' if task is None else f'/{quote(task)}'}?token={quote(token)}"


def site_token(settings: Settings, api_key: ApiKey) -> str:
    """Return the token of the links between the pages of a key's project."""
    return _token(settings, api_key, _SITE)


class _Way:
    """The links from one page of a project to the others: with the token that it was opened by, or a new one."""

    def __init__(self, request: Request, api_key: ApiKey, token: str | None) -> None:
        self.token = token or site_token(request.app.state.settings, api_key)
        self._base, self._query = base_url(request), f"?token={quote(self.token)}"
        self.around = Around(home=self.to("/"), jobs=self.to("/jobs"), sweeps=self.to("/sweeps"))

    def to(self, path: str) -> str:
        """Return the address of a page."""
        return f"{self._base}{path}{self._query}"

    def to_job(self, job_id: str) -> str:
        """Return the address of a job's page."""
        return self.to(f"/jobs/{job_id}")

    def to_comparison(self, job_ids: Iterable[str]) -> str:
        """Return the address of the page that has jobs side by side."""
        return self.to("/compare") + "".join(f"&job={quote(job_id)}" for job_id in job_ids)


def admit_to_site(request: Request, given: _Key, token: _Token = None) -> ApiKey:
    """Return the key of somebody who may see all pages of its project, and label its jobs.

    Raises:
        RequestError: They have neither a link between pages nor a key with the scope `jobs`.
    """
    return _admit(request, _SITE, token, given)


@router.get("/", response_class=HTMLResponse, summary="Look at a project in a browser")
def home(request: Request, given: _Key, token: _Token = None) -> HTMLResponse:
    """Return the first page: what goes on, what failed, pools, promotions, schedules, disk and money."""
    state = request.app.state

    def make(nonce: str) -> _Page:
        api_key = admit_to_site(request, given, token)
        way, store = _Way(request, api_key, token), state.settings.open(api_key.project)
        rows, tasks = state.job_rows.of(api_key.project), tasks_link(state.settings, base_url(request), api_key)
        page = home_page(rows, store, state.homes, api_key.project, way.to_job, way.around, tasks, nonce)
        return page, ()

    return _answered(request, make)


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
        found = comparisons.of(store, tuple(job or ()))
        links = []

        def link(place: int, name: str) -> str:
            key = artifact_key(found.sides[place].job_id, name)
            links.append(download_url(settings, base, api_key, key, name))
            return links[-1]

        return comparison_page(found, link, nonce, [way.to_job(side.job_id) for side in found.sides], way.around), links

    return _answered(request, make)


def sweep_link(settings: Settings, base: str, api_key: ApiKey, sweep_id: str | None = None) -> str:
    """Return the address of a sweep's page, or of the list of all; who has it needs no key, as for a job's page."""
    token = _token(settings, api_key, sweep_id or _SWEEPS)
    return f"{base}/sweeps{'' if sweep_id is None else f'/{sweep_id}'}?token={quote(token)}"


@router.get("/jobs/{job_id}", response_class=HTMLResponse, summary="Look at a job in a browser")
def page(job_id: str, request: Request, given: _Key, token: _Token = None) -> HTMLResponse:
    """Return the page of a job, by its signed link or by a key with the scope `jobs`."""

    def make(nonce: str) -> _Page:
        store, viewer = _viewer(request, job_id, token, given, nonce)
        state = request.app.state
        look = state.looks.of(store, job_id)
        return job_page(look, state.launches, state.drawings, labels.read(store, job_id), viewer)

    return _answered(request, make)


@router.get("/jobs/{job_id}/parts/{name}", response_class=HTMLResponse, summary="Look at a part of a job's page")
def part(job_id: str, name: _PartName, request: Request, given: _Key, token: _Token = None) -> HTMLResponse:
    """Return a log of a job's newest attempt, its attempts, its stages, or the load of its machine."""

    def make(nonce: str) -> _Page:
        store, viewer = _viewer(request, job_id, token, given, nonce)
        state = request.app.state
        return job_part(state.looks.of(store, job_id), name, state.launches, state.drawings, viewer), ()

    return _answered(request, make)


@router.get("/jobs/{job_id}/playback", response_class=HTMLResponse, summary="Play a rollout's episodes in a browser")
def playback(job_id: str, request: Request, given: _Key, token: _Token = None) -> HTMLResponse:
    """Return the page that plays the episodes of a rollout, to whoever may see the job's."""

    def make(nonce: str) -> _Page:
        store, viewer = _viewer(request, job_id, token, given, nonce)
        look = request.app.state.looks.of(store, job_id)
        rollout_of(look)
        return playback_page(look.spec, viewer.token, nonce), ()

    return _answered(request, make)


@router.get("/jobs/{job_id}/playback/{episode}", summary="Fetch an episode of a rollout to play it")
def episode(
    job_id: str, episode: Annotated[int, Path(ge=1, le=10**9)], request: Request, given: _Key, token: _Token = None
) -> Response:
    """Return an episode: poses of bodies, shapes and curves, every so many steps; arrays are float32 in base64."""
    store, _ = _viewer(request, job_id, token, given, "")
    found = episode_of(request.app.state.looks.of(store, job_id), episode)
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(found, media_type="application/json", headers=headers)


@router.get("/jobs/{job_id}/events", response_class=EventStream, summary="Follow a job's page while the job runs")
async def events(
    job_id: str,
    request: Request,
    given: _Key,
    token: _Token = None,
    place: Annotated[str | None, Query(max_length=100, description="Id of the last event that came.")] = None,
) -> StreamingResponse:
    """Send what is new of the page as server-sent events, until the job has ended.

    One who connects again, with the header `Last-Event-ID` or `place`, gets every line of the logs once.
    """
    state = request.app.state
    state.streams.require_room()
    store, viewer = await anyio.to_thread.run_sync(lambda: _viewer(request, job_id, token, given, ""))
    await anyio.to_thread.run_sync(lambda: state.looks.of(store, job_id, SHARED_S))

    def look(shared_s: float) -> JobLook:
        state.guard.follow("page", viewer.token)  # as long as the key is valid
        found: JobLook = state.looks.of(store, job_id, shared_s)
        return found

    def elements(found: JobLook) -> tuple[dict[str, str], bool]:
        return job_sections(found, state.launches, state.drawings, viewer)

    follower = Follower(look, elements, request.headers.get("last-event-id") or place)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return EventStream(stream(follower, state.streams), headers=headers)


def _viewer(
    request: Request, job_id: str, token: str | None, given: HTTPAuthorizationCredentials | None, nonce: str
) -> tuple[Store, Viewer]:
    """Admit who looks at a job; return its store, and the addresses that they are given."""
    settings: Settings = request.app.state.settings
    api_key = _admit(request, job_id, token, given)
    base = base_url(request)

    def link(key: str, name: str) -> str:
        return download_url(settings, base, api_key, key, name)

    # Whoever may see all pages finds the others from here, and may label the job.
    sees_all = _sees_all(request, token)
    way = _Way(request, api_key, token)
    until = datetime.fromtimestamp(time.time() + settings.url_seconds, UTC)
    return settings.open(api_key.project), Viewer(
        link=link, nonce=nonce, until=f"{until:%H:%M} UTC", token=way.token,
        around=way.around if sees_all else None,
        labels_url=way.to(f"/v0/jobs/{job_id}/labels") if sees_all else None,
    )  # fmt: skip


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
        around = None
        if _sees_all(request, token):
            way = _Way(request, api_key, token)
            links, around = {sweep_id: way.to(f"/sweeps/{sweep_id}") for sweep_id in links}, way.around
        return sweeps_page(found, links, nonce, around), ()

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
        if _sees_all(request, token):
            way = _Way(request, api_key, token)
            links = SweepLinks(all=way.around.sweeps, job=way.to_job, comparison=way.to_comparison, around=way.around)
        return sweep_page(settings.open(api_key.project), sweep_id, request.app.state.launches, links, nonce), ()

    return _answered(request, make)


def _sees_all(request: Request, token: str | None) -> bool:
    """Return whether somebody who was admitted may see all pages of the project, or came by a link to one alone."""
    return token is None or request.app.state.guard.follow("page", token)[0]["job_id"] == _SITE


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
