"""Rollout workers in a work pool: one flow run each, which keeps a warm simulator for the whole run.

The process that drives the run writes a command into the store under the next number, and waits for the outcome that
the work itself leaves: a rollout's attempt, or a call of the trainer. Both sides only read and write objects, so either
may be killed and come back, and the store may be away for a while. In the store a worker is a `slot`, a command an
`order` and a reply an `answer`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment

from simyard.core.errors import Failure, RequestError, SimyardError, StoreError, WorkloadError
from simyard.core.records import WorkerStatus, this_process
from simyard.core.specs import Bounds, JobSpec
from simyard.deployments.apply import ensure_pool_flow
from simyard.requests.settings import Site
from simyard.store.keys import RunKeys
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import CANCELED, Observer
from simyard.tasks.cluster.flow_run_watch import FlowRunWatch
from simyard.tasks.launch import ask_to_cancel, is_done, launch_inline, raise_failure
from simyard.tasks.managed.control import Control
from simyard.tasks.managed.executor import Executor
from simyard.tasks.managed.run import RunSpec, load_run, now
from simyard.tasks.managed.trainer import TrainerAttempt, TrainerObserver, check_trainer, outcome_of, run_trainer
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.shared import heartbeat, history
from simyard.tasks.shared.heartbeat import HeartbeatWriter
from simyard.tasks.shared.history import load_spec

FLOW = "run-worker"
POLL_S, LATER_POLL_S = 0.05, 0.25
"""Seconds between two looks of either side, in the first five seconds of a wait and after them."""
LOOK_S = 2.0
"""Seconds between two reads of the flow run and its heartbeat, and between two heartbeats."""
PATIENCE = heartbeat.PATIENCE.worker
IDLE_S = 900.0
"""A worker without a command for so long ends: nobody drives the run. The next command starts another."""


class PoolExecutor(Executor):
    """The workers of one run in a work pool; the first one also calls the trainer."""

    def __init__(self, run: RunSpec, store: Store, store_ref: str, pool: str, control: Control) -> None:
        """Start nothing yet.

        Args:
            run: The run.
            store: Its store.
            store_ref: The same, as a flow run opens it.
            pool: The work pool.
            control: Says when the work is to end, and when waiting is: then the work goes on, and is found again.
        """
        super().__init__(run)
        self._workers = [
            _Worker(run, store, store_ref, pool, number, control)
            for number in range(run.asked.rollout_template.rollout_parallelism)
        ]
        self._store = store

    def check(self) -> None:
        """Have the first worker check the trainer on its machine."""
        worker = self._workers[0]
        reply = worker.execute({"do": "check"}, worker.reply)
        if reply["failure"] is not None:
            failure = Failure.from_json(reply["failure"])
            raise RequestError(failure.message, code=failure.code, advice=failure.advice)

    def roll_out(self, worker: int, spec: JobSpec, observer: Observer) -> None:
        """Have a worker make an attempt, and wait for it."""
        before = sum(attempt.outcome is not None for attempt in history.attempts(self._store, spec.job_id))

        def outcome(number: int) -> dict[str, Any] | None:
            reply = self._workers[worker].reply(number)
            outcomes = [attempt.outcome for attempt in history.attempts(self._store, spec.job_id) if attempt.outcome]
            return outcomes[-1].to_json() if len(outcomes) > before else reply

        _raise_failure(self._workers[worker].execute({"do": "rollout", "job_id": spec.job_id}, outcome))

    def call_trainer(self, attempt: TrainerAttempt, observer: TrainerObserver) -> None:
        """Have the first worker call the trainer."""
        worker = self._workers[0]
        command = {"do": "trainer", "attempt": attempt.to_json()}

        def outcome(number: int) -> dict[str, Any] | None:
            found = outcome_of(attempt, self._store)
            return found.to_json() if found else worker.reply(number)

        _raise_failure(worker.execute(command, outcome))

    def shutdown(self) -> None:
        """Have all workers end, those that this process never used too."""
        for worker in self._workers:
            worker.end()


class _Worker:
    """One worker, as the process that drives the run sees it."""

    def __init__(self, run: RunSpec, store: Store, store_ref: str, pool: str, number: int, control: Control) -> None:
        self._run_id = run.run_id
        self._store = store
        self._store_ref = store_ref
        self._pool = pool
        self._number = number
        self._control = control
        self._keys = RunKeys(run.run_id)
        self._run: FlowRun | None = None
        self._replied = 0.0
        self._last_command: int | None = None

    def execute(self, command: dict[str, Any], outcome: Callable[[int], dict[str, Any] | None]) -> dict[str, Any]:
        """Give a command, and wait for its outcome.

        Args:
            command: What to do.
            outcome: Returns the outcome of the command with this number, once there is one.

        Raises:
            WorkloadError: If the worker is lost, or the waiting is to end.
        """
        number = self._next_number()
        # A worker ends by itself when it has had no command for long.
        if self._run is None or time.monotonic() - self._replied > LOOK_S * 10:
            self._run = self._flow_run()
        try:
            self._store.put_json(self._key(f"order-{number:06d}.json"), command | {"given_at": now()})
            ended = self._wait(self._run, number, command, outcome)
        except BaseException:
            self._run = None
            raise
        self._replied = time.monotonic()
        return ended

    def reply(self, number: int) -> dict[str, Any] | None:
        """Return the worker's own reply to a command, which it also gives where the work could leave no outcome."""
        found = self._store.get_json_or_none(self._key(f"answer-{number:06d}.json"))
        return None if found is None else dict(found)

    def end(self) -> None:
        """Have the worker end when it looks for its next command."""
        with suppress(SimyardError):
            number = self._next_number()
            if number > 1:
                self._store.put_json(self._key(f"order-{number:06d}.json"), {"do": "end", "given_at": now()})

    def _wait(
        self, run: FlowRun, number: int, command: dict[str, Any], outcome: Callable[[int], dict[str, Any] | None]
    ) -> dict[str, Any]:
        def read_heartbeat() -> dict[str, Any] | None:
            status: dict[str, Any] | None = self._store.get_json_or_none(self._key("status.json"))
            return status if status and status["flow_run"] == str(run.id) else None  # not of the one before it

        def is_canceled() -> bool:
            if self._control.is_leaving:
                raise WorkloadError(CANCELED)
            return self._control.is_canceled

        def cancel() -> None:
            if command["do"] == "rollout":
                ask_to_cancel(self._store, command["job_id"])
            else:
                self._store.put_json(self._key(f"stop-{number:06d}.json"), {})

        with get_client(sync_client=True) as client:
            watch: FlowRunWatch[dict[str, Any]] = FlowRunWatch(
                client=client,
                run=run,
                record=lambda: None if self.reply(number) is None else outcome(number),
                heartbeat=read_heartbeat,
                patience=PATIENCE,
                is_canceled=is_canceled,
                cancel=cancel,
                poll_s=_poll_s,
                look_s=LOOK_S,
            )
            ending = watch.wait()
        if ending.record is not None:
            return ending.record
        # A worker that died before it could reply may still have done the work.
        if (ended := outcome(number)) is not None:
            return ended
        if ending.reason == "withdrawn":
            raise WorkloadError(CANCELED)
        if ending.reason == "lost":
            raise WorkloadError(_lost("It writes no heartbeat."))
        assert ending.state is not None
        raise WorkloadError(_lost(f"Its flow run {run.name!r} ended as {ending.state.name!r}."))

    def _flow_run(self) -> FlowRun:
        """Return the flow run that is this worker, a new one where there is none that lives."""
        with get_client(sync_client=True) as client:
            ensure_pool_flow(client, self._pool, FLOW)
        generation = 1
        while True:
            key = f"{self._run_id}-slot-{self._number}-{generation}"
            launched = run_deployment(
                f"{FLOW}/{self._pool}",
                parameters={"run_id": self._run_id, "slot": self._number, "store": self._store_ref},
                flow_run_name=key, idempotency_key=key, timeout=0, as_subflow=False,
            )  # fmt: skip
            assert isinstance(launched, FlowRun)
            if launched.state is None or not launched.state.is_final():
                return launched
            generation += 1

    def _next_number(self) -> int:
        if self._last_command is None:
            self._last_command = _last(self._store, self._keys, self._number, "order")
        self._last_command += 1
        return self._last_command

    def _key(self, name: str) -> str:
        return self._keys.slot(self._number, name)


