"""The process that drives a managed run or a sweep: that it is the only one, and whether it may go on.

Somebody's desired state is one object of the store, which any command or service writes and the driver reads.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, Literal, Self

from simyard.core.errors import Failure, RequestError, SimyardError
from simyard.core.records import Heartbeat
from simyard.core.run_records import DesiredStateMark, DriverStatus, Event, RunResult
from simyard.core.sweep_records import SweepResult, SweepStatus
from simyard.core.wire import now
from simyard.runner.progress import JobProgress
from simyard.store.keys import DrivenKeys
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import CANCELED
from simyard.tasks.shared.events import Events
from simyard.tasks.shared.heartbeat import PATIENCE, HeartbeatWriter

DesiredState = Literal["run", "pause", "cancel"]
DrivenStatus = Literal["queued", "running", "paused", "interrupted"]
"""Of what has not ended: no process drives it yet, one does, it waits, or none does any more."""
PULSE_S = 0.5
"""Seconds between two reads of the desired state."""
BEAT_S = 3.0
"""Seconds between two heartbeats."""
_PRECEDENCE: tuple[DesiredState, ...] = ("run", "pause", "cancel")
"""Of two that were asked for, the later one here counts."""


@dataclass(frozen=True, kw_only=True)
class LoopObserver:
    """The caller's side of a loop: what it is told, and what it asks for."""

    on_event: Callable[[Event], None] = lambda event: None
    on_stage: Callable[[JobProgress], None] = lambda progress: None
    """Called at each new stage, for a live line."""
    is_canceled: Callable[[], bool] = lambda: False
    desired_state: Callable[[], DesiredState] = lambda: "run"
    """Returns the state that somebody asks for elsewhere than in the store; it may take long to answer."""


def desired_state_at(store: Store, key: str) -> DesiredState:
    """Read the desired state below a key; `run` where nobody has set one."""
    found = store.get_record_or_none(key, DesiredStateMark)
    return found.wanted if found else "run"


def write_desired_state(store: Store, key: str, desired: DesiredState) -> None:
    """Write the desired state below a key."""
    store.put_record(key, DesiredStateMark(wanted=desired, requested_at=now()))


def why_not(
    own_id: str, ended: RunResult | SweepResult | None, store: Store, key: str, desired: DesiredState
) -> str | None:
    """Return why a run or a sweep cannot have this desired state below its key, as a sentence; None where it can."""
    if ended is not None:
        return f"{own_id} has {ended.status}."
    is_too_late = desired != "cancel" and desired_state_at(store, key) == "cancel"
    return f"{own_id} is being canceled." if is_too_late else None


def refuse_second_driver(own_id: str, beat: Heartbeat | None, noun: Literal["managed", "sweep"]) -> None:
    """Raise `RequestError` for a run or a sweep that another process drives, by the heartbeat of that.

    Args:
        own_id: Its id.
        beat: The heartbeat; None for none.
        noun: The commands that are about it.
    """
    if beat and not beat.is_gone(PATIENCE.driver.silence_s) and not beat.is_own():
        raise RequestError(
            f"{own_id} is driven by process {beat.pid} on {beat.host!r}.",
            code="already_driven",
            advice=f"Follow it (simyard {noun} watch); one that is lost is known as such after "
            f"{PATIENCE.driver.silence_s:.0f} s without a heartbeat.",
        )


def driven_status(beat: DriverStatus | SweepStatus | None, desired: DesiredState) -> DrivenStatus:
    """Return the status of a run or a sweep that has not ended, by the heartbeat of its driver."""
    if beat is None:
        return "paused" if desired == "pause" else "queued"
    if beat.is_gone(PATIENCE.driver.silence_s):
        return "interrupted"
    return "paused" if "pause" in (desired, beat.wanted) else "running"


