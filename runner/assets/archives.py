"""Look into an archive that a user sent, and unpack it, without trusting a byte of it.

`.zip`, `.whl`, `.tar.gz` and `.tgz` are read. Only plain files and folders are accepted, under names that mean the same
on every file system, and every limit is held against the bytes that really come out, not against what headers say.
What is refused leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from simyard.core.errors import RequestError
from simyard.core.files import replacing
from simyard.core.wire import Wire
from simyard.runner.assets.archive_formats import (
    Entry,
    damaged,
    show,
    tar_entries,
    too_large,
    too_many,
    unsafe_name,
    zip_entries,
)

_CHUNK = 1 << 20


class Kind(StrEnum):
    """Kind of an archive, by its content."""

    ZIP = "zip"
    WHEEL = "wheel"
    TAR_GZ = "tar.gz"


EXTENSIONS = {".zip": Kind.ZIP, ".whl": Kind.WHEEL, ".tar.gz": Kind.TAR_GZ, ".tgz": Kind.TAR_GZ}
"""Endings of an archive's file name, in upper or lower case, each with the kind it must be."""


@dataclass(frozen=True, kw_only=True)
class ArchiveLimits:
    """Limits on the size of an archive and of its content."""

    total_bytes: int = 2 << 30
    """Bytes of everything unpacked, and of the archive itself; 2 GiB holds any robot's meshes."""
    file_bytes: int = 512 << 20
    """Bytes of one unpacked file; 512 MiB."""
    entries: int = 20_000
    """Files and folders together, also the folders that only stand in a file's name."""
    ratio: int = 200
    """Unpacked bytes for each packed byte: text and meshes stay below 50, a bomb reaches 1000."""
    ratio_floor_bytes: int = 64 << 20
    """Unpacked bytes that are allowed at any ratio, so that a small archive of zeros passes; 64 MiB."""
    name_bytes: int = 1024
    """UTF-8 bytes of a whole name; well under the 4096 that Linux takes for a path."""
    part_bytes: int = 255
    """UTF-8 bytes of one part of a name: what file systems take."""
    depth: int = 32
    """Parts of a name."""


DEFAULT = ArchiveLimits()


@dataclass(frozen=True, kw_only=True)
class ArchiveInfo(Wire):
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
    EOFError,
    struct.error,
    UnicodeDecodeError,
    NotImplementedError,  # zipfile, for a version of the format that it does not know
)


