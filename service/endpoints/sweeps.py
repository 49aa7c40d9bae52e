"""`/v1/sweeps`: sweeps; begun, watched, paused, resumed, canceled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import JsonValue

from simyard.core.errors import RequestError
from simyard.core.run_records import Event
from simyard.core.sweep_records import Setting
from simyard.requests.sweeps import SweepRequest
from simyard.service import bodies, submission
from simyard.service.auth import Caller, JobsCaller
from simyard.service.cursors import DEFAULT_LIMIT, Cursor, Limit, answer_of, place_of
from simyard.service.endpoints.files import DownloadLink, download_link
from simyard.service.endpoints.pages import sweep_link
from simyard.service.status import SweepAnswer, sweep_answer, sweep_answers
from simyard.service.submission import Claim, IdempotencyKey, Work
from simyard.store import keys
from simyard.store.keys import SweepKeys
from simyard.tasks.launch import refuse_without_pool
from simyard.tasks.sweeps import pictures, record
from simyard.tasks.sweeps.best import best_of
from simyard.tasks.sweeps.loop import cancel_undriven
from simyard.tasks.sweeps.plan import load_sweep, resolve_sweep, stage_sweep
from simyard.tasks.sweeps.report import REPORT

_Body = Annotated[dict[str, JsonValue], Depends(bodies.json_from("jobs"))]
router = APIRouter(prefix="/v1/sweeps", tags=["sweeps"])

Newest = Annotated[int, Query(ge=1, le=10_000)]
ARTIFACTS = (REPORT, *pictures.NAMES)
"""Files of a sweep that can be fetched."""


@router.post("", status_code=201, openapi_extra=bodies.described(SweepRequest), summary="Begin a sweep")
def create(
    body: _Body, caller: JobsCaller, response: Response, idempotency_key: IdempotencyKey = None
) -> dict[str, Any]:
    """Check everything, put the inputs into the store, and begin. The same key and body mean the same sweep."""
    sweep_id = submission.submit(_SWEEP, body, caller, response, idempotency_key)
    return _view(caller, sweep_id)


def _stage(asked: SweepRequest, here: SweepRequest, folder: Path, caller: Caller, claim: Claim) -> str:
    request = _bounded(asked, caller).model_dump(mode="json", by_alias=True, exclude_unset=True)
    resolved = resolve_sweep(here, caller.store, keys.new_sweep_id(), folder, caller.settings.machine)
    refuse_without_pool(resolved.spec.template, caller.settings.pool)
    spec = replace(resolved.spec, sweep_id=claim(resolved.spec.sweep_id), request=request)
    stage_sweep(replace(resolved, spec=spec), caller.store)
    return spec.sweep_id


def _bounded(asked: SweepRequest, caller: Caller) -> SweepRequest:
    """Return the request with no more trainings side by side than the key may have jobs at once.

    A sweep has one of the key's places, whatever it trains, as a managed run has.

    Raises:
        RequestError: It asks for more.
    """
    most, parallel = caller.key.max_active_jobs, asked.sweep.parallel
    if most is None or (isinstance(parallel, int) and parallel <= most):
        return asked
    if isinstance(parallel, int):
        raise RequestError(
            f"sweep.parallel is {parallel}, and this API key may have {most} jobs at once.",
            code="too_parallel",
            advice=f"Set it to {most} or less.",
        )
    return asked.model_copy(update={"sweep": asked.sweep.model_copy(update={"parallel": most})})


_SWEEP: Work[SweepRequest] = Work(
    model=lambda body: SweepRequest,
    key_prefix="sweeps/",
    frozen=lambda sweep_id: SweepKeys(sweep_id).sweep,
    load=load_sweep,
    stage=_stage,
    deployment="sweep",
    id_parameter="sweep_id",
)


def _view(caller: Caller, sweep_id: str) -> dict[str, Any]:
    return _shown(caller, sweep_answer(caller.store, sweep_id, caller.launches))


def _shown(caller: Caller, answer: SweepAnswer) -> dict[str, Any]:
    return answer.to_json() | {"page_url": sweep_link(caller.settings, caller.base_url, caller.key, answer.id)}


@router.get("", summary="List sweeps, newest first")
def list_sweeps(caller: JobsCaller, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> dict[str, Any]:
    """Return the newest sweeps of the key's project, or the next page of them."""
    page = sweep_answers(caller.store, caller.launches, limit, place_of(cursor))
    return answer_of("sweeps", page, [_shown(caller, answer) for answer in page.found])


