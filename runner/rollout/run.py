"""A rollout, whoever drives it: record, stop when asked to, keep what there is."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from simyard.core.errors import Stopped
from simyard.core.files import AttemptPaths
from simyard.core.specs import AttemptSpec, Facts
from simyard.runner.rollout.outputs import Recording

Driver = Callable[[Recording, AttemptSpec, Facts, AttemptPaths], None]
"""Simulates the whole job, recording as it goes."""


def rollout(drive: Driver, attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
    """Run a rollout and leave `rollout.zarr`, `summary.json` and, if asked for, `render.mp4` in the output folder.

    Raises:
        WorkloadError: If what the job promises is not there in the end.
        Exception: Whatever the simulator or the task raised; what was recorded until then is kept.
    """
    began = time.monotonic()
    with _stoppable():
        with Recording(attempt, facts, paths) as recording:
            drive(recording, attempt, facts, paths)
        recording.seal()
    print(f"Rollout time: {time.monotonic() - began:.2f} seconds")


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn the supervisor's SIGTERM into an exception: what was recorded is packed before the grace is over."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: packing must not be interrupted
        raise Stopped

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