class Control:
    """The desired state of a run or a sweep, read now and then by a thread of its own while a `with` block runs."""

    def __init__(
        self, store: Store, key: str, is_canceled: Callable[[], bool], asked: Callable[[], DesiredState]
    ) -> None:
        """Read nothing yet.

        Args:
            store: The store of the run.
            key: Of its desired state.
            is_canceled: Whether the caller of the loop wants the run to end.
            asked: Returns the state that is asked for elsewhere than in the store.
        """
        self.desired: DesiredState = "run"
        """Desired state, wherever it was asked for."""
        self._store = store
        self._key = key
        self._caller_cancels = is_canceled
        self._asked = asked
        self._is_canceled = False
        self._is_leaving = threading.Event()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="desired-state", daemon=True)

    def __enter__(self) -> Control:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    @property
    def is_canceled(self) -> bool:
        """Whether the run is to end now."""
        return self._is_canceled or self.desired == "cancel" or self._caller_cancels()

    @property
    def is_leaving(self) -> bool:
        """Whether this process is asked to end; another one may resume the run."""
        return self._is_leaving.is_set()

    def why_stopped(self) -> Failure | None:
        """Return the failure that ends the work of this process now; None while it may go on."""
        return CANCELED if self.is_canceled or self.is_leaving else None

    def leave(self) -> None:
        """End the work of this process."""
        self._is_leaving.set()

    def cancel(self) -> None:
        """End the run."""
        self._is_canceled = True
        write_desired_state(self._store, self._key, "cancel")

    def _listen(self) -> None:
        while not self._is_over.wait(PULSE_S):
            # A store that is away for a moment is asked again; the run goes on meanwhile.
            with suppress(SimyardError):
                states = desired_state_at(self._store, self._key), self._asked()
                self.desired = max(states, key=_PRECEDENCE.index)


class Driver(ABC):
    """One process's hold on a managed run or a sweep; `with` begins and ends its heartbeat."""

    NOUN: ClassVar[Literal["run", "sweep"]]
    """In events and messages."""

    def __init__(self, store: Store, keys: DrivenKeys, types: Mapping[str, str], observer: LoopObserver) -> None:
        """Read what happened; nothing is written yet.

        Args:
            store: The store of the run.
            keys: Its keys.
            types: Every `event_type` that it has, and what it means.
            observer: The caller's side.
        """
        self.store = store
        self.control = Control(store, keys.desired_state, observer.is_canceled, observer.desired_state)
        self.events = Events(store, keys, types, observer.on_event)
        self._driven = keys
        self._on_stage = observer.on_stage
        self._stage = "starting"
        self._is_paused = False
        self._with = ExitStack()

    def __enter__(self) -> Self:
        beating = HeartbeatWriter(self.store, self._driven.status, self._status, BEAT_S)
        beating.write()  # from here on nobody else may drive it
        self._with.enter_context(beating)
        self._with.enter_context(self.control)
        return self

    def __exit__(self, *_: object) -> None:
        self._with.close()

    @abstractmethod
    def _status(self) -> Heartbeat:
        """Return the heartbeat."""

    def take_up(self, begins: str) -> datetime:
        """Write that it begins, or that this process goes on with it; return the time at which it began.

        Args:
            begins: The message of the first event.
        """
        first = self.store.get_record_or_none(self._driven.event(1), Event)
        if first is None:
            self.events.record(f"{self.NOUN}.started", "", begins)
            return datetime.now(UTC)
        message = f"Process {os.getpid()} on {platform.node()} goes on."
        self.events.record(f"{self.NOUN}.taken_up", str(time.time_ns()), message)
        return datetime.fromisoformat(first.created_at)

    def show(self, stage: str) -> None:
        """Set the current stage, and pass it to the observer."""
        if stage != self._stage:
            self._stage = stage
            self._on_stage(JobProgress(stage=stage))

    def is_paused(self) -> bool:
        """Return whether it is paused now; a change is an event."""
        is_paused = self.control.desired == "pause"
        if is_paused != self._is_paused:
            self._is_paused = is_paused
            change = "paused" if is_paused else "resumed"
            self.events.record(f"{self.NOUN}.{change}", str(time.time_ns()), f"The {self.NOUN} was {change}.")
        return is_paused
