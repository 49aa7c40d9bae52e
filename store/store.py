"""One small interface over a folder and a bucket: the record of every job.

Every write is whole or absent. A bucket gets one PUT, or a multipart upload that is completed at its end; a folder gets
a file that is written beside and renamed. A writer that is killed leaves nothing that `list`, `get_…` or `exists` show:
in a folder a file `NAME#1` that `delete_prefix` clears away, in a bucket an unfinished multipart upload (give the
bucket a lifecycle rule that aborts those).

A store may be used from many threads. It must not be used in a process made by `fork` after its first use, because
obstore's threads do not survive one: start such processes by `spawn` and open the store there.
"""

from __future__ import annotations

import builtins
import errno
import hashlib
import json
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, cast

import obstore
from obstore.exceptions import AlreadyExistsError

from simyard.runner.errors import RequestError, StoreError
from simyard.store.backend import OPTIONS, Credentials, open_backend
from simyard.store.failures import CAUGHT, KeyNotFound, failure, on_disk
from simyard.store.names import Location, check_key, check_prefix, is_being_written, parse_url

__all__ = ["OPTIONS", "Credentials", "Entry", "KeyNotFound", "Stat", "Store", "check_key", "sha256_file"]

PART_BYTES = 8 * 1024 * 1024
"""Files above this size go up in parts of it."""
MAX_PARTS = 9_000
"""S3 takes 10,000 parts; larger files get larger parts."""
UPLOADS_AT_ONCE = 2
"""Parts in flight. Two fill a data centre's line, and still let a part through a 5 Mbit/s one before the timeout."""
READ_BYTES = 4 * 1024 * 1024
"""Objects are read in pieces of this size."""
MAX_SERVER_COPY_BYTES = 5 * 1024**3
"""S3 copies no larger object by itself; larger ones pass through this machine."""
PROGRESS_SECONDS = 0.1
"""How often the caller of an upload hears of it, and may stop it."""

OnBytes = Callable[[int], object]
"""Told how many more bytes were moved, on the caller's thread. An exception from it stops the transfer."""


@dataclass(frozen=True)
class Stat:
    """What is known of an object without reading it."""

    size_bytes: int
    """Length."""
    modified: datetime
    """When it was last written, in UTC; a bucket counts in whole seconds."""


@dataclass(frozen=True)
class Entry(Stat):
    """One object of a listing."""

    key: str
    """Where it is, from the root of the store."""


