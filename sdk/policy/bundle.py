"""A bundle: one zip with policy, contract, golden pairs and checklist; written from an export, read without trust."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from simyard.core.artifacts import CHECKLIST, CONTRACT, GOLDEN, POLICY_ONNX, ROBOT_MODEL

README = "README.md"
NEEDED = {POLICY_ONNX.name: 2**31, CONTRACT.name: 2**24, GOLDEN.name: 2**27, CHECKLIST.name: 2**24}
"""Files of every bundle, with the bytes that each may have."""
ALLOWED = {**NEEDED, README: 2**20, ROBOT_MODEL.name: 2**28}
_TIME = (1980, 1, 1, 0, 0, 0)
"""Time of every file in it: the same export gives the same bundle."""


def write_bundle(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a bundle.

    Args:
        path: Where it goes; it is written beside and renamed.
        files: By name; those of `NEEDED` are among them.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ALLOWED:
                if name in files:
                    info = zipfile.ZipInfo(name, _TIME)
                    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                    archive.writestr(info, files[name])
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Unpack a bundle into a folder of its own, which is removed in the end.

    Raises:
        ValueError: If it is no bundle: a file too many, one missing, or one larger than it may be.
    """
    with TemporaryDirectory(prefix="simyard-bundle-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                _unpack(archive, Path(folder))
        except (
            OSError,
            zipfile.BadZipFile,
            zipfile.LargeZipFile,
            NotImplementedError,
            RuntimeError,
            EOFError,
        ) as error:
            raise ValueError(f"{path} cannot be read as a zip: {error or type(error).__name__}") from error
        yield Path(folder)


def _unpack(archive: zipfile.ZipFile, folder: Path) -> None:
    members = archive.infolist()
    names = [member.filename for member in members]
    # Names are compared, never joined as they come: none of them can lead out of the folder.
    if strange := [name for name in names if name not in ALLOWED or names.count(name) > 1]:
        raise ValueError(f"The bundle has {strange[0][:200]!r}; expected are {', '.join(ALLOWED)}, each once.")
    if missing := [name for name in NEEDED if name not in names]:
        raise ValueError(f"The bundle lacks {missing[0]}; it has {', '.join(names) or 'nothing'}.")
    for member in members:
        most = ALLOWED[member.filename]
        if member.file_size > most:
            raise ValueError(f"{member.filename} has {member.file_size} bytes, {most} are allowed.")
        left = member.file_size
        with archive.open(member) as source, (folder / member.filename).open("wb") as target:
            while piece := source.read(min(2**20, left + 1)):
                left -= len(piece)
                if left < 0:  # the header said less than there is
                    raise ValueError(f"{member.filename} has more bytes than the {member.file_size} it says.")
                target.write(piece)
