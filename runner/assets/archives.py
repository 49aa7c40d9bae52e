"""Look into an archive that a user sent, and unpack it, without trusting a byte of it.

`.zip`, `.whl`, `.tar.gz` and `.tgz` are read. Only plain files and folders are accepted, under names that mean the same
on every file system, and every limit is held against the bytes that really come out, not against what headers say.
What is refused leaves nothing behind.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from simyard.core.errors import RequestError
from simyard.core.files import replacing
from simyard.runner.assets.archive_checks import DEFAULT, ArchiveLimits, Budget, Names, clean, damaged, show, too_large
from simyard.runner.assets.archive_formats import Entry, tar_entries, zip_entries

__all__ = ["DEFAULT", "EXTENSIONS", "ArchiveInfo", "ArchiveLimits", "Kind", "extension", "inspect", "unpack"]

_CHUNK = 1 << 20


class Kind(StrEnum):
    """Kind of an archive, by its content."""

    ZIP = "zip"
    WHEEL = "wheel"
    TAR_GZ = "tar.gz"


EXTENSIONS = {".zip": Kind.ZIP, ".whl": Kind.WHEEL, ".tar.gz": Kind.TAR_GZ, ".tgz": Kind.TAR_GZ}
"""Endings of an archive's file name, in upper or lower case, each with the kind it must be."""


@dataclass(frozen=True, kw_only=True)
class ArchiveInfo:
    """Content of an archive that passed every check."""

    kind: Kind
    """Kind of the archive."""
    sha256: str
    """Hex digest of the archive file."""
    archive_bytes: int
    """Bytes of the archive file."""
    total_bytes: int
    """Bytes of all files in it, unpacked."""
    files: tuple[str, ...]
    """Names of its files, with `/`, in the archive's order."""
    folders: tuple[str, ...]
    """Names of its folders, named or implied, parents first."""


def inspect(path: Path, limits: ArchiveLimits = DEFAULT) -> ArchiveInfo:
    """Read a whole archive, write nothing, and say what is in it.

    Args:
        path: The archive; its name must end as its content demands.
        limits: What is still accepted.

    Returns:
        Kind, digest, sizes in bytes and names.

    Raises:
        RequestError: The archive is damaged, hostile, too large, or not what its name says.
        OSError: The file cannot be read.
    """
    return _walk(path, limits, None)


def unpack(path: Path, dest: Path, limits: ArchiveLimits = DEFAULT) -> ArchiveInfo:
    """Unpack an archive into a new folder: files 0644, folders 0755, all or nothing.

    Args:
        path: The archive; its name must end as its content demands.
        dest: The folder to make. Its parent must exist; it must not.
        limits: What is still accepted.

    Returns:
        What `inspect` returns.

    Raises:
        RequestError: As `inspect`; nothing was written.
        FileExistsError: `dest` exists.
        OSError: The file cannot be read, or the folder not written; nothing is left.
    """
    if os.path.lexists(dest):
        raise FileExistsError(f"{dest} exists; unpack into a new folder.")
    with replacing(dest) as beside:
        beside.mkdir(0o700)
        info = _walk(path, limits, beside)
        beside.chmod(0o755)
    return info


def extension(name: str) -> str:
    """Return the ending of a file name that is in `EXTENSIONS`.

    Raises:
        RequestError: It ends with none of them.
    """
    for known in EXTENSIONS:
        if name.lower().endswith(known):
            return known
    raise RequestError(
        f"{show(name)} is not named as an archive.",
        code="archive_wrong_extension",
        advice=f"Allowed: {', '.join(EXTENSIONS)}. Pack it as one of these.",
    )


_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    gzip.BadGzipFile,
    EOFError,
    struct.error,
    UnicodeDecodeError,
    NotImplementedError,  # zipfile, for a version of the format that it does not know
)


def _walk(path: Path, limits: ArchiveLimits, into: Path | None) -> ArchiveInfo:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limits.total_bytes:
            raise too_large(f"The archive has {size:,} bytes", f"{limits.total_bytes:,} bytes")
        kind = _kind(path, file)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        budget, names = Budget(limits, size), Names(limits)
        try:
            entries = tar_entries(file, budget) if kind is Kind.TAR_GZ else zip_entries(file, limits)
            total = sum(_take(entry, names, budget, into) for entry in entries)
        except _DAMAGE as error:
            raise damaged(str(error) or type(error).__name__) from error
    _check_wheel(path, kind, names.files)
    return ArchiveInfo(
        kind=kind,
        sha256=sha256,
        archive_bytes=size,
        total_bytes=total,
        files=tuple(names.files),
        folders=tuple(names.folders),
    )


def _kind(path: Path, file: BinaryIO) -> Kind:
    named = EXTENSIONS[extension(path.name)]
    magic = file.read(4)
    file.seek(0)
    if magic in (b"PK\3\4", b"PK\5\6"):
        is_right, found = named is not Kind.TAR_GZ, "a zip file"
    elif magic[:3] == b"\x1f\x8b\x08":
        is_right, found = named is Kind.TAR_GZ, "a gzip file"
    else:
        is_right, found = False, "neither a zip nor a gzip file"
    if not is_right:
        raise _wrong_extension(path.name, found)
    return named


def _check_wheel(path: Path, kind: Kind, files: list[str]) -> None:
    is_wheel = any(re.fullmatch(r"[^/]+\.dist-info/WHEEL", name) for name in files)
    if kind is Kind.WHEEL and not is_wheel:
        raise _wrong_extension(path.name, "a zip file without the '*.dist-info/WHEEL' of a wheel")
    if kind is not Kind.WHEEL and is_wheel:
        raise _wrong_extension(path.name, "a wheel (it has a '*.dist-info/WHEEL')")


def _wrong_extension(name: str, found: str) -> RequestError:
    return RequestError(
        f"{show(name)} is {found}.",
        code="archive_wrong_extension",
        advice=f"Allowed: {', '.join(f'{end} for a {kind}' for end, kind in EXTENSIONS.items())}. Rename or repack it.",
    )


def _take(entry: Entry, names: Names, budget: Budget, into: Path | None) -> int:
    """Check one entry, write it if there is a place to, and return its bytes."""
    new_folders = names.add(entry.name, is_folder=entry.is_folder)
    if into:
        for folder in new_folders:
            (into / folder).mkdir()
            (into / folder).chmod(0o755)  # whatever the umask is
    if entry.is_folder:
        return 0
    budget.check_file(entry.name, entry.size)
    if into is None:
        return sum(map(len, _chunks(entry, budget)))
    # O_EXCL and O_NOFOLLOW hold even if a check were wrong: an entry never writes through something that is there.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with open(os.open(into / clean(entry.name), flags, 0o644), "wb") as out:
        os.fchmod(out.fileno(), 0o644)
        return sum(map(out.write, _chunks(entry, budget)))


def _chunks(entry: Entry, budget: Budget) -> Iterator[bytes]:
    done = 0
    while chunk := entry.read(_CHUNK):
        done += len(chunk)
        budget.check_file(entry.name, done)
        budget.spend(len(chunk))
        yield chunk
    if done != entry.size:
        raise damaged(f"{show(entry.name)} has {done:,} bytes instead of {entry.size:,}")
