"""Managed training: rollouts, dataset, trainer, checkpoint, again, until a policy says that it is enough.

`_drive` is the loop. Its steps are Prefect tasks, to which only ids and plain records are passed: the loop and its
executor stay in this process, and tasks find them there (`_DRIVEN`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import TerminationSignal
from prefect.futures import wait
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from simyard.blocks.reference import absolute, open_store
from simyard.core.errors import Category, SimyardError
from simyard.core.records import JobResult
from simyard.core.run_records import RunResult, TrainerOutcome
from simyard.core.specs import JobSpec
from simyard.flows import notices
from simyard.flows.driving import observing, through_outages
from simyard.flows.endings import ended
from simyard.flows.stages import ENDING_S, PLAIN, RETRYING, sharing, untagged, worth_another
from simyard.requests.managed import TrainingRunRequest
from simyard.requests.settings import MachineSettings
from simyard.store import keys
from simyard.store.keys import RunKeys
from simyard.tasks.cluster.cancellation import why_stopped
from simyard.tasks.cluster.flow_run_watch import crash_killed
from simyard.tasks.managed import record
from simyard.tasks.managed import run as runs
from simyard.tasks.managed.dataset import Dataset
from simyard.tasks.managed.executor import Executor, LocalExecutor
from simyard.tasks.managed.loop import Loop
from simyard.tasks.managed.pool_executor import PoolExecutor
from simyard.tasks.metrics.table import import_plotting

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
    store = absolute(store or MachineSettings.from_env().store)
    run_id = run_id or keys.run_id_of_run(UUID(flow_run.id), flow_run.scheduled_start_time)
    freeze(request, store, run_id, base)
    return _ending(_drive_through_outages(run_id, store, pool))


@flow(name="resume-training-run", flow_run_name="{run_id}", task_runner=_SIDE_BY_SIDE)
def resume_training_run(run_id: str, store: str | None = None, pool: str | None = None) -> State[dict[str, Any]]:
    """Go on with a managed training run that nobody drives any more, where it stopped.

    Args:
        run_id: Which run: `run-…`, as `simyard managed list` shows it.
        store: URL of the store, or the name of a block (`job-store/NAME`); the site's own store by default.
        pool: Work pool that has the simulator; by default the site's, or this process where it has none.
    """
    return _ending(_drive_through_outages(run_id, absolute(store or MachineSettings.from_env().store), pool))


def _drive_through_outages(run_id: str, store: str, pool: str | None) -> RunResult:
    """Take a run that is in the store to its end, and return its result; a store or a server may be away meanwhile."""
    pool = pool or MachineSettings.from_env().pool
    with untagged():
        result = through_outages(lambda: _drive(run_id, store, pool), get_run_logger().warning)
        report(run_id, store)
    notices.tell_run(result)
    return result


def _drive(run_id: str, store: str, pool: str | None) -> RunResult:
    """Make one iteration after another until a policy ends the run, and return its result."""
    with _driving(run_id, store, pool) as (loop, executor):
        loop.check(executor)
        policy = loop.asked.loop_policy
        while (number := loop.next_iteration()) is not None:
            with loop.iteration(number):
                # Roll out, side by side. Where one fails for good the iteration fails, once all others have ended.
                loop.show(f"iteration {number}: rollouts")
                specs = loop.rollouts(number)
                attempts = rollout.with_options(retries=policy.rollout_retry_limit)
                futures = [attempts.submit(spec) for spec in specs]
                wait(futures)
                loop.require_rollouts(specs, [future.result(raise_on_failure=False) for future in futures])

                # Write one manifest of them all: a trainer needs nothing else.
                data = dataset(number, specs)

                # Call the trainer, again where it fails. None: nothing may be begun any more, and the gate says why.
                loop.show(f"iteration {number}: trainer")
                outcome = trainer.with_options(retries=loop.calls_left(number) - 1)(number, data.sha256)
                if outcome is None:
                    loop.gate()
                assert outcome is not None

                # Commit: the checkpoint enters the lineage, and then the iteration counts.
                loop.commit(number, data, outcome)
        return loop.conclude()


@dataclass(frozen=True)
class _Driven:
    """The run that this process drives."""

    loop: Loop
    executor: Executor


_DRIVEN: ContextVar[_Driven] = ContextVar("driven")
"""Prefect runs a task in a copy of the context of the flow that calls it, in whatever thread."""


@contextmanager
def _driving(run_id: str, store: str, pool: str | None) -> Iterator[tuple[Loop, Executor]]:
    """Have this process drive the run while the body runs, with the executor of its work."""
    opened = open_store(store)
    spec = runs.load_run(opened, run_id)
    import_plotting()
    with sharing() as given, Loop(spec, opened, MachineSettings.from_env(), observing(given)) as loop:
        crash_killed(run_id)  # no other process drives the run
        executor: Executor = (
            PoolExecutor(spec, opened, store, pool, loop.control)
            if pool
            else LocalExecutor(spec, opened, given.sessions)
        )
        token = _DRIVEN.set(_Driven(loop, executor))
        try:
            yield loop, executor
        except TerminationSignal as error:
            loop.stop(canceled=why_stopped(error).category is Category.CANCELED, within_s=ENDING_S)
            raise
        finally:
            _DRIVEN.reset(token)
            if opened.exists(loop.keys.result):
                executor.shutdown()


def _no_cancel(task: object, run: TaskRun, state: State[Any]) -> bool:
    """Whether a call of the trainer that failed is made again: whatever it failed of, unless it was canceled."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, SimyardError) and error.failure.category is not Category.CANCELED


@task(name="freeze", **RETRYING)
def freeze(request: TrainingRunRequest, store: str, run_id: str, base: Path | None) -> None:
    """Fix everything about the run; one that is in the store already stays as it was frozen."""
    opened = open_store(store)
    if not opened.exists(RunKeys(run_id).run):
        runs.stage_run(
            runs.resolve_run(request, opened, run_id, base or Path.cwd(), MachineSettings.from_env()), opened
        )


@task(name="rollout", retry_delay_seconds=1, retry_condition_fn=worth_another, **PLAIN)
def rollout(spec: JobSpec) -> JobResult | None:
    """Make one attempt at a rollout and judge it; None where nothing may be begun any more."""
    driven = _DRIVEN.get()
    return driven.loop.attempt_rollout(spec, driven.executor)


@task(name="dataset", **RETRYING)
def dataset(number: int, rollouts: list[JobSpec]) -> Dataset:
    """Write the iteration's dataset manifest."""
    return _DRIVEN.get().loop.write_dataset(number, rollouts)


@task(name="trainer", retry_delay_seconds=1, retry_condition_fn=_no_cancel, **PLAIN)
def trainer(number: int, dataset_sha256: str) -> TrainerOutcome | None:
    """Call the trainer once; None where nothing may be begun any more."""
    driven, logger = _DRIVEN.get(), get_run_logger()
    return driven.loop.call_trainer(
        number, dataset_sha256, driven.executor, lambda lines: logger.info("\n".join(lines))
    )


@task(name="report", **RETRYING)
def report(run_id: str, store: str) -> None:
    """Publish the run's report in the Prefect UI."""
    opened, run = open_store(store), RunKeys(run_id)
    key = run_id.lower()
    create_markdown_artifact(opened.get_bytes(run.file(record.REPORT)).decode(), key=f"{key}-report")
    create_link_artifact(opened.url(run.prefix), key=f"{key}-store", link_text="The run's files")


def _ending(result: RunResult) -> State[dict[str, Any]]:
    return ended(result.status, result.to_json(), record.summary(result), result.error)
