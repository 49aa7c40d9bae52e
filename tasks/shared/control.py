"""Whether a process that drives a managed run or a sweep may go on: what was asked of that, and of the process itself.

Somebody's desired state is one object of the store, which any command or service writes and the driver reads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from simyard.core.errors import Failure, SimyardError
from simyard.core.run_records import DesiredStateMark
from simyard.core.wire import now
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import CANCELED

DesiredState = Literal["run", "pause", "cancel"]
PULSE_S = 0.5
"""Seconds between two reads of the desired state."""
_PRECEDENCE: tuple[DesiredState, ...] = ("run", "pause", "cancel")
"""Of two that were asked for, the later one here counts."""


def desired_state_at(store: Store, key: str) -> DesiredState:
    """Read the desired state below a key; `run` where nobody has set one."""
    found = store.get_record_or_none(key, DesiredStateMark)
    return found.wanted if found else "run"


def write_desired_state(store: Store, key: str, desired: DesiredState) -> None:
    """Write the desired state below a key."""
    store.put_record(key, DesiredStateMark(wanted=desired, requested_at=now()))


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
