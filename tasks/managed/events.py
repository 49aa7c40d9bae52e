"""The events of a managed training run: an append-only log in the store, one object an event, in order."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from simyard.core.records import Event
from simyard.store.keys import RunKeys
from simyard.store.store import Store

TYPES = {
    "run.started": "the run began",
    "run.taken_up": "another process drives it now, since the one before was lost",
    "run.paused": "somebody paused it; nothing new is begun",
    "run.resumed": "it goes on",
    "iteration.started": "an iteration began",
    "rollout.succeeded": "a rollout is in the store",
    "rollout.failed": "a rollout failed for good",
    "dataset.written": "the iteration's dataset manifest is in the store",
    "trainer.started": "the trainer was called",
    "trainer.succeeded": "it left a checkpoint and metrics",
    "trainer.failed": "one call of it failed",
    "checkpoint.created": "a checkpoint is in the lineage",
    "iteration.succeeded": "everything of the iteration is in the store",
    "iteration.failed": "the iteration left no checkpoint",
    "run.ended": "the run ended; the message names the policy that ended it",
}
"""Every `event_type`, and what it means."""
_FRESH = 200
"""Number of newest events of earlier processes that a process reads when it resumes a run."""


class Events:
    """The log of one run, for the one process that drives it."""

    def __init__(self, store: Store, run_id: str, on_event: Callable[[Event], None] = lambda event: None) -> None:
        """Go on after the last event.

        Args:
            store: The run's store.
            run_id: The run.
            on_event: Called with each new event.
        """
        self._store = store
        self._keys = RunKeys(run_id)
        self._on_event = on_event
        self._lock = threading.Lock()
        numbers = event_numbers(store, run_id)
        self._last = numbers[-1] if numbers else 0
        self._recorded = {event.about for event in read_events(store, run_id, numbers[-_FRESH:])}

    def record(self, event_type: str, about: str, message: str, **data: Any) -> None:
        """Write an event, unless it was written before a restart.

        Args:
            event_type: One of `TYPES`.
            about: What tells it from every other event of the run: the same thing happens once.
            message: For people.
            data: For programs.
        """
        assert event_type in TYPES
        about = f"{event_type} {about}".strip()
        with self._lock:
            if about not in self._recorded:
                self._recorded.add(about)
                self._on_event(self._write(event_type, about, message, data))

    def _write(self, event_type: str, about: str, message: str, data: dict[str, Any]) -> Event:
        # Where a process that was taken for lost writes too, each still gets a number of its own.
        while True:
            self._last += 1
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            event = Event(
                event_id=f"evt-{self._last:08d}", created_at=now, event_type=event_type, about=about, message=message,
                data=data,
            )  # fmt: skip
            if self._store.put_new(self._keys.event(self._last), json.dumps(event.to_json()).encode()):
                return event


def event_numbers(store: Store, run_id: str) -> list[int]:
    """Return the numbers of a run's events, in order."""
    names = (entry.key.rpartition("/")[2] for entry in store.list(RunKeys(run_id).events))
    return sorted(int(name.partition(".")[0]) for name in names)


def read_events(store: Store, run_id: str, numbers: list[int]) -> list[Event]:
    """Return these events."""
    keys = RunKeys(run_id)
    return [store.get_record(keys.event(number), Event) for number in numbers]