def _walk(path: Path, limits: ArchiveLimits, into: Path | None) -> ArchiveInfo:
    """Check a whole archive, and write it where there is a place to."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limits.total_bytes:
            raise too_large(f"The archive has {size:,} bytes", f"{limits.total_bytes:,} bytes")

        # Its kind: by its name, which its content must agree with.
        kind = EXTENSIONS[extension(path.name)]
        magic = file.read(4)
        file.seek(0)
        if magic in (b"PK\3\4", b"PK\5\6"):
            is_right, found = kind is not Kind.TAR_GZ, "a zip file"
        elif magic[:3] == b"\x1f\x8b\x08":
            is_right, found = kind is Kind.TAR_GZ, "a gzip file"
        else:
            is_right, found = False, "neither a zip nor a gzip file"
        if not is_right:
            raise _wrong_extension(path.name, found)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)

        # Its entries, held to the limits as they come out.
        budget, names = Budget(limits, size), Names(limits)
        try:
            is_tar = kind is Kind.TAR_GZ
            most = limits.entries
            entries = tar_entries(file, budget.spend, most) if is_tar else zip_entries(file, most)
            total = sum(_take(entry, names, budget, into) for entry in entries)
        except _DAMAGE as error:
            raise damaged(str(error) or type(error).__name__) from error

    # A wheel is a zip file with a certain file in it.
    is_wheel = any(re.fullmatch(r"[^/]+\.dist-info/WHEEL", name) for name in names.files)
    if kind is Kind.WHEEL and not is_wheel:
        raise _wrong_extension(path.name, "a zip file without the '*.dist-info/WHEEL' of a wheel")
    if kind is not Kind.WHEEL and is_wheel:
        raise _wrong_extension(path.name, "a wheel (it has a '*.dist-info/WHEEL')")
    return ArchiveInfo(
        kind=kind,
        sha256=sha256,
        archive_bytes=size,
        total_bytes=total,
        files=tuple(names.files),
        folders=tuple(names.folders),
    )


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


# --- the judges that hold the limits --------------------------------------------------------------------------------


class Budget:
    """Counts the bytes that come out, and stops at the limit."""

    def __init__(self, limits: ArchiveLimits, archive_bytes: int) -> None:
        self._limits = limits
        self._archive_bytes = archive_bytes
        self._by_ratio = max(limits.ratio_floor_bytes, limits.ratio * archive_bytes)
        self._spent = 0

    def spend(self, count: int) -> None:
        """Count bytes that came out.

        Raises:
            RequestError: They are more than the limits allow in all, or for an archive of this size.
        """
        limits = self._limits
        self._spent += count
        if self._spent > limits.total_bytes:
            raise too_large("The archive unpacks to more than is allowed", f"{limits.total_bytes:,} bytes in all")
        if self._spent > self._by_ratio:
            raise too_large(
                f"The archive has {self._archive_bytes:,} bytes and unpacks to more than {self._by_ratio:,}",
                f"{limits.ratio} times its own size, or {limits.ratio_floor_bytes:,} bytes if that is more",
            )

    def check_file(self, name: str, size: int) -> None:
        """Refuse a file of more than the allowed bytes.

        Raises:
            RequestError: It has more.
        """
        if size > self._limits.file_bytes:
            raise too_large(f"{show(name)} has {size:,} bytes or more", f"{self._limits.file_bytes:,} bytes a file")


class Names:
    """Every name so far. Two that differ in case or Unicode form alone are one file on some file systems: refused."""

    def __init__(self, limits: ArchiveLimits) -> None:
        self.files: list[str] = []
        self.folders: list[str] = []
        self._limits = limits
        self._taken: dict[str, tuple[str, bool]] = {}
        self._folders_named: set[str] = set()

    def add(self, name: str, *, is_folder: bool) -> list[str]:
        """Check and record a name; return the folders that are new with it, parents first.

        Raises:
            RequestError: The name is unsafe or taken, or there are too many.
        """
        if is_folder and name in (".", "./"):
            return []
        check_name(name, self._limits)
        if name.endswith("/") and not is_folder:
            raise unsafe_name(name, "ends as a folder, and is marked as a file")
        parts = clean(name).split("/")
        paths = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        new = [path for path in (paths if is_folder else paths[:-1]) if self._claim(path, is_folder=True)]
        self.folders += new
        if not is_folder:
            self._claim(paths[-1], is_folder=False)
            self.files.append(paths[-1])
        elif paths[-1] in self._folders_named:
            raise _duplicate(paths[-1], paths[-1])
        else:
            self._folders_named.add(paths[-1])
        return new

    def _claim(self, path: str, *, is_folder: bool) -> bool:
        """Record a path, and return whether it is new; a folder may be claimed again."""
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
        known = self._taken.get(key)
        if known is None:
            self._taken[key] = (path, is_folder)
            if len(self._taken) > self._limits.entries:
                raise too_many(self._limits.entries)
        elif not is_folder or known != (path, True):
            raise _duplicate(path, known[0])
        return known is None


def clean(name: str) -> str:
    """Drop the packers' additions: `./` before, `/` after."""
    return name.removeprefix("./").removesuffix("/")


def check_name(name: str, limits: ArchiveLimits) -> None:
    """Refuse a name that could mean another place, or another name, on some machine.

    Raises:
        RequestError: The name is one of these.
    """
    parts = clean(name).split("/")
    if name.startswith("/"):
        raise unsafe_name(name, "is absolute")
    if re.match("[A-Za-z]:", clean(name)):
        raise unsafe_name(name, "starts with a drive letter")
    if "\\" in name:
        raise unsafe_name(name, "has a backslash")
    if ".." in parts:
        raise unsafe_name(name, "leads out of the folder with '..'")
    if "" in parts or "." in parts:
        raise unsafe_name(name, "has an empty part or a '.'")
    if any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in name):
        raise unsafe_name(name, "has a NUL, control, invisible or undecodable character")
    if len(name.encode()) > limits.name_bytes or max(len(part.encode()) for part in parts) > limits.part_bytes:
        raise unsafe_name(name, "is too long", f"{limits.name_bytes} bytes a name, {limits.part_bytes} bytes a part")
    if len(parts) > limits.depth:
        raise unsafe_name(name, "is too deep", f"{limits.depth} parts a name")


def _duplicate(name: str, known: str) -> RequestError:
    return RequestError(
        f"The name {show(name)} is taken by {show(known)}.",
        code="archive_duplicate_name",
        advice="Each name may stand once, also where upper and lower case are not told apart. Pack a clean copy.",
    )
