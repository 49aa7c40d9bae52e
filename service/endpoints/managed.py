"""`/v1/training-runs`: managed training runs; begun, watched, paused, resumed, canceled."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from simyard.core.errors import RequestError
from simyard.requests.managed import TrainingRunRequest
from simyard.service import bodies, notifications
from simyard.service.auth import Caller, TrainingCaller
from simyard.service.endpoints.files import DownloadLink, download_link
from simyard.service.endpoints.jobs import IdempotencyKey, JsonBody
from simyard.service.prefect_api import Launch, Launches
from simyard.service.references import fetch_inputs
from simyard.service.settings import Settings
from simyard.service.status import checkpoint, newest, run_answer
from simyard.store import keys
from simyard.store.keys import RunKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.managed import record
from simyard.tasks.managed.desired_state import DesiredState, set_desired_state
from simyard.tasks.managed.events import event_numbers, read_events
from simyard.tasks.managed.loop import Loop, LoopObserver
from simyard.tasks.managed.run import RunSpec, load_run, resolve_run, stage_run
from simyard.tasks.shared import idempotency, inputs

router = APIRouter(prefix="/v1/training-runs", tags=["training runs"])

Limit = Annotated[int, Query(ge=1, le=10_000)]
_OF_A_RUN = "training-runs/"
"""Prefix of a run's idempotency key in the store, so that a job may have the same key."""


@router.post("", status_code=201, openapi_extra=bodies.described(TrainingRunRequest), summary="Begin a managed run")
def create(
    body: JsonBody, caller: TrainingCaller, request: Request, response: Response,
    idempotency_key: IdempotencyKey = None,
) -> dict[str, Any]:  # fmt: skip
    """Check everything, put the inputs into the store, and begin. The same key and body mean the same run."""
    settings: Settings = request.app.state.settings
    launches: Launches = request.app.state.launches
    notify_url = notifications.take_url(body, caller)
    asked = bodies.check(body, TrainingRunRequest)
    key = None if idempotency_key is None else _OF_A_RUN + idempotency.check_key(idempotency_key)
    run_id = key and idempotency.claimed(caller.store, key, body)
    if run_id and caller.store.exists(RunKeys(run_id).run):
        response.status_code = 200
    else:
        caller.limits.admit(caller)
        run_id = _stage(asked, body, key, caller, settings)
    if notify_url:
        notifications.register(caller, run_id, notify_url)
    if not caller.store.exists(RunKeys(run_id).result):
        launches.start(_launch(load_run(caller.store, run_id), caller, settings))
    return _view(request, caller, run_id)


def _stage(asked: TrainingRunRequest, body: dict[str, Any], key: str | None, caller: Caller, settings: Settings) -> str:
    """Put a new run into the store; return its id."""
    with tempfile.TemporaryDirectory(prefix="simyard-submit-") as folder:
        here = fetch_inputs(asked, caller, Path(folder))
        resolved = resolve_run(here, caller.store, keys.new_run_id(), Path(folder), settings.site)
        run_id = idempotency.claim(caller.store, key, resolved.spec.run_id, body) if key else resolved.spec.run_id
        # The folder above is gone in a moment: a trainer that is a child process starts in the machine's home.
        spec = replace(
            resolved.spec, run_id=run_id, folder=str(settings.site.home),
            request=asked.model_dump(mode="json", exclude_unset=True),
        )  # fmt: skip
        stage_run(replace(resolved, spec=spec), caller.store)
    return run_id


def _launch(spec: RunSpec, caller: Caller, settings: Settings) -> Launch:
    parameters = {
        "request": spec.request, "store": caller.reference, "pool": settings.pool, "run_id": spec.run_id,
    }  # fmt: skip
    return Launch(spec.run_id, "training-run", parameters, caller.project, caller.key.key_id)


def _view(request: Request, caller: Caller, run_id: str) -> dict[str, Any]:
    launches: Launches = request.app.state.launches
    return run_answer(caller.store, run_id, launches).to_json()


