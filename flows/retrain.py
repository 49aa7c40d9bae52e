"""Retrain: train again, measure against the promoted policy, and promote only what is better beyond noise.

The flows `train` and `evaluate` do the work as subflows. The other steps are Prefect tasks, at the end of this file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from prefect import Flow, flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from simyard.blocks.reference import absolute, open_store
from simyard.core.errors import Category, StoreError
from simyard.core.records import Ended, JobResult
from simyard.core.run_records import PolicyRecord, PromotionDecision
from simyard.flows import notices, stages
from simyard.flows.endings import ended
from simyard.flows.evaluate import evaluate
from simyard.flows.stages import RETRYING
from simyard.flows.train import train
from simyard.requests.jobs import JobRequest, RetrainRequest
from simyard.requests.settings import MachineSettings
from simyard.store import keys
from simyard.store.keys import JobKeys
from simyard.tasks.promotion import promotions
from simyard.tasks.promotion import retrain as retraining
from simyard.tasks.promotion.retrain import Start
from simyard.tasks.shared import history


@flow(name="retrain", flow_run_name="{request.promotion}")
def retrain(
    request: RetrainRequest,
    store: str | None = None,
    pool: str | None = None,
    job_id: str | None = None,
    base: Path | None = None,
) -> State[dict[str, Any]]:
    """Train a policy from the newest good checkpoint, and promote it only where it is better than the one before.

    Args:
        request: What to train, and how to compare.
        store: URL of the store, or the name of a block (`job-store/NAME`); the site's own store by default.
        pool: Work pool that has the simulator; by default the site's, or this process where it has none.
        job_id: Id for the training; by default made from the flow run's, so that a retried run goes on with its jobs.
        base: Folder that relative paths of the request start from.
    """
    store = absolute(store or MachineSettings.from_env().store)
    job_id = job_id or keys.job_id_of_run(UUID(flow_run.id), flow_run.scheduled_start_time)
    with stages.sharing():
        decision = find_conclusion(request.promotion, job_id, store)
        decision = decision or _retrain(request, store, pool, job_id, base)
    report(request, decision, job_id)

    message = f"{decision.decision.replace('_', ' ')}: {decision.why}"
    error = decision.error
    status: Ended = "succeeded" if error is None else "canceled" if error.category is Category.CANCELED else "failed"
    return ended(status, decision.to_json(), message)


def _retrain(
    request: RetrainRequest, store: str, pool: str | None, job_id: str, base: Path | None
) -> PromotionDecision:
    """Go from the request to a decision, which is in the store then."""
    # Train, from the checkpoint that the request means.
    request = find_values(request, store)
    start = find_start(request, job_id, store)
    training = request.training.model_copy(update={"resume": start.resume})
    trained = _run_once(train, training, store, pool, job_id, base)
    if trained.status != "succeeded":
        return give_up(request, start, job_id, "not_trained", "The training", trained, store)

    # Evaluate the new policy.
    candidate_id = retraining.candidate_job_id(job_id)
    evaluation = retraining.evaluation_request(request, job_id, None)
    evaluated = _run_once(evaluate, evaluation, store, pool, candidate_id, base)
    if evaluated.status != "succeeded":
        return give_up(request, start, job_id, "not_measured", "The new policy's evaluation", evaluated, store)

    # Evaluate the promoted policy in the same environment, and compare: once more for every policy that somebody else
    # promotes meanwhile.
    while True:
        incumbent, incumbent_id = find_incumbent(request.promotion, store), None
        if incumbent is not None:
            incumbent_id = retraining.incumbent_job_id(job_id, incumbent)
            again = retraining.evaluation_request(request, incumbent.job_id, incumbent.checkpoint.iteration)
            evaluated = _run_once(evaluate, again, store, pool, incumbent_id, base)
            if evaluated.status != "succeeded":
                what = "The promoted policy's evaluation"
                return give_up(request, start, job_id, "not_measured", what, evaluated, store)
        decision = decide(request, start, candidate_id, incumbent, incumbent_id, store)
        if decision is not None:
            return decision


def _run_once(
    flow: Flow[..., State[dict[str, Any]]], request: JobRequest, store: str, pool: str | None, job_id: str,
    base: Path | None,
) -> JobResult:  # fmt: skip
    """Run a job by its flow, unless it has succeeded already; return its result."""
    before = find_result(job_id, store)
    if before is not None and before.status == "succeeded":
        return before
    state = flow(request, store, pool, job_id, base, return_state=True)
    # The store judges: a training has succeeded even if its export has not, say.
    result = find_result(job_id, store)
    if result is None or result == before:
        state.result()  # raises what ended the flow before it could judge
        raise StoreError(f"{job_id} ended without a result.", code="no_result", advice="Run the retraining again.")
    return result


@task(name="find-conclusion", **RETRYING)
def find_conclusion(name: str, job_id: str, store: str) -> PromotionDecision | None:
    """Return the decision about this training's policy of a flow run that ended before it could report it."""
    opened = open_store(store)
    found = promotions.find_conclusion(promotions.read(opened, name), job_id)
    if found is not None:
        promotions.write(opened, name)
    return found


