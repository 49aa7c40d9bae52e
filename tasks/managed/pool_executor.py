"""Slots of a work pool: one flow run each, which keeps a warm simulator for the whole run and takes its orders here.

The control side writes an order under the next number and waits for the outcome that the work itself leaves: a
rollout's attempt, or a call of the trainer. Both sides only read and write objects, so either may be killed and come
back, and the store may be away for a while.
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
from simyard.core.specs import Bounds, JobSpec
from simyard.deployments.apply import ensure_pool_flow
from simyard.requests.settings import Site
from simyard.store.keys import RunKeys
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import CANCELED, Observer
from simyard.tasks.cluster.flow_run_watch import FlowRunWatch
from simyard.tasks.launch import ask_to_cancel, is_done, launch_inline, raise_failure
from simyard.tasks.managed.run import RunSpec, load_run, now
from simyard.tasks.managed.trainer import TrainerAttempt, TrainerObserver, check_trainer, outcome_of, run_trainer
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.shared import heartbeat, history
from simyard.tasks.shared.heartbeat import Heartbeat
from simyard.tasks.shared.history import load_spec, read_or_none

FLOW = "run-worker"
POLL_S, LATER_POLL_S = 0.05, 0.25
"""How often either side looks, in the first seconds and after them."""
LOOK_S = 2.0
"""How often the control side asks Prefect after the flow run, and a slot tells that it lives."""
PATIENCE = heartbeat.PATIENCE.worker
IDLE_S = 900.0
"""A slot without an order for so long ends: nobody drives the run. The next order starts another."""


class PoolCrew:
    """The slots of one run in a work pool."""

    def __init__(self, run: RunSpec, store: Store, store_ref: str, pool: str, canceled: Callable[[], bool],
                 leaving: Callable[[], bool]) -> None:  # fmt: skip
        """Start nothing yet.

        Args:
            run: The run.
            store: Its store.
            store_ref: The same, as a flow run opens it.
            pool: The work pool.
            canceled: Whether the work is to end.
            leaving: Whether waiting is to end; the work goes on, and whoever takes the run up finds it.
        """
        self._slots = [
            _Slot(run, store, store_ref, pool, number, canceled, leaving)
            for number in range(run.asked.rollout_template.rollout_parallelism)
        ]
        self._store = store

    def prepare(self) -> None:
        """Have the first slot check the trainer where it will run."""
        answer = self._slots[0].order({"do": "check"}, self._slots[0].answer)
        if answer["failure"] is not None:
            failure = Failure.from_json(answer["failure"])
            raise RequestError(failure.message, code=failure.code, advice=failure.advice)

    def roll_out(self, slot: int, spec: JobSpec, observer: Observer) -> None:
        """Have a slot make an attempt, and follow it."""
        before = sum(attempt.outcome is not None for attempt in history.attempts(self._store, spec.job_id))

        def ended(number: int) -> dict[str, Any] | None:
            answer = self._slots[slot].answer(number)
            outcomes = [attempt.outcome for attempt in history.attempts(self._store, spec.job_id) if attempt.outcome]
            return outcomes[-1] if len(outcomes) > before else answer

        raise_failure(self._slots[slot].order({"do": "rollout", "job_id": spec.job_id}, ended))

    def call_trainer(self, attempt: TrainerAttempt, observer: TrainerObserver) -> None:
        """Have the first slot call the trainer."""
        slot = self._slots[0]
        order = {"do": "trainer", "attempt": attempt.to_json()}
        outcome = slot.order(order, lambda number: outcome_of(attempt, self._store) or slot.answer(number))
        raise_failure(outcome)

    def dismiss(self) -> None:
        """Tell the slots to go; those that this process never used too."""
        for slot in self._slots:
            slot.dismiss()


class _Slot:
    """One slot, seen from the control side."""

    def __init__(
        self, run: RunSpec, store: Store, store_ref: str, pool: str, number: int, canceled: Callable[[], bool],
        leaving: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._run_id = run.run_id
        self._store = store
        self._store_ref = store_ref
        self._pool = pool
        self._number = number
        self._canceled = canceled
        self._leaving = leaving
        self._keys = RunKeys(run.run_id)
        self._run: FlowRun | None = None
        self._heard = 0.0
        self._given: int | None = None

    def order(self, order: dict[str, Any], ended: Callable[[int], dict[str, Any] | None]) -> dict[str, Any]:
        """Give an order, and wait for its end.

        Args:
            order: What to do.
            ended: Returns the outcome of the order with this number, once there is one.

        Raises:
            WorkloadError: If the slot is lost, or the waiting is to end.
        """
        number = self._next_number()
        # A slot ends by itself when it has had no order for long.
        if self._run is None or time.monotonic() - self._heard > LOOK_S * 10:
            self._run = self._flow_run()
        try:
            self._store.put_json(self._key(f"order-{number:06d}.json"), order | {"given_at": now()})
            outcome = self._wait(self._run, number, order, ended)
        except BaseException:
            self._run = None
            raise
        self._heard = time.monotonic()
        return outcome

    def answer(self, number: int) -> dict[str, Any] | None:
        """Return what the slot says of an order itself: where the work could not even leave an outcome."""
        found = read_or_none(self._store, self._key(f"answer-{number:06d}.json"))
        return None if found is None else dict(found)

    def dismiss(self) -> None:
        """Have the slot end when it looks for its next order."""
        with suppress(SimyardError):
            number = self._next_number()
            if number > 1:
                self._store.put_json(self._key(f"order-{number:06d}.json"), {"do": "end", "given_at": now()})

    def _wait(
        self, run: FlowRun, number: int, order: dict[str, Any], ended: Callable[[int], dict[str, Any] | None]
    ) -> dict[str, Any]:
        def read_heartbeat() -> dict[str, Any] | None:
            status: dict[str, Any] | None = read_or_none(self._store, self._key("status.json"))
            return status if status and status["flow_run"] == str(run.id) else None  # not of the one before it

        def is_canceled() -> bool:
            if self._leaving():
                raise WorkloadError(CANCELED)
            return self._canceled()

        def cancel() -> None:
            if order["do"] == "rollout":
                ask_to_cancel(self._store, order["job_id"])
            else:
                self._store.put_json(self._key(f"stop-{number:06d}.json"), {})

        with get_client(sync_client=True) as client:
            watch: FlowRunWatch[dict[str, Any]] = FlowRunWatch(
                client=client,
                run=run,
                record=lambda: None if self.answer(number) is None else ended(number),
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
        # A slot that died before it could answer may still have done the work.
        if (outcome := ended(number)) is not None:
            return outcome
        if ending.reason == "withdrawn":
            raise WorkloadError(CANCELED)
        if ending.reason == "lost":
            raise WorkloadError(_lost("It writes no heartbeat."))
        assert ending.state is not None
        raise WorkloadError(_lost(f"Its flow run {run.name!r} ended as {ending.state.name!r}."))

    def _flow_run(self) -> FlowRun:
        """Return the flow run that has this slot, a new one where there is none that lives."""
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
        if self._given is None:
            self._given = _last(self._store, self._keys, self._number, "order")
        self._given += 1
        return self._given

    def _key(self, name: str) -> str:
        return self._keys.slot(self._number, name)


def serve_slot(run_id: str, slot: int, flow_run: str, store: Store, site: Site, observer: Observer) -> None:
    """Do one order after another, in a simulator that stays warm, until the run is over.

    Args:
        run_id: The run.
        slot: Which slot, counted from 0.
        flow_run: The id of the flow run that this is.
        store: The run's store.
        site: This machine.
        observer: Hears of everything that is done.
    """
    keys, run = RunKeys(run_id), load_run(store, run_id)
    number = _first_open_order(store, keys, slot)
    beating = Heartbeat(store, keys.slot(slot, "status.json"), lambda: {"flow_run": flow_run}, LOOK_S)
    with Sessions(site, Bounds()) as sessions, beating:
        idle_since = time.monotonic()
        while time.monotonic() - idle_since < IDLE_S:
            order = read_or_none(store, keys.slot(slot, f"order-{number:06d}.json"))
            if order is None:
                time.sleep(_poll_s(time.monotonic() - idle_since))
                continue
            if order["do"] == "end" or store.exists(keys.result):
                return
            stop_key = keys.slot(slot, f"stop-{number:06d}.json")
            answer = _do(order, run, store, sessions, observer, stop_key)
            store.put_json(keys.slot(slot, f"answer-{number:06d}.json"), answer)
            number += 1
            idle_since = time.monotonic()


def _do(
    order: dict[str, Any], run: RunSpec, store: Store, sessions: Sessions, observer: Observer, stop_key: str
) -> dict[str, Any]:
    """Do what is ordered; return whether it could be done."""
    failure: Failure | None = None
    try:
        match order["do"]:
            case "check":
                check_trainer(run, sessions.site)
            # Whoever gave an order and was killed gives it anew: what was done meanwhile is not done twice.
            case "rollout" if not is_done(spec := load_spec(store, order["job_id"]), store):
                launch_inline(spec, store, sessions, observer)
            case "trainer" if outcome_of(call := TrainerAttempt.from_json(order["attempt"]), store) is None:
                told = TrainerObserver(lines=observer.lines, stopped=_StopLook(store, stop_key))
                run_trainer(call, run, store, sessions.site, told)
    except SimyardError as error:
        failure = error.failure
    return {"failure": failure.to_json() if failure else None}


def _first_open_order(store: Store, keys: RunKeys, slot: int) -> int:
    """Return the number of the first order to do: behind those of flow runs before this one, save the last.

    Whoever gave an order to a slot that died gives it anew under the next number.
    """
    return max(_last(store, keys, slot, "order"), _last(store, keys, slot, "answer") + 1)


def _last(store: Store, keys: RunKeys, slot: int, what: str) -> int:
    """Return the number of a slot's last `order` or `answer`; 0 where there is none."""
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
    """Return how long to sleep until the next look."""
    return POLL_S if waited_s < 5.0 else LATER_POLL_S


def _lost(message: str) -> Failure:
    return heartbeat.lost("slot_lost", f"The slot's simulator is lost. {message}", "Another one takes over.")