@router.get("", summary="List managed runs, newest first")
def list_runs(caller: TrainingCaller, request: Request, limit: Limit = 30) -> dict[str, Any]:
    """Return the newest managed runs of the key's project."""
    return {"runs": [_view(request, caller, run_id) for run_id in newest(caller.store, "run", limit)]}


@router.get("/{run_id}", summary="Show a managed run")
def show(run_id: str, caller: TrainingCaller, request: Request) -> dict[str, Any]:
    """Return the status of a run."""
    return _view(request, caller, run_id)


@router.post("/{run_id}/pause", summary="Begin nothing new")
def pause(run_id: str, caller: TrainingCaller, request: Request) -> dict[str, Any]:
    """Let the work in progress come to its end, and begin nothing new."""
    return _say(run_id, caller, request, "pause")


@router.post("/{run_id}/resume", summary="Let a run go on")
def resume(run_id: str, caller: TrainingCaller, request: Request) -> dict[str, Any]:
    """Let a paused run go on; one whose process was lost is taken up by itself."""
    return _say(run_id, caller, request, "run")


@router.post("/{run_id}/cancel", summary="End a run now")
def cancel(run_id: str, caller: TrainingCaller, request: Request) -> dict[str, Any]:
    """End a run; its checkpoints are kept. One that was canceled already stays as it is."""
    launches: Launches = request.app.state.launches
    store = caller.store
    ended = record.run_status(store, run_id).status
    if ended == "canceled":
        return _view(request, caller, run_id)
    set_desired_state(store, run_id, "cancel")
    if launches.cancel_unbegun(run_id) and record.run_status(store, run_id).status in ("queued", "interrupted"):
        settings: Settings = request.app.state.settings
        with suppress(RequestError):  # a process has just resumed it, and reads the desired state
            Loop(load_run(store, run_id), store, settings.site, LoopObserver()).end_now("canceled")
    return _view(request, caller, run_id)


def _say(run_id: str, caller: Caller, request: Request, wanted: DesiredState) -> dict[str, Any]:
    set_desired_state(caller.store, run_id, wanted)
    return _view(request, caller, run_id)


@router.get("/{run_id}/iterations", summary="List the iterations that have ended")
def iterations(run_id: str, caller: TrainingCaller, limit: Limit = 200) -> dict[str, Any]:
    """Return the newest records, oldest of them first."""
    load_run(caller.store, run_id)
    return {"iterations": [one.to_json() for one in record.iterations(caller.store, run_id)[-limit:]]}


@router.get("/{run_id}/checkpoints", summary="List checkpoints, newest first")
def checkpoints(run_id: str, caller: TrainingCaller, limit: Limit = 200) -> dict[str, Any]:
    """Return the lineage."""
    load_run(caller.store, run_id)
    return {"checkpoints": [one.to_json() for one in record.checkpoints(caller.store, run_id)[::-1][:limit]]}


@router.get("/{run_id}/events", summary="List what happened")
def events(run_id: str, caller: TrainingCaller, limit: Limit = 500) -> dict[str, Any]:
    """Return the newest events, oldest of them first."""
    store: Store = caller.store
    load_run(store, run_id)
    found = read_events(store, run_id, event_numbers(store, run_id)[-limit:])
    return {"events": [event.to_json() for event in found]}


@router.get("/{run_id}/checkpoints/{checkpoint_id}/download-url", summary="Get a URL to fetch a checkpoint by")
def checkpoint_url(run_id: str, checkpoint_id: str, caller: TrainingCaller) -> DownloadLink:
    """Return a URL that needs no key, for a while."""
    store = caller.store
    try:
        found = checkpoint(store, run_id, checkpoint_id)
        file = inputs.asset_file(inputs.find_asset(store, keys.asset_id_of(found.sha256)))
        return download_link(caller, file.key, file.name, found.sha256)
    except KeyNotFound as error:
        raise RequestError(
            f"{run_id} has no checkpoint {checkpoint_id!r}.",
            code="unknown_checkpoint",
            advice="See the run's checkpoints.",
        ) from error
