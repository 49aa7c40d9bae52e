"""Retrain: train again, measure against the promoted policy, and promote only what is better beyond noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from simyard.blocks.reference import absolute
from simyard.core.errors import Category
from simyard.flows import retraining_steps as steps
from simyard.flows import stages
from simyard.flows.evaluate import evaluate
from simyard.flows.train import train
from simyard.requests.jobs import RetrainRequest
from simyard.requests.settings import Site
from simyard.store import keys
from simyard.tasks.promotion.retrain import candidate_job_id, evaluation_request, incumbent_job_id


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
    store = absolute(store or Site.from_env().store)
    job_id = job_id or keys.job_id_of_run(UUID(flow_run.id), flow_run.scheduled_start_time)
    with stages.sharing():
        decision = steps.find_conclusion(request.promotion, job_id, store)
        decision = decision or _retrain(request, store, pool, job_id, base)
    steps.report(request, decision, job_id)
    return _ending(decision)


def _retrain(request: RetrainRequest, store: str, pool: str | None, job_id: str, base: Path | None) -> dict[str, Any]:
    """Go from the request to a decision, which is in the store then."""
    start = steps.find_start(request, job_id, store)
    training = request.training.model_copy(update={"resume": start.resume})
    trained = steps.run_once(train, training, store, pool, job_id, base)
    if trained["status"] != "succeeded":
        return steps.give_up(request, start, job_id, "not_trained", "The training", trained, store)

    candidate_id = candidate_job_id(job_id)
    evaluation = evaluation_request(request, job_id, None)
    evaluated = steps.run_once(evaluate, evaluation, store, pool, candidate_id, base)
    if evaluated["status"] != "succeeded":
        return steps.give_up(request, start, job_id, "not_measured", "The new policy's evaluation", evaluated, store)

    while True:  # once more for every policy that somebody else promotes meanwhile
        incumbent = steps.find_incumbent(request.promotion, store)
        incumbent_id = incumbent_job_id(job_id, incumbent) if incumbent else None
        if incumbent and incumbent_id:
            again = evaluation_request(request, incumbent["job_id"], incumbent["checkpoint"]["iteration"])
            evaluated = steps.run_once(evaluate, again, store, pool, incumbent_id, base)
            if evaluated["status"] != "succeeded":
                what = "The promoted policy's evaluation"
                return steps.give_up(request, start, job_id, "not_measured", what, evaluated, store)
        decision = steps.decide(request, start, candidate_id, incumbent, incumbent_id, store)
        if decision is not None:
            return decision


def _ending(decision: dict[str, Any]) -> State[dict[str, Any]]:
    """Return the state that says what was decided, and holds the record."""
    error = decision["error"]
    state = Completed if error is None else Cancelled if error["category"] == Category.CANCELED else Failed
    return state(message=f"{decision['decision'].replace('_', ' ')}: {decision['why']}", data=decision)
