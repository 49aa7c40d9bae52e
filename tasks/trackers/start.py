"""Trackers that the site names, each told of a job by a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from simyard.blocks.reference import open_store
from simyard.core.errors import SimyardError
from simyard.core.records import TrackerRecord
from simyard.requests.settings import trackers_from_env
from simyard.store.keys import JobKeys

CLOSE_S = 10.0
"""Seconds that trackers may take for the last of a job once it has ended; what is not told by then is left."""


@contextmanager
def mirrored(job_id: str, store: str, warn: Callable[[str], object]) -> Iterator[None]:
    """Have the site's trackers told of a job while the body runs. Nothing that they do or are ends it or slows it."""
    command = [sys.executable, "-m", "simyard.tasks.trackers.mirror"]
    started = {
        name: subprocess.Popen(
            [*command, name, store, job_id], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )
        for name in trackers_from_env()
    }  # fmt: skip
    try:
        yield
    finally:
        for process in started.values():
            assert process.stdin is not None
            with suppress(OSError):
                process.stdin.close()  # by this it knows that there is no more to come
        for name, process in started.items():
            try:
                process.wait(CLOSE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            record = None
            with suppress(SimyardError):
                record = open_store(store).get_record_or_none(JobKeys(job_id).tracker(name), TrackerRecord)
            if record is None or not record.ended:
                problem = (record.problem if record else None) or "it does not answer"
                warn(f"{name} was not told all of {job_id}: {problem}. Tell it later: simyard mirror {job_id}")
