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

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment

from simyard.core.errors import Failure, RequestError, SimyardError, StoreError, WorkloadError
from simyard.core.records import this_process
from simyard.core.run_records import TrainerAttempt, WorkerCommand, WorkerReply, WorkerStatus
from simyard.core.specs import Bounds, JobSpec
from simyard.core.wire import now_ms
from simyard.deployments.apply import ensure_pool_flow, own_home
from simyard.requests.settings import MachineSettings
from simyard.store.keys import RunKeys, project_of
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import CANCELED, Observer
from simyard.tasks.cluster.flow_run_watch import FlowRunWatch
from simyard.tasks.launch import ask_to_cancel, is_done, launch_inline, raise_failure
from simyard.tasks.managed.executor import Executor
from simyard.tasks.managed.run import RunSpec, load_run
from simyard.tasks.managed.trainer import TrainerObserver, check_trainer, outcome_of, run_trainer
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.shared import heartbeat, history
from simyard.tasks.shared.control import Control
from simyard.tasks.shared.heartbeat import HeartbeatWriter
from simyard.tasks.shared.history import load_spec

FLOW = "run-worker"
POLL_S, LATER_POLL_S = 0.05, 0.25
"""Seconds between two looks of either side, in the first five seconds of a wait and after them."""
LOOK_S = 2.0
"""Seconds between two reads of the flow run and its heartbeat, and between two heartbeats."""
STOP_LOOK_S = 1.0
"""Seconds between two looks for the request to end a call of the trainer."""
PATIENCE = heartbeat.PATIENCE.worker
IDLE_S = 900.0
"""A worker without a command for so long ends: nobody drives the run. The next command starts another."""

_Outcome = Callable[[int], WorkerReply | None]
"""Returns the outcome of the command with this number, once there is one."""


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
            _Worker(run.run_id, store, store_ref, pool, number, control)
            for number in range(run.asked.rollout_template.rollout_parallelism)
        ]
        self._store = store

    def check(self) -> None:
        """Have the first worker check the trainer on its machine."""
        worker = self._workers[0]
        failure = worker.execute(WorkerCommand(do="check", given_at=now_ms()), worker.reply).failure
        if failure is not None:
            raise RequestError(failure.message, code=failure.code, advice=failure.advice)

    def roll_out(self, worker: int, spec: JobSpec, observer: Observer) -> None:
        """Have a worker make an attempt, and wait for it."""
        before = len(self._failures(spec.job_id))

        def outcome(number: int) -> WorkerReply | None:
            reply = self._workers[worker].reply(number)
            failures = self._failures(spec.job_id)
            return WorkerReply(failure=failures[-1]) if len(failures) > before else reply

        command = WorkerCommand(do="rollout", job_id=spec.job_id, given_at=now_ms())
        raise_failure(self._workers[worker].execute(command, outcome).failure)

    def call_trainer(self, attempt: TrainerAttempt, observer: TrainerObserver) -> None:
        """Have the first worker call the trainer."""
        worker = self._workers[0]

        def outcome(number: int) -> WorkerReply | None:
            found = outcome_of(attempt, self._store)
            return WorkerReply(failure=found.failure) if found else worker.reply(number)

        command = WorkerCommand(do="trainer", attempt=attempt, given_at=now_ms())
        raise_failure(worker.execute(command, outcome).failure)

    def shutdown(self) -> None:
        """Have all workers end, those that this process never used too."""
        for worker in self._workers:
            worker.end()

    def _failures(self, job_id: str) -> list[Failure | None]:
        """Return the failure of each attempt at a rollout that has ended; None for one that succeeded."""
        return [past.failure for past in history.attempts(self._store, job_id) if past.outcome]


