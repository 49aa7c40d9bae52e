"""Files that appear whole or not at all, and their digests."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Give a path beside `path` to write to, a file or a folder; rename it when the block ends without an error.

    A reader sees the old file or the whole new one. After an error nothing is left; a process that is killed leaves the
    hidden file.

    Args:
        path: Its final path; a file that exists is replaced. Its folder must exist.
        durable: Whether the file must survive the machine too, not the process alone: fsync before the rename.
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield beside
        if durable:
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
        beside.replace(path)
    finally:
        if beside.is_dir() and not beside.is_symlink():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file durably; folders are made as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=True) as beside:
        beside.write_bytes(data)


def write_json(path: Path, data: Any) -> None:
    """Write JSON for people and machines, atomically."""
    write_atomic(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return a file's SHA-256 digest in hexadecimal digits, reading it in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
