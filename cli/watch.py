"""`simyard jobs watch`: stage, progress and the newest lines of a job, from the store alone, until it has ended."""

from __future__ import annotations

import time
from typing import Any

from simyard.cli.live import LiveLine
from simyard.cli.run import say_ending
from simyard.store.store import Store
from simyard.tasks.shared import history
from simyard.tasks.shared.history import load_spec
from simyard.tasks.shared.logs import LogFollower

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
    live, follower = LiveLine(), LogFollower(store, job_id, LOGS, FIRST_LINES)
    while True:
        standing = history.job_status(store, job_id)
        if not quiet:
            for name, line in follower.new_lines(standing["attempts"]):
                live.say(f"{name}: {line}")
        has_result = standing["status"] in history.ENDED and "timings" in standing
        if has_result and not quiet:
            say_ending(standing, store, live)
        if has_result or standing["status"] == "interrupted":
            return standing
        if not quiet:
            live(standing | {"stage": standing.get("stage") or standing["status"], "total": standing["total"] or 0})
        time.sleep(POLL_S)
