"""One small interface over a folder and a bucket: the record of every job.

Every write is whole or absent. A bucket gets one PUT, or a multipart upload that is completed at its end; a folder gets
a file that is written beside and renamed. A writer that is killed leaves nothing that `list`, `get_…` or `exists` show:
in a folder a file `NAME#1` that `delete_prefix` clears away, in a bucket an unfinished multipart upload (give the
bucket a lifecycle rule that aborts those).

A bucket that refuses, breaks off or damages what is sent is asked again, by obstore and here, and nothing is done
twice by that: docs/stores.md says for how long, and what is checked.

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
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError

from simyard.core.errors import RequestError, StoreError
from simyard.core.files import replacing, sha256_of
from simyard.core.wire import Wire, WireError
from simyard.store.backend import (
    CAUGHT,
    Credentials,
    KeyNotFound,
    Location,
    failure,
    may_pass,
    on_disk,
    open_backend,
    parse_url,
)
from simyard.store.keys import check_key, check_prefix, is_being_written

__all__ = ["Entry", "KeyNotFound", "Stat", "Store", "sha256_file"]

PART_BYTES = 8 * 1024 * 1024
"""Files above this size go up in parts of it."""
_TAIL_BYTES = 4096
"""By so many at its end an object is taken for the beginning of a file that has grown since."""
MAX_PARTS = 9_000
"""S3 takes 10,000 parts; larger files get larger parts."""
UPLOADS_AT_ONCE = 2
"""Parts in flight. Two fill a data centre's line, and still let a part through a 5 Mbit/s one before the timeout."""
READ_BYTES = 4 * 1024 * 1024
"""Objects are read in pieces of this size."""
MAX_SERVER_COPY_BYTES = 5 * 1024**3
"""S3 copies no larger object by itself; larger ones pass through this machine."""
READS = 3
"""Times an object is read that comes with another digest than it states: the transfer may have damaged it."""
PROGRESS_SECONDS = 0.1
"""Seconds between two progress callbacks of an upload; a callback may stop it."""
_WRITE = "simyard-write"
"""Metadata of an object in a bucket: the id of the call that wrote it."""
_SHA256 = "simyard-sha256"
"""Metadata of an object in a bucket: its digest, if the writer had all of it at hand."""

T = TypeVar("T")
W = TypeVar("W", bound=Wire)

OnBytes = Callable[[int], object]
"""Progress callback: bytes moved since the last call, on the caller's thread. An exception stops the transfer."""


@dataclass(frozen=True)
class Stat:
    """Metadata of an object, known without reading it."""

    size_bytes: int
    """Length."""
    modified: datetime
    """Time of the last write, in UTC; a bucket counts in whole seconds."""


