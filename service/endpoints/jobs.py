"""`/v0/jobs`: rollouts, trainings, evaluations and exports; submitted, watched, canceled, fetched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import JsonValue

from simyard.core.artifacts import STDOUT
from simyard.core.errors import RequestError
from simyard.core.records import JobLabels
from simyard.requests.jobs import JobRequest
from simyard.service import bodies, submission
from simyard.service.auth import Caller, JobsCaller
from simyard.service.cursors import DEFAULT_LIMIT, Cursor, Limit, answer_of, place_of
from simyard.service.endpoints.files import DownloadLink, download_link
from simyard.service.endpoints.pages import page_link
from simyard.service.status import ENDED, MANIFEST, JobAnswer, artifact_key, job_answer, job_answers
from simyard.service.submission import Claim, IdempotencyKey, Work
from simyard.store import keys
from simyard.store.keys import JobKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.attempt.attempt import CANCELED
from simyard.tasks.collect import collect
from simyard.tasks.launch import ask_to_cancel, refuse_without_pool
from simyard.tasks.persist import persist
from simyard.tasks.resolve import resolve
from simyard.tasks.shared import history, labels
from simyard.tasks.shared.history import load_spec
from simyard.tasks.shared.logs import LogFollower
from simyard.tasks.stage import stage

_Body = Annotated[dict[str, JsonValue], Depends(bodies.json_from("jobs"))]
router = APIRouter(prefix="/v0/jobs", tags=["jobs"])

LogName = Annotated[str, Query(pattern=r"^[a-z][a-z_.-]{0,60}\.log$")]

BILLING_MODEL = "gpu_seconds"
FOLLOW_S = 1.0
"""Seconds between two looks at a log that is followed."""


@router.post("", status_code=201, openapi_extra=bodies.described(*bodies.JOBS), summary="Submit a job")
def submit(
    body: _Body, caller: JobsCaller, response: Response, idempotency_key: IdempotencyKey = None
) -> dict[str, Any]:
    """Check everything, put the inputs into the store, and start the job. The same key and body mean the same job."""
    job_id = submission.submit(JOB, body, caller, response, idempotency_key)
    return _view(caller, job_id) | {
        "billing_model": BILLING_MODEL,
        "billing_price_id": None,
        "gpu_hourly_rate_usd": caller.settings.machine.usd_per_gpu_hour,
    }


def _stage(asked: JobRequest, here: JobRequest, folder: Path, caller: Caller, claim: Claim) -> str:
    resolved = resolve(here, caller.store, keys.new_job_id(), folder)
    refuse_without_pool(resolved.spec, caller.settings.pool)
    # The paths in the folder are gone in a moment; what was sent says more.
    as_sent = asked.model_dump(mode="json", by_alias=True, exclude_unset=True)
    spec = replace(resolved.spec, job_id=claim(resolved.spec.job_id), request=as_sent)
    stage(replace(resolved, spec=spec), caller.store)
    return spec.job_id


JOB: Work[JobRequest] = Work(
    model=bodies.job_model,
    frozen=lambda job_id: JobKeys(job_id).job,
    load=load_spec,
    stage=_stage,
    id_parameter="job_id",
)


def _view(caller: Caller, job_id: str) -> dict[str, Any]:
    answer = job_answer(caller.store, job_id, caller.launches)
    return _shown(caller, answer, labels.read(caller.store, job_id))


def _shown(caller: Caller, answer: JobAnswer, given: JobLabels | None) -> dict[str, Any]:
    page_url = page_link(caller.settings, caller.base_url, caller.key, answer.id)
    labeled = {"tags": list(given.tags) if given else [], "note": given.note if given else ""}
    return answer.to_json() | {"project_id": caller.project, "page_url": page_url} | labeled


@router.get("", summary="List jobs, newest first")
def list_jobs(caller: JobsCaller, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> dict[str, Any]:
    """Return the newest jobs of the key's project, or the next page of them."""
    page = job_answers(caller.store, caller.launches, limit, place_of(cursor))
    given = labels.read_some(caller.store, {answer.id for answer in page.found})
    return answer_of("jobs", page, [_shown(caller, answer, given.get(answer.id)) for answer in page.found])


@router.get("/{job_id}", summary="Show a job")
def show(job_id: str, caller: JobsCaller) -> dict[str, Any]:
    """Return the status of a job, and its artifacts."""
    return _view(caller, job_id)


@router.post("/{job_id}/cancel", summary="Cancel a job")
def cancel(job_id: str, caller: JobsCaller) -> dict[str, Any]:
    """Stop a job, and keep what it saved; one that has ended stays as it is."""
    store = caller.store
    spec = load_spec(store, job_id)
    if history.job_status(store, job_id).status not in ENDED:
        ask_to_cancel(store, job_id)
        if caller.launches.cancel_unbegun(job_id) and not store.exists(JobKeys(job_id).result):
            persist(spec, collect(spec, store, CANCELED), store)
    return _view(caller, job_id)


@router.get(
    "/{job_id}/logs", response_class=PlainTextResponse, summary="Read a log of a job's newest attempt, or follow it"
)
async def logs(
    job_id: str,
    caller: JobsCaller,
    name: LogName = STDOUT.name,
    tail: Annotated[int, Query(ge=0, le=100_000)] = 200,
    follow: bool = False,
) -> Response:
    """Return the last lines; with `follow` the answer goes on until the job has ended."""
    await anyio.to_thread.run_sync(load_spec, caller.store, job_id)
    lines = _lines(caller.store, job_id, name, tail, follow=follow)
    if follow:
        return StreamingResponse(lines, media_type="text/plain; charset=utf-8", headers={"Cache-Control": "no-store"})
    return PlainTextResponse("".join([line async for line in lines]))


async def _lines(store: Store, job_id: str, name: str, tail: int, *, follow: bool) -> AsyncIterator[str]:
    follower = LogFollower(store, job_id, (name,), tail)
    while True:
        known = await anyio.to_thread.run_sync(history.job_status, store, job_id)
        while lines := await anyio.to_thread.run_sync(follower.new_lines, known.attempts):
            for _, line in lines:
                yield f"{line}\n"
            if not follow:
                return
        if not follow or known.status in ENDED:
            return
        await anyio.sleep(FOLLOW_S)


@router.get("/{job_id}/artifacts/{name:path}/download-url", summary="Get a URL to fetch an artifact by")
def artifact_url(job_id: str, name: str, caller: JobsCaller) -> DownloadLink:
    """Return a URL that needs no key, for a while."""
    store = caller.store
    load_spec(store, job_id)
    result = history.result_of(store, job_id)
    digests = {entry.name: entry.sha256 for entry in result.artifacts} if result else {}
    if name == MANIFEST or name in digests:
        with suppress(KeyNotFound):
            return download_link(caller, artifact_key(job_id, name), name, digests.get(name))
    raise RequestError(
        f"{job_id} has no artifact {name!r}.", code="no_artifact", advice="The job itself lists what it left."
    )
