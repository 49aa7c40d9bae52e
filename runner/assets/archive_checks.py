"""Checks of archives: the limits, the two judges that hold them, and the words of a refusal."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from simyard.core.errors import RequestError


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
                raise too_many(self._limits)
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


# Refusals: what was wrong, what is allowed, what to do.


def show(name: str) -> str:
    """Return a member's name for a message; names are hostile, and can be long."""
    return repr(name if len(name) <= 200 else name[:200] + "…")


def unsafe_name(name: str, why: str, allowed: str = "relative names with / between their parts") -> RequestError:
    """Return the error for a name that is refused."""
    return RequestError(
        f"The name {show(name)} {why}.",
        code="archive_unsafe_name",
        advice=f"Allowed: {allowed}. Rename it and pack again.",
    )


def unsafe_entry(name: str, what: str, allowed: str = "plain files and folders") -> RequestError:
    """Return the error for an entry that is not a plain file or folder."""
    return RequestError(
        f"{show(name)} is {what}.",
        code="archive_unsafe_entry",
        advice=f"Allowed: {allowed}. Leave it out or replace it, and pack again.",
    )


def too_large(what: str, limit: str) -> RequestError:
    """Return the error for a limit that is passed."""
    return RequestError(
        f"{what}.",
        code="archive_too_large",
        advice=f"Allowed: {limit}. Leave out what the job does not need.",
    )


def too_many(limits: ArchiveLimits) -> RequestError:
    """Return the error for too many entries."""
    return too_large("The archive has too many entries", f"{limits.entries:,} files and folders")


def damaged(why: str) -> RequestError:
    """Return the error for an archive that cannot be read."""
    return RequestError(
        f"The archive cannot be read: {why}.",
        code="archive_damaged",
        advice="Pack and send it again; 'python -m zipfile -t FILE' or 'gzip -t FILE' tells whether it is whole.",
    )


def _duplicate(name: str, known: str) -> RequestError:
    return RequestError(
        f"The name {show(name)} is taken by {show(known)}.",
        code="archive_duplicate_name",
        advice="Each name may stand once, also where upper and lower case are not told apart. Pack a clean copy.",
    )