class Store:
    """A folder or a bucket, by relative keys with `/` between their names.

    Every method raises `RequestError` for a hostile or malformed key, `KeyNotFound` where an object is needed and not
    there, and `StoreError` when the store cannot be reached, read or written.

    Example:
        >>> store = Store.open("s3://robots/simyard")
        >>> store.put_json("jobs/job-1/job.json", {"task": "Isaac-Cartpole-Direct"})
        >>> store.list_dirs("jobs")
        ['job-1']
    """

    def __init__(self, location: Location, options: Mapping[str, str], credentials: Credentials | None) -> None:
        """Use `Store.open`."""
        self._location = location
        self._root = location.folder
        self._backend = open_backend(location, options, credentials)
        self.opened_with = (location, dict(options), credentials)
        """What another store, or another client of the same one, is opened with; secrets included."""

    @classmethod
    def open(
        cls, url: str, *, options: Mapping[str, str] | None = None, credentials: Credentials | None = None
    ) -> Store:
        """Open the store at an address. A folder is made when it is not there; a bucket is not even asked for.

        Args:
            url: `s3://BUCKET/PREFIX`, `file:///FOLDER`, or the path of a folder.
            options: For a bucket, settings that go before the `AWS_*` variables: see `OPTIONS`.
            credentials: For a bucket, a function that returns credentials, for those that expire.

        Raises:
            RequestError: The address or an option is malformed or not allowed.
            StoreError: The folder cannot be made.
        """
        return cls(parse_url(url), options or {}, credentials)

    def __repr__(self) -> str:
        return f"Store({self._location.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # A task's input may be pickled. obstore cannot read back what it writes when an endpoint is given, so the store
        # is opened anew; the pickle holds the options, secrets included, as obstore's own would.
        return Store, self.opened_with

    def url(self, key: str = "") -> str:
        """Return the address of an object, or of the store itself."""
        return self._location.join(check_key(key) if key != "" else "")

    def path(self, key: str) -> Path | None:
        """Return where an object lies on this machine's disk; None in a bucket.

        Raises:
            KeyNotFound: There is no such object.
        """
        check_key(key)
        if self._root is None:
            return None
        self.stat(key)
        return self._root / key

    def signed_url(self, method: str, key: str, seconds: float) -> str | None:
        """Return an address of an object that needs no credentials, for a while; None in a folder, which has no server.

        Args:
            method: `GET` or `PUT`, the one thing that it is good for.
            key: The object.
            seconds: How long.
        """
        check_key(key)
        if self._root is not None:
            return None
        with self._failures("sign", key):
            return str(obstore.sign(self._backend, cast("Any", method), key, timedelta(seconds=seconds)))

    # Writing

    def put_bytes(self, key: str, data: bytes) -> None:
        """Write an object, in place of any that was there."""
        check_key(key)
        try:  # and no `_failures`: for small objects that is a tenth of the time
            self._backend.put(key, data, use_multipart=False)
        except CAUGHT as error:
            raise failure("write", self._location.join(key), error, absent_is_missing=False) from error

    def put_new(self, key: str, data: bytes) -> bool:
        """Write an object where there is none, and leave one that is there: of many writers exactly one does it.

        Returns:
            Whether this call wrote it. False can also mean that it did and that the server's answer was lost; who must
            know puts something of its own into the data, and reads it back.
        """
        with self._failures("write", check_key(key), absent_is_missing=False):
            try:
                self._backend.put(key, data, mode="create", use_multipart=False)
            except AlreadyExistsError as error:
                if self._root and (self._root / key).is_dir():
                    raise IsADirectoryError(errno.EISDIR, "it is a folder") from error
                return False
        return True

    def put_json(self, key: str, obj: Any) -> None:
        """Write an object as JSON, indented for people.

        Raises:
            ValueError: It has a number that JSON has not (NaN or an infinity).
            TypeError: It has a type that JSON has not.
        """
        self.put_bytes(key, json.dumps(obj, indent=2, allow_nan=False).encode() + b"\n")

    def put_file(self, key: str, path: str | os.PathLike[str], *, on_bytes: OnBytes | None = None) -> None:
        """Write a file's content, as long as the file is now; it may be larger than memory.

        Args:
            key: Where to.
            path: The file.
            on_bytes: Told of progress.
        """
        check_key(key)
        with on_disk("read", path), open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > PART_BYTES:
                self._put_parts(key, read_pieces(file, size, part_bytes(size)), size, on_bytes)
                return
            data = file.read(size)
        self.put_bytes(key, data)
        if on_bytes and data:
            on_bytes(len(data))

    def _put_parts(self, key: str, pieces: Iterator[bytes], size: int, on_bytes: OnBytes | None = None) -> None:
        # obstore drives the iterator inside its own runtime, where any use of a store panics. So it gets a thread, and
        # `on_bytes` and signals (a cancellation) are served here.
        upload = _Upload(pieces)

        def put() -> None:
            chunk_bytes = part_bytes(size)
            self._backend.put(key, upload, use_multipart=True, chunk_size=chunk_bytes, max_concurrency=UPLOADS_AT_ONCE)

        with self._failures("write", key, absent_is_missing=False), ThreadPoolExecutor(1) as pool:
            upload.watch(pool.submit(put), on_bytes)

    # Reading

    def get_bytes(self, key: str) -> bytes:
        """Return an object's content."""
        check_key(key)
        try:
            return cast("bytes", self._backend.get(key).bytes().to_bytes())
        except CAUGHT as error:
            raise failure("read", self._location.join(key), error) from error

    def get_json(self, key: str) -> Any:
        """Return an object's content as JSON types.

        Raises:
            StoreError: It is not JSON.
        """
        data = self.get_bytes(key)
        try:
            return json.loads(data)
        except ValueError as error:
            raise StoreError(
                f"{self.url(key)!r} is not JSON: {error}",
                code="bad_json",
                advice="Something else wrote it: delete it, or restore it from the job that made it.",
            ) from error

    def get_file(
        self,
        key: str,
        path: str | os.PathLike[str],
        *,
        sha256: str | None = None,
        on_bytes: OnBytes | None = None,
    ) -> None:
        """Copy an object into a file, which appears when it is whole; folders are made as needed.

        Args:
            key: Where from.
            path: The file; one that exists is replaced.
            sha256: The digest that the content must have, in hexadecimal digits.
            on_bytes: Told of progress.

        Raises:
            StoreError: The content has another digest; then there is no file.
        """
        target = Path(path)
        partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.partial")
        digest = hashlib.sha256()
        stream = self._stream(check_key(key))
        try:
            with on_disk("write", target):
                target.parent.mkdir(parents=True, exist_ok=True)
                with partial.open("xb") as file:
                    while piece := self._next(key, stream):
                        file.write(piece)
                        if sha256 is not None:
                            digest.update(piece)
                        if on_bytes:
                            on_bytes(len(piece))
                if sha256 is not None:
                    self._check_digest(key, digest.hexdigest(), sha256)
                partial.replace(target)
        finally:
            with suppress(OSError):  # it has become the file, or there is no such folder
                partial.unlink()

    def _stream(self, key: str) -> Iterator[bytes]:
        """Open an object; when it is replaced meanwhile, the old content goes on coming."""
        with self._failures("read", key):
            if not self._root:
                return cast("Iterator[bytes]", self._backend.get(key).stream(READ_BYTES))
            # obstore reads a file in pieces of 8 kB, each handed from one thread to another: several times slower.
            self._backend.head(key)
            return _all_pieces(open(self._root / key, "rb", buffering=0))

    def _next(self, key: str, stream: Iterator[bytes]) -> bytes:
        with self._failures("read", key):
            return next(stream, b"")

    def _check_digest(self, key: str, found: str, expected: str) -> None:
        if found != expected.lower():
            raise StoreError(
                f"{self.url(key)!r} has the SHA-256 digest {found!r}, not {expected!r}.",
                code="digest_mismatch",
                advice="The object was changed or damaged: upload it again.",
            )

    def exists(self, key: str) -> bool:
        """Tell whether there is an object under this key; a folder is none. A bucket that is not there has none."""
        try:
            self.stat(key)
        except KeyNotFound:
            return False
        return True

    def stat(self, key: str) -> Stat:
        """Return an object's size and time."""
        with self._failures("read", check_key(key)):
            meta = self._backend.head(key)
        return Stat(size_bytes=meta["size"], modified=meta["last_modified"])

    def list(self, prefix: str = "") -> builtins.list[Entry]:
        """Return every object below a folder, at any depth, sorted by key."""
        prefix = check_prefix(prefix)
        with self._failures("list", prefix):
            entries = [
                Entry(meta["size"], meta["last_modified"], meta["path"])
                for chunk in self._backend.list(prefix or None, chunk_size=1000)
                for meta in chunk
                # A bucket's console makes a folder as an empty object of the same name.
                if meta["path"] != prefix and not is_being_written(meta["path"])
            ]
        return sorted(entries, key=lambda entry: entry.key)

    def list_dirs(self, prefix: str = "") -> builtins.list[str]:
        """Return the names of the folders right below a folder, sorted. A folder is where an object lies below."""
        prefix = check_prefix(prefix)
        with self._failures("list", prefix):
            found = self._backend.list_with_delimiter(prefix or None)["common_prefixes"]
        if self._root:  # on a disk a folder can be empty, or hold nothing but what a killed writer left
            found = [folder for folder in found if self._holds_any(folder)]
        return sorted(folder.rpartition("/")[2] for folder in found)

    def _holds_any(self, folder: str) -> bool:
        with self._failures("list", folder):
            return any(not is_being_written(meta["path"]) for chunk in self._backend.list(folder) for meta in chunk)

    # Copying and deleting

    def copy(self, src: str, dst: str) -> None:
        """Copy an object inside the store, without moving its bytes where the store can.

        In a folder the copy is a second link to the same content. Writing to either key through a store leaves the
        other as it is; editing such a file in place changes both.
        """
        size = self.stat(src).size_bytes
        if check_key(dst) == src or self._is_same_file(src, dst):
            return
        if size > MAX_SERVER_COPY_BYTES:
            self._copy_through_here(src, dst, size)
            return
        try:
            with self._failures("copy", src):
                self._backend.copy(src, dst)
        except StoreError:
            # Some file systems have no second links, or not from one to another.
            if not self._root or not self.exists(src):
                raise
            self._copy_through_here(src, dst, size)

    def _is_same_file(self, src: str, dst: str) -> bool:
        # Renaming a link over another to the same content does nothing, and would leave the link beside for good.
        try:
            return self._root is not None and (self._root / src).samefile(self._root / dst)
        except OSError:
            return False

    def _copy_through_here(self, src: str, dst: str, size: int) -> None:
        with self._failures("read", src):
            stream = self._backend.get(src).stream(part_bytes(size))
        # One obstore call may not wait inside another on the same thread.
        with ThreadPoolExecutor(1) as pool:
            self._put_parts(dst, iter(lambda: pool.submit(next, stream, b"").result(), b""), size)

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is deleted already."""
        with self._failures("delete", check_key(key)):
            try:
                self._backend.delete(key)
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise

    def delete_prefix(self, prefix: str) -> None:
        """Delete everything below a folder, and what killed writers left there.

        Raises:
            RequestError: The prefix is empty: nothing deletes a whole store.
        """
        prefix = check_prefix(prefix)
        if not prefix:
            raise RequestError(
                "The prefix to delete is empty.", code="bad_key", advice="Name the folder to delete, such as 'jobs/ID'."
            )
        if self._root:
            with on_disk("delete", self._root / prefix):
                _remove_folder(self._root / prefix)
            return
        keys = [entry.key for entry in self.list(prefix)]
        with self._failures("delete", prefix):
            if keys:
                self._backend.delete(keys)

    @contextmanager
    def _failures(self, action: str, key: str, *, absent_is_missing: bool = True) -> Iterator[None]:
        try:
            yield
        except CAUGHT as error:
            raise failure(action, self._location.join(key), error, absent_is_missing=absent_is_missing) from error


class _Upload:
    """An iterator that one thread empties while another watches how far it is, and may stop it."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._taken = 0
        self._stopped = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._stopped.is_set():
            raise InterruptedError("the upload was stopped")  # obstore then takes back what it has sent
        piece = next(self._pieces)
        self._taken += len(piece)
        return piece

    def watch(self, done: Future[None], on_bytes: OnBytes | None) -> None:
        """Wait for the end, telling of progress; stop the upload when that raises."""
        told = 0
        try:
            while True:
                ended = wait([done], timeout=PROGRESS_SECONDS).done
                taken = self._taken
                if on_bytes and taken > told:
                    on_bytes(taken - told)
                    told = taken
                if ended:
                    return done.result()
        except BaseException:
            self._stopped.set()
            raise


def part_bytes(size: int) -> int:
    """Return the size of the parts in which a file of this size goes into a bucket."""
    return max(PART_BYTES, -(-size // MAX_PARTS))


def read_pieces(file: IO[bytes], size: int, piece_bytes: int) -> Iterator[bytes]:
    """Yield the first `size` bytes of a file in pieces; fewer where the file is shorter."""
    # No further than the file's length at the start: a log that grows would never end.
    while size > 0 and (piece := file.read(min(size, piece_bytes))):
        size -= len(piece)
        yield piece


def _all_pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        yield from iter(lambda: file.read(READ_BYTES), b"")


def _remove_folder(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return a file's SHA-256 digest in hexadecimal digits, reading it in pieces.

    Raises:
        StoreError: The file cannot be read.
    """
    with on_disk("read", path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
