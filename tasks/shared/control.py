"""The process that drives a managed run or a sweep: that it is the only one, and whether it may go on.

Somebody's desired state is one object of the store, which any command or service writes and the driver reads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from simyard.core.errors import Failure, RequestError, SimyardError
from simyard.core.records import Heartbeat
from simyard.core.run_records import DesiredStateMark, DriverStatus, Event, RunResult
from simyard.core.sweep_records import SweepResult, SweepStatus
from simyard.core.wire import now
from simyard.runner.progress import JobProgress
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import CANCELED
from simyard.tasks.shared.heartbeat import PATIENCE

DesiredState = Literal["run", "pause", "cancel"]
DrivenStatus = Literal["queued", "running", "paused", "interrupted"]
"""Of what has not ended: no process drives it yet, one does, it waits, or none does any more."""
PULSE_S = 0.5
"""Seconds between two reads of the desired state."""
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
