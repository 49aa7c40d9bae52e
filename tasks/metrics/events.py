"""Reads the scalars of TensorBoard event files while they are being written, with the standard library alone.

An event file is a row of TFRecord frames, each holding one protobuf `Event`:

    uint64 length | uint32 checksum of the length | `length` bytes of Event | uint32 checksum of the Event

Both checksums are masked CRC-32C, which Python lacks. The one of the length is checked: a wrong length would lead
the reader astray, and few lengths occur, so each is worked out once. The one of the Event is not: at 90 ns a byte in
Python it costs ten times what all the rest does. A damaged Event is noticed when its fields do not add up.
"""

from __future__ import annotations

import os
import re
import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from simyard.tasks.metrics.event_protos import Event, decode_event, int64, masked_crc32c

MAX_RECORD = 256 * 2**20
"""Bytes; a longer record is taken for garbage (videos reach tens of MiB)."""
_CHUNK = 2**20

_HEADER = struct.Struct("<QI")
_STEP_FIELD = re.compile(rb"(?:\x10[\x80-\xff]{0,9}[\x00-\x7f])?")


@dataclass(slots=True)
class Series:
    """Scalars of one tag in the order they were written: three columns of one length."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    """Step of each scalar."""
    walls: array[float] = field(default_factory=lambda: array("d"))
    """Wall time of each scalar, in seconds since 1970."""
    values: array[float] = field(default_factory=lambda: array("d"))
    """The scalars; every one is an exact float32 unless `wide`."""
    wide: bool = False
    """Whether a float64 is among the values."""

    def extend(self, other: Series) -> None:
        """Append the scalars of another series."""
        self.steps.extend(other.steps)
        self.walls.extend(other.walls)
        self.values.extend(other.values)
        self.wide |= other.wide

    def before(self, step: int) -> Series:
        """Return the scalars with a smaller step."""
        kept = [index for index, own in enumerate(self.steps) if own < step]
        return Series(
            array("q", (self.steps[index] for index in kept)),
            array("d", (self.walls[index] for index in kept)),
            array("d", (self.values[index] for index in kept)),
            self.wide,
        )


class EventReader:
    """Reads one event file bit by bit: every call returns what was added since the call before.

    Nothing is ever raised for what the file holds. A half-written last record is waited for; at a broken record the
    reader stops, says so in `error`, and looks there again when the file has changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        """Bytes read so far; always the start of a record."""
        self.error: str | None = None
        """Why the last call stopped before the end of the file, and at which byte."""
        self._stamp: tuple[int, int] | None = None

    def read_new(self) -> dict[str, Series]:
        """Return the scalars that arrived since the last call, by tag.

        A file that did not change costs one `stat`.
        """
        scan = _Scan()
        try:
            stat = self.path.stat()
            if (stat.st_size, stat.st_mtime_ns) == self._stamp:
                return {}
            self._stamp, self.error = (stat.st_size, stat.st_mtime_ns), None
            if stat.st_size < self.offset:
                self.error = f"the file shrank to {stat.st_size} bytes after {self.offset} had been read"
            else:
                self._read(scan)
        except OSError as problem:
            self._stamp, self.error = None, f"cannot read: {problem}"
        return scan.found

    def _read(self, scan: _Scan) -> None:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            rest = b""
            # Reading at least as much as is left over keeps a record of many chunks from costing quadratic time.
            while scan.problem is None and (more := file.read(max(_CHUNK, len(rest)))):
                data = rest + more
                used = scan.records(data)
                self.offset += used
                rest = data[used:]
        if scan.problem is not None:
            self.error = f"{scan.problem} at byte {self.offset}"


def find_event_files(root: Path) -> list[Path]:
    """Return every event file in a folder and the folders below it, sorted; none when there is no such folder."""
    return sorted(
        Path(folder, name)
        for folder, _, names in os.walk(root)
        for name in names
        if name.startswith("events.out.tfevents.")
    )


class _Layout(NamedTuple):
    unpack: Callable[[bytes, int], tuple[Any, ...]]
    """Takes a record apart: wall time, step field, all between it and the value, value."""
    size: int


class _Scan:
    """One pass over new records.

    Trainers write one float32 to an event, so records of one tag differ in the wall time, the step and the last
    four bytes only. Such a record is decoded by its fields once; the others that agree in all remaining bytes must
    mean the same, and one `struct` call takes them apart.
    """

    def __init__(self) -> None:
        self.found: dict[str, Series] = {}
        self.problem: str | None = None
        # By the frame's header and the key of the wall time, so a hit vouches for the length and its checksum.
        self._layouts: dict[bytes, _Layout] = {}
        # By the bytes between step and value, which hold the tag.
        self._appends: dict[bytes, tuple[Callable[[int], None], Callable[[float], None], Callable[[float], None]]] = {}

    def records(self, data: bytes) -> int:
        """Collect the complete records that `data` begins with; return how many bytes they are."""
        layouts, appends = self._layouts, self._appends
        at, end = 0, len(data)
        step_field, step = b"", 0
        while True:
            layout = layouts.get(data[at : at + 13])
            if layout is not None and at + layout[1] <= end:
                wall, new_step_field, middle, value = layout[0](data, at)
                append = appends.get(middle)
                if append is not None and (new_step_field == step_field or _STEP_FIELD.fullmatch(new_step_field)):
                    if new_step_field != step_field:
                        step_field, step = new_step_field, int64(new_step_field, 1) if new_step_field else 0
                    append[0](step)
                    append[1](wall)
                    append[2](value)
                    at += layout[1]
                    continue
            try:
                size = self._record(data, at)
            except ValueError as problem:
                self.problem = str(problem)
                return at
            if not size:
                return at
            at += size

    def _record(self, data: bytes, at: int) -> int:
        """Collect one record by its fields; return its bytes, 0 when it is not complete yet."""
        if at + _HEADER.size > len(data):
            return 0
        length: int
        length, checksum = _HEADER.unpack_from(data, at)
        if checksum != masked_crc32c(data[at : at + 8]):
            raise ValueError("not a TFRecord: the checksum of its length is wrong")
        if length > MAX_RECORD:
            raise ValueError(f"a record of {length} bytes (at most {MAX_RECORD} are believed)")
        start = at + _HEADER.size
        stop = start + length
        if stop + 4 > len(data):
            return 0
        event = decode_event(data, start, stop)
        for scalar in event.scalars:
            series = self.found.setdefault(scalar.tag, Series())
            series.steps.append(event.step)
            series.walls.append(event.wall)
            series.values.append(scalar.value)
            series.wide |= scalar.wide
        self._learn(data[at:stop], event, stop)
        return stop + 4 - at

    def _learn(self, record: bytes, event: Event, stop: int) -> None:
        if event.width is None or len(event.scalars) != 1:
            return
        scalar = event.scalars[0]
        if scalar.wide or scalar.stop != stop:
            return
        middle = record[21 + event.width : -4]
        layout = struct.Struct(f"<13xd{event.width}s{len(middle)}sf4x")
        self._layouts[record[:13]] = _Layout(layout.unpack_from, layout.size)
        series = self.found[scalar.tag]
        self._appends[middle] = (series.steps.append, series.walls.append, series.values.append)
