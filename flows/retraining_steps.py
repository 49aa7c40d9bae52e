"""The steps of a retraining as Prefect tasks: what each does stands in `simyard.tasks`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import Flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State

from simyard.blocks.reference import open_store
from simyard.core.errors import StoreError
from simyard.flows.retrying import RETRYING
from simyard.requests.jobs import JobRequest, RetrainRequest
from simyard.store.keys import JobKeys
from simyard.tasks.promotion import promotions
from simyard.tasks.promotion import retrain as retraining
from simyard.tasks.promotion.retrain import Start

_JobFlow = Flow[..., State[dict[str, Any]]]


@task(name="find-conclusion", **RETRYING)
def find_conclusion(name: str, job_id: str, store: str) -> dict[str, Any] | None:
    """Return the decision about this training's policy of a flow run that ended before it could report it."""
    opened = open_store(store)
    found = promotions.read(opened, name).conclusion(job_id)
    if found is not None:
        promotions.write(opened, name)
    return found


@task(name="find-start", **RETRYING)
def find_start(request: RetrainRequest, job_id: str, store: str) -> Start:
    """Find the checkpoint to begin from; refuse what could not be compared afterwards."""
    opened = open_store(store)
    incumbent = promotions.read(opened, request.promotion).current
    retraining.require_comparable(request, incumbent, opened)
    return retraining.find_start(request, incumbent, opened, job_id)


@task(name="find-incumbent", **RETRYING)
def find_incumbent(name: str, store: str) -> dict[str, Any] | None:
    """Return the promoted policy."""
    return promotions.read(open_store(store), name).current


def run_once(
    flow: _JobFlow, request: JobRequest, store: str, pool: str | None, job_id: str, base: Path | None
) -> dict[str, Any]:
    """Run a job by its flow, unless it has succeeded already; return its result."""
    before = _find_result(job_id, store)
    if before is not None and before["status"] == "succeeded":
        return before
    state = flow(request, store, pool, job_id, base, return_state=True)
    # The store judges: a training has succeeded even if its export has not, say.
    result = _find_result(job_id, store)
    if result is None or result == before:
        state.result()  # raises what ended the flow before it could judge
        raise StoreError(f"{job_id} ended without a result.", code="no_result", advice="Run the retraining again.")
    return result


@task(name="find-result", **RETRYING)
def _find_result(job_id: str, store: str) -> dict[str, Any] | None:
    """Return the result of a job; None if it has not ended."""
    opened = open_store(store)
    result: dict[str, Any] | None = opened.get_json_or_none(JobKeys(job_id).result)
    if result is not None and result["status"] == "succeeded" and not opened.exists(JobKeys(job_id).manifest):
        return None
    return result


@task(name="give-up", **RETRYING)
def give_up(
    request: RetrainRequest, start: Start, job_id: str, decision: str, what: str, result: dict[str, Any], store: str
) -> dict[str, Any]:
    """Write down that there is nothing to decide on, since a job failed."""
    opened = open_store(store)
    error = result["error"]
    entry = promotions.entry_of(
        decision, f"{what} {result['job_id']} {result['status']}: {error['message']}", job_id=job_id,
        start=start.described, min_delta=request.evaluation.min_delta, error=error,
    )  # fmt: skip
    while True:
        current = promotions.read(opened, request.promotion).current
        if written := promotions.append(opened, request.promotion, entry, upon=current):
            return written


@task(name="decide", **RETRYING)
def decide(
    request: RetrainRequest, start: Start, candidate_id: str, incumbent: dict[str, Any] | None,
    incumbent_id: str | None, store: str,
) -> dict[str, Any] | None:  # fmt: skip
    """Compare, and write the decision down; None where another policy has been promoted meanwhile."""
    opened = open_store(store)
    asked = request.evaluation
    new = retraining.measured(opened, candidate_id, asked.metric)
    if (earlier := promotions.read(opened, request.promotion).conclusion(new.policy["job_id"])) is not None:
        return earlier  # this task was repeated
    old = retraining.measured(opened, incumbent_id, asked.metric) if incumbent_id else None
    found = promotions.decide(new.values, old.values if old else None, metric=asked.metric, min_delta=asked.min_delta)
    entry = promotions.entry_of(
        "promoted" if found.promoted else "kept", found.why, job_id=new.policy["job_id"],
        start=start.described, candidate=new.policy,
        incumbent=incumbent | old.policy if incumbent and old else None, difference=found.difference,
        min_delta=asked.min_delta,
    )  # fmt: skip
    return promotions.append(opened, request.promotion, entry, upon=incumbent)


@task(name="report-decision", **RETRYING)
def report(request: RetrainRequest, entry: dict[str, Any], job_id: str) -> None:
    """Publish the decision in the Prefect UI."""
    create_markdown_artifact(retraining.report(request, entry), key=f"{job_id}-decision")
