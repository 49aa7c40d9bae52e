"""The steps of a managed training run as Prefect tasks: what each does stands in `simyard.tasks.managed`."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import TerminationSignal
from prefect.futures import wait
from prefect.runtime import flow_run

from simyard.blocks.reference import open_store
from simyard.core.errors import Category, Failure, SimyardError, WorkloadError
from simyard.core.specs import JobSpec
from simyard.flows.retrying import PLAIN, RETRYING, worth_another
from simyard.flows.stages import sharing
from simyard.requests.managed import TrainingRunRequest
from simyard.requests.settings import Site
from simyard.store.keys import JobKeys, RunKeys
from simyard.store.store import Store
from simyard.tasks import launch as launching
from simyard.tasks.attempt.attempt import CANCELED, Observer
from simyard.tasks.cluster.cancellation import why_stopped
from simyard.tasks.collect import collect
from simyard.tasks.kinds.common_fields import Resolved
from simyard.tasks.managed import report as run_report
from simyard.tasks.managed import run as runs
from simyard.tasks.managed.dataset import Dataset
from simyard.tasks.managed.dataset import write_dataset as write_manifest
from simyard.tasks.managed.desired_state import Wish
from simyard.tasks.managed.driver import Driver, DriverObserver, RunEndedError
from simyard.tasks.managed.executor import Crew, InlineCrew
from simyard.tasks.managed.pool_executor import PoolCrew
from simyard.tasks.managed.trainer import TrainerObserver, outcome_of
from simyard.tasks.metrics import curves
from simyard.tasks.persist import persist
from simyard.tasks.shared.history import read_or_none
from simyard.tasks.stage import stage

ASK_S = 3.0
"""How often Prefect is asked whether somebody paused or canceled the flow run in its UI."""
ENDING_S = 15.0
"""How long work in progress may take to end when this process must; half of what Prefect's worker leaves it."""


def _no_cancel(task: object, run: TaskRun, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, SimyardError) and error.failure.category is not Category.CANCELED


@task(name="freeze", **RETRYING)
def freeze(request: TrainingRunRequest, store: str, run_id: str, base: Path | None) -> None:
    """Fix everything about the run; one that is in the store already stays as it was frozen."""
    opened = open_store(store)
    if not opened.exists(RunKeys(run_id).run):
        runs.stage_run(runs.resolve_run(request, opened, run_id, base or Path.cwd(), Site.from_env()), opened)


@contextmanager
def driving(run_id: str, store: str, pool: str | None) -> Iterator[tuple[Driver, Crew]]:
    """Have this process drive the run while the body runs, with whoever does its work."""
    opened = open_store(store)
    spec = runs.load_run(opened, run_id)
    logger = get_run_logger()
    curves.import_ahead()
    with sharing() as given:

        def hear(event: dict[str, Any]) -> None:
            logger.info(event["message"])
            given.watcher({"event": event})

        observer = DriverObserver(
            event=hear, stage=given.watcher, canceled=given.canceled, asked=_AskedInPrefect(str(flow_run.id))
        )
        with Driver(spec, opened, Site.from_env(), observer) as run:
            crew: Crew = (
                PoolCrew(spec, opened, store, pool, lambda: run.is_canceled, lambda: run.is_leaving)
                if pool
                else InlineCrew(spec, opened, given.sessions)
            )
            try:
                yield run, crew
            except TerminationSignal as error:
                _leave(run, canceled=why_stopped(error).category is Category.CANCELED)
                raise
            finally:
                if opened.exists(run.keys.result):
                    crew.dismiss()


def _leave(run: Driver, *, canceled: bool) -> None:
    """End what is in progress; of a canceled run also write how it ended, since nobody comes after this process."""
    if canceled:
        run.cancel()
    else:
        run.leave()
    run.wait_until_idle(ENDING_S)
    if canceled:
        run.conclude()


def roll_out(run: Driver, crew: Crew, number: int) -> list[JobSpec]:
    """Make the rollouts of an iteration, side by side; those that are done already are not repeated.

    Raises:
        WorkloadError: If one failed for good.
        RunEndedError: If a policy forbade to begin one.
    """
    run.show(f"iteration {number}: rollouts")
    specs = run.rollouts(number)
    slots: queue.SimpleQueue[int] = queue.SimpleQueue()
    for slot in range(run.asked.rollout_template.rollout_parallelism):
        slots.put(slot)
    retrying = _rollout.with_options(retries=run.asked.loop_policy.rollout_retry_limit)
    futures = [retrying.submit(run, crew, spec, slots) for spec in specs]
    wait(futures)
    failure: WorkloadError | None = None
    for spec, future in zip(specs, futures, strict=True):
        answer = future.result(raise_on_failure=False)
        if answer is None:
            run.gate()  # it says again what it said there
            continue
        if isinstance(answer, BaseException):
            if not isinstance(answer, SimyardError) or run.is_leaving:
                raise answer
            answer = _settle(spec, answer.failure, run.store)
        try:
            run.rollout_ended(spec, answer)
        except WorkloadError as error:
            failure = failure or error
    if failure:
        raise failure
    return specs


