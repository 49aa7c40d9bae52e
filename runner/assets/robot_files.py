"""The file of a robot or a scene, or the one in a bundle that counts, with everything that it refers to.

Standard library only, and USD's own where the file is one: bad assets are refused before a simulator starts.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from simyard.core.errors import RequestError, listed, unknown
from simyard.runner.assets import archives
from simyard.runner.assets.mesh_files import settle_mesh
from simyard.runner.assets.mjcf_files import MJCF, included_by_mjcf, is_mjcf, settle_mjcf
from simyard.runner.assets.references import Folder, is_lfs_pointer, lfs_pointer
from simyard.runner.assets.safe_xml import elements
from simyard.runner.assets.urdf_files import settle_urdf
from simyard.runner.assets.usd_files import USD_LAYERS, composed_of, settle_usd

FORMATS: dict[str, tuple[str, ...]] = {
    "urdf": (".urdf",),
    "mjcf": MJCF,
    "usd": USD_LAYERS,
}
"""The formats, and how the name of a main file ends."""
BUNDLES = (".zip", ".tar.gz", ".tgz")
"""Endings of a bundle's file name."""
PACKAGE = ".usdz"
"""A bundle of its own kind: a USD and its files, of which the first counts."""
_SHOWN = 8

Settler = Callable[[Path, Folder], list[Path]]
_SETTLERS: dict[str, Settler] = {"urdf": settle_urdf, "mjcf": settle_mjcf, "usd": settle_usd}


