"""The hold of one process on a managed training run: what comes next, what has happened, and when it must stop.

Everything that counts is in the store. A process that takes the run up after this one was killed reads from there
what is done, finds rollouts and calls of the trainer under the same names, and goes on behind the last one.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from simyard.core.errors import Category, Failure, RequestError, SimyardError, WorkloadError
from simyard.core.specs import InputFile, JobSpec
from simyard.requests.settings import Site
from simyard.store.keys import JobKeys, RunKeys, rollout_job_id
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import CANCELED
from simyard.tasks.managed import dataset, record, stopping
from simyard.tasks.managed import report as run_report
from simyard.tasks.managed.desired_state import Wish, wish, wished
from simyard.tasks.managed.events import Events
from simyard.tasks.managed.executor import Crew
from simyard.tasks.managed.run import RunSpec, now, rollout
from simyard.tasks.managed.trainer import TrainerAttempt, engine_for, outcome_of
from simyard.tasks.shared import usage
from simyard.tasks.shared.heartbeat import PATIENCE, Heartbeat, is_gone, is_own
from simyard.tasks.shared.history import read_or_none

PULSE_S = 0.5
"""How often it is looked for what somebody wants."""
BEAT_S = 3.0
"""How often the heartbeat is written."""


_STRONGEST: tuple[Wish, ...] = ("run", "pause", "cancel")
"""Of two that want different things, the later one here has it."""


class RunEndedError(Exception):
    """Raised where nothing more may be begun; says the policy."""


@dataclass(frozen=True, kw_only=True)
class DriverObserver:
    """What the caller of a driver hears, and what it wants."""

    event: Callable[[dict[str, Any]], None] = lambda event: None
    stage: Callable[[dict[str, Any]], None] = lambda status: None
    """Hears what is being done, as a live line shows it."""
    canceled: Callable[[], bool] = lambda: False
    asked: Callable[[], Wish] = lambda: "run"
    """Asked once in a while: what somebody wants who says it elsewhere than in the store."""


class Driver:
    """Drives a run; `with` begins and ends its heartbeat."""

    def __init__(self, spec: RunSpec, store: Store, site: Site, observer: DriverObserver) -> None:
        """Read how far the run is.

        Raises:
            RequestError: If it has ended, or another process drives it.
        """
        self.spec = spec
        self.asked = spec.asked
        self.store = store
        self.site = site
        self.keys = RunKeys(spec.run_id)
        self._observer = observer
        self._refuse_second_driver()
        self.iterations = record.iterations(store, spec.run_id)
        self.events = Events(store, spec.run_id, observer.event)
        self.ended_by: str | None = None
        self._stage = "starting"
        self._refused: Failure | None = None
        self._canceled = False
        self._at_work = 0
        self._began = time.monotonic()
        self._rollouts_done: float | None = None
        self._gpu_seconds = self._committed()
        self._counted: dict[str, float] = {}
        self._lock = threading.Lock()
        self._wanted: Wish = "run"
        self._stop = threading.Event()
        self._over = threading.Event()
        self._paused = False
        # Two threads: whoever is asked may take long to answer, and the heartbeat must not wait for that.
        self._heartbeat = Heartbeat(store, self.keys.status, self._status, BEAT_S)
        self._listener = threading.Thread(target=self._listen, name="desired-state", daemon=True)
        self._started = self._start_time()

    def __enter__(self) -> Driver:
        self._heartbeat.write()
        self._heartbeat.__enter__()
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._heartbeat.__exit__()
        self._listener.join()

    # What somebody wants

    @property
    def is_canceled(self) -> bool:
        """Whether somebody wants the run to end now."""
        return self._canceled or self._wanted == "cancel" or self._observer.canceled()

    @property
    def is_leaving(self) -> bool:
        """Whether this process is asked to end; another one may take the run up."""
        return self._stop.is_set()

    def why_stopped(self) -> Failure | None:
        """Return why work of this process must end now, if it must."""
        return CANCELED if self.is_canceled or self.is_leaving else None

    def leave(self) -> None:
        """End the work of this process, which is asked to end itself."""
        self._stop.set()

    def cancel(self) -> None:
        """End the run."""
        self._canceled = True
        self.ended_by = "canceled"
        wish(self.store, self.spec.run_id, "cancel")

    @contextmanager
    def working(self) -> Iterator[None]:
        """Tell that work is in progress while the body runs."""
        with self._lock:
            self._at_work += 1
        try:
            yield
        finally:
            with self._lock:
                self._at_work -= 1

    def wait_until_idle(self, timeout_s: float) -> None:
        """Wait until no work is in progress, for some time."""
        deadline = time.monotonic() + timeout_s
        while self._at_work and time.monotonic() < deadline:
            time.sleep(0.1)

    def show(self, stage: str) -> None:
        """Say what is being done now."""
        self._stage = stage
        self._observer.stage({"stage": stage, "done": 0, "total": 0})

    def gate(self) -> None:
        """Wait while the run is paused; call it before anything is begun.

        Raises:
            RunEndedError: If a policy, or somebody, says that nothing more may be begun.
        """
        while True:
            if self.why_stopped():
                raise RunEndedError("canceled")
            seconds = (datetime.now(UTC) - self._started).total_seconds()
            if policy := stopping.before_dispatch(self.asked, seconds, self.credits):
                raise RunEndedError(policy)
            if not self._is_paused():
                return
            time.sleep(PULSE_S)

    def _is_paused(self) -> bool:
        paused = self._wanted == "pause"
        with self._lock:
            if paused != self._paused:
                self._paused = paused
                what = "paused" if paused else "resumed"
                self.events.say(f"run.{what}", str(time.time_ns()), f"The run was {what}.")
        return paused

    # What it has cost

    @property
    def credits(self) -> float:
        """What the run has cost so far, in credits."""
        return usage.in_usd(self._gpu_seconds, self.spec.usd_per_gpu_hour)

    def count_rollout(self, spec: JobSpec) -> None:
        """Count what a rollout has cost by now, all its attempts together."""
        seconds = usage.gpu_seconds(spec, self.store)
        with self._lock:
            self._gpu_seconds += seconds - self._counted.get(spec.job_id, 0.0)
            self._counted[spec.job_id] = seconds

    # What comes next

    def begin(self, crew: Crew) -> None:
        """Check what can be checked before the first rollout; a new run that is refused ends there.

        Raises:
            SimyardError: If it cannot be checked, or a run that has iterations is refused now; it can go on later.
        """
        self.show("checking the trainer")
        try:
            crew.prepare()
        except SimyardError as error:
            if self.why_stopped():
                self.ended_by = "canceled"
            elif isinstance(error, RequestError) and not self.iterations:
                self._refused, self.ended_by = error.failure, "refused"
            else:
                raise

    def next_iteration(self) -> int | None:
        """Return the number of the iteration to make now; None when the run is over."""
        if self.ended_by is None:
            self.ended_by = stopping.after_iteration(self.asked, self.iterations)
        if self.ended_by is not None:
            return None
        number = len(self.iterations) + 1
        # A process before this one may have spent something on it.
        self._counted = self._rollout_seconds(number)
        self._gpu_seconds = self._committed() + self._spent(number)
        return number

    @contextmanager
    def iteration(self, number: int) -> Iterator[None]:
        """Write down how an iteration ends that does not succeed."""
        self.events.say("iteration.started", dataset.iteration_id(number), f"Iteration {number} begins.")
        self._began, self._rollouts_done = time.monotonic(), None
        try:
            yield
        except RunEndedError as ended:
            self.ended_by = str(ended)
        except (WorkloadError, RequestError) as error:
            if self.why_stopped():
                self.ended_by = "canceled"
            else:
                self._end_iteration(number, stopping.FAILED, failure=error.failure)

    def parent(self) -> dict[str, Any] | None:
        """Return the lineage record of the checkpoint to go on from: the last good one, or the first of all."""
        for ended in reversed(self.iterations):
            if ended["checkpoint_id"]:
                return dict(self.store.get_json(self.keys.checkpoint(ended["checkpoint_id"])))
        return self._lineage(0, self.spec.checkpoint, None, None, {}) if self.spec.checkpoint else None

    def parent_file(self) -> InputFile | None:
        """Return the file of that checkpoint."""
        found = self.parent()
        return InputFile.from_json(found["file"]) if found else None

    def rollouts(self, number: int) -> list[JobSpec]:
        """Return the rollouts of an iteration; those that a process before this one froze, as they are."""
        file = self.parent_file()
        count = self.asked.rollout_template.jobs
        specs = [rollout(self.spec, number, index, file) for index in range(count)]
        frozen = [read_or_none(self.store, JobKeys(spec.job_id).job) for spec in specs]
        return [JobSpec.from_json(had) if had else spec for spec, had in zip(specs, frozen, strict=True)]

    def rollout_ended(self, spec: JobSpec, result: dict[str, Any]) -> None:
        """Say how a rollout ended.

        Raises:
            WorkloadError: If it did not succeed.
        """
        if result["status"] == "succeeded":
            self.events.say("rollout.succeeded", spec.job_id, f"{spec.name} is done.", job_id=spec.job_id)
            return
        failure = Failure.from_json(result["error"]) if result["error"] else CANCELED
        if failure.category is not Category.CANCELED:
            self.events.say("rollout.failed", spec.job_id, f"{spec.name}: {failure.message}", job_id=spec.job_id)
        raise WorkloadError(failure)

    def parent_if_driven(self) -> dict[str, Any] | None:
        """Return the lineage record of what drove the rollouts; None where no checkpoint does."""
        return self.parent() if self.asked.rollout_template.is_driven else None

    def dataset_written(self, number: int, data: dataset.Dataset) -> None:
        """Say what the iteration's dataset is; with it the rollouts are over."""
        self._rollouts_done = time.monotonic()
        rows, episodes = data.content["recorded_steps"], data.content["episodes"]
        message = f"Dataset {data.sha256[:12]}: {episodes} episodes, {rows} steps."
        self.events.say("dataset.written", f"{number} {data.sha256}", message, sha256=data.sha256)

    # The trainer

    def trainer_attempt(self, number: int, dataset_sha256: str) -> tuple[TrainerAttempt, dict[str, Any] | None]:
        """Return the call of the trainer to make now, or the one that has succeeded already and how it ended.

        A call whose end nobody lived to see is made again under its own name: so it is found where it still runs.
        """
        numbers = self._calls(number)
        file = self.parent_file()
        for past in numbers:
            call = self._call(number, past, dataset_sha256, file)
            outcome = outcome_of(call, self.store)
            if outcome is None:
                return call, None
            if outcome["status"] == "succeeded" and outcome["dataset_sha256"] == dataset_sha256:
                return call, outcome
        return self._call(number, max(numbers, default=0) + 1, dataset_sha256, file), None

    def calls_left(self, number: int) -> int:
        """Return how often the trainer may still be called in this iteration, whoever called it before.

        Raises:
            WorkloadError: If it has failed as often as it may: the last failure.
        """
        failed = [outcome for outcome in self._call_outcomes(number) if outcome["status"] == "failed"]
        left = self.asked.loop_policy.trainer_retry_limit + 1 - len(failed)
        if left <= 0:
            raise WorkloadError(Failure.from_json(failed[-1]["failure"]))
        return left

    def trainer_began(self, call: TrainerAttempt) -> None:
        """Say that the trainer is called."""
        about = f"{dataset.iteration_id(call.iteration)}/{call.number}"
        self.events.say("trainer.started", about, f"The trainer is called: iteration {call.iteration}.")

    def trainer_ended(self, call: TrainerAttempt, outcome: dict[str, Any]) -> None:
        """Count a call of the trainer, and say how it ended."""
        with self._lock:
            self._gpu_seconds += outcome["gpu_seconds"]
        about = f"{dataset.iteration_id(call.iteration)}/{call.number}"
        if outcome["status"] == "succeeded":
            self.events.say("trainer.succeeded", about, f"The trainer is done after {outcome['seconds']:.1f} s.")
        else:
            self.events.say("trainer.failed", about, outcome["failure"]["message"], tail=outcome["tail"])

    # How it ended

    def commit(self, number: int, data: dataset.Dataset, outcome: dict[str, Any]) -> None:
        """Enter the checkpoint into the lineage, and then the iteration: with that it is done."""
        file = InputFile.from_json(outcome["checkpoint"])
        lineage = self._lineage(number, file, self.parent(), data.sha256, outcome["metrics"])
        about = lineage["checkpoint_id"]
        self.events.say("checkpoint.created", about, f"Checkpoint {about}.", checkpoint_id=about, sha256=file.sha256)
        self._end_iteration(number, stopping.SUCCEEDED, data=data, outcome=outcome, checkpoint_id=about)

    def _end_iteration(
        self,
        number: int,
        status: str,
        *,
        failure: Failure | None = None,
        data: dataset.Dataset | None = None,
        outcome: dict[str, Any] | None = None,
        checkpoint_id: str | None = None,
    ) -> None:
        metrics = outcome["metrics"] if outcome else {}
        measured = {
            "mean_return": dataset.mean_return(data.content) if data else None,
            "success_rate": dataset.success_rate(data.content) if data else None,
        }
        value = metrics.get(self.asked.success_criteria.metric, measured.get(self.asked.success_criteria.metric))
        metric = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
        about = dataset.iteration_id(number)
        ended = {
            "iteration": number,
            "iteration_id": about,
            "status": status,
            "failure": failure.to_json() if failure else None,
            "checkpoint_id": checkpoint_id,
            "dataset_sha256": data.sha256 if data else None,
            "rollouts": [row["job_id"] for row in data.content["rollouts"]] if data else [],
            "trainer_attempt": outcome["number"] if outcome else None,
            "trainer_seconds": outcome["seconds"] if outcome else None,
            "episodes": data.content["episodes"] if data else None,
            "recorded_steps": data.content["recorded_steps"] if data else None,
            **measured,
            "metrics": metrics,
            "metric": metric,
            "metric_of": self._metric_of(checkpoint_id),
            "gpu_seconds": round(self._spent(number), 3),
            # Of the process that ended it: what one before it had done took longer.
            "seconds": round(time.monotonic() - self._began, 3),
            "rollouts_seconds": self._rollouts_done and round(self._rollouts_done - self._began, 3),
            "ended_at": now(),
        }
        self.store.put_json(self.keys.iteration(number).record, ended)
        self.iterations.append(ended)
        name = self.asked.success_criteria.metric
        shown = f"{name} was not measured" if metric is None else f"{name} {metric:.4g}"
        message = f"Iteration {number}: {failure.message}" if failure else f"Iteration {number} is done: {shown}."
        self.events.say(f"iteration.{status}", about, message, metric=metric)

    def _metric_of(self, made: str | None) -> str | None:
        """Return which checkpoint this iteration's metric speaks of: rollouts measure the one that drove them."""
        if self.asked.success_criteria.metric not in dataset.MEASURED or not self.asked.rollout_template.is_driven:
            return made
        parent = self.parent()
        return parent["checkpoint_id"] if parent else None

    def end_now(self, policy: str) -> dict[str, Any]:
        """Write that the run ends here, where nobody drives it; a trainer that outlived its driver is ended."""
        number = len(self.iterations) + 1
        for call in (self._call(number, past, "", None) for past in self._calls(number)):
            if outcome_of(call, self.store) is None:
                engine_for(self.asked.trainer_spec, self.site).sweep(call.name)
        self.ended_by = policy
        return self.conclude()

    def conclude(self) -> dict[str, Any]:
        """Write how the run ended, and return it."""
        assert self.ended_by is not None
        good = [ended for ended in self.iterations if ended["status"] == stopping.SUCCEEDED]
        failed = self.ended_by == "iteration_failure" or not good
        status = "canceled" if self.ended_by == "canceled" else "failed" if failed else "succeeded"
        top = stopping.best(self.asked.success_criteria, self.iterations)
        last = self.iterations[-1] if self.iterations else None
        result = record.frame(self.spec, self.store) | {
            "status": status,
            "stage": "done",
            "ended_by": self.ended_by,
            "current_iteration": len(self.iterations),
            "iterations": {"succeeded": len(good), "failed": len(self.iterations) - len(good)},
            "best": top,
            "credits": round(self.credits, 6),
            "error": self._refused.to_json() if self._refused else last["failure"] if failed and last else None,
            "updated_at": now(),
        }
        run_report.write(
            self.spec, result, self.iterations, record.checkpoints(self.store, self.spec.run_id), self.store
        )
        self.events.say("run.ended", "", f"The run has {status}; what ended it: {self.ended_by}.", status=status)
        self.store.put_json(self.keys.result, result)
        return result

    # Inside

    def _refuse_second_driver(self) -> None:
        if self.store.exists(self.keys.result):
            ended = self.store.get_json(self.keys.result)["status"]
            raise RequestError(f"{self.spec.run_id} has {ended}.", code="run_ended", advice="Begin another.")
        beat = read_or_none(self.store, self.keys.status)
        if beat and not is_gone(beat, PATIENCE.driver.silence_s) and not is_own(beat):
            raise RequestError(
                f"{self.spec.run_id} is driven by process {beat['pid']} on {beat['host']!r}.",
                code="already_driven",
                advice="Follow it (simyard managed watch); one that is lost is known as such after "
                f"{PATIENCE.driver.silence_s:.0f} s without a heartbeat.",
            )

    def _start_time(self) -> datetime:
        """Return when the run began, which the first event says; say that it begins, or that it is taken up."""
        first = read_or_none(self.store, self.keys.event(1))
        if first is not None:
            self.events.say("run.taken_up", str(time.time_ns()), f"Process {os.getpid()} on {platform.node()} goes on.")
            return datetime.fromisoformat(first["created_at"])
        self.events.say(
            "run.started", "", f"The run begins: {self.asked.loop_policy.max_iterations} iterations at most."
        )
        return datetime.now(UTC)

    def _lineage(
        self, number: int, file: InputFile, parent: dict[str, Any] | None, dataset_sha256: str | None,
        metrics: dict[str, Any],
    ) -> dict[str, Any]:  # fmt: skip
        checkpoint_id = f"ckpt-{number:04d}-{file.sha256[:12]}"
        if (had := read_or_none(self.store, self.keys.checkpoint(checkpoint_id))) is not None:
            return dict(had)
        lineage = {
            "checkpoint_id": checkpoint_id,
            "iteration": number,
            "parent": parent["checkpoint_id"] if parent else None,
            "dataset_sha256": dataset_sha256,
            "uri": self.store.url(file.key),
            "sha256": file.sha256,
            "size_bytes": file.size_bytes,
            "file": file.to_json(),
            "metrics": metrics,
            "created_at": now(),
        }
        self.store.put_json(self.keys.checkpoint(checkpoint_id), lineage)
        return lineage

    def _call(self, number: int, attempt: int, dataset_sha256: str, file: InputFile | None) -> TrainerAttempt:
        return TrainerAttempt(
            run_id=self.spec.run_id, iteration=number, number=attempt, dataset_sha256=dataset_sha256, checkpoint=file
        )

    def _calls(self, number: int) -> list[int]:
        return sorted(int(name) for name in self.store.list_dirs(self.keys.iteration(number).trainer))

    def _call_outcomes(self, number: int) -> list[dict[str, Any]]:
        keys = self.keys.iteration(number)
        found = (read_or_none(self.store, keys.trainer_file(call, "outcome.json")) for call in self._calls(number))
        return [outcome for outcome in found if outcome is not None]

    def _committed(self) -> float:
        """Return the GPU seconds of iterations that have ended."""
        return float(sum(ended["gpu_seconds"] for ended in self.iterations))

    def _spent(self, number: int) -> float:
        """Return the GPU seconds of an iteration so far, from the store."""
        calls = sum(outcome["gpu_seconds"] for outcome in self._call_outcomes(number))
        return float(calls + sum(self._rollout_seconds(number).values()))

    def _rollout_seconds(self, number: int) -> dict[str, float]:
        """Return the GPU seconds of an iteration's rollouts, by job."""
        ids = (rollout_job_id(self.spec.run_id, number, index) for index in range(self.asked.rollout_template.jobs))
        specs = (replace(self.spec.template, job_id=job_id) for job_id in ids)
        return {spec.job_id: usage.gpu_seconds(spec, self.store) for spec in specs}

    def _listen(self) -> None:
        while not self._over.wait(PULSE_S):
            # A store that is away for a moment is asked again; the run goes on meanwhile.
            with suppress(SimyardError):
                wishes = wished(self.store, self.spec.run_id), self._observer.asked()
                self._wanted = max(wishes, key=_STRONGEST.index)

    def _status(self) -> dict[str, Any]:
        """Return what the heartbeat says."""
        return {
            "stage": self._stage,
            "wanted": self._wanted,
            "current_iteration": len(self.iterations) + 1,
            "credits": round(self.credits, 6),
        }
