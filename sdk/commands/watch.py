"""`simyard jobs watch`: stage, progress and the newest lines of a job, from the store alone, until it has ended."""

from __future__ import annotations

import time
from typing import Any

from simyard.commands.live import LiveLine
from simyard.commands.run import say_ending
from simyard.store.keys import JobKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks import history
from simyard.tasks.frame import load_spec
from simyard.tasks.mirror import readable_lines

POLL_S = 1.0
LOGS = ("command.stdout.log", "user_job.log")
FIRST_LINES = 10
"""How many lines of each log are shown of what was there before."""


def watch(store: Store, job_id: str, *, quiet: bool = False) -> dict[str, Any]:
    """Follow a job to its end; return its result.

    Args:
        store: Its store.
        job_id: The job.
        quiet: Whether to print nothing.

    Raises:
        RequestError: If there is no such job.
    """
    load_spec(store, job_id)
    live, follower = LiveLine(), _Follower(store, job_id)
    while True:
        standing = history.job_status(store, job_id)
        if not quiet:
            for line in follower.new_lines(standing["attempts"]):
                live.say(line)
        has_result = standing["status"] in history.ENDED and "timings" in standing
        if has_result and not quiet:
            say_ending(standing, store, live)
        if has_result or standing["status"] == "interrupted":
            return standing
        if not quiet:
            live(standing | {"stage": standing.get("stage") or standing["status"], "total": standing["total"] or 0})
        time.sleep(POLL_S)


class _Follower:
    """Reads what was added to the logs of the newest attempt."""

    def __init__(self, store: Store, job_id: str) -> None:
        self._store = store
        self._job = JobKeys(job_id)
        self._attempt = 0
        self._seen: dict[str, int] = {}

    def new_lines(self, attempt: int) -> list[str]:
        """Return the lines since the last call, each with the name of its log."""
        if attempt != self._attempt:
            self._attempt, self._seen = attempt, {}
        return [f"{name}: {line}" for name in LOGS for line in self._of(name)] if attempt else []

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
        return lines if began is not None else lines[-FIRST_LINES:]