def serve_worker(run_id: str, slot: int, flow_run: str, store: Store, site: Site, observer: Observer) -> None:
    """Execute one command after another, in a simulator that stays warm, until the run is over.

    Args:
        run_id: The run.
        slot: Which worker, counted from 0.
        flow_run: The id of the flow run that this is.
        store: The run's store.
        site: This machine.
        observer: Called for everything that is done.
    """
    keys, run = RunKeys(run_id), load_run(store, run_id)
    number = _first_open_command(store, keys, slot)
    beat = WorkerStatus(flow_run=flow_run, **this_process())
    beating = HeartbeatWriter(store, keys.slot(slot, "status.json"), lambda: beat, LOOK_S)
    with Sessions(site, Bounds()) as sessions, beating:
        idle_since = time.monotonic()
        while time.monotonic() - idle_since < IDLE_S:
            command = store.get_json_or_none(keys.slot(slot, f"order-{number:06d}.json"))
            if command is None:
                time.sleep(_poll_s(time.monotonic() - idle_since))
                continue
            if command["do"] == "end" or store.exists(keys.result):
                return
            stop_key = keys.slot(slot, f"stop-{number:06d}.json")
            reply = _execute(command, run, store, sessions, observer, stop_key)
            store.put_json(keys.slot(slot, f"answer-{number:06d}.json"), reply)
            number += 1
            idle_since = time.monotonic()