@task(name="find-values", **RETRYING)
def find_values(request: RetrainRequest, store: str) -> RetrainRequest:
    """Return the request with the values of the sweep that it begins from, where it names one."""
    return retraining.with_values(request, open_store(store))


@task(name="find-start", **RETRYING)
def find_start(request: RetrainRequest, job_id: str, store: str) -> Start:
    """Find the checkpoint to begin from; refuse what could not be compared afterwards."""
    opened = open_store(store)
    incumbent = promotions.read(opened, request.promotion).current
    retraining.require_comparable(request, incumbent, opened)
    return retraining.find_start(request, incumbent, opened, job_id)


@task(name="find-incumbent", **RETRYING)
def find_incumbent(name: str, store: str) -> PolicyRecord | None:
    """Return the promoted policy."""
    return promotions.read(open_store(store), name).current


@task(name="find-result", **RETRYING)
def find_result(job_id: str, store: str) -> JobResult | None:
    """Return the result of a job; None if it has not ended."""
    opened = open_store(store)
    result = history.result_of(opened, job_id)
    if result is not None and result.status == "succeeded" and not opened.exists(JobKeys(job_id).manifest):
        return None
    return result


@task(name="give-up", **RETRYING)
def give_up(
    request: RetrainRequest, start: Start, job_id: str, decision: Literal["not_trained", "not_measured"], what: str,
    result: JobResult, store: str,
) -> PromotionDecision:  # fmt: skip
    """Return that there is nothing to decide on, since a job failed; written down where the machine was not the cause.

    What the machine failed at, or somebody canceled, is open: who runs the flow run again has it decided.
    """
    opened = open_store(store)
    assert result.error is not None
    jobs = (job_id, retraining.candidate_job_id(job_id), result.job_id)
    told, spent = retraining.told_and_spent(jobs, opened)
    made = PromotionDecision(
        decision=decision,
        why=f"{what} {result.job_id} {result.status}: {result.error.message}",
        job_id=job_id,
        start=start.described,
        min_delta=request.evaluation.min_delta,
        error=result.error,
        estimate=told,
        cost=spent,
    )
    while promotions.is_final(result.error):
        current = promotions.read(opened, request.promotion).current
        if written := promotions.append(opened, request.promotion, made, upon=current):
            return written
    return made


@task(name="decide", **RETRYING)
def decide(
    request: RetrainRequest, start: Start, candidate_id: str, incumbent: PolicyRecord | None,
    incumbent_id: str | None, store: str,
) -> PromotionDecision | None:  # fmt: skip
    """Compare, and write the decision down; None where another policy has been promoted meanwhile."""
    opened = open_store(store)
    asked = request.evaluation
    new = retraining.measured(opened, candidate_id, asked.metric)
    old = retraining.measured(opened, incumbent_id, asked.metric) if incumbent_id else None
    found = promotions.decide(
        new.values,
        old.values if old else None,
        metric=asked.metric,
        min_delta=asked.min_delta,
        elsewhere=new.policy.evaluation.across or (),
        floor=asked.floor,
    )
    jobs = (new.policy.job_id, candidate_id, *([incumbent_id] if incumbent_id else []))
    told, spent = retraining.told_and_spent(jobs, opened)
    made = PromotionDecision(
        decision="promoted" if found.promoted else "kept",
        why=found.why,
        job_id=new.policy.job_id,
        start=start.described,
        candidate=new.policy,
        # With the figures of this evaluation.
        incumbent=replace(old.policy, promoted_at=incumbent.promoted_at) if incumbent and old else None,
        difference=found.difference,
        min_delta=asked.min_delta,
        estimate=told,
        cost=spent,
    )
    return promotions.append(opened, request.promotion, made, upon=incumbent)


@task(name="report-decision", **RETRYING)
def report(request: RetrainRequest, decision: PromotionDecision, job_id: str) -> None:
    """Publish the decision in the Prefect UI."""
    create_markdown_artifact(retraining.report(request, decision), key=f"{job_id}-decision")
    notices.tell_decision(request.promotion, decision)