@router.get("/{sweep_id}", summary="Show a sweep")
def show(sweep_id: str, caller: JobsCaller) -> dict[str, Any]:
    """Return the status of a sweep, with the verdict so far."""
    return _view(caller, sweep_id)


@router.post("/{sweep_id}/pause", summary="Begin nothing new")
def pause(sweep_id: str, caller: JobsCaller) -> dict[str, Any]:
    """Let the trainings in progress come to their end, and begin nothing new."""
    record.set_desired_state(caller.store, sweep_id, "pause")
    return _view(caller, sweep_id)


@router.post("/{sweep_id}/resume", summary="Let a sweep go on")
def resume(sweep_id: str, caller: JobsCaller) -> dict[str, Any]:
    """Let a paused sweep go on; one whose process was lost is taken up by itself."""
    record.set_desired_state(caller.store, sweep_id, "run")
    return _view(caller, sweep_id)


@router.post("/{sweep_id}/cancel", summary="End a sweep now")
def cancel(sweep_id: str, caller: JobsCaller) -> dict[str, Any]:
    """End a sweep; what was trained and measured is kept. One that was canceled already stays as it is."""
    store = caller.store
    if record.sweep_status(store, sweep_id).status == "canceled":
        return _view(caller, sweep_id)
    record.set_desired_state(store, sweep_id, "cancel")
    if caller.launches.cancel_unbegun(sweep_id):
        cancel_undriven(store, sweep_id)
    return _view(caller, sweep_id)


@router.get("/{sweep_id}/settings", summary="List the settings, each with its trainings")
def settings(sweep_id: str, caller: JobsCaller) -> dict[str, list[Setting]]:
    """Return the settings in the order in which they were suggested."""
    load_sweep(caller.store, sweep_id)
    return {"settings": record.settings(caller.store, sweep_id)}


@router.get("/{sweep_id}/events", summary="List what happened")
def events(sweep_id: str, caller: JobsCaller, limit: Newest = 500) -> dict[str, list[Event]]:
    """Return the newest events, oldest of them first."""
    store = caller.store
    load_sweep(store, sweep_id)
    return {"events": record.read_events(store, sweep_id, record.event_numbers(store, sweep_id)[-limit:])}


@router.get("/{sweep_id}/best", summary="Name the best setting, with the config to train it again")
def best(sweep_id: str, caller: JobsCaller) -> dict[str, Any]:
    """Return the best setting so far, its best training, and the config."""
    return best_of(caller.store, sweep_id).to_json()


@router.get("/{sweep_id}/artifacts/{name}/download-url", summary="Get a URL to fetch the report or a picture by")
def artifact_url(sweep_id: str, name: str, caller: JobsCaller) -> DownloadLink:
    """Return a URL that needs no key, for a while."""
    store = caller.store
    load_sweep(store, sweep_id)
    key = SweepKeys(sweep_id).artifact(name)
    if name not in ARTIFACTS or not store.exists(key):
        there = [one for one in ARTIFACTS if store.exists(SweepKeys(sweep_id).artifact(one))]
        raise RequestError(
            f"{sweep_id} has no artifact {name!r}.",
            code="no_artifact",
            advice=f"There are: {', '.join(there) or 'none yet'}.",
        )
    return download_link(caller, key, name, None)
