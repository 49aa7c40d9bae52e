"""The events of a managed run or a sweep: an append-only log, one object an event, in order."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from simyard.core.run_records import Event
from simyard.core.wire import now_ms
from simyard.store.keys import DrivenKeys
from simyard.store.store import Store

_FRESH = 200
"""Number of newest events of earlier processes that a process reads when it goes on."""


class Events:
    """The log of one run or sweep, for the one process that drives it."""

    def __init__(
        self,
        store: Store,
        keys: DrivenKeys,
        types: Mapping[str, str],
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> None:
        """Go on after the last event.

        Args:
            store: The store of the run.
            keys: Its keys.
            types: Every `event_type` that it has, and what it means.
            on_event: Called with each new event.
        """
        self._store = store
        self._keys = keys
        self._types = types
        self._on_event = on_event
        self._lock = threading.Lock()
        numbers = numbers_of_events(store, keys)
        self._last = numbers[-1] if numbers else 0
        self._recorded = {event.about for event in events_at(store, keys, numbers[-_FRESH:])}

    def record(self, event_type: str, about: str, message: str, **data: Any) -> None:
        """Write an event, unless it was written before a restart.

        Args:
            event_type: One of the log's types.
            about: What tells it from every other event of the run: the same thing happens once.
            message: For people.
            data: For programs.
        """
        assert event_type in self._types
        about = f"{event_type} {about}".strip()
        with self._lock:
            if about in self._recorded:
                return
            self._recorded.add(about)
            # Where a process that was taken for lost writes too, each still gets a number of its own.
            is_written = False
            while not is_written:
                self._last += 1
                event = Event(
                    event_id=f"evt-{self._last:08d}", created_at=now_ms(), event_type=event_type, about=about,
                    message=message, data=data,
                )  # fmt: skip
                is_written = self._store.put_new(self._keys.event(self._last), json.dumps(event.to_json()).encode())
            self._on_event(event)


def numbers_of_events(store: Store, keys: DrivenKeys) -> list[int]:
    """Return the numbers of the events of a run or a sweep, in order."""
    names = (entry.key.rpartition("/")[2] for entry in store.list(keys.events))
    return sorted(int(name.partition(".")[0]) for name in names)


def events_at(store: Store, keys: DrivenKeys, numbers: list[int]) -> list[Event]:
    """Return these events."""
    return [store.get_record(keys.event(number), Event) for number in numbers]
