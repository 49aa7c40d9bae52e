"""The file of a training's state, `<checkpoint>.state`: JSON and the bytes of arrays in a zip archive, and no pickle.

It is read as a stranger's: its size, its members and every value are looked at before they are used, and the names in
it are compared with those that the environment has, never followed.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simyard.core.files import replacing
from simyard.core.foreign import parse_json

VERSION = 1
MOST_BYTES = 512 << 20
"""Bytes of all arrays: an environment with more keeps the part without its simulation."""
_MOST_JSON = 32 << 20
_HEAD, _DATA = "state.json", "arrays.bin"


class StateError(ValueError):
    """Error of a file that is no state of a training; the message is the end of a sentence."""


@dataclass(frozen=True)
class Entry:
    """An array in the file."""

    path: str
    offset: int
    """In its region."""
    form: list[Any]
    """As `Array.form`."""


@dataclass(frozen=True)
class Kept:
    """The content of a state file."""

    head: dict[str, Any]
    """Everything that is no array."""
    regions: list[tuple[bytes, list[Entry]]]
    """Memory, and the arrays in it."""


def write(path: Path, kept: Kept) -> int:
    """Write a file whole or not at all; return its size."""
    listed = [
        [len(data), [[entry.path, entry.offset, entry.form] for entry in entries]] for data, entries in kept.regions
    ]
    text = json.dumps({"version": VERSION, **kept.head, "regions": listed}, separators=(",", ":"))
    with replacing(path) as beside:
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr(_HEAD, text)
            with archive.open(_DATA, "w") as member:
                for data, _ in kept.regions:
                    member.write(data)
        return beside.stat().st_size


def read(path: Path) -> Kept:
    """Read a file.

    Raises:
        StateError: If it is damaged, too large, of another version or of another form.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: member.file_size for member in archive.infolist()}
            if len(archive.infolist()) != 2 or set(members) != {_HEAD, _DATA}:
                raise StateError(f"has the members {sorted(members)[:5]}, not {_HEAD!r} and {_DATA!r}")
            for name, most in ((_HEAD, _MOST_JSON), (_DATA, MOST_BYTES)):
                if members[name] > most:
                    raise StateError(f"has {members[name]:,} bytes in {name!r}; allowed are {most:,}")
            head = _head(archive.read(_HEAD))
            with archive.open(_DATA) as data:
                regions = [(_exactly(data.read(size), size), entries) for size, entries in _regions(head)]
                if data.read(1):
                    raise StateError(f"has more in {_DATA!r} than its header lists")
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise StateError(f"is no whole zip archive ({error})") from error
    return Kept(head, regions)


def _head(data: bytes) -> dict[str, Any]:
    try:
        head = parse_json(data)
    except ValueError as error:
        raise StateError(f"has a header that is no JSON ({error})") from error
    if not isinstance(head, dict) or head.get("version") != VERSION:
        version = head.get("version") if isinstance(head, dict) else None
        raise StateError(f"is of version {version!r:.20}; this simyard reads {VERSION}")
    for name in ("identity", "numbers", "generators", "random"):
        if not isinstance(head.get(name), dict):
            raise StateError(f"has no {name!r} in its header")
    return head


def _regions(head: dict[str, Any]) -> list[tuple[int, list[Entry]]]:
    try:
        regions = [
            (int(size), [Entry(str(path), int(offset), list(form)) for path, offset, form in entries])
            for size, entries in head.pop("regions")
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"lists its arrays in another form ({error})") from error
    if any(size < 0 for size, _ in regions) or sum(size for size, _ in regions) > MOST_BYTES:
        raise StateError(f"lists more than {MOST_BYTES:,} bytes")
    return regions


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise StateError(f"has {len(data):,} bytes where its header lists {size:,}")
    return data
