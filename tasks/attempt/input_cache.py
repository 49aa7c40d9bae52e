"""Downloads kept on the machine that jobs run on: what one job fetched, the next one copies."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from simyard.core.files import held, replacing
from simyard.core.specs import InputFile
from simyard.store.backend import on_disk
from simyard.store.store import READ_BYTES, Store

WAIT_S = 600.0
"""Another process's download may have stopped for good; after so long, who waits for it fetches the file itself."""

_ENTRY = re.compile(r"[0-9a-f]{64}")
_PARTIAL = re.compile(r"\.?([0-9a-f]{64})\.[0-9a-f]+\.partial")


class _OtherContentError(Exception):
    """Raised inside a copy that is not to be kept."""


class NodeCache:
    """Files under their SHA-256 digest, the least recently used of which go when there are too many bytes.

    Any number of processes may share the folder. One that is killed leaves no wrong entry: an entry appears when it is
    whole, and its digest is verified each time that it is copied.
    """

    def __init__(self, folder: Path, max_bytes: int, wait_s: float = WAIT_S) -> None:
        """Use a folder, which is made when it is needed.

        Args:
            folder: Of the cache alone.
            max_bytes: Of all entries. While files come in there can be more, by the size of those.
            wait_s: How long another process's download of the same file is waited for.
        """
        self.folder = folder
        self.max_bytes = max_bytes
        self.wait_s = wait_s

    def fetch(self, store: Store, file: InputFile, target: Path) -> Literal["cache", "store"]:
        """Bring a file here, from the cache if it is there; the copy is the caller's own.

        Args:
            store: Where the file is otherwise.
            file: What is wanted.
            target: Where to; appears when it is whole. Folders are made as needed.

        Returns:
            Where its bytes came from.

        Raises:
            StoreError: The file is not in the store, has another digest there, or cannot be read or written.
        """
        if file.size_bytes > self.max_bytes or not _ENTRY.fullmatch(file.sha256):
            store.get_file(file.key, target, sha256=file.sha256)
            return "store"
        with on_disk("use", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._copy(file, target):
                return "cache"
            with self._lock(file.sha256, self.wait_s) as is_mine:
                if self._copy(file, target):  # another process has fetched it meanwhile
                    return "cache"
                if is_mine:
                    self._entry(file).unlink(missing_ok=True)  # it is damaged
                    store.get_file(file.key, self._entry(file), sha256=file.sha256)
            is_here = self._copy(file, target)
            self._make_room()
        if not is_here:  # others needed the room, or take too long
            store.get_file(file.key, target, sha256=file.sha256)
        return "store"

    def _entry(self, file: InputFile) -> Path:
        return self.folder / file.sha256

    @contextmanager
    def _lock(self, sha256: str, patience_s: float) -> Iterator[bool]:
        """Be the only one to download this; false when another one still is."""
        path = self.folder / f"{sha256}.lock"
        with held(path, patience_s=patience_s) as file:
            try:
                yield file is not None
            finally:
                if file:
                    path.unlink(missing_ok=True)

    def _copy(self, file: InputFile, target: Path) -> bool:
        """Copy an entry, and tell whether it is there and whole."""
        try:
            entry = self._entry(file).open("rb")
        except FileNotFoundError:
            return False
        digest = hashlib.sha256()
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with entry, replacing(target) as partial, partial.open("xb") as copy:
                os.utime(entry.fileno())  # it was used now
                while piece := entry.read(READ_BYTES):
                    digest.update(piece)
                    copy.write(piece)
                if digest.hexdigest() != file.sha256:
                    raise _OtherContentError
        except _OtherContentError:
            return False
        return True

    def _make_room(self) -> None:
        """Remove the least recently used files until the rest fits, and the remains of killed downloads."""
        entries = []
        for path in self.folder.iterdir():
            if partial := _PARTIAL.fullmatch(path.name):
                with self._lock(partial[1], 0) as nobody_writes:
                    if nobody_writes:
                        path.unlink(missing_ok=True)
            elif _ENTRY.fullmatch(path.name):
                with suppress(FileNotFoundError):  # removed by another process
                    stat = path.stat()
                    entries.append((stat.st_mtime_ns, stat.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size
