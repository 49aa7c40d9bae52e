"""A file into the store under its digest, taken up again where it stopped: by this process or by a later one.

What lies under such a key, whole or in part, should be the same bytes. It is proved all the same: each piece that is
there already is compared, and the whole file's digest is right before anything can be seen.

In a folder the upload goes on with a partial file beside the target, byte for byte. In a bucket it goes on with the
parts of an unfinished multipart upload: see `store/multipart.py`, also for where it cannot.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

from simyard.core.errors import RequestError
from simyard.core.files import held
from simyard.core.specs import InputFile
from simyard.store.backend import on_disk
from simyard.store.keys import check_key
from simyard.store.store import PART_BYTES, READ_BYTES, KeyNotFound, OnBytes, Progress, Store, read_pieces, sha256_file


def send(store: Store, file: InputFile, path: str | os.PathLike[str], *, on_bytes: OnBytes | None = None) -> int:
    """Have a local file in the store, sending what is not there yet.

    When it is killed or interrupted, the next call goes on with what it sent. Several at once of the same file all
    succeed, and one whole object is left.

    Args:
        store: Where to.
        file: The key, which belongs to this content alone, and the content's digest and size.
        path: The local file.
        on_bytes: Called with the number of further bytes in the store, sent or found there; on the caller's thread. An
            exception from it stops the upload.

    Returns:
        How many bytes were sent: 0 when the whole object was there.

    Raises:
        RequestError: The local file is not what `file` says, so it changed; nothing can be seen of it.
        StoreError: The store or the file cannot be read or written; the next call goes on.
    """
    check_key(file.key)
    if is_there(store, file):
        return 0
    progress = Progress(on_bytes)
    folder = store.folder
    if file.size_bytes <= PART_BYTES:
        store.put_bytes(file.key, b"".join(read(path, file, PART_BYTES)))
        progress.moved = file.size_bytes
        progress.reach(file.size_bytes)
    elif folder:
        with on_disk("write", folder / file.key):
            _send_to_folder(folder / file.key, file, path, progress)
    else:
        # botocore takes most of a second to import, which only large uploads to a bucket pay.
        from simyard.store.multipart import send_to_bucket

        send_to_bucket(store, file, path, progress)
    return progress.moved


def is_there(store: Store, file: InputFile) -> bool:
    """Tell whether the store has the whole file: by its content in a folder, by its size in a bucket.

    Disks rot and people edit files; a bucket checks its objects itself, and reading one costs what sending it does.
    """
    try:
        if store.stat(file.key).size_bytes != file.size_bytes:
            return False
    except KeyNotFound:
        return False
    folder = store.folder
    return folder is None or sha256_file(folder / file.key) == file.sha256


def read(path: str | os.PathLike[str], file: InputFile, piece_bytes: int) -> Iterator[bytes]:
    """Yield a local file's content in pieces.

    Raises:
        RequestError: At the end: it was not the content that `file` says.
    """
    digest = hashlib.sha256()
    with on_disk("read", path), open(path, "rb") as source:
        for piece in read_pieces(source, file.size_bytes, piece_bytes):
            digest.update(piece)
            yield piece
    if digest.hexdigest() != file.sha256:
        raise RequestError(
            f"{os.fspath(path)!r} changed while it was uploaded.",
            code="file_changed",
            advice="Upload it again when nothing writes to it.",
        )


def _send_to_folder(target: Path, file: InputFile, path: str | os.PathLike[str], progress: Progress) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with _partial(target) as (partial, name):
        try:
            position = 0
            for piece in read(path, file, READ_BYTES):
                if partial.read(len(piece)) != piece:
                    partial.seek(position)
                    partial.truncate()
                    partial.write(piece)
                    progress.moved += len(piece)
                position += len(piece)
                progress.reach(position)
        except RequestError:  # the bytes of another content
            name.unlink()
            raise
        partial.truncate()  # it was longer
        os.fsync(partial.fileno())
        name.replace(target)


@contextmanager
def _partial(target: Path) -> Iterator[tuple[BufferedRandom, Path]]:
    """Open the first partial file of a target that no other upload holds.

    No listing shows such names. The 0 keeps them apart from those of obstore, which counts from 1.
    """
    for number in itertools.count():
        name = target.with_name(f"{target.name}#0{number}")
        with held(name) as file:
            if file:
                yield file, name
                return