def _execute(
    command: dict[str, Any], run: RunSpec, store: Store, sessions: Sessions, observer: Observer, stop_key: str
) -> dict[str, Any]:
    """Execute a command; return the reply."""
    failure: Failure | None = None
    try:
        match command["do"]:
            case "check":
                check_trainer(run, sessions.site)
            # A driver that was killed gives its last command anew: what was done meanwhile is not done twice.
            case "rollout" if not is_done(spec := load_spec(store, command["job_id"]), store):
                launch_inline(spec, store, sessions, observer)
            case "trainer" if outcome_of(call := TrainerAttempt.from_json(command["attempt"]), store) is None:
                following = TrainerObserver(lines=observer.lines, stopped=_StopLook(store, stop_key))
                run_trainer(call, run, store, sessions.site, following)
    except SimyardError as error:
        failure = error.failure
    return {"failure": failure.to_json() if failure else None}


def _first_open_command(store: Store, keys: RunKeys, slot: int) -> int:
    """Return the number of the first command to execute: behind those of flow runs before this one, save the last.

    A command that a worker died of is given anew under the next number.
    """
    return max(_last(store, keys, slot, "order"), _last(store, keys, slot, "answer") + 1)


def _last(store: Store, keys: RunKeys, slot: int, what: str) -> int:
    """Return the number of a worker's last `order` or `answer`; 0 where there is none."""
    names = (entry.key.rpartition("/")[2].removesuffix(".json") for entry in store.list(keys.slot(slot, "")[:-1]))
    return max((int(name.removeprefix(f"{what}-")) for name in names if name.startswith(f"{what}-")), default=0)


class _StopLook:
    """Looks now and then whether a call of the trainer is to end."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key
        self._looked = 0.0

    def __call__(self) -> Failure | None:
        if time.monotonic() - self._looked < 1.0:
            return None
        self._looked = time.monotonic()
        with suppress(StoreError):
            return CANCELED if self._store.exists(self._key) else None
        return None


def _poll_s(waited_s: float) -> float:
    """Return the seconds to sleep until the next look."""
    return POLL_S if waited_s < 5.0 else LATER_POLL_S


def _raise_failure(reply: dict[str, Any]) -> None:
    """Raise the failure of a command, if it has one."""
    raise_failure(Failure.from_json(reply["failure"]) if reply["failure"] else None)


def _lost(message: str) -> Failure:
    return heartbeat.lost("slot_lost", f"The rollout worker is lost. {message}", "Another one takes over.")
