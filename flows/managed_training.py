"""Managed training: rollouts, dataset, trainer, checkpoint, again, until a policy says that it is enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from simyard.blocks.reference import absolute
from simyard.flows import iteration
from simyard.requests.managed import TrainingRunRequest
from simyard.requests.settings import Site
from simyard.store import keys
from simyard.tasks.managed.executor import summary
from simyard.tasks.managed.outages import through_outages

_SIDE_BY_SIDE: Any = ThreadPoolTaskRunner(max_workers=256)


@flow(name="managed-training", flow_run_name="{request.name}", task_runner=_SIDE_BY_SIDE)
def managed_training(
    request: TrainingRunRequest,
    store: str | None = None,
    pool: str | None = None,
    run_id: str | None = None,
    base: Path | None = None,
) -> State[dict[str, Any]]:
    """Train a policy in a loop of rollouts and calls of your own trainer.

    Args:
        request: What to do, and when to stop.
        store: URL of the store, or the name of a block (`job-store/NAME`); the site's own store by default.
        pool: Work pool that has the simulator; by default the site's, or this process where it has none.
        run_id: Id for the run; by default made from the flow run's, so that a retried flow run goes on with it.
        base: Folder that relative paths of the request start from.
    """
    store = absolute(store or Site.from_env().store)
    run_id = run_id or keys.run_id_of_run(UUID(flow_run.id), flow_run.scheduled_start_time)
    iteration.freeze(request, store, run_id, base)
    return _ending(drive_run(run_id, store, pool))


@flow(name="resume-training-run", flow_run_name="{run_id}", task_runner=_SIDE_BY_SIDE)
def resume_training_run(run_id: str, store: str | None = None, pool: str | None = None) -> State[dict[str, Any]]:
    """Go on with a managed training run that nobody drives any more, where it stopped.

    Args:
        run_id: Which run: `run-…`, as `simyard managed list` shows it.
        store: URL of the store, or the name of a block (`job-store/NAME`); the site's own store by default.
        pool: Work pool that has the simulator; by default the site's, or this process where it has none.
    """
    return _ending(drive_run(run_id, absolute(store or Site.from_env().store), pool))


def drive_run(run_id: str, store: str, pool: str | None) -> dict[str, Any]:
    """Take a run that is in the store to its end, and return its result; a store or a server may be away meanwhile."""
    pool = pool or Site.from_env().pool
    result = through_outages(lambda: _drive(run_id, store, pool), get_run_logger().warning)
    iteration.report(result, store)
    return result


def _drive(run_id: str, store: str, pool: str | None) -> dict[str, Any]:
    with iteration.driving(run_id, store, pool) as (run, crew):
        run.begin(crew)
        while (number := run.next_iteration()) is not None:
            with run.iteration(number):
                rollouts = iteration.roll_out(run, crew, number)
                dataset = iteration.write_dataset(run, number, rollouts)
                outcome = iteration.train(run, crew, number, dataset)
                run.commit(number, dataset, outcome)
        return run.conclude()


_STATES = {"succeeded": Completed, "failed": Failed, "canceled": Cancelled}


def _ending(result: dict[str, Any]) -> State[dict[str, Any]]:
    message = result["error"]["message"] if result["error"] else summary(result)
    return _STATES[result["status"]](message=message, data=result)
