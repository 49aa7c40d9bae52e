"""Files that one process holds at a time. The kernel lets go of them when that process dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

LOOK_S = 0.05
"""Seconds between two tries at a file that another process holds."""


@contextmanager
def held(path: Path, *, patience_s: float = 0.0) -> Iterator[BufferedRandom | None]:
    """Open a file for reading and writing, made if need be, that no one else holds meanwhile.

    Who holds it may rename or delete it: the next to come does not get that file any more, but a new one.

    Args:
        path: The file; its folder must be there.
        patience_s: How long to wait for another holder.

    Yields:
        The file at its start, or None when another still holds it.

    Raises:
        OSError: The file cannot be opened or locked.
    """
    deadline = time.monotonic() + patience_s
    while (file := _try(path)) is None and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    if file is None:
        yield None
    else:
        with file:
            yield file


def _try(path: Path) -> BufferedRandom | None:
    while True:
        file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")  # noqa: SIM115 - the caller closes it
        is_ours = False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):  # renamed or deleted meanwhile, by who held it: then once more
                is_ours = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except BlockingIOError:
            return None
        finally:
            if not is_ours:
                file.close()
        if is_ours:
            return file
