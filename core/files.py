"""Files of this machine: written whole or not at all, held by one process at a time; and those of workloads."""

from __future__ import annotations

import atexit
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path, PurePosixPath
from typing import IO, Any

from simyard.core import artifacts
from simyard.core.errors import DISK_FULL, ROOM_ADVICE, Category, Failure

STATE_SUFFIX = ".state"
"""Ending of the state of a training, behind the whole name of the checkpoint that it belongs to."""
LEAST_ROOM = 1 << 20
"""Bytes that a disk has at least where it is not full."""
MOST_STATES = 64 << 20
"""Bytes of all states that an attempt keeps; the newest is kept whatever its size."""
RETRY_S = 0.05
"""Seconds between two tries at a file that another process holds."""


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


def superfluous_states(sizes: Sequence[int]) -> int:
    """Return how many of an attempt's states go, the oldest: those behind which newer ones fill what is allowed.

    Args:
        sizes: Of the states in bytes, oldest first.
    """
    total = 0
    for newer, size in enumerate(reversed(sizes)):
        total += size
        if total > MOST_STATES and newer:
            return len(sizes) - newer
    return 0


def secret_of(path: Path, make: Callable[[], str]) -> str:
    """Return the text of a file that its owner alone can read; where there is none yet, `make` gives it the text."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(make())
        with suppress(FileExistsError):
            os.link(beside, path)  # of several processes that start at once, one decides
        beside.unlink()
    return path.read_text()


def others_may_write(folder: Path) -> Path | None:
    """Return the first thing in a folder, itself included, that another user than this one and root can change."""
    for path in (folder, *folder.rglob("*")):
        try:
            seen = path.lstat()
        except FileNotFoundError:  # gone meanwhile, or the folder is not there yet
            continue
        is_open = seen.st_mode & stat.S_IWOTH or (seen.st_mode & stat.S_IWGRP and seen.st_gid not in (0, os.getegid()))
        if seen.st_uid not in (0, os.geteuid()) or (is_open and not stat.S_ISLNK(seen.st_mode)):
            return path
    return None


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


def full_disk(folder: Path, ended: str) -> Failure | None:
    """Return the failure of something that ended where the disk has no room; None where it has.

    Whatever finds no room can say so in no log either: it looks like a program's own fault.

    Args:
        folder: Where it wrote; it may be gone.
        ended: How it ended, in a sentence.
    """
    there = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(there).free
    if free >= LEAST_ROOM:
        return None
    return Failure(
        code=DISK_FULL,
        category=Category.INFRA,
        message=f"No space left on the disk of {str(folder)!r}: {free / 1e6:.1f} MB free. {ended}",
        advice=ROOM_ADVICE,
    )


class OutsideError(OSError):
    """Error of a name in a folder that is no regular file of that folder."""


def open_inside(folder: Path, name: str | os.PathLike[str], mode: str = "rb") -> IO[bytes]:
    """Open a file in a folder that a workload fills, so that it cannot be another file of this machine.

    It is reached from the folder without a link, and is a regular file of one name. What was looked at is what is
    opened, whatever is put in its place meanwhile; nothing is waited for, as it would be at a FIFO.

    Args:
        folder: The workload's.
        name: A relative path below it.
        mode: `rb`, or `r+b` to change what is there.

    Raises:
        FileNotFoundError: There is no such file.
        OutsideError: It is something else than a regular file, or lies elsewhere.
        OSError: It cannot be opened.
    """
    names = PurePosixPath(name).parts
    if not names or names[0] == "/" or ".." in names or "\0" in os.fspath(name):
        raise OutsideError(errno.EXDEV, "it is no path below its folder", str(name))
    with ExitStack() as opened:
        # Such a descriptor reads nothing: to open a device or a FIFO in earnest has effects.
        at = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
        opened.callback(os.close, at)
        for index, part in enumerate(names):
            at = os.open(part, os.O_PATH | os.O_NOFOLLOW, dir_fd=at)
            opened.callback(os.close, at)
            about = os.fstat(at)
            if index < len(names) - 1 and stat.S_ISDIR(about.st_mode):
                continue
            if index < len(names) - 1 or not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
                raise OutsideError(errno.EXDEV, f"it is {_kind_of(about)}, no regular file", str(name))
        return open(f"/proc/self/fd/{at}", mode)


def lines_inside(path: Path, last_bytes: int | None = None) -> list[str]:
    """Return the lines of a log in a folder that a workload fills; none of one that cannot be read.

    Args:
        path: The log.
        last_bytes: How much of its end is read; all of it by default.
    """
    try:
        with open_inside(path.parent, path.name) as file:
            if last_bytes is not None:
                file.seek(max(0, os.fstat(file.fileno()).st_size - last_bytes))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def _kind_of(about: os.stat_result) -> str:
    """Return the kind of what is no regular file of one name, in words."""
    kinds = ((stat.S_ISLNK, "a symbolic link"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISDIR, "a folder"),
             (stat.S_ISSOCK, "a socket"), (stat.S_ISREG, "a hard link"))  # fmt: skip
    return next((words for test, words in kinds if test(about.st_mode)), "a device")


@contextmanager
def held(path: Path, *, patience_s: float = 0.0) -> Iterator[BufferedRandom | None]:
    """Open a file for reading and writing, made if need be, that no one else holds meanwhile.

    The kernel lets go of it when this process dies, however it dies. Its holder may rename or delete it: the next to
    come does not get that file any more, but a new one.

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
        time.sleep(RETRY_S)
    if file is None:
        yield None
    else:
        with file:
            yield file