@task(name="rollout", retry_delay_seconds=1, retry_condition_fn=worth_another, **PLAIN)
def _rollout(run: Driver, crew: Crew, spec: JobSpec, slots: queue.SimpleQueue[int]) -> dict[str, Any] | None:
    """Make one attempt at a rollout and judge it; None where nothing may be begun any more."""
    result = read_or_none(run.store, JobKeys(spec.job_id).result)
    if result and result["status"] == "succeeded" and run.store.exists(JobKeys(spec.job_id).manifest):
        return dict(result)
    with run.working():
        stage(Resolved(spec), run.store)
        slot = slots.get()
        try:
            if not launching.is_done(spec, run.store):
                run.gate()
                crew.roll_out(slot, spec, Observer(canceled=lambda: run.why_stopped() is not None))
        except RunEndedError:
            return None
        finally:
            slots.put(slot)
            run.count_rollout(spec)
        return _settle(spec, None, run.store)


def _settle(spec: JobSpec, failure: Failure | None, store: Store) -> dict[str, Any]:
    """Judge a rollout by what is in the store, and keep what it left."""
    return persist(spec, collect(spec, store, failure), store)


@task(name="dataset", **RETRYING)
def _dataset(run: Driver, number: int, rollouts: list[JobSpec]) -> Dataset:
    """Write the iteration's dataset manifest."""
    return write_manifest(run.spec, number, run.parent_if_driven(), rollouts, run.store)


def write_dataset(run: Driver, number: int, rollouts: list[JobSpec]) -> Dataset:
    """Write the iteration's dataset manifest."""
    found = _dataset(run, number, rollouts)
    run.dataset_written(number, found)
    return found


def train(run: Driver, crew: Crew, number: int, data: Dataset) -> dict[str, Any]:
    """Call the trainer until it succeeds or may fail no more; return the outcome of the call that did.

    Raises:
        WorkloadError: If it failed for good.
        RunEndedError: If a policy forbade to call it.
    """
    run.show(f"iteration {number}: trainer")
    outcome = _trainer.with_options(retries=run.calls_left(number) - 1)(run, crew, number, data)
    if outcome is None:
        run.gate()  # it says again what it said there
    assert outcome is not None
    return outcome


@task(name="trainer", retry_delay_seconds=1, retry_condition_fn=_no_cancel, **PLAIN)
def _trainer(run: Driver, crew: Crew, number: int, data: Dataset) -> dict[str, Any] | None:
    """Call the trainer once; None where it may not be called any more."""
    call, outcome = run.trainer_attempt(number, data.sha256)
    if outcome is not None:
        return outcome
    logger = get_run_logger()
    with run.working():
        try:
            run.gate()
            run.trainer_began(call)
            told = TrainerObserver(lines=lambda lines: logger.info("\n".join(lines)), stopped=run.why_stopped)
            crew.call_trainer(call, told)
        except RunEndedError:
            return None
        finally:
            if (outcome := outcome_of(call, run.store)) is not None:
                run.trainer_ended(call, outcome)
    if outcome is None:
        raise WorkloadError(CANCELED if run.why_stopped() else _NO_OUTCOME)
    return outcome


_NO_OUTCOME = Failure(
    code="no_outcome", category=Category.INFRA, message="The call of the trainer left no outcome.", advice=""
)


@task(name="report", **RETRYING)
def report(result: dict[str, Any], store: str) -> None:
    """Publish the run's report in the Prefect UI."""
    opened, run = open_store(store), RunKeys(result["run_id"])
    key = result["run_id"].lower()
    create_markdown_artifact(opened.get_bytes(run.file(run_report.REPORT)).decode(), key=f"{key}-report")
    create_link_artifact(result["store"], key=f"{key}-store", link_text="The run's files")


class _AskedInPrefect:
    """What somebody wants of this flow run by the buttons of Prefect's UI; looked at now and then."""

    def __init__(self, run_id: str) -> None:
        self._run_id = UUID(run_id)
        self._looked = 0.0
        self._wish: Wish = "run"

    def __call__(self) -> Wish:
        if time.monotonic() - self._looked > ASK_S:
            self._looked = time.monotonic()
            with suppress(Exception), get_client(sync_client=True) as client:  # no answer changes nothing
                state = client.read_flow_run(self._run_id).state
                stopped = state is not None and (state.is_cancelling() or state.is_cancelled())
                self._wish = "cancel" if stopped else "pause" if state is not None and state.is_paused() else "run"
        return self._wish