class _Worker:
    """One worker, as the process that drives the run sees it."""

    def __init__(self, run_id: str, store: Store, store_ref: str, pool: str, number: int, control: Control) -> None:
        self._run_id = run_id
        self._store = store
        self._store_ref = store_ref
        self._pool = pool
        self._number = number
        self._control = control
        self._keys = RunKeys(run_id)
        self._run: FlowRun | None = None
        self._replied = 0.0
        self._last_command: int | None = None

    def execute(self, command: WorkerCommand, outcome: _Outcome) -> WorkerReply:
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
            self._store.put_record(self._key(f"order-{number:06d}.json"), command)
            reply = self._wait(self._run, number, command, outcome)
        except BaseException:
            self._run = None
            raise
        self._replied = time.monotonic()
        return reply

    def reply(self, number: int) -> WorkerReply | None:
        """Return the worker's own reply to a command, which it also gives where the work could leave no outcome."""
        return self._store.get_record_or_none(self._key(f"answer-{number:06d}.json"), WorkerReply)

    def end(self) -> None:
        """Have the worker end when it looks for its next command."""
        with suppress(SimyardError):
            number = self._next_number()
            if number > 1:
                command = WorkerCommand(do="end", given_at=now_ms())
                self._store.put_record(self._key(f"order-{number:06d}.json"), command)

    def _wait(self, run: FlowRun, number: int, command: WorkerCommand, outcome: _Outcome) -> WorkerReply:
        def read_heartbeat() -> WorkerStatus | None:
            status = self._store.get_record_or_none(self._key("status.json"), WorkerStatus)
            return status if status and status.flow_run == str(run.id) else None  # not of the one before it

        def is_canceled() -> bool:
            if self._control.is_leaving:
                raise WorkloadError(CANCELED)
            return self._control.is_canceled

        def cancel() -> None:
            if command.job_id is not None:
                ask_to_cancel(self._store, command.job_id)
            else:
                self._store.put_json(self._key(f"stop-{number:06d}.json"), {})

        with get_client(sync_client=True) as client:
            watch: FlowRunWatch[WorkerReply] = FlowRunWatch(
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
        # A worker that died before it could reply may still have done the work.
        if (reply := ending.record or outcome(number)) is not None:
            return reply
        if ending.reason == "withdrawn":
            raise WorkloadError(CANCELED)
        why = "It writes no heartbeat."
        if ending.reason != "lost":
            assert ending.state is not None
            why = f"Its flow run {run.name!r} ended as {ending.state.name!r}."
        raise WorkloadError(
            heartbeat.lost("slot_lost", f"The rollout worker is lost. {why}", "Another one takes over.")
        )

    def _flow_run(self) -> FlowRun:
        """Return the flow run that is this worker, a new one where there is none that lives."""
        with get_client(sync_client=True) as client:
            ensure_pool_flow(client, self._pool, FLOW)
            home = own_home(client.read_work_pool(self._pool), project_of(self._store_ref))
        generation = 1
        while True:
            key = f"{self._run_id}-slot-{self._number}-{generation}"
            launched = run_deployment(
                f"{FLOW}/{self._pool}",
                parameters={"run_id": self._run_id, "slot": self._number, "store": self._store_ref},
                flow_run_name=key, idempotency_key=key, timeout=0, as_subflow=False, job_variables=home or None,
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


def serve_worker(
    run_id: str, worker: int, flow_run: str, store: Store, machine: MachineSettings, observer: Observer
) -> None:
    """Execute one command after another, in a simulator that stays warm, until the run is over.

    Args:
        run_id: The run.
        worker: Which worker, counted from 0.
        flow_run: The id of the flow run that this is.
        store: The run's store.
        machine: Settings of this machine.
        observer: Called for everything that is done.
    """
    keys, run = RunKeys(run_id), load_run(store, run_id)
    # Behind the commands of flow runs before this one, save the last: one that a worker died of is given anew under
    # the next number.
    number = max(_last(store, keys, worker, "order"), _last(store, keys, worker, "answer") + 1)
    status = WorkerStatus(**this_process(), flow_run=flow_run)
    beating = HeartbeatWriter(store, keys.slot(worker, "status.json"), lambda: status, LOOK_S)
    with Sessions(machine, Bounds()) as sessions, beating:
        idle_since = time.monotonic()
        while time.monotonic() - idle_since < IDLE_S:
            command = store.get_record_or_none(keys.slot(worker, f"order-{number:06d}.json"), WorkerCommand)
            if command is None:
                time.sleep(_poll_s(time.monotonic() - idle_since))
                continue
            if command.do == "end" or store.exists(keys.result):
                return
            stop_key = keys.slot(worker, f"stop-{number:06d}.json")
            reply = _execute(command, run, store, sessions, observer, stop_key)
            store.put_record(keys.slot(worker, f"answer-{number:06d}.json"), reply)
            number += 1
            idle_since = time.monotonic()


def _execute(
    command: WorkerCommand, run: RunSpec, store: Store, sessions: Sessions, observer: Observer, stop_key: str
) -> WorkerReply:
    """Execute a command; return the reply."""
    looked = 0.0

    def stopped() -> Failure | None:
        nonlocal looked
        if time.monotonic() - looked < STOP_LOOK_S:
            return None
        looked = time.monotonic()
        with suppress(StoreError):
            return CANCELED if store.exists(stop_key) else None
        return None

    # A driver that was killed gives its last command anew: what was done meanwhile is not done twice.
    try:
        if command.do == "check":
            check_trainer(run, sessions.machine)
        elif command.job_id is not None and not is_done(spec := load_spec(store, command.job_id), store):
            launch_inline(spec, store, sessions, observer)
        elif command.attempt is not None and outcome_of(command.attempt, store) is None:
            following = TrainerObserver(lines=observer.lines, stopped=stopped)
            run_trainer(command.attempt, run, store, sessions.machine, following)
    except SimyardError as error:
        return WorkerReply(failure=error.failure)
    return WorkerReply(failure=None)


def _last(store: Store, keys: RunKeys, worker: int, what: str) -> int:
    """Return the number of a worker's last `order` or `answer`; 0 where there is none."""
    names = (entry.key.rpartition("/")[2].removesuffix(".json") for entry in store.list(keys.slot(worker, "")[:-1]))
    return max((int(name.removeprefix(f"{what}-")) for name in names if name.startswith(f"{what}-")), default=0)


def _poll_s(waited_s: float) -> float:
    """Return the seconds to sleep until the next look."""
    return POLL_S if waited_s < 5.0 else LATER_POLL_S