def main_file(
    path: Path,
    format_: str,
    into: Path,
    entry: str | None = None,
    note: Callable[[str], object] = lambda _: None,
) -> Path:
    """Copy or unpack an asset into a new folder, find its main file, and follow every reference that is in it.

    `package://NAME/FILE` in a URDF means the bundle's folder NAME, or the folder that the URDF is in or below, or the
    one file whose path ends so. The copy says the same to every reader: plain paths, no include, no prefix, UTF-8.

    Args:
        path: A file of the format, a `.zip`, `.tar.gz` or `.tgz` with one, or a `.usdz`; under the user's name.
        format_: `urdf`, `mjcf` or `usd`.
        into: The folder to make. Its parent must exist; it must not.
        entry: The main file's path in a bundle; without it the file is chosen as `_choose` says.
        note: Called with each sentence on what the copy does without.

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
        main = _lay_out(path, format_, root, entry)
        if is_lfs_pointer(main):
            raise lfs_pointer(main.name)
        folder = Folder(root)
        waiting: list[tuple[Path, Settler]] = [(main, _SETTLERS[format_])]
        seen = {main}
        while waiting:
            file, settle = waiting.pop()
            for target in settle(file, folder):
                if target not in seen:
                    seen.add(target)
                    is_layer = target.suffix.lower() in USD_LAYERS
                    is_model = settle is settle_mjcf and target.suffix.lower() in MJCF
                    waiting.append((target, settle_usd if is_layer else settle_mjcf if is_model else settle_mesh))
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise
    for text in folder.notes():
        note(text)
    return main


def _lay_out(path: Path, format_: str, into: Path, entry: str | None) -> Path:
    """Copy or unpack an asset into a new folder, and return its main file."""
    name = path.name.lower()
    if name.endswith(BUNDLES):
        archives.unpack(path, into)
        return _main_of_bundle(path.name, format_, into, entry)
    if name.endswith(FORMATS[format_]):
        if entry not in (None, path.name):
            raise RequestError(
                f"{path.name!r} is one file, and {entry!r} was asked for.",
                code="asset_entry",
                advice="Leave `file` out, or send a .zip bundle that has it.",
            )
        into.mkdir()
        return Path(shutil.copyfile(path, into / path.name))
    if name.endswith(PACKAGE) and format_ == "usd":
        with tempfile.TemporaryDirectory(prefix=".usdz-", dir=into.parent) as folder:
            as_zip = Path(folder) / "package.zip"
            as_zip.symlink_to(path.resolve())
            files = archives.unpack(as_zip, into).files
        if not files or not files[0].lower().endswith(USD_LAYERS):
            raise RequestError(
                f"{path.name!r} does not begin with a USD file, as a .usdz must.",
                code="asset_wrong_format",
                advice="Make it with 'usdzip', or send the files in a .zip.",
            )
        return into / files[0]
    endings = [*FORMATS[format_], *([PACKAGE] if format_ == "usd" else []), *BUNDLES]
    raise RequestError(
        f"{path.name!r} is not named as a file of the format {format_!r}.",
        code="asset_wrong_format",
        advice=f"Allowed: {', '.join(endings)}. Check the name, and the field that names it.",
    )


# --- the file of a bundle that counts -------------------------------------------------------------------------------


def _main_of_bundle(name: str, format_: str, into: Path, entry: str | None) -> Path:
    """Return the file that somebody named, or the one that must be meant."""

    def inside(paths: Iterable[Path]) -> list[str]:
        return [path.relative_to(into).as_posix() for path in paths]

    def counts(path: Path) -> bool:  # what packers add does not
        parts = path.relative_to(into).parts
        return path.is_file() and "__MACOSX" not in parts and not any(part.startswith(".") for part in parts)

    files = sorted(filter(counts, into.rglob("*")))
    named = [path for path in files if path.name.lower().endswith(FORMATS[format_])]
    if entry is not None:
        if entry not in inside(named):
            raise unknown(f"file of {name!r} for the format {format_!r}:", entry, inside(named), code="asset_entry")
        return into / entry
    found = [path for path in named if format_ != "mjcf" or is_mjcf(path)]
    if not found:
        for path in named:
            if is_lfs_pointer(path):
                raise lfs_pointer(path.name)
            elements(path)  # where none can be read, its own fault tells more
        templates = [path for path in files if path.name.lower().endswith(".xacro")] if format_ == "urdf" else []
        have = listed(map(repr, inside(files)), _SHOWN) or "nothing"
        advice = f"Wanted: one {' or '.join(FORMATS[format_])}. It has: {have}."
        if templates:
            advice = f"It has xacro templates; expand one: xacro {inside(templates)[0]} > robot.urdf"
        raise RequestError(
            f"{name!r} holds no file of the format {format_!r}.", code="asset_wrong_format", advice=advice
        )
    least = min(len(path.parts) for path in found)
    left = _choose([path for path in found if len(path.parts) == least], format_, name, into)
    if len(left) > 1:
        first = inside(left)[0]
        raise RequestError(
            f"{name!r} holds {len(left)} files that could be meant: {listed(map(repr, inside(left)), _SHOWN)}.",
            code="asset_ambiguous",
            advice=f'Name one: "file": "{first}" beside the bundle in the request, or --entry {first} at its upload.',
        )
    return left[0]


def _choose(files: Sequence[Path], format_: str, bundle: str, root: Path) -> Sequence[Path]:
    """Return the files of a bundle that could be meant.

    Of several those count that others include, of these the one that is named as a folder around it, or the only one
    with joints. A USD that others are made of is a part, so there those count that no other is made of.
    """
    around = {part for path in files for part in path.relative_to(root).parent.parts}
    around |= {bundle.lower().removesuffix(end) for end in BUNDLES}
    folders = {folder.lower().removesuffix("_description").replace("-", "_") for folder in around}
    includes: dict[str, Callable[[Path], list[str]]] = {"mjcf": included_by_mjcf, "usd": composed_of}
    inside = {path: includes[format_](path) if format_ in includes else [] for path in files}
    parts = {Path(os.path.normpath(path.parent / text)) for path, texts in inside.items() for text in texts}

    def is_part(path: Path) -> bool:
        return (path in parts) is (format_ == "mjcf")

    def is_named(path: Path) -> bool:
        stem = path.stem.lower().replace("-", "_")
        return any(folder == stem or folder.endswith(f"_{stem}") for folder in folders)

    def has_joints(path: Path) -> bool:
        holder = {"urdf": "robot", "mjcf": "body"}.get(format_)
        with suppress(RequestError):
            return holder is None or any(each.tag == "joint" and each.parent == holder for each in elements(path))
        return False

    for rule in (is_part, is_named, has_joints):
        files = [path for path in files if rule(path)] or files
        if len(files) == 1:
            break
    return files
