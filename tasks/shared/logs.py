"""The logs of a job while they grow: the lines that are new since one looked last."""

from __future__ import annotations

from collections.abc import Sequence

from simyard.store.keys import JobKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.attempt.transfer import readable_lines

TAIL_BYTES = 64 * 1024
"""Bytes at the end of a log in which its last lines are looked for."""


def last_lines(store: Store, job_id: str, attempt: int, name: str, count: int) -> list[str]:
    """Return the last lines of a log of one attempt; none where there is no such log.

    Args:
        store: The job's store.
        job_id: The job.
        attempt: The attempt, counted from 1.
        name: Of the log, such as `command.stdout.log`.
        count: How many lines.
    """
    key = JobKeys(job_id).attempt(attempt).file(name)
    try:
        path = store.path(key)
        if path is None:
            data = store.get_bytes(key)
        else:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - TAIL_BYTES))
                data = file.read()
    except (KeyNotFound, FileNotFoundError):
        return []
    return readable_lines(data[-TAIL_BYTES:])[-count:]


class LogFollower:
    """Reader of the lines that were added to logs of a job's newest attempt."""

    def __init__(self, store: Store, job_id: str, names: Sequence[str], first_lines: int) -> None:
        """Begin.

        Args:
            store: The job's store.
            job_id: The job.
            names: Of the logs, such as `command.stdout.log`.
            first_lines: How many lines of each are new at first.
        """
        self._store = store
        self._job = JobKeys(job_id)
        self._names = names
        self._first_lines = first_lines
        self._attempt = 0
        self._seen: dict[str, int] = {}

    def new_lines(self, attempt: int) -> list[tuple[str, str]]:
        """Return the lines since the last call, each with the name of its log.

        Args:
            attempt: How many attempts the job has.
        """
        if attempt != self._attempt:
            self._attempt, self._seen = attempt, {}
        return [(name, line) for name in self._names for line in self._of(name)] if attempt else []

    def _of(self, name: str) -> list[str]:
        key = self._job.attempt(self._attempt).file(name)
        try:
            if self._store.stat(key).size_bytes == self._seen.get(name, 0):
                return []
            data = self._store.get_bytes(key)
        except KeyNotFound:
            return []
        began = self._seen.get(name)
        whole = data[: data.rfind(b"\n") + 1]
        self._seen[name] = len(whole)
        lines = readable_lines(whole[began or 0 :])
        return lines if began is not None else lines[-self._first_lines :]
