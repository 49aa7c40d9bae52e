"""References of a robot's files to others: where they lead in the folder of its copy, and what becomes of the rest.

Newton's readers fetch meshes over HTTP, look packages up in ROS's search paths and open whatever path they are given.
So everything that they would read is found here first, and whatever is not in the folder is refused. Materials,
textures and lights are no reason to refuse a robot: what leads elsewhere is left out of the copy, and noted.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from simyard.core.errors import RequestError
from simyard.runner.assets.archive_formats import show

MOST_REFERENCES = 20_000
"""References of an asset's files to others: as many as an archive may have files."""
LEFT_OUT = "left-out.png"
"""Name that a copy gives a texture which is left out: readers go on without one that is not there."""
_CODE = "asset_reference"
_SHOWN = 4
_PULL = "Pack the files themselves: git lfs pull"
_LFS = b"version https://git-lfs"
_DRIVE = re.compile(r"[A-Za-z]:")
_ELSEWHERE = re.compile(r"(?:file:/*|(?:package|model)://+|/|[A-Za-z]:/)([^/].*)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Reference of one file to another."""

    text: str
    """As it is written."""
    base: Path
    """The folder that it is relative to."""
    endings: tuple[str, ...] = ()
    """Endings the name may have; empty for any."""
    packages: bool = False
    """Whether `package://` means a folder of the bundle."""
    numbered: bool = False
    """Whether `<UDIM>` and `#` stand for numbers, of which one is enough."""


class Folder:
    """The folder of an asset: whatever is referred to is in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._count = 0
        self._left_out: dict[str, str] = {}
        self._notes: list[str] = []
        self._guessed = False

    def find(self, reference: Reference, beside: Path) -> Path:
        """Return the file that is meant.

        Raises:
            RequestError: If it is a URL, absolute, leads out of the folder or to a file that is not there, of another
                format or a pointer of Git LFS, or there are too many.
        """
        found = self._seek(reference, beside)
        if isinstance(found, RequestError):
            raise found
        return found

    def look(self, reference: Reference, beside: Path, *, guess: bool = False) -> Path | None:
        """Return the file of a material, a texture or a light; None for one that is to be left out of the copy.

        Args:
            reference: The reference.
            beside: The file that it stands in.
            guess: Whether it may be no reference at all: where it leads to nothing, `beside` is returned.
        """
        found = self._seek(reference, beside)
        if isinstance(found, Path):
            return found
        if guess and isinstance(found, _MissingError):
            return beside
        self._left_out.setdefault(reference.text, found.failure.message)
        return None

    def has(self, path: Path) -> bool:
        """Return whether a path, which may be any, leads to a file of the folder."""
        normal = Path(os.path.normpath(path))
        return normal.is_relative_to(self.root) and _file(normal, Reference(text="", base=normal)) is not None

    def note(self, text: str) -> None:
        """Remember what the copy does not have, for the person who sent it."""
        self._notes.append(text)

    def notes(self) -> list[str]:
        """Return what the copy does not have, in few sentences."""
        left, notes = list(self._left_out.values()), self._notes
        if left:
            more = f" And {len(left) - _SHOWN:,} more." if len(left) > _SHOWN else ""
            notes = [*notes, f"materials, textures or lights are left out: {' '.join(left[:_SHOWN])}{more}"]
        return notes[:_SHOWN] + [f"and {len(notes) - _SHOWN:,} more"] * (len(notes) > _SHOWN)

    def name(self, path: Path) -> str:
        """Return a file's name as the bundle has it."""
        return path.relative_to(self.root).as_posix()

    def _seek(self, reference: Reference, beside: Path) -> Path | RequestError:
        self._count += 1
        if self._count > MOST_REFERENCES:
            advice = "Leave out what the job does not need"
            raise refused(f"{self.name(beside)!r} and its files have more than {MOST_REFERENCES:,} references", advice)
        text = reference.text
        where = f"{self.name(beside)!r} refers to {show(text)}"
        package = re.match(r"(?:package|model)://([^/.][^/]*)/(.+)", text) if reference.packages else None
        elsewhere = _ELSEWHERE.match(text) if reference.packages else None
        fault = None if package else address_fault(text)
        candidates = [reference.base / text]
        if package:
            candidates = self._in_packages(package[1], package[2], beside)
        normal = (Path(os.path.normpath(path)) for path in candidates)
        inside = [path for path in normal if path.is_relative_to(self.root) and not fault]
        if not inside and not fault:
            return refused(f"{where}, which leads out of the folder", "Keep every file in the bundle's folder")
        found = next(filter(None, (_file(path, reference) for path in inside)), None)

        # A package of another name, or a path of the machine that it was made on: the file that ends so.
        if found is None and (rest := package[2] if package else elsewhere and elsewhere[1]):
            found = self._by_its_end(rest)
            if found and not self._guessed:
                self._guessed = True
                self.note(f"{where}, which is taken for {self.name(found)!r}")
        if found is None:
            return refused(f"{where}, which {fault[0]}", fault[1]) if fault else self._missing(where, inside[0])
        if reference.endings and found.suffix.lower() not in reference.endings:
            return refused(f"{where}, of a format that is not read", f"Allowed: {', '.join(reference.endings)}")
        if is_lfs_pointer(found):
            return refused(f"{where}, which is a pointer of Git LFS", _PULL)
        return found

    def _in_packages(self, name: str, rest: str, beside: Path) -> list[Path]:
        """Return possible paths of a package's file: in the bundle's folder of that name, or the package itself."""
        above = [folder for folder in beside.parents if folder.is_relative_to(self.root)]
        named = sorted(self._folders.get(name, []), key=lambda folder: folder not in above)
        return [folder / rest for folder in (*named, *above)]

    def _by_its_end(self, rest: str) -> Path | None:
        """Return the one file whose path ends as a package's file does, after as few of its folders as need be."""
        parts = tuple(os.path.normpath(rest).split("/"))
        named = [path for path in self._files.get(parts[-1].lower(), []) if path.name == parts[-1]]
        if ".." in parts:
            return None
        for first in range(len(parts)):
            end = parts[first:]
            if fit := [path for path in named if path.parts[-len(end) :] == end]:
                return fit[0] if len(fit) == 1 else None
        return None

    def _missing(self, where: str, path: Path) -> RequestError:
        near = sorted(map(self.name, self._files.get(path.name.lower(), [])))
        advice = "Send a .zip bundle with every file that is referred to"
        if near:
            advice = f"There is {', '.join(map(repr, near[:4]))}: mind folders, and upper and lower case"
        return _MissingError(f"{where}, and there is no such file.", code=_CODE, advice=f"{advice}.")

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        """The files by their names in lower case."""
        found = defaultdict[str, list[Path]](list)
        for path in self.root.rglob("*"):
            if path.is_file():
                found[path.name.lower()].append(path)
        return found

    @cached_property
    def _folders(self) -> dict[str, list[Path]]:
        """The folders by their names, those that are less deep first."""
        found = defaultdict[str, list[Path]](list)
        for path in sorted(filter(Path.is_dir, self.root.rglob("*")), key=lambda path: (len(path.parts), str(path))):
            found[path.name].append(path)
        return found


class _MissingError(RequestError):
    """A file is not in the folder."""


def _file(path: Path, reference: Reference) -> Path | None:
    try:
        if path.is_file():
            return path
        if reference.numbered and re.search("#|<UDIM>", path.name) and path.parent.is_dir():
            pattern = re.sub(r"(?:\\#)+", r"\\d+", re.escape(path.name).replace("<UDIM>", r"\d{4}"))
            numbers = (file for file in sorted(path.parent.iterdir()) if re.fullmatch(pattern, file.name))
            return next(filter(Path.is_file, numbers), None)
    except OSError:  # a name that no file system takes
        return None
    return None


def address_fault(text: str) -> tuple[str, str] | None:
    """Return the fault and the advice for a text that is no relative path."""
    if not text.strip() or "\0" in text:
        return "names no file", "Name a file of the bundle"
    if "://" in text or (_SCHEME.match(text) and not _DRIVE.match(text)) or text.startswith("//"):
        return "is a URL", "Nothing is downloaded: put the file into the bundle"
    if text.startswith(("/", "~")) or _DRIVE.match(text):
        return "is absolute", "Put the file into the bundle, and name it by a relative path"
    if "\\" in text:
        return "has a backslash", "Part folders with '/'"
    return None


def refused(what: str, advice: str) -> RequestError:
    """Return the error for a reference that is refused."""
    return RequestError(f"{what}.", code=_CODE, advice=f"{advice}.")


def is_lfs_pointer(path: Path) -> bool:
    """Return whether a file is what Git LFS leaves in the place of another one."""
    with path.open("rb") as file:
        return file.read(len(_LFS)) == _LFS


def lfs_pointer(name: str) -> RequestError:
    """Return the error for a file that somebody sent of which Git has the content elsewhere."""
    return RequestError(
        f"{show(name)} is a pointer of Git LFS, and not the file itself.",
        code="git_lfs_pointer",
        advice="Get the file first: git lfs pull",
    )
