"""Decodes the parts of an event file: TFRecord checksums and the protobuf messages that hold scalars.

Hand-written for the few fields it needs (`event.proto`, `summary.proto`, `tensor.proto`); the others are stepped over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

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


def _crc_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [crc >> 1 ^ (0x82F63B78 if crc & 1 else 0) for crc in table]
    return table


_CRC_TABLE = _crc_table()


def masked_crc32c(data: bytes) -> int:
    """Return the checksum TFRecord frames carry: CRC-32C, rotated and shifted by a constant."""
    crc = 0xFFFF_FFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFF_FFFF
    return (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFF_FFFF
