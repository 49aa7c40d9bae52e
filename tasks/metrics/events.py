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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from simyard.core.files import open_inside

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
        return self._at([index for index, own in enumerate(self.steps) if own < step])

    def written_before(self, wall: float) -> Series:
        """Return the scalars with an earlier wall time."""
        return self._at([index for index, own in enumerate(self.walls) if own < wall])

    def _at(self, kept: list[int]) -> Series:
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
        """Reason that the last call stopped before the end of the file, and at which byte; None at the end."""
        self._stamp: tuple[int, int] | None = None

    def read_new(self) -> dict[str, Series]:
        """Return the scalars that arrived since the last call, by tag.

        A file that did not change costs one `stat`.
        """
        scan = _Scan()
        try:
            stat = self.path.lstat()
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
        with open_inside(self.path.parent, self.path.name) as file:
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


# --- one record -------------------------------------------------------------------------------------------------------


# The few fields of event.proto, summary.proto and tensor.proto that hold scalars; the others are stepped over.
# Protobuf keys: field number << 3 | wire type.
_WALL_TIME, _STEP, _SUMMARY = 1 << 3 | 1, 2 << 3, 5 << 3 | 2
_VALUE, _TAG, _SIMPLE_VALUE, _TENSOR = 1 << 3 | 2, 1 << 3 | 2, 2 << 3 | 5, 8 << 3 | 2
_DTYPE, _SHAPE, _CONTENT = 1 << 3, 2 << 3 | 2, 4 << 3 | 2
# DT_FLOAT and DT_DOUBLE: the struct, and the keys its value may come under, packed or not.
_DTYPES = {1: (struct.Struct("<f"), 5 << 3 | 2, 5 << 3 | 5), 2: (struct.Struct("<d"), 6 << 3 | 2, 6 << 3 | 1)}

_FLOAT = struct.Struct("<f")
_DOUBLE = struct.Struct("<d")


class Scalar(NamedTuple):
    """One number of an event."""

    tag: str
    value: float
    wide: bool
    """Whether it was stored as a float64."""
    stop: int
    """End of the value's bytes; -1 if it has none."""


class Event(NamedTuple):
    """One record of an event file."""

    wall: float
    """Seconds since 1970."""
    step: int
    scalars: list[Scalar]
    width: int | None
    """Bytes of the step field when the event opens with wall time, then step (or none); else None."""


def decode_event(data: bytes, start: int, stop: int) -> Event:
    """Decode the protobuf Event in `data[start:stop]`.

    Raises:
        ValueError: Its fields do not add up.
    """
    wall, wall_at, step, step_span = 0.0, -1, 0, (start + 9, start + 9)
    scalars: list[Scalar] = []
    for key, at, end in _fields(data, start, stop):
        if key == _WALL_TIME:
            (wall,), wall_at = _DOUBLE.unpack_from(data, at), at
        elif key == _STEP:
            step, step_span = int64(data, at), (at - 1, end)
        elif key == _SUMMARY:
            values = (_scalar(data, *span) for kind, *span in _fields(data, at, end) if kind == _VALUE)
            scalars.extend(scalar for scalar in values if scalar is not None)
    in_order = wall_at == start + 1 and step_span[0] == start + 9
    return Event(wall, step, scalars, step_span[1] - step_span[0] if in_order else None)


def _scalar(data: bytes, start: int, stop: int) -> Scalar | None:
    tag, found = "", None
    for key, at, end in _fields(data, start, stop):
        if key == _TAG:
            tag = data[at:end].decode("utf-8", "replace")
        elif key == _SIMPLE_VALUE:
            found = _FLOAT.unpack_from(data, at)[0], False, end
        elif key == _TENSOR:
            found = _tensor(data, at, end)
    return None if found is None else Scalar(tag, *found)


def _tensor(data: bytes, start: int, stop: int) -> tuple[float, bool, int] | None:
    """Decode a float tensor of rank 0, as TensorFlow 2 writes a scalar; None for any other."""
    spans = {key: (at, end) for key, at, end in _fields(data, start, stop)}
    shape = spans.get(_SHAPE, (0, 0))
    dtype = _DTYPES.get(int64(data, spans[_DTYPE][0])) if _DTYPE in spans else None
    if dtype is None or shape[0] != shape[1]:
        return None
    form, *keys = dtype
    for key in (_CONTENT, *keys):
        at, end = spans.get(key, (0, 0))
        if end - at == form.size:
            return form.unpack_from(data, at)[0], form.size == 8, end
    return 0.0, form.size == 8, -1  # protobuf leaves out what is zero


def _fields(data: bytes, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield key, start and end of each field of a message."""
    while at < stop:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            end = _varint(data, at)[1]
        elif kind == 1:
            end = at + 8
        elif kind == 2:
            size, at = _varint(data, at)
            end = at + size
        elif kind == 5:
            end = at + 4
        else:
            raise ValueError(f"not an Event: wire type {kind}")
        if end > stop:
            raise ValueError("not an Event: a field runs over the end")
        yield key, at, end
        at = end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    # Ten bytes hold 64 bits. A number that runs on into the next field or record is caught by `_fields`.
    value = 0
    for shift, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + shift + 1
    raise ValueError("not an Event: a number without an end")


def int64(data: bytes, at: int) -> int:
    """Decode the signed number that begins at `at`; raise ValueError when it has no end."""
    value = _varint(data, at)[0]
    return value - 2**64 if value >> 63 else value


_CRC_TABLE = list(range(256))
for _ in range(8):
    _CRC_TABLE = [crc >> 1 ^ (0x82F63B78 if crc & 1 else 0) for crc in _CRC_TABLE]


def masked_crc32c(data: bytes) -> int:
    """Return the checksum TFRecord frames carry: CRC-32C, rotated and shifted by a constant."""
    crc = 0xFFFF_FFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFF_FFFF
    return (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFF_FFFF
