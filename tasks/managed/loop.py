"""The loop of a managed training run: what comes next, what has happened, and when nothing more may be begun.

Everything that counts is in the store. A process that resumes the run after this one was killed reads from there what
is done, finds rollouts and calls of the trainer under the same names, and goes on behind the last one.
`flows/managed_training.py` shows the loop itself; lineage, ledger, control and stop policies have their own files.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from simyard.core.errors import DISK_FULL, Category, Failure, RequestError, SimyardError, StoreError, WorkloadError
from simyard.core.records import Ended, Estimate, JobResult, this_process
from simyard.core.run_records import (
    DriverStatus,
    IterationCounts,
    IterationRecord,
    RunResult,
    TrainerAttempt,
    TrainerOutcome,
)
from simyard.core.specs import JobSpec
from simyard.core.wire import now_ms
from simyard.requests.settings import MachineSettings
from simyard.store.keys import JobKeys, RunKeys
from simyard.store.store import Store
from simyard.tasks import launch
from simyard.tasks.attempt.attempt import CANCELED, Observer
from simyard.tasks.collect import collect
from simyard.tasks.kinds.base import Resolved
from simyard.tasks.managed import dataset, record, stop_policies
from simyard.tasks.managed.dataset import Dataset, iteration_id
from simyard.tasks.managed.executor import Executor
from simyard.tasks.managed.ledger import Ledger
from simyard.tasks.managed.lineage import Lineage
from simyard.tasks.managed.run import RunSpec, keep_call_measurement, load_run, rollout
from simyard.tasks.managed.trainer import TrainerObserver, engine_for, outcome_of, past_calls, past_outcomes
from simyard.tasks.persist import persist
from simyard.tasks.shared import history
from simyard.tasks.shared.control import PULSE_S, Driver, LoopObserver, refuse_second_driver
from simyard.tasks.shared.estimates import estimate, known
from simyard.tasks.stage import stage

_NO_OUTCOME = Failure(
    code="no_outcome", category=Category.INFRA, message="The call of the trainer left no outcome.", advice=""
)


class RunEndedError(Exception):
    """The run may begin nothing more; the text names the policy."""


class Loop(Driver):
    """One process's hold on a run; `with` begins and ends its heartbeat."""

    NOUN = "run"

    def __init__(self, spec: RunSpec, store: Store, machine: MachineSettings, observer: LoopObserver) -> None:
        """Read the run's progress.

        Raises:
            RequestError: If it has ended, or another process drives it.
        """
        _refuse_second_driver(spec.run_id, store)
        self.spec = spec
        self.asked = spec.asked
        self.keys = RunKeys(spec.run_id)
        super().__init__(store, self.keys, record.EVENT_TYPES, observer)
        self.iterations = record.iterations(store, spec.run_id)
        self.lineage = Lineage(spec, store, self.iterations)
        self.ledger = Ledger(spec, store, self.iterations)
        self.ended_by: str | None = None
        """The policy that ends the run, once one does."""
        self._machine = machine
        self._refused: Failure | None = None
        self._iteration_began = time.monotonic()
        self._rollouts_done: float | None = None
        self._in_progress = 0
        self._lock = threading.Lock()
        self._started = self.take_up(f"The run begins: {self.asked.loop_policy.max_iterations} iterations at most.")

    # What may be begun

    def gate(self) -> None:
        """Wait while the run is paused; call it before anything is begun.

        Raises:
            RunEndedError: If a policy, or somebody, says that nothing more may be begun.
        """
        while True:
            if self.control.why_stopped():
                raise RunEndedError("canceled")
            seconds = (datetime.now(UTC) - self._started).total_seconds()
            if policy := stop_policies.before_dispatch(self.asked, seconds, self.ledger.credits):
                raise RunEndedError(policy)
            with self._lock:
                if not self.is_paused():
                    return
            time.sleep(PULSE_S)

    def check(self, executor: Executor) -> None:
        """Check the trainer before the first rollout; a new run that is refused ends there.

        Raises:
            SimyardError: If it cannot be checked, or a run that has iterations is refused now; it can go on later.
        """
        self.show("checking the trainer")
        try:
            executor.check()
        except SimyardError as error:
            if self.control.why_stopped():
                self.ended_by = "canceled"
            elif isinstance(error, RequestError) and not self.iterations:
                self._refused, self.ended_by = error.failure, "refused"
            else:
                raise

    def next_iteration(self) -> int | None:
        """Return the number of the iteration to make now; None when the run is over."""
        if self.ended_by is None:
            self.ended_by = stop_policies.after_iteration(self.asked, self.iterations)
        if self.ended_by is not None:
            return None
        number = len(self.iterations) + 1
        self.ledger.begin_iteration(number)
        return number

    @contextmanager
    def iteration(self, number: int) -> Iterator[None]:
        """Record the end of an iteration that does not succeed."""
        self.events.record("iteration.started", iteration_id(number), f"Iteration {number} begins.")
        self._iteration_began, self._rollouts_done = time.monotonic(), None
        try:
            yield
        except RunEndedError as ended:
            self.ended_by = str(ended)
        except (WorkloadError, RequestError) as error:
            if self.control.why_stopped():
                self.ended_by = "canceled"
            elif error.failure.code == DISK_FULL:  # waited for, as a store is that is away
                raise StoreError(error.failure.message, code=DISK_FULL, advice=error.failure.advice) from error
            else:
                self._end_iteration(number, failure=error.failure)

    # The rollouts and their dataset

    def rollouts(self, number: int) -> list[JobSpec]:
        """Return the rollouts of an iteration; those that a process before this one froze, as they are."""
        parent = self.lineage.parent()
        indices = range(self.asked.rollout_template.jobs)
        specs = [rollout(self.spec, number, index, parent.file if parent else None) for index in indices]
        return [self.store.get_record_or_none(JobKeys(spec.job_id).job, JobSpec) or spec for spec in specs]

    def attempt_rollout(self, spec: JobSpec, executor: Executor) -> JobResult | None:
        """Make one attempt at a rollout and judge it, unless it has succeeded before.

        Returns:
            Its result; None where nothing may be begun any more.

        Raises:
            WorkloadError: If the attempt failed.
        """
        result = history.result_of(self.store, spec.job_id)
        if result and result.status == "succeeded" and self.store.exists(JobKeys(spec.job_id).manifest):
            return result
        with self._working():
            stage(Resolved(spec), self.store, estimate(spec, self.store, self.spec.usd_per_gpu_hour))
            with executor.worker() as worker:
                try:
                    if not launch.is_done(spec, self.store):
                        self.gate()
                        observer = Observer(canceled=lambda: self.control.why_stopped() is not None)
                        executor.roll_out(worker, spec, observer)
                except RunEndedError:
                    return None
                finally:
                    self.ledger.count_rollout(spec)
            return persist(spec, collect(spec, self.store, None), self.store)

    def require_rollouts(self, specs: Sequence[JobSpec], results: Sequence[JobResult | BaseException | None]) -> None:
        """Record the end of an iteration's rollouts.

        Args:
            specs: The rollouts.
            results: Of each the result, None where it was not begun any more, or the error of its last attempt.

        Raises:
            WorkloadError: If one failed for good.
            RunEndedError: If a policy forbade to begin one.
        """
        failure: WorkloadError | None = None
        for spec, result in zip(specs, results, strict=True):
            if result is None:
                self.gate()  # raises what it raised in there
                continue
            if isinstance(result, BaseException):
                if not isinstance(result, SimyardError) or self.control.is_leaving:
                    raise result
                result = persist(spec, collect(spec, self.store, result.failure), self.store)
            if result.status == "succeeded":
                self.events.record("rollout.succeeded", spec.job_id, f"{spec.name} is done.", job_id=spec.job_id)
                continue
            why = result.error or CANCELED
            if why.category is not Category.CANCELED:
                self.events.record("rollout.failed", spec.job_id, f"{spec.name}: {why.message}", job_id=spec.job_id)
            failure = failure or WorkloadError(why)
        if failure:
            raise failure

    def write_dataset(self, number: int, rollouts: list[JobSpec]) -> Dataset:
        """Write the dataset manifest of an iteration; with it the rollouts are over."""
        data = dataset.write_dataset(self.spec, number, self.lineage.driver(), rollouts, self.store)
        self._rollouts_done = time.monotonic()
        rows, episodes = data.manifest.recorded_steps, data.manifest.episodes
        message = f"Dataset {data.sha256[:12]}: {episodes} episodes, {rows} steps."
        self.events.record("dataset.written", f"{number} {data.sha256}", message, sha256=data.sha256)
        return data

    # The trainer

    def trainer_attempt(self, number: int, dataset_sha256: str) -> tuple[TrainerAttempt, TrainerOutcome | None]:
        """Return the call of the trainer to make now, or the one that has succeeded already and its outcome.

        A call without an outcome is made again under its own name: so it is found where it still runs.
        """
        numbers = past_calls(self.store, self.spec.run_id, number)
        for past in numbers:
            call = self._call(number, past, dataset_sha256)
            outcome = outcome_of(call, self.store)
            if outcome is None:
                return call, None
            if outcome.status == "succeeded" and outcome.dataset_sha256 == dataset_sha256:
                return call, outcome
        return self._call(number, max(numbers, default=0) + 1, dataset_sha256), None

    def calls_left(self, number: int) -> int:
        """Return the number of trainer calls left in this iteration, over all processes.

        Raises:
            WorkloadError: If it has failed as often as it may: the last failure.
        """
        outcomes = past_outcomes(self.store, self.spec.run_id, number)
        failed = [outcome.failure for outcome in outcomes if outcome.status == "failed" and outcome.failure]
        failed = [failure for failure in failed if failure.code != DISK_FULL]  # room is waited for, however often
        left = self.asked.loop_policy.trainer_retry_limit + 1 - len(failed)
        if left <= 0:
            raise WorkloadError(failed[-1])
        return left

    def call_trainer(
        self, number: int, dataset_sha256: str, executor: Executor, on_lines: Callable[[list[str]], None]
    ) -> TrainerOutcome | None:
        """Call the trainer once, unless a call has succeeded before.

        Args:
            number: The iteration.
            dataset_sha256: Its dataset.
            executor: Makes the call.
            on_lines: Told what the trainer prints.

        Returns:
            The outcome of the call; None where nothing may be begun any more.

        Raises:
            WorkloadError: If the call failed.
        """
        call, outcome = self.trainer_attempt(number, dataset_sha256)
        if outcome is not None:
            return outcome
        about = f"{iteration_id(call.iteration)}/{call.number}"
        with self._working():
            try:
                self.gate()
                self.events.record("trainer.started", about, f"The trainer is called: iteration {call.iteration}.")
                executor.call_trainer(call, TrainerObserver(lines=on_lines, stopped=self.control.why_stopped))
            except RunEndedError:
                return None
            finally:
                if (outcome := outcome_of(call, self.store)) is not None:
                    self.ledger.count_call(outcome)
                    if outcome.failure is None:
                        message = f"The trainer is done after {outcome.seconds:.1f} s."
                        self.events.record("trainer.succeeded", about, message)
                    else:
                        self.events.record("trainer.failed", about, outcome.failure.message, tail=list(outcome.tail))
        if outcome is None:
            raise WorkloadError(CANCELED if self.control.why_stopped() else _NO_OUTCOME)
        return outcome

    # How an iteration, and the run, ends

    def commit(self, number: int, data: Dataset, outcome: TrainerOutcome) -> None:
        """Enter the checkpoint into the lineage, and then the iteration: with that it is done."""
        lineage = self.lineage.enter(number, outcome, data.sha256)
        about = lineage.checkpoint_id
        message = f"Checkpoint {about}."
        self.events.record("checkpoint.created", about, message, checkpoint_id=about, sha256=lineage.sha256)
        self._end_iteration(number, data=data, outcome=outcome, checkpoint_id=about)

    def _end_iteration(
        self,
        number: int,
        *,
        failure: Failure | None = None,
        data: Dataset | None = None,
        outcome: TrainerOutcome | None = None,
        checkpoint_id: str | None = None,
    ) -> None:
        metrics = (outcome.metrics if outcome else None) or {}
        measured = {
            "mean_return": data.mean_return if data else None,
            "success_rate": data.success_rate if data else None,
        }
        name = self.asked.success_criteria.metric
        value = metrics.get(name, measured.get(name))
        metric = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
        about = iteration_id(number)
        ended = IterationRecord(
            iteration=number,
            iteration_id=about,
            status="failed" if failure else "succeeded",
            failure=failure,
            checkpoint_id=checkpoint_id,
            dataset_sha256=data.sha256 if data else None,
            rollouts=tuple(row.job_id for row in data.manifest.rollouts) if data else (),
            trainer_attempt=outcome.number if outcome else None,
            trainer_seconds=outcome.seconds if outcome else None,
            episodes=data.manifest.episodes if data else None,
            recorded_steps=data.manifest.recorded_steps if data else None,
            **measured,
            metrics=metrics,
            metric=metric,
            metric_of=self.lineage.measured_checkpoint(checkpoint_id),
            gpu_seconds=round(self.ledger.spent(number), 3),
            # Of the process that ended it: what one before it had done took longer.
            seconds=round(time.monotonic() - self._iteration_began, 3),
            rollouts_seconds=self._rollouts_done and round(self._rollouts_done - self._iteration_began, 3),
            ended_at=now_ms(),
        )
        self.store.put_record(self.keys.iteration(number).record, ended)
        self.iterations.append(ended)
        shown = f"{name} was not measured" if metric is None else f"{name} {metric:.4g}"
        message = f"Iteration {number}: {failure.message}" if failure else f"Iteration {number} is done: {shown}."
        self.events.record(f"iteration.{ended.status}", about, message, metric=metric)

    def conclude(self) -> RunResult:
        """Write the result of the run, and return it."""
        assert self.ended_by is not None
        good = [ended for ended in self.iterations if ended.status == "succeeded"]
        failed = self.ended_by == "iteration_failure" or not good
        status: Ended = "canceled" if self.ended_by == "canceled" else "failed" if failed else "succeeded"
        last = self.iterations[-1].failure if self.iterations and failed else None
        result = RunResult(
            **vars(record.header(self.spec, self.store)),
            status=status,
            stage="done",
            ended_by=self.ended_by,
            current_iteration=len(self.iterations),
            iterations=IterationCounts(succeeded=len(good), failed=len(self.iterations) - len(good)),
            best=stop_policies.best(self.asked.success_criteria, self.iterations),
            credits=round(self.ledger.credits, 6),
            cost=self.ledger.cost,
            error=self._refused or last,
            updated_at=now_ms(),
        )
        keep_call_measurement(self.spec, good, self.store)
        record.write_report(self.spec, result, self.iterations, self.store)
        self.events.record("run.ended", "", f"The run has {status}; what ended it: {self.ended_by}.", status=status)
        self.store.put_record(self.keys.result, result)
        self.store.delete(self.keys.secrets)
        return result

    def cancel_now(self) -> RunResult:
        """Write that the run is canceled, where nobody drives it; a trainer that outlived its driver is ended."""
        number = len(self.iterations) + 1
        for past in past_calls(self.store, self.spec.run_id, number):
            call = self._call(number, past, "")
            if outcome_of(call, self.store) is None:
                engine_for(self.asked.trainer_spec, self._machine).sweep(call.name)
        self.ledger.begin_iteration(number)  # what the killed process had used of it
        self.ended_by = "canceled"
        return self.conclude()

    def stop(self, *, canceled: bool, within_s: float) -> None:
        """End the work in progress of a process that must end; of a canceled run also write the result.

        Args:
            canceled: Whether the run was canceled. Otherwise another process may resume it.
            within_s: How long to wait for what is in progress, in seconds.
        """
        if canceled:
            self.control.cancel()
            self.ended_by = "canceled"
        else:
            self.control.leave()
        deadline = time.monotonic() + within_s
        while self._in_progress and time.monotonic() < deadline:
            time.sleep(0.1)
        if canceled:
            self.conclude()

    # Inside

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Count the body as work in progress."""
        with self._lock:
            self._in_progress += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_progress -= 1

    def _call(self, number: int, attempt: int, dataset_sha256: str) -> TrainerAttempt:
        parent = self.lineage.parent()
        return TrainerAttempt(
            run_id=self.spec.run_id,
            iteration=number,
            number=attempt,
            dataset_sha256=dataset_sha256,
            checkpoint=parent.file if parent else None,
        )

    def _status(self) -> DriverStatus:
        return DriverStatus(
            **this_process(),
            stage=self._stage,
            wanted=self.control.desired,
            current_iteration=len(self.iterations) + 1,
            credits=round(self.ledger.credits, 6),
            estimate=self._guess(),
        )

    def _guess(self) -> Estimate | None:
        """Return the estimate that the iterations of the run make; None before the first one has ended."""
        if not (done := list(self.iterations)):
            return None
        scale = self.asked.loop_policy.max_iterations / len(done)
        seconds, gpu_seconds = sum(one.seconds for one in done), sum(one.gpu_seconds for one in done)
        how = f"guessed from the {len(done):,} iterations that this run has made"
        return known(seconds * scale, gpu_seconds * scale, self.spec.usd_per_gpu_hour, how=how)


def cancel_undriven(store: Store, run_id: str, machine: MachineSettings) -> None:
    """Write that a run whose desired state is to end is canceled, unless a process drives it."""
    if record.run_status(store, run_id).status in ("queued", "interrupted"):
        with suppress(RequestError):  # a process has just resumed it, and reads the desired state
            Loop(load_run(store, run_id), store, machine, LoopObserver()).cancel_now()


def _refuse_second_driver(run_id: str, store: Store) -> None:
    """Raise `RequestError` for a run that has ended, or that another process drives."""
    keys = RunKeys(run_id)
    if (ended := store.get_record_or_none(keys.result, RunResult)) is not None:
        raise RequestError(f"{run_id} has {ended.status}.", code="run_ended", advice="Begin another.")
    refuse_second_driver(run_id, store.get_record_or_none(keys.status, DriverStatus), "managed")
