"""Logs: of this machine while they are written, and in the store while they grow; never more of one than is asked for.

A workload may print without end. So a log is read in pieces, and loses its middle before it fills the disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from simyard.core.files import OutsideError, open_inside
from simyard.core.terminal import plain
from simyard.store.keys import JobKeys
from simyard.store.store import KeyNotFound, Store

MAX_LOG_BYTES = 256 * 1024**2
"""A longer log of an attempt or of a trainer's call is shortened."""
KEPT_BYTES = 64 * 1024**2
"""Bytes that are kept of its beginning, and of its end."""
PIECE_BYTES = 1024**2
"""Bytes of a log that are in memory at once."""
FORWARDED_BYTES = 256 * 1024
"""Bytes of the newest output that are passed on in a round; the log itself has all."""
TAIL_BYTES = (64 * 1024, 512 * 1024, 8 * 1024**2)
"""Bytes at the end of a log in which its last lines are looked for: more only where less has too few lines."""

_DECORATION = re.compile(r"[\s\u2580-\u259f#=_-]*")
"""Lines of nothing but blocks and rules: a terminal's logo and separators are noise in a log."""
_NOTE = "[simyard: {:,} bytes of this log were left out here; it had more than {:,}]\n"
_NOTED = re.compile(rb"\[simyard: ([0-9,]+) bytes of this log were left out here; it had more than [0-9,]+\]\n")


def readable_lines(data: bytes) -> list[str]:
    """Return the lines of a log as a person reads them, without a terminal's orders and decoration."""
    lines = [plain(line).rstrip() for line in data.decode("utf-8", errors="replace").splitlines()]
    return [line for line in lines if line and not _DECORATION.fullmatch(line)]


# On this machine


def begin_log(path: Path) -> IO[bytes]:
    """Open a log that is empty at first, to append to: only such a one can be shortened while it is written."""
    return open(path, "ab", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_TRUNC, 0o666))


class GrowingLog:
    """Reader of what is added to a log of this machine by another process, which opened it to append."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._offset = 0
        self._rest = b""
        """The last line of `new_lines`, while it is half written."""

    def new_lines(self) -> list[str]:
        """Return the readable lines that were added since the last call; of very many the last ones."""
        data = self._rest
        for piece in self.pieces():
            data += piece
            if len(data) > FORWARDED_BYTES:
                data = data[-FORWARDED_BYTES:].partition(b"\n")[2]
        end = data.rfind(b"\n") + 1
        self._rest = data[end:]
        return readable_lines(data[:end])

    def pieces(self) -> Iterator[bytes]:
        """Yield what was added since the last call, piece by piece; nothing while there is no log."""
        try:
            with open_inside(self._folder, self._name) as file:
                # Another reader may have shortened it. A shorter one than that leaves is being copied once more.
                if KEPT_BYTES < os.fstat(file.fileno()).st_size < self._offset:
                    self._offset = file.seek(0, os.SEEK_END)
                file.seek(self._offset)
                while data := file.read(PIECE_BYTES):
                    self._offset += len(data)
                    yield data
        except (FileNotFoundError, OutsideError):
            return

    def shorten(self, most_bytes: int = MAX_LOG_BYTES, kept_bytes: int = KEPT_BYTES) -> None:
        """Drop the middle of a log that has become too long; the next call of `pieces` goes on where the last ended."""
        if self._offset > most_bytes:  # this is asked several times a second
            self._offset -= shorten(self._folder, self._name, most_bytes, kept_bytes)


def shorten(folder: Path, name: str, most_bytes: int = MAX_LOG_BYTES, kept_bytes: int = KEPT_BYTES) -> int:
    """Drop the middle of a log that has become too long, in its place, while another process appends to it.

    Its beginning stays, then comes a line that says how much is missing, then its end. What is printed in the moment
    between the last look and the cut is lost.

    Returns:
        How many bytes shorter it is.
    """
    try:
        file = open_inside(folder, name, "r+b")  # a link in its place is left alone
    except (FileNotFoundError, OutsideError):
        return 0
    with file:
        size = os.fstat(file.fileno()).st_size
        if size <= most_bytes:
            return 0
        beginning = os.pread(file.fileno(), kept_bytes, 0).rfind(b"\n") + 1 or kept_bytes
        end = size - kept_bytes
        end += os.pread(file.fileno(), PIECE_BYTES, end).find(b"\n") + 1
        before = _NOTED.match(os.pread(file.fileno(), 200, beginning))
        missing = end - beginning
        if before:
            missing += int(before[1].replace(b",", b"")) - len(before[0])
        note = _NOTE.format(missing, most_bytes).encode()

        # The end is copied forward until nothing is behind it any more.
        target = beginning + os.pwrite(file.fileno(), note, beginning)
        while piece := os.pread(file.fileno(), PIECE_BYTES, end):
            end += len(piece)
            target += os.pwrite(file.fileno(), piece, target)
        file.truncate(target)
    return end - target


# In the store


def _last(store: Store, key: str, size: int, count: int) -> tuple[list[str], int]:
    """Return the last whole lines of the first `size` bytes of a log, and where the last of them ends."""
    lines: list[str] = []
    end = 0
    for span in TAIL_BYTES:
        first = max(0, size - span)
        data = store.get_range(key, first, size - first)
        began = data.find(b"\n") + 1 if first else 0  # behind a line that begins further ahead
        end = data.rfind(b"\n") + 1
        lines = readable_lines(data[began:end])
        end += first
        if not first or (began and len(lines) >= count):
            break
    return lines[max(0, len(lines) - count) :], end


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
        """Return lines since the last call, each with the name of its log; some at a time, none when there is no more.

        Args:
            attempt: How many attempts the job has.
        """
        if attempt != self._attempt:
            self._attempt, self._seen = attempt, {}
        return [(name, line) for name in self._names for line in self._of(name)] if attempt else []

    def _of(self, name: str) -> list[str]:
        key = self._job.attempt(self._attempt).file(name)
        try:
            size = self._store.stat(key).size_bytes
            seen = self._seen.get(name)
            if seen is None or size < seen:  # at first, and when the middle of the log was dropped
                lines, self._seen[name] = _last(self._store, key, size, self._first_lines)
                return lines
            while seen < size:
                data = self._store.get_range(key, seen, min(size - seen, PIECE_BYTES))
                # The last line may be half written; one that fills a piece is passed on as it is.
                new = len(data) if len(data) == PIECE_BYTES and b"\n" not in data else data.rfind(b"\n") + 1
                if not new:
                    break
                seen = self._seen[name] = seen + new
                if lines := readable_lines(data[:new]):
                    return lines
        except KeyNotFound:
            pass
        return []