def _try(path: Path) -> BufferedRandom | None:
    import fcntl  # which Windows has not, where a policy may run

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


HELD = ".held"
"""File in a folder that is one process's own: held for as long as the process lives, however it ends."""
NEW_MARK_S = 1.0
"""Seconds in which a process that makes a folder its own names the mark; one killed in between leaves it unnamed."""


def own(folder: Path) -> BufferedRandom:
    """Make a folder this process's own, until it dies or closes what is returned; `sweep` removes it after that."""
    beside, mark = folder / f"{HELD}-{uuid.uuid4().hex}", None  # `sweep` sees it once it is held, or left
    while mark is None:  # once more where this process stood still and `sweep` took it for a dead one
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            mark = _try(beside)
    beside.rename(folder / HELD)
    return mark


def sweep(parent: Path, pattern: str) -> None:
    """Remove the folders that were the own ones of processes which were killed; those of other users stay."""
    for mark in parent.glob(f"{pattern}/{HELD}*"):
        with suppress(OSError):
            is_new = mark.name != HELD and time.time() - mark.lstat().st_mtime < NEW_MARK_S
            if mark.parent.lstat().st_uid == os.getuid() and not is_new:
                with held(mark) as file:
                    if file is not None:
                        shutil.rmtree(mark.parent, ignore_errors=True)


@contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """Give a temporary folder; one that a killed process left goes when the next process wants one.

    Args:
        purpose: A word of its name.
    """
    sweep(Path(tempfile.gettempdir()), f"{_SCRATCH}*")
    folder = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{purpose}-"))
    with own(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def lasting_scratch(purpose: str) -> Path:
    """Give a temporary folder that goes with this process.

    Args:
        purpose: A word of its name.
    """
    return _of_the_process.enter_context(scratch(purpose))


_SCRATCH = "simyard-"
_of_the_process = ExitStack()
atexit.register(_of_the_process.close)


class _Below:
    """A path below the root of the paths that have it."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def __get__(self, paths: AttemptPaths, kind: type[AttemptPaths] | None = None) -> Path:
        return paths.root.joinpath(*self._names)


@dataclass(frozen=True)
class AttemptPaths:
    """Every file that an attempt leaves on the machine it runs on; the artifacts among them by their rows."""

    root: Path

    spec = _Below("attempt.json")
    """The `AttemptSpec`."""
    facts = _Below("facts.json")
    """Report of the simulator's check, before the start."""
    outcome = _Below("workload.json")
    """The workload's own account of its end."""
    inputs = _Below("inputs")
    """Staged inputs, read only by convention."""
    overlay = _Below("overlay")
    """Folder of the job's own packages."""
    work = _Below("work")
    """The workload's current folder; the library writes its log tree below."""
    output = _Below("output")
    """Finished files of an evaluation or an export, under their artifact names."""
    recording = _Below("recording.zarr")
    """The rollout's arrays while they are written; in the end they become one file of the output."""
    user_log = _Below(artifacts.USER_LOG.name)
    """Log of the task's own code."""
    staging_log = _Below(artifacts.STAGING_LOG.name)
    """Log of the inputs' transfer, `key=value` lines."""
    stdout = _Below(artifacts.STDOUT.name)
    """Standard output of the workload."""
    stderr = _Below(artifacts.STDERR.name)
    """Standard error of the workload."""
    runner_log = _Below(artifacts.RUNNER_LOG.name)
    """The supervisor's account, `key=value` lines."""
    evaluations = _Below(artifacts.EVALUATIONS.name)
    """The evaluations of a training while it goes on."""
    stop = _Below("stop.json")
    """Appears where a training is to end before its last iteration: `why`."""
    metrics = _Below(artifacts.METRICS.name)
    """One row a step."""
    metrics_time = _Below(artifacts.METRICS_TIME.name)
    """The tags logged against wall seconds."""
    telemetry = _Below(artifacts.TELEMETRY.name)
    """Load and memory, sampled."""
    diagnostics = _Below(artifacts.DIAGNOSTICS.name)
    """Diagnostics of a failure."""
    world = _Below("output", artifacts.WORLD.name)
    """Ranks that trained, and the proof that all were connected; it becomes an artifact."""
    versions = _Below(artifacts.VERSIONS.name)
    """Packages, GPU, driver, image."""

    def open(self, path: Path) -> IO[bytes]:
        """Open one of these files, which the workload may have made: see `open_inside`."""
        return open_inside(self.root, path.relative_to(self.root))

    def make(self) -> None:
        """Create the folders."""
        for folder in (self.inputs, self.work, self.output):
            folder.mkdir(parents=True, exist_ok=True)
