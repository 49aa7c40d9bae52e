"""TensorBoard's writers, made to write: they keep scalars in queues and buffers, which a killed process takes along.

The attempt that takes up a checkpoint logs only what comes after it. So what was logged before a checkpoint must be on
the disk before it, or the job's metrics have a gap.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from simyard.runner.imported import when_imported

_OPEN: set[Any] = set()
"""Writers that have not been closed: a forgotten one of tensorboardX leaves its thread."""


def write_at_once() -> None:
    """Have every writer that is made from now on put a scalar into its file before it returns.

    That takes 15 µs, half of what the hand-over to a queue and its thread took.
    """
    when_imported("tensorboard.summary.writer.event_file_writer", _change_tensorboard)
    when_imported("tensorboardX.event_file_writer", _change_tensorboardx)


def _change_tensorboard() -> None:
    """Patch TensorBoard's own writer, which torch uses."""
    from tensorboard.summary.writer import event_file_writer

    event_file_writer._AsyncWriter = _DirectWriter


def _change_tensorboardx() -> None:
    """Patch the writer of tensorboardX."""
    from tensorboardX.event_file_writer import EventFileWriter

    if EventFileWriter.add_event is not _add_event:
        EventFileWriter.add_event = _add_event
        EventFileWriter.__init__ = _remembered(EventFileWriter.__init__)


def close_all() -> None:
    """Close every writer: some libraries leave that to the interpreter's end, which is not waited for."""
    for writer in list(_OPEN):
        writer.close()
    _OPEN.clear()


class _DirectWriter:
    """Takes the place of TensorBoard's writer with a queue and a thread."""

    def __init__(self, record_writer: Any, max_queue_size: int = 0, flush_secs: float = 0) -> None:
        self._records = record_writer
        self._lock = threading.Lock()
        _OPEN.add(self)

    def write(self, data: bytes) -> None:
        with self._lock:
            self._records.write(data)
            self._records.flush()

    def flush(self) -> None:
        """Everything is written."""

    def close(self) -> None:
        with self._lock:
            self._records.close()
        _OPEN.discard(self)


def _remembered(make: Callable[..., None]) -> Callable[..., None]:
    def init(writer: Any, *arguments: Any, **more: Any) -> None:
        make(writer, *arguments, **more)
        _OPEN.add(writer)

    return init


def _add_event(writer: Any, event: Any) -> None:
    """Take the place of a method of tensorboardX that puts events into a queue; it flushes every two minutes."""
    if not writer._closed:
        writer._ev_writer.write_event(event)
        records = writer._ev_writer._py_recordio_writer
        getattr(records, "_writer", records).flush()  # the file's own: that of the records waits for the disk