@dataclass(frozen=True)
class Entry(Stat):
    """One object of a listing."""

    key: str
    """Key, from the root of the store."""


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
        self._backend, self._access = open_backend(location, options, credentials)
        self.opened_with = (location, dict(options), credentials)
        """Arguments that open another store, or another client of the same one; secrets included."""

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

    @property
    def folder(self) -> Path | None:
        """The folder that it is; None for a bucket."""
        return self._root

    def url(self, key: str = "") -> str:
        """Return the address of an object, or of the store itself."""
        return self._location.join(check_key(key) if key != "" else "")

    def path(self, key: str) -> Path | None:
        """Return an object's path on this machine's disk; None in a bucket.

        Raises:
            KeyNotFound: There is no such object.
        """
        check_key(key)
        if self._root is None:
            return None
        self.stat(key)
        return self._root / key

    def signed_url(self, key: str, seconds: float) -> str | None:
        """Return an address that an object is read at without credentials, for a while; None in a folder."""
        check_key(key)
        if self._root is not None:
            return None
        duration = timedelta(seconds=seconds)
        return self._call("sign", key, lambda: str(obstore.sign(self._backend, "GET", key, duration)))

    def signed_upload(self, key: str, seconds: float, size: int, content_type: str) -> str | None:
        """Return an address that one object is written at without credentials, for a while; None in a folder.

        Args:
            key: The object.
            seconds: How long.
            size: Bytes that it has: the server takes no other length.
            content_type: Type that must be sent with it.
        """
        check_key(key)
        if self._root is not None:
            return None
        # obstore signs no headers, and botocore takes most of a second to import.
        from simyard.store.multipart import sign_upload

        return sign_upload(self, key, seconds, size, content_type)

    # Writing

    def put_bytes(self, key: str, data: bytes) -> None:
        """Write an object, in place of any that was there."""
        said = self._said(data)
        put = partial(self._backend.put, key, data, use_multipart=False, attributes=said)
        self._call("write", check_key(key), put)

    def put_new(self, key: str, data: bytes) -> bool:
        """Write an object where there is none, and leave one that is there: of many writers exactly one does it.

        Returns:
            Whether this call wrote it, even where the server's answer was lost.
        """
        said = self._said(data)

        def put() -> bool:
            try:
                self._backend.put(key, data, mode="create", use_multipart=False, attributes=said)
            except AlreadyExistsError as error:
                if self._root and (self._root / key).is_dir():
                    raise IsADirectoryError(errno.EISDIR, "it is a folder") from error
                try:
                    # It may be there because an answer was lost, and then this call has put it there.
                    return said is not None and self._says(key, said)
                except FileNotFoundError:  # somebody deletes or writes it at this moment: once more
                    raise InterruptedError("ConditionalRequestConflict: it was there and is not") from error
            return True

        return self._call("write", check_key(key), put)

    def _said(self, data: bytes) -> dict[str, str] | None:
        """Return an object's metadata; empty on a disk."""
        if self._root:
            return None
        return {_WRITE: secrets.token_hex(8), _SHA256: hashlib.sha256(data).hexdigest()}

    def _says(self, key: str, said: Mapping[str, str]) -> bool:
        """Tell whether what is under a key in a bucket was written by the call that says so.

        Raises:
            FileNotFoundError: There is none, or none any more.
        """
        found = self._backend.get(key, options={"head": True}).attributes
        return bool(found.get(_WRITE) == said[_WRITE])

    def put_json(self, key: str, obj: Any) -> None:
        """Write an object as JSON, indented for people.

        Raises:
            ValueError: It has a number that JSON has not (NaN or an infinity).
            TypeError: It has a type that JSON has not.
        """
        self.put_bytes(key, json.dumps(obj, indent=2, allow_nan=False).encode() + b"\n")

    def put_file(self, key: str, path: str | os.PathLike[str], *, on_bytes: OnBytes | None = None) -> None:
        """Write a file's content, as long as the file is now; it may be larger than memory."""
        check_key(key)
        with on_disk("read", path), open(path, "rb") as file:
            self.put_opened(key, file, on_bytes=on_bytes)

    def put_opened(self, key: str, file: IO[bytes], *, on_bytes: OnBytes | None = None) -> None:
        """Write the content of a file that is open, as long as the file is now: see `put_file`."""
        check_key(key)
        size = os.fstat(file.fileno()).st_size
        if size > PART_BYTES:

            def pieces() -> Iterator[bytes]:
                file.seek(0)
                return read_pieces(file, size, part_bytes(size))

            self._put_parts(key, pieces, size, on_bytes)
            return
        data = file.read(size)
        self.put_bytes(key, data)
        if on_bytes and data:
            on_bytes(len(data))

    def put_growing(self, key: str, file: IO[bytes]) -> None:
        """Write the content of an open file that only ever grows at its end.

        On a disk its object grows likewise: a program that has it open sees what comes. Elsewhere it is written whole.
        """
        check_key(key)
        size = os.fstat(file.fileno()).st_size
        there = self._end_of(key, file, size) if self._root else None
        if there is None:
            self.put_opened(key, file)
            return

        def append() -> None:
            assert self._root is not None
            file.seek(there)
            with (self._root / key).open("ab") as grown:
                for piece in read_pieces(file, size - there, PART_BYTES):
                    grown.write(piece)
                grown.flush()
                os.fsync(grown.fileno())

        self._call("write", key, append)

    def _end_of(self, key: str, file: IO[bytes], size: int) -> int | None:
        """Return the size of an object on this disk with which a file begins; None where it begins otherwise."""
        assert self._root is not None
        try:
            with (self._root / key).open("rb") as grown:
                there = os.fstat(grown.fileno()).st_size
                first = max(0, there - _TAIL_BYTES)
                same = os.pread(grown.fileno(), there - first, first) == os.pread(file.fileno(), there - first, first)
        except FileNotFoundError:
            return None
        return there if there <= size and same else None

    def _put_parts(
        self, key: str, pieces: Callable[[], Iterator[bytes]], size: int, on_bytes: OnBytes | None = None
    ) -> None:
        # obstore drives the iterator inside its own runtime, where any use of a store panics. So it gets a thread, and
        # `on_bytes` and signals (a cancellation) are served here.
        chunk_bytes = part_bytes(size)
        said = None if self._root else {_WRITE: secrets.token_hex(8)}
        progress = Progress(on_bytes)

        def put() -> None:
            upload = _Upload(pieces())

            def send() -> None:
                self._backend.put(
                    key, upload, use_multipart=True, chunk_size=chunk_bytes, max_concurrency=UPLOADS_AT_ONCE,
                    attributes=said,
                )  # fmt: skip

            with ThreadPoolExecutor(1) as pool:
                try:
                    upload.watch(pool.submit(send), progress.reach)
                except BaseError as error:
                    # Where the last answer was lost, all of it is there; what follows a lost answer says otherwise.
                    is_there = False
                    with suppress(*CAUGHT):
                        is_there = said is not None and may_pass(error) and self._says(key, said)
                    if not is_there:
                        raise

        self._call("write", key, put)

    # Reading

    def get_bytes(self, key: str) -> bytes:
        """Return an object's content.

        Raises:
            StoreError: It is not what was written.
        """
        check_key(key)
        for left in reversed(range(READS)):
            data, sha256 = self._call("read", key, lambda: self._read(key))
            found = sha256 and hashlib.sha256(data).hexdigest()
            if found == sha256:
                break
            if not left:
                raise self._wrong_digest(key, str(found), str(sha256))
        return data

    def get_range(self, key: str, first: int, size: int) -> bytes:
        """Return part of an object's content; its digest cannot be checked.

        Args:
            key: The object.
            first: Where the part begins, counted from 0.
            size: How many bytes; fewer come where the object ends.
        """
        check_key(key)
        if size <= 0:
            return b""
        if self._root:
            path = self._root / key
            self.stat(key)

            def read() -> bytes:
                with path.open("rb", buffering=0) as file:
                    return os.pread(file.fileno(), size, first)

            return self._call("read", key, read)
        try:
            options = {"range": (first, first + size)}
            return self._call("read", key, lambda: bytes(self._backend.get(key, options=options).bytes()))
        except StoreError:
            if self.stat(key).size_bytes <= first:  # a server has no part of nothing
                return b""
            raise

    def _read(self, key: str) -> tuple[bytes, str | None]:
        """Return an object's content, and the digest that it should have where it says so."""
        result = self._backend.get(key)
        sha256 = None if self._root else result.attributes.get(_SHA256)
        return cast("bytes", result.bytes().to_bytes()), sha256

    def get_json(self, key: str) -> Any:
        """Return an object's content as JSON types.

        Raises:
            StoreError: It is not JSON.
        """
        data = self.get_bytes(key)
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise StoreError(
                f"{self.url(key)!r} is not JSON: {error}",
                code="bad_json",
                advice="Something else wrote it: delete it, or restore it from the job that made it.",
            ) from error

    def get_json_or_none(self, key: str) -> Any:
        """Return an object's content as JSON types, or None where there is no object."""
        try:
            return self.get_json(key)
        except KeyNotFound:
            return None

    def get_record(self, key: str, kind: type[W]) -> W:
        """Return a document.

        Raises:
            KeyNotFound: There is none.
            WireError: It is something else, or of a version that is not known here.
        """
        return self._decode(key, self.get_json(key), kind)

    def get_record_or_none(self, key: str, kind: type[W]) -> W | None:
        """Return a document, or None where there is none."""
        found = self.get_json_or_none(key)
        return None if found is None else self._decode(key, found, kind)

    def get_records(self, key: str, kind: type[W]) -> builtins.list[W]:
        """Return the documents of a list in one object; none where there is no object."""
        return [self._decode(key, item, kind) for item in self.get_json_or_none(key) or []]

    def put_record(self, key: str, record: Wire) -> None:
        """Write a document."""
        self.put_json(key, record.to_json())

    def _decode(self, key: str, data: Any, kind: type[W]) -> W:
        try:
            return kind.from_json(data)
        except WireError as error:
            failure = error.failure
            raise WireError(
                f"{self.url(key)!r}: {failure.message}", code=failure.code, advice=failure.advice
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
            sha256: The digest that the content must have, in hexadecimal digits; what the object says where None.
            on_bytes: Progress callback.

        Raises:
            StoreError: The content has another digest; then there is no file.
        """
        target = Path(path)
        digest = hashlib.sha256()
        stream, said = self._stream(check_key(key))
        sha256 = sha256 or said
        with on_disk("write", target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as partial:
                with partial.open("xb") as file:
                    for piece in stream:
                        file.write(piece)
                        if sha256 is not None:
                            digest.update(piece)
                        if on_bytes:
                            on_bytes(len(piece))
                if sha256 is not None and digest.hexdigest() != sha256.lower():
                    raise self._wrong_digest(key, digest.hexdigest(), sha256)

    def _stream(self, key: str) -> tuple[Iterator[bytes], str | None]:
        """Open an object, and return the digest it says; when it is replaced meanwhile, the old content goes on."""
        if self._root:
            # obstore reads a file in pieces of 8 kB, each handed from one thread to another: several times slower.
            path = self._root / key
            self.stat(key)
            return self._call("read", key, lambda: _all_pieces(open(path, "rb", buffering=0))), None
        result = self._call("read", key, lambda: self._backend.get(key))
        return self._pieces(key, result), result.attributes.get(_SHA256)

    def _pieces(self, key: str, result: Any) -> Iterator[bytes]:
        """Yield an object's content; when it breaks off, the rest of the same content is asked for.

        obstore does so too, but only in the first seconds, however long a download takes.
        """
        etag, size, position = result.meta["e_tag"], result.meta["size"], 0
        stream, moved = iter(result.stream(READ_BYTES)), time.monotonic()
        while position < size:
            try:
                piece = next(stream)
            except StopIteration:
                return
            except CAUGHT as error:
                if not self._may_repeat(error, moved):
                    raise failure("read", self._location.join(key), error) from error
                rest = {"range": {"offset": position}, "if_match": etag}
                result = self._call("read", key, partial(self._backend.get, key, options=rest))
                stream = iter(result.stream(READ_BYTES))
            else:
                position, moved = position + len(piece), time.monotonic()
                yield piece

    def _wrong_digest(self, key: str, found: str, expected: str) -> StoreError:
        return StoreError(
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
        meta = self._call("read", check_key(key), lambda: self._backend.head(key))
        return Stat(size_bytes=meta["size"], modified=meta["last_modified"])

    def list(self, prefix: str = "") -> builtins.list[Entry]:
        """Return every object below a folder, at any depth, sorted by key."""
        prefix = check_prefix(prefix)

        def entries() -> builtins.list[Entry]:
            return [
                Entry(meta["size"], meta["last_modified"], meta["path"])
                for chunk in self._backend.list(prefix or None, chunk_size=1000)
                for meta in chunk
                # A bucket's console makes a folder as an empty object of the same name.
                if meta["path"] != prefix and not is_being_written(meta["path"])
            ]

        return sorted(self._call("list", prefix, entries), key=lambda entry: entry.key)

    def list_dirs(self, prefix: str = "") -> builtins.list[str]:
        """Return the names of the folders right below a folder, sorted. A folder is where an object lies below."""
        prefix = check_prefix(prefix)

        def holds_any(folder: str) -> bool:
            return any(not is_being_written(meta["path"]) for chunk in self._backend.list(folder) for meta in chunk)

        found = self._call("list", prefix, lambda: self._backend.list_with_delimiter(prefix or None)["common_prefixes"])
        if self._root:  # on a disk a folder can be empty, or hold nothing but what a killed writer left
            found = [folder for folder in found if self._call("list", folder, partial(holds_any, folder))]
        return sorted(folder.rpartition("/")[2] for folder in found)

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
            self._call("copy", src, lambda: self._backend.copy(src, dst))
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
        # One obstore call may not wait inside another on the same thread.
        with ThreadPoolExecutor(1) as pool:

            def pieces() -> Iterator[bytes]:
                stream, _ = pool.submit(self._stream, src).result()
                return iter(lambda: pool.submit(next, stream, b"").result(), b"")

            self._put_parts(dst, pieces, size)

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is deleted already."""

        def delete() -> None:
            try:
                self._backend.delete(key)
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise

        self._call("delete", check_key(key), delete)

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
            folder = self._root / prefix
            with on_disk("delete", folder):
                while folder.is_dir():
                    with suppress(FileNotFoundError):  # somebody else deletes it at this moment
                        shutil.rmtree(folder)
            return
        keys = [entry.key for entry in self.list(prefix)]
        if keys:
            self._call("delete", prefix, lambda: self._backend.delete(keys))

    def _call(self, action: str, key: str, call: Callable[[], T]) -> T:
        """Call the store, and a bucket again where it may answer the next time; raise what went wrong otherwise."""
        began = time.monotonic()
        pause_s = 0.0
        while True:
            try:
                return call()
            except CAUGHT as error:
                if not self._may_repeat(error, began):
                    address = self._location.join(key)
                    raise failure(action, address, error, absent_is_missing=action != "write") from error
            assert self._access
            first_s, longest_s = self._access.pauses_s
            pause_s = min(2 * pause_s or first_s, longest_s)
            time.sleep(pause_s)

    def _may_repeat(self, error: BaseException, began: float) -> bool:
        """Tell whether to try again what failed, and was begun or last got on at this time."""
        return bool(self._access and may_pass(error) and time.monotonic() - began < self._access.repeat_s)


class Progress:
    """Tells a caller how much of a file is in the store, and counts what went there now."""

    def __init__(self, on_bytes: OnBytes | None) -> None:
        self.moved = 0
        """Bytes that were sent."""
        self._on_bytes = on_bytes
        self._reported = 0

    def reach(self, position: int) -> None:
        """Note that this many bytes from the start are in the store; nothing is reported twice."""
        if self._on_bytes and position > self._reported:
            self._on_bytes(position - self._reported)
        self._reported = max(position, self._reported)


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

    def watch(self, done: Future[None], reach: Callable[[int], object]) -> None:
        """Wait for the end, telling how many bytes were taken; stop the upload when that raises."""
        try:
            while True:
                ended = wait([done], timeout=PROGRESS_SECONDS).done
                reach(self._taken)
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


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return a file's SHA-256 digest in hexadecimal digits, reading it in pieces.

    Raises:
        StoreError: The file cannot be read.
    """
    with on_disk("read", path):
        return sha256_of(path)
