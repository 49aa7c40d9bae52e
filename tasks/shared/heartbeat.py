"""Heartbeats: written every few seconds by a process that works, read by those that wait for it.

A heartbeat says which process wrote it and when; a reader that sees no new one for too long takes the process for lost.
`PATIENCE` says how long that is, for each of those that are waited for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from simyard.core.errors import Category, Failure, SimyardError
from simyard.core.records import Heartbeat, this_process
from simyard.store.store import Store


@dataclass(frozen=True)
class Patience:
    """Seconds that a process may go without a heartbeat before it is taken for lost."""

    silence_s: float
    """Between two heartbeats."""
    starting_s: float = 3600.0
    """Up to the first one, from a worker taking the work: an image may be pulled, packages installed, kernels built."""


@dataclass(frozen=True)
class PatienceTable:
    """The patience with everything that is waited for; each heartbeat comes every few seconds."""

    attempt: Patience = Patience(300.0)
    """An attempt in a work pool: to give up one that works costs what it did since its last checkpoint."""
    supervisor: Patience = Patience(120.0)
    """An attempt's process, where it only decides what is shown (`interrupted`) and may be repeated by hand."""
    node: Patience = Patience(60.0)
    """Another machine of the same attempt: all of them stand still meanwhile."""
    worker: Patience = Patience(60.0)
    """A rollout worker of a managed run."""
    driver: Patience = Patience(60.0)
    """The process that drives a managed run."""
    engine: Patience = Patience(60.0)
    """The container engine: how long it may not answer."""
    flow_run: Patience = Patience(300.0)
    """A flow run of the service: from its start, or from an attempt's outcome, to the next heartbeat."""


PATIENCE = PatienceTable()


FROM_LAST_CHECKPOINT = "The next attempt goes on from the last checkpoint in the store."


def lost(code: str, message: str, follows: str = FROM_LAST_CHECKPOINT) -> Failure:
    """Return the failure of a process that is taken for lost.

    Args:
        code: Of the failure: `attempt_lost`, `machine_lost` or `slot_lost`.
        message: What was seen of it.
        follows: What happens next.
    """
    advice = f"Its machine or its worker died; its log or its flow run says more. {follows}"
    return Failure(code=code, category=Category.INFRA, message=message, advice=advice)


class HeartbeatWriter:
    """Writes the heartbeat of this process; a `with` block has it written every few seconds, by a thread of its own."""

    def __init__(self, store: Store, key: str, beat: Callable[[], Heartbeat], interval_s: float) -> None:
        """Write nothing yet.

        Args:
            store: Where it is written.
            key: The one object that is written again and again.
            beat: Returns the heartbeat; process and time are those of the writing.
            interval_s: Between two of them in a `with` block, seconds.
        """
        self._store = store
        self._key = key
        self._make = beat
        self._interval_s = interval_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def write(self) -> None:
        """Write it now.

        Raises:
            StoreError: If the store cannot be written.
        """
        self._store.put_record(self._key, replace(self._make(), **this_process()))

    def __enter__(self) -> HeartbeatWriter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while True:
            with suppress(SimyardError):  # a store that is away for a moment
                self.write()
            if self._over.wait(self._interval_s):
                return
