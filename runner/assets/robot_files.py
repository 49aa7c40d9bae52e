"""The file of a robot or a scene, or the one in a bundle that counts, with everything that it refers to.

Standard library only, and USD's own where the file is one: bad assets are refused before a simulator starts.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

from simyard.core.errors import RequestError, unknown
from simyard.runner.assets import archives
from simyard.runner.assets import references as asset_references
from simyard.runner.assets.archives import ArchiveInfo
from simyard.runner.assets.references import USD_LAYERS
from simyard.runner.assets.safe_xml import elements

FORMATS: dict[str, tuple[str, ...]] = {
    "urdf": (".urdf",),
    "mjcf": (".xml", ".mjcf"),
    "usd": USD_LAYERS,
}
"""The formats, and how the name of a main file ends."""
BUNDLES = (".zip", ".tar.gz", ".tgz")
"""Endings of a bundle's file name."""
PACKAGE = ".usdz"
"""A bundle of its own kind: a USD and its files, of which the first counts."""


def main_file(path: Path, format_: str, into: Path) -> Path:
    """Copy or unpack an asset into a new folder, find its main file, and follow every reference that is in it.

    In a bundle the main file is the one of that format that is least deep; an XML file counts as MJCF where its root is
    `<mujoco>`. `package://NAME/FILE` in a URDF means the bundle's folder NAME, or the folder that the URDF is in or
    below; such references are made relative in the copy.

    Args:
        path: A file of the format, a `.zip`, `.tar.gz` or `.tgz` with one, or a `.usdz`; under the user's name.
        format_: `urdf`, `mjcf` or `usd`.
        into: The folder to make. Its parent must exist; it must not.

    Returns:
        The main file, in the new folder.

    Raises:
        RequestError: If it is of another format, holds none or several, or refers to what is not in the folder; the
            folder is gone then.
        FileExistsError: If `into` exists.
    """
    if format_ not in FORMATS:
        raise unknown("asset format", format_, FORMATS)
    if os.path.lexists(into):
        raise FileExistsError(f"{into} exists; name a new folder.")
    root = into.parent.resolve() / into.name
    try:
        main = _lay_out(path, format_, root)
        references = asset_references.check(main, format_, root)
        if format_ == "urdf":
            _make_relative(main, references)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise
    return main


def _lay_out(path: Path, format_: str, into: Path) -> Path:
    name = path.name.lower()
    if name.endswith(FORMATS[format_]):
        into.mkdir()
        return Path(shutil.copyfile(path, into / path.name))
    if name.endswith(BUNDLES):
        archives.unpack(path, into)
        return _main(path.name, format_, into)
    if name.endswith(PACKAGE) and format_ == "usd":
        return _first(path.name, _unpack_package(path, into), into)
    endings = [*FORMATS[format_], *([PACKAGE] if format_ == "usd" else []), *BUNDLES]
    raise RequestError(
        f"{path.name!r} is not named as a file of the format {format_!r}.",
        code="asset_wrong_format",
        advice=f"Allowed: {', '.join(endings)}. Check the name, and the field that names it.",
    )


def _unpack_package(path: Path, into: Path) -> ArchiveInfo:
    with tempfile.TemporaryDirectory(prefix=".usdz-", dir=into.parent) as folder:
        as_zip = Path(folder) / "package.zip"
        as_zip.symlink_to(path.resolve())
        return archives.unpack(as_zip, into)


def _first(name: str, info: ArchiveInfo, into: Path) -> Path:
    if not info.files or not info.files[0].lower().endswith(USD_LAYERS):
        raise RequestError(
            f"{name!r} does not begin with a USD file, as a .usdz must.",
            code="asset_wrong_format",
            advice="Make it with 'usdzip', or send the files in a .zip.",
        )
    return into / info.files[0]


def _main(name: str, format_: str, into: Path) -> Path:
    files = sorted(path for path in into.rglob("*") if path.is_file() and _counts(path.relative_to(into)))
    named = [path for path in files if path.name.lower().endswith(FORMATS[format_])]
    found = [path for path in named if format_ != "mjcf" or _is_mjcf(path)]
    if not found:
        for path in named:
            elements(path)  # where none can be read, its own fault tells more
        there = [str(path.relative_to(into)) for path in files]
        raise RequestError(
            f"{name!r} holds no file of the format {format_!r}.",
            code="asset_wrong_format",
            advice=f"Wanted: one {' or '.join(FORMATS[format_])}. It has: {_names(there)}.",
        )
    least = min(len(path.parts) for path in found)
    top = [path for path in found if len(path.parts) == least]
    if len(top) > 1:
        raise RequestError(
            f"{name!r} holds {len(top)} files that could be meant: {_names([str(p.relative_to(into)) for p in top])}.",
            code="asset_ambiguous",
            advice="Leave one of them at the top, and put the others into a folder below.",
        )
    return top[0]


def _counts(path: Path) -> bool:
    """Return False for what packers add."""
    return "__MACOSX" not in path.parts and not any(part.startswith(".") for part in path.parts)


def _is_mjcf(path: Path) -> bool:
    try:
        return elements(path)[0].tag == "mujoco"
    except RequestError:
        return False


def _make_relative(urdf: Path, references: Mapping[str, Path]) -> None:
    """Write plain paths where the URDF names packages: Newton would look those up on this machine."""
    if not any("://" in text for text in references):
        return
    tree = ET.parse(urdf)
    for element in tree.iter():
        target = references.get(element.attrib.get("filename", ""))
        if target is not None and element.tag in ("mesh", "texture"):
            element.set("filename", Path(os.path.relpath(target, urdf.parent)).as_posix())
    tree.write(urdf, encoding="utf-8", xml_declaration=True)


def _names(names: list[str], most: int = 8) -> str:
    shown = ", ".join(map(repr, names[:most])) or "nothing"
    return shown + (f", … ({len(names)} in all)" if len(names) > most else "")
