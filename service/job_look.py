"""A job as its page sees it: one listing of all that it has, and of that nothing is read twice in the same version.

Most of what a job has never changes once it is written. So a view costs the listing, and what is new: of a job that
runs its heartbeat, its table of metrics and the ends of its logs.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from simyard.core.records import AttemptStatus, JobResult, Outcome
from simyard.core.specs import JobSpec
from simyard.core.wire import Wire
from simyard.service.prefect_api import Launches
from simyard.service.status import JobAnswer, ManifestEntry, settled
from simyard.store.keys import JobKeys, check_job_id
from simyard.store.store import Entry, KeyNotFound, Store
from simyard.tasks.shared import history
from simyard.tasks.shared.history import PastAttempt
from simyard.tasks.shared.logs import readable_lines

SHARED_S = 1.0
"""Seconds that a look is good for those who follow a job: however many they are, it is looked at as often."""
MOST_KEPT = 200
TAIL_BYTES = 128 * 1024
"""Bytes of the end of a log that are kept for those who follow it."""
_Document = TypeVar("_Document", bound=Wire)


class JobLook:
    """What is known of one job."""

    def __init__(self, store: Store, job_id: str) -> None:
        """Look at nothing yet.

        Raises:
            RequestError: The id is none.
        """
        self.store = store
        self.job_id = check_job_id(job_id)
        self.keys = JobKeys(job_id)
        self.entries: dict[str, Entry] = {}
        """Everything that the job has, by key."""
        self.version = 0
        """Counts the looks that found something else than the one before."""
        self._read: dict[str, tuple[Entry, Any]] = {}
        self._tails: dict[str, tuple[int, bytes]] = {}
        self._looked = -1e9
        self._lock = threading.Lock()

    def refresh(self, shared_s: float = 0.0) -> JobLook:
        """List what the job has, unless that was done so many seconds ago.

        Raises:
            RequestError: There is no such job.
        """
        with self._lock:
            if time.monotonic() - self._looked >= shared_s:
                entries = {entry.key: entry for entry in self.store.list(self.keys.prefix)}
                if self.keys.job not in entries:
                    raise history.unknown_job(self.store, self.job_id)
                self.version += entries != self.entries
                self.entries, self._looked = entries, time.monotonic()
        return self

    def has(self, key: str) -> bool:
        """Return whether the job had an object when it was listed."""
        return key in self.entries

    def once(self, key: str, read: Callable[[], Any]) -> Any:
        """Return what was read of an object, or read it where it has changed; None where there is none."""
        entry = self.entries.get(key)
        if entry is None:
            return None
        known = self._read.get(key)
        if known is None or known[0] != entry:
            try:
                known = self._read[key] = (entry, read())
            except KeyNotFound:  # it was deleted since
                return None
        return known[1]

    def _record(self, key: str, kind: type[_Document]) -> _Document | None:
        found: _Document | None = self.once(key, lambda: self.store.get_record(key, kind))
        return found

    @property
    def spec(self) -> JobSpec:
        """The frozen job."""
        found = self._record(self.keys.job, JobSpec)
        if found is None:
            raise history.unknown_job(self.store, self.job_id)
        return found

    @property
    def attempt_numbers(self) -> list[int]:
        """The attempts that there are, in order."""
        return history.attempt_numbers(self.job_id, self.entries)

    def past(self) -> list[PastAttempt]:
        """Return the attempts, without their checkpoints."""
        found = []
        for number in self.attempt_numbers:
            keys = self.keys.attempt(number)
            status, outcome = self._record(keys.status, AttemptStatus), self._record(keys.outcome, Outcome)
            found.append(PastAttempt(number=number, keys=keys, status=status, outcome=outcome, checkpoints=[]))
        return found

    def answer(self, launches: Launches) -> JobAnswer:
        """Return the status of the job, as the API shows it: by its result alone where that counts."""
        result, numbers = self._record(self.keys.result, JobResult), self.attempt_numbers
        counts = result is not None and result.attempts >= len(numbers)
        past = [] if counts and self._is_whole(result) else self.past()
        known = history.state_of(self.store, self.job_id, result, past, lambda: self.has(self.keys.manifest))
        artifacts: tuple[Any, ...] = known.artifacts
        if known.status == "succeeded":
            artifacts += (ManifestEntry(size_bytes=self.entries[self.keys.manifest].size_bytes),)
        found = JobAnswer(
            id=self.job_id, spec=self.spec, known=known, status=known.status, failure=known.error, artifacts=artifacts
        )
        return settled([found], lambda ids: {self.job_id: launches.find(self.job_id)})[0]

    def _is_whole(self, result: JobResult | None) -> bool:
        return result is not None and (result.status != "succeeded" or self.has(self.keys.manifest))

    # Logs

    def new_lines(self, number: int, name: str, seen: int | None, count: int) -> tuple[list[str], int]:
        """Return the lines of a log behind a place in it, and the place behind them.

        What several follow is read once: the end of each log is kept.

        Args:
            number: The attempt.
            name: Of the log.
            seen: The place; None for the beginning of the last lines.
            count: How many lines are returned where the place is none, or too far ahead of the end.
        """
        key = self.keys.attempt(number).file(name)
        entry = self.entries.get(key)
        if entry is None:
            return [], 0
        with self._lock:
            first, data = self._tails.get(key, (0, b""))
            end = first + len(data)
            if entry.size_bytes < end or entry.size_bytes - end > TAIL_BYTES:  # shortened, or mostly new
                first = end = max(0, entry.size_bytes - TAIL_BYTES)
                data = b""
            if entry.size_bytes > end:
                data += self.store.get_range(key, end, entry.size_bytes - end)
                cut = max(0, len(data) - TAIL_BYTES)
                first, data = first + cut, data[cut:]
            self._tails[key] = (first, data)
        whole = first + data.rfind(b"\n") + 1  # behind it a line is half written
        if seen is None or not first <= seen <= whole:
            lines = readable_lines(data[data.find(b"\n") + 1 if first else 0 : whole - first])
            return lines[-count:] if count else [], whole
        return readable_lines(data[seen - first : whole - first]), whole


class JobLooks:
    """The looks at jobs that somebody has seen of late."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], JobLook] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, store: Store, job_id: str, shared_s: float = 0.0) -> JobLook:
        """Look at a job: see `JobLook.refresh`."""
        name = (store.url(), job_id)
        with self._lock:
            look = self._kept.get(name) or JobLook(store, job_id)
        look.refresh(shared_s)
        with self._lock:  # one that there is not is not kept
            look = self._kept.setdefault(name, look)
            self._kept.move_to_end(name)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return look
