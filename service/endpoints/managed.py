"""`/v1/training-runs`: managed training runs; begun, watched, paused, resumed, canceled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import JsonValue

from simyard.core.errors import RequestError
from simyard.core.run_records import Event, IterationRecord, LineageRecord
from simyard.requests.managed import TrainingRunRequest
from simyard.service import bodies, submission
from simyard.service.auth import Caller, TrainingCaller
from simyard.service.cursors import DEFAULT_LIMIT, Cursor, Limit, answer_of, place_of
from simyard.service.endpoints.files import DownloadLink, download_link
from simyard.service.status import checkpoint, run_answer, run_answers
from simyard.service.submission import Claim, IdempotencyKey, Work
from simyard.store import keys
from simyard.store.keys import RunKeys
from simyard.store.store import KeyNotFound
from simyard.tasks.managed import record
from simyard.tasks.managed.loop import cancel_undriven
from simyard.tasks.managed.run import load_run, resolve_run, stage_run
from simyard.tasks.shared import inputs

_Body = Annotated[dict[str, JsonValue], Depends(bodies.json_from("training"))]
router = APIRouter(prefix="/v1/training-runs", tags=["training runs"])

Newest = Annotated[int, Query(ge=1, le=10_000)]


@router.post("", status_code=201, openapi_extra=bodies.described(TrainingRunRequest), summary="Begin a managed run")
def create(
    body: _Body, caller: TrainingCaller, response: Response, idempotency_key: IdempotencyKey = None
) -> dict[str, Any]:
    """Check everything, put the inputs into the store, and begin. The same key and body mean the same run."""
    run_id = submission.submit(_RUN, body, caller, response, idempotency_key)
    return _view(caller, run_id)


def _stage(asked: TrainingRunRequest, here: TrainingRunRequest, folder: Path, caller: Caller, claim: Claim) -> str:
    machine = caller.settings.machine
    resolved = resolve_run(here, caller.store, keys.new_run_id(), folder, machine)
    spec = replace(
        resolved.spec,
        run_id=claim(resolved.spec.run_id),
        # The folder is gone in a moment: a trainer that is a child process starts in the machine's home.
        folder=str(machine.home),
        request=asked.model_dump(mode="json", exclude_unset=True),
    )
    stage_run(replace(resolved, spec=spec), caller.store)
    return spec.run_id


_RUN: Work[TrainingRunRequest] = Work(
    model=lambda body: TrainingRunRequest,
    key_prefix="training-runs/",
    frozen=lambda run_id: RunKeys(run_id).run,
    load=load_run,
    stage=_stage,
    deployment="training-run",
    id_parameter="run_id",
)


def _view(caller: Caller, run_id: str) -> dict[str, Any]:
    return run_answer(caller.store, run_id, caller.launches).to_json()


@router.get("", summary="List managed runs, newest first")
def list_runs(caller: TrainingCaller, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> dict[str, Any]:
    """Return the newest managed runs of the key's project, or the next page of them."""
    page = run_answers(caller.store, caller.launches, limit, place_of(cursor))
    return answer_of("runs", page, [answer.to_json() for answer in page.found])


@router.get("/{run_id}", summary="Show a managed run")
def show(run_id: str, caller: TrainingCaller) -> dict[str, Any]:
    """Return the status of a run."""
    return _view(caller, run_id)


@router.post("/{run_id}/pause", summary="Begin nothing new")
def pause(run_id: str, caller: TrainingCaller) -> dict[str, Any]:
    """Let the work in progress come to its end, and begin nothing new."""
    record.set_desired_state(caller.store, run_id, "pause")
    return _view(caller, run_id)


@router.post("/{run_id}/resume", summary="Let a run go on")
def resume(run_id: str, caller: TrainingCaller) -> dict[str, Any]:
    """Let a paused run go on; one whose process was lost is taken up by itself."""
    record.set_desired_state(caller.store, run_id, "run")
    return _view(caller, run_id)


@router.post("/{run_id}/cancel", summary="End a run now")
def cancel(run_id: str, caller: TrainingCaller) -> dict[str, Any]:
    """End a run; its checkpoints are kept. One that was canceled already stays as it is."""
    store = caller.store
    ended = record.run_status(store, run_id).status
    if ended == "canceled":
        return _view(caller, run_id)
    record.set_desired_state(store, run_id, "cancel")
    if caller.launches.cancel_unbegun(run_id):
        cancel_undriven(store, run_id, caller.settings.machine)
    return _view(caller, run_id)


@router.get("/{run_id}/iterations", summary="List the iterations that have ended")
def iterations(run_id: str, caller: TrainingCaller, limit: Newest = 200) -> dict[str, list[IterationRecord]]:
    """Return the newest records, oldest of them first."""
    load_run(caller.store, run_id)
    return {"iterations": record.iterations(caller.store, run_id)[-limit:]}


@router.get("/{run_id}/checkpoints", summary="List checkpoints, newest first")
def checkpoints(run_id: str, caller: TrainingCaller, limit: Newest = 200) -> dict[str, list[LineageRecord]]:
    """Return the lineage."""
    load_run(caller.store, run_id)
    return {"checkpoints": record.checkpoints(caller.store, run_id)[::-1][:limit]}


@router.get("/{run_id}/events", summary="List what happened")
def events(run_id: str, caller: TrainingCaller, limit: Newest = 500) -> dict[str, list[Event]]:
    """Return the newest events, oldest of them first."""
    store = caller.store
    load_run(store, run_id)
    return {"events": record.read_events(store, run_id, record.event_numbers(store, run_id)[-limit:])}


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
