"""An attempt's files between its machine and the store: inputs come by a cache, outputs are sent while it runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Literal

from simyard.core.artifacts import EVENTS
from simyard.core.errors import SimyardError
from simyard.core.files import AttemptPaths, OutsideError, held, replacing
from simyard.core.records import AttemptStatus, this_process
from simyard.core.specs import AttemptSpec, Facts, InputFile
from simyard.core.wire import now, now_ms
from simyard.store.backend import on_disk
from simyard.store.keys import AttemptKeys, JobKeys
from simyard.store.store import READ_BYTES, Store
from simyard.tasks.shared.heartbeat import HeartbeatWriter
from simyard.tasks.shared.logs import GrowingLog

INTERVAL_S = 5.0
"""Seconds that the store may lie behind, plus the time of one upload."""


class AttemptUploader:
    """Sends an attempt's files. Everything is written whole; nothing below the attempt has a second writer."""

    def __init__(
        self,
        store: Store,
        attempt: AttemptSpec,
        paths: AttemptPaths,
        facts: Facts | None,
        *,
        unit: str,
        total: int,
        on_lines: Callable[[list[str]], None],
    ) -> None:
        self.status = AttemptStatus(
            status="running",
            stage="starting",
            start_iteration=attempt.start_iteration,
            done=attempt.start_iteration,
            total=total,
            unit=unit,
            reward=None,
            **this_process(),
            began_at=now(),
            facts=facts,
        )
        """The heartbeat; `note` changes it."""
        self.cancel_requested = threading.Event()
        self.problem: SimyardError | None = None
        """The last failed upload, until one succeeds."""
        self._store = store
        self._job = JobKeys(attempt.job.job_id)
        self._keys: AttemptKeys = self._job.attempt(attempt.number).node(attempt.node)
        self._heartbeat = HeartbeatWriter(store, self._keys.status, lambda: self.status, INTERVAL_S)
        self._attempt = attempt
        self._paths = paths
        self._sent: dict[str, tuple[int, int]] = {}
        self._refused: set[Path] = set()
        self._noting = threading.Lock()
        self._on_lines = on_lines
        self._log = GrowingLog(paths.root, paths.stdout.name)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="uploader", daemon=True)

    def start(self) -> None:
        """Begin to send, every few seconds, on a thread of its own: a slow store never slows the simulation."""
        self._sync()
        self._thread.start()

    def finish(self) -> None:
        """Stop the thread and send what is left.

        Raises:
            SimyardError: If the store still cannot be written.
        """
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._sync()
        if self.problem:
            raise self.problem

    def _loop(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self._sync()

    def note(self, **changes: Any) -> None:
        """Change fields of the heartbeat; threads may do so at the same time."""
        with self._noting:
            self.status = replace(self.status, **changes)

    def beat(self) -> None:
        """Write the heartbeat and look for a request to stop."""
        self._try(self._beat)

    def _sync(self) -> None:
        self._try(self._send_all, self._beat)

    def _try(self, *steps: Callable[[], None]) -> None:
        try:
            with on_disk("use", self._paths.root):
                for step in steps:
                    step()
            self.problem = None
        # The next round tries again: a store that is away for a minute, or a file that vanished, loses nothing.
        except SimyardError as error:
            self.problem = error

    def _send_all(self) -> None:
        log = self._paths.runner_log
        for path, name in (*self._files(), (log, log.name)):  # the log last: it says which files were refused
            self._send(path, name)
        if lines := self._log.new_lines():  # of output, in one batch a round
            self._on_lines(lines)

    def _beat(self) -> None:
        self._heartbeat.write()
        if self._store.exists(self._job.cancel):
            self.cancel_requested.set()

    def _files(self) -> Iterator[tuple[Path, str]]:
        """Yield the files to send, each with its artifact name."""
        root = self._paths
        logs = (root.staging_log, root.user_log, root.stdout, root.stderr)
        for path in (*logs, root.telemetry, root.diagnostics, root.versions):
            yield path, path.name
        for path in sorted(root.output.rglob("*")):
            name = path.relative_to(root.output)
            # What is still being written lies under a name that begins with a dot, and is renamed when it is whole.
            if (path.is_symlink() or not path.is_dir()) and not any(part.startswith(".") for part in name.parts):
                yield path, str(name)

    def _send(self, path: Path, name: str) -> None:
        """Send a file unless it was sent as it is now."""
        with self._opened(path) as file:
            if file is not None and self._sent.get(name) != (mark := mark_of(file)):
                grows = EVENTS.covers(name)  # TensorBoard keeps those open that it reads
                put = self._store.put_growing if grows else self._store.put_opened
                put(self._keys.file(name), file)
                self._sent[name] = mark

    @contextmanager
    def _opened(self, path: Path) -> Iterator[IO[bytes] | None]:
        """Open a file of the attempt; None where there is none, or where it is something else than a regular file."""
        try:
            file = self._paths.open(path)
        except FileNotFoundError:
            yield None
        except OutsideError as error:
            if path not in self._refused:  # the rest of the attempt is sent all the same
                self._refused.add(path)
                append_pairs(self._paths.runner_log, stage="upload", status="refused", message=str(error))
            yield None
        else:
            with file:
                yield file


def mark_of(file: IO[bytes]) -> tuple[int, int]:
    """Return what changes when an open file does: its size and its time."""
    about = os.fstat(file.fileno())
    return about.st_size, about.st_mtime_ns


def append_pairs(log: Path, **pairs: object) -> None:
    """Add one line of `key=value` pairs and the time; a value of other than plain characters is a JSON string."""
    pairs = {"time": now_ms(), **pairs}
    line = " ".join(f"{key}={_quote(str(value))}" for key, value in pairs.items())
    # The workload can write beside it: a link in its place leads nowhere.
    with open(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666), "ab") as file:
        file.write(f"{line}\n".encode(errors="replace"))


def _quote(text: str) -> str:
    return text if re.fullmatch(r"[^\s\"=\\]+", text) else json.dumps(text, ensure_ascii=False)


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
