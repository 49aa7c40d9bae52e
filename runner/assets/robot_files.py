"""The file of a robot or a scene, or the one in a bundle that counts, with everything that it refers to.

Newton's readers fetch meshes over HTTP, look packages up in ROS's search paths and open whatever path they are given.
So everything that they would read is found here first, recursively, and whatever is not in the folder is refused.
Standard library only, and USD's own where the file is one: bad assets are refused before a simulator starts.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from simyard.core.errors import RequestError, unknown
from simyard.core.foreign import parse_json
from simyard.runner.assets import archives
from simyard.runner.assets.archive_formats import show
from simyard.runner.assets.safe_xml import MOST_DAE_BYTES, bad_xml, elements

MESHES = (".dae", ".glb", ".gltf", ".obj", ".off", ".ply", ".stl")
"""Endings of mesh files that Newton's reader takes and that are looked into here."""
USD_LAYERS = (".usd", ".usda", ".usdc")
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
MOST_REFERENCES = 20_000
"""References of an asset's files to others: as many as an archive may have files."""
MOST_GLTF_BYTES = 128 << 20
"""Of the JSON of a glTF, which may hold its buffers as text."""
_LFS = b"version https://git-lfs"
_DRIVE = re.compile(r"[A-Za-z]:")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


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
        references = check_references(main, format_, root)
        # Plain paths where a URDF names packages: Newton would look those up on this machine.
        if format_ == "urdf" and any("://" in text for text in references):
            try:
                tree = ET.parse(main)
            except ET.ParseError as error:  # it minds namespaces, as Newton does
                raise bad_xml(main, f"is not well-formed XML: {error}") from error
            for element in tree.iter():
                target = references.get(element.attrib.get("filename", ""))
                if target is not None and element.tag in ("mesh", "texture"):
                    element.set("filename", Path(os.path.relpath(target, main.parent)).as_posix())
            tree.write(main, encoding="utf-8", xml_declaration=True)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise
    return main


def _lay_out(path: Path, format_: str, into: Path) -> Path:
    """Copy or unpack an asset into a new folder, and return its main file."""
    name = path.name.lower()
    if name.endswith(FORMATS[format_]):
        into.mkdir()
        return Path(shutil.copyfile(path, into / path.name))
    if name.endswith(BUNDLES):
        archives.unpack(path, into)
        return _main_of_bundle(path.name, format_, into)
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


def _main_of_bundle(name: str, format_: str, into: Path) -> Path:
    """Return the one file of the format that is least deep; what packers add does not count."""

    def names(paths: list[Path], most: int = 8) -> str:
        shown = [repr(str(path.relative_to(into))) for path in paths]
        more = f", … ({len(shown)} in all)" if len(shown) > most else ""
        return (", ".join(shown[:most]) or "nothing") + more

    def counts(path: Path) -> bool:
        parts = path.relative_to(into).parts
        return path.is_file() and "__MACOSX" not in parts and not any(part.startswith(".") for part in parts)

    def is_mjcf(path: Path) -> bool:
        try:
            return elements(path)[0].tag == "mujoco"
        except RequestError:
            return False

    files = sorted(filter(counts, into.rglob("*")))
    named = [path for path in files if path.name.lower().endswith(FORMATS[format_])]
    found = [path for path in named if format_ != "mjcf" or is_mjcf(path)]
    if not found:
        for path in named:
            elements(path)  # where none can be read, its own fault tells more
        raise RequestError(
            f"{name!r} holds no file of the format {format_!r}.",
            code="asset_wrong_format",
            advice=f"Wanted: one {' or '.join(FORMATS[format_])}. It has: {names(files)}.",
        )
    least = min(len(path.parts) for path in found)
    top = [path for path in found if len(path.parts) == least]
    if len(top) > 1:
        raise RequestError(
            f"{name!r} holds {len(top)} files that could be meant: {names(top)}.",
            code="asset_ambiguous",
            advice="Leave one of them at the top, and put the others into a folder below.",
        )
    return top[0]


# --- where references lead ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Reference of one file to another."""

    text: str
    """As it is written."""
    base: Path
    """The folder that it is relative to."""
    optional: bool = False
    """True for looks alone: where the file is missing, the reader goes without."""
    endings: tuple[str, ...] = ()
    """Endings the name may have; empty for any."""
    packages: bool = False
    """Whether `package://` means a folder of the bundle."""
    numbered: bool = False
    """Whether `<UDIM>` and `#` stand for numbers, of which one is enough."""


Reader = Callable[[Path], Iterable[Reference]]


def check_references(main: Path, format_: str, root: Path) -> dict[str, Path]:
    """Follow every reference from the main file on, and return where its own lead, by their text.

    Args:
        main: The main file.
        format_: `urdf`, `mjcf` or `usd`.
        root: The folder that nothing may lead out of.

    Raises:
        RequestError: If one is a URL, absolute, leads out of the folder or to a file that is not there, a file that is
            followed cannot be read, or there are too many.
    """
    folder, own = _Folder(root), dict[str, Path]()
    waiting: list[tuple[Path, Reader]] = [(main, _READERS[format_])]
    seen = {main}
    count = 0
    while waiting:
        path, reader = waiting.pop()
        for reference in reader(path):
            count += 1
            if count > MOST_REFERENCES:
                advice = "Leave out what the job does not need"
                raise _refused(f"The files of {main.name!r} have more than {MOST_REFERENCES:,} references", advice)
            target = folder.find(reference, path)
            if target is None:
                continue
            if path == main:
                own[reference.text] = target
            suffix = target.suffix.lower()
            includes = reader is _mjcf and suffix in FORMATS["mjcf"]
            following = _mjcf if includes else _BY_SUFFIX.get(suffix)
            if target not in seen and following:
                seen.add(target)
                waiting.append((target, following))
    return own


class _Folder:
    """The folder of an asset: whatever is referred to is in it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, reference: Reference, beside: Path) -> Path | None:
        """Return the file that is meant; None for one that is missing and not needed."""
        text = reference.text
        where = f"{str(beside.relative_to(self._root))!r} refers to {show(text)}"
        if reference.packages and (match := re.match(r"(?:package|model)://([^/.][^/]*)/(.+)", text)):
            candidates = self._in_packages(match[1], match[2], beside)
        else:
            _refuse_address(text, where)
            candidates = [reference.base / text]
        normal = (Path(os.path.normpath(path)) for path in candidates)
        inside = [path for path in normal if path.is_relative_to(self._root)]
        if not inside:
            raise _refused(f"{where}, which leads out of the folder", "Keep every file in the bundle's folder")
        for path in inside:
            if found := _file(path, reference):
                if reference.endings and found.suffix.lower() not in reference.endings:
                    allowed = ", ".join(reference.endings)
                    raise _refused(f"{where}, of a format that is not read", f"Allowed: {allowed}")
                with found.open("rb") as file:
                    if file.read(len(_LFS)) == _LFS:
                        advice = "Pack the files themselves: git lfs pull"
                        raise _refused(f"{where}, which is a pointer of Git LFS", advice)
                return found
        if reference.optional:
            return None
        alike = (found for found in self._root.rglob("*") if found.name.lower() == inside[0].name.lower())
        near = sorted(str(found.relative_to(self._root)) for found in alike)
        advice = "Send a .zip bundle with every file that is referred to"
        if near:
            advice = f"There is {', '.join(map(repr, near[:4]))}: mind folders, and upper and lower case"
        raise _refused(f"{where}, and there is no such file", advice)

    def _in_packages(self, name: str, rest: str, beside: Path) -> list[Path]:
        """Return possible paths of a package's file: in the bundle's folder of that name, or the package itself."""
        above = [folder for folder in beside.parents if folder.is_relative_to(self._root)]
        named = [folder for folder in self._folders if folder.name == name]
        named.sort(key=lambda folder: folder not in above)
        return [folder / rest for folder in (*named, *above)]

    @cached_property
    def _folders(self) -> list[Path]:
        found = (path for path in self._root.rglob("*") if path.is_dir())
        return sorted(found, key=lambda path: (len(path.parts), str(path)))


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


def _refuse_address(text: str, where: str) -> None:
    if not text.strip() or "\0" in text:
        raise _refused(f"{where}, which names no file", "Name a file of the bundle")
    if "://" in text or (_SCHEME.match(text) and not _DRIVE.match(text)) or text.startswith("//"):
        raise _refused(f"{where}, which is a URL", "Nothing is downloaded: put the file into the bundle")
    if text.startswith(("/", "~")) or _DRIVE.match(text):
        raise _refused(f"{where}, which is absolute", "Put the file into the bundle, and name it by a relative path")
    if "\\" in text:
        raise _refused(f"{where}, which has a backslash", "Part folders with '/'")


def _refused(what: str, advice: str) -> RequestError:
    return RequestError(f"{what}.", code="asset_reference", advice=f"{advice}.")


# --- references of each kind of file --------------------------------------------------------------------------------


def _urdf(path: Path) -> Iterator[Reference]:
    found = elements(path)
    if found[0].tag != "robot":
        raise bad_xml(path, f"is no URDF: its root is <{found[0].tag}>, not <robot>", "Check the robot's format.")
    for element in found:
        if element.tag in ("mesh", "texture") and (text := element.attributes.get("filename")):
            mesh = element.tag == "mesh"
            yield Reference(text=text, base=path.parent, endings=MESHES if mesh else (), packages=True)


def _mjcf(path: Path) -> Iterator[Reference]:
    """Read references as Newton does: each file's own `compiler` says where its assets are."""
    found = elements(path)
    if found[0].tag not in ("mujoco", "mujocoinclude"):
        raise bad_xml(path, f"is no MJCF: its root is <{found[0].tag}>, not <mujoco>", "Check the robot's format.")
    of_file = (each.attributes for each in found if each.tag == "compiler" and each.parent == found[0].tag)
    compiler = next(of_file, {})
    both = compiler.get("assetdir", ".")
    meshes = compiler.get("meshdir", both)
    textures = compiler.get("texturedir", both if "assetdir" in compiler else meshes)
    strip = compiler.get("strippath", "false").lower() in ("true", "1")
    for element in found:
        for name in sorted(name for name in element.attributes if name.startswith("file")):
            text = element.attributes[name]
            if element.tag in ("include", "model"):
                yield Reference(text=text, base=path.parent, endings=(".xml", ".mjcf"))
                continue
            folder = textures if element.tag == "texture" else meshes
            _refuse_address(text, f"{path.name!r} refers to {show(text)}")
            text = text.rpartition("/")[2] if strip else text
            endings = MESHES if element.tag == "mesh" else ()
            yield Reference(text=text if folder == "." else f"{folder}/{text}", base=path.parent, endings=endings)


def _usd(path: Path) -> Iterator[Reference]:
    try:
        from pxr import Sdf, Tf, UsdUtils
    except ImportError as error:
        raise RequestError(
            f"USD files cannot be read here: {error}.",
            code="no_usd",
            advice="Install 'isaaclab==3.0.0', or name a Python that has it in SIMYARD_PYTHON.",
        ) from error
    texts: list[str] = []

    def note(text: str) -> str:
        texts.append(text)
        return text

    try:
        layer = Sdf.Layer.OpenAsAnonymous(str(path))
        if layer is None:
            raise _bad_usd(path, "nothing reads it")
        UsdUtils.ModifyAssetPaths(layer, note)
    except (Tf.ErrorException, UnicodeError) as error:
        why = "its text is not UTF-8"
        with suppress(UnicodeError):  # USD quotes what it could not read
            why = next((line.strip() for line in str(error).splitlines() if line.strip()), "nothing reads it")
        raise _bad_usd(path, why) from error
    if layer.pseudoRoot.HasInfo("expressionVariables"):
        raise _refused(f"{path.name!r} has expressionVariables, so that its references can change", "Write them out")
    for text in filter(None, texts):
        where = f"{path.name!r} refers to {show(text)}"
        name, _, arguments = text.partition(":SDF_FORMAT_ARGS:")
        if arguments:
            raise _refused(f"{where}, with arguments for its format", "Name the file alone")
        suffix = Path(name).suffix.lower()
        if suffix in (".usdz", ".mtlx") or "[" in name:
            advice = "Bring what is in it as USD files of the bundle"
            raise _refused(f"{where}, whose content is not looked into", advice)
        # Materials of a bare name are those that NVIDIA's renderers bring themselves; nothing here reads them.
        if suffix != ".mdl" or "/" in name or "\\" in name:
            yield Reference(text=name, base=path.parent, numbered=True)


def _bad_usd(path: Path, why: str) -> RequestError:
    return RequestError(
        f"{path.name!r} cannot be opened as USD: {why}.",
        code="asset_unreadable",
        advice="usdview or 'usdchecker FILE' finds the same error.",
    )


def _obj(path: Path) -> Iterator[Reference]:
    for line in _lines(path):
        if line.startswith(("mtllib ", "mtllib\t")):
            yield from _looks(line[7:].strip(), path)


def _mtl(path: Path) -> Iterator[Reference]:
    for line in _lines(path):
        key, _, rest = line.strip().partition(" ")
        if key.lower().startswith(("map_", "bump", "disp", "decal", "refl", "norm")):
            yield from _looks(rest.strip(), path)


def _looks(text: str, path: Path) -> Iterator[Reference]:
    """Yield a name that may have spaces in it, or be one of several, or follow options."""
    for name in dict.fromkeys([text, *text.split()]):
        yield Reference(text=name, base=path.parent, optional=True)


def _ply(path: Path) -> Iterator[Reference]:
    for line in _lines(path):
        if line.startswith("end_header"):
            return
        if match := re.match(r"comment\s+TextureFile\s+(.+)", line, re.IGNORECASE):
            yield Reference(text=match[1].strip(), base=path.parent, optional=True)


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace", newline=None) as file:
        while line := file.readline(1 << 16):
            yield line.lstrip()


def _dae(path: Path) -> Iterator[Reference]:
    """Take every name of a texture for a path, as Newton does with those that are no ids."""
    for element in elements(path, MOST_DAE_BYTES, texts=("init_from", "ref", "source")):
        text = element.attributes.get("texture", "") if element.tag == "texture" else element.text.strip()
        if text:
            yield Reference(text=text, base=path.parent, optional=True)


def _gltf(path: Path) -> Iterator[Reference]:
    try:
        with path.open("rb") as file:
            if path.suffix.lower() == ".glb":  # its JSON comes first, and says how long it is
                length, kind = struct.unpack("<I4s", file.read(20)[12:])
                if kind != b"JSON":
                    raise ValueError("its first chunk is not JSON")
                data = file.read(min(length, MOST_GLTF_BYTES + 1))
            else:
                data = file.read(MOST_GLTF_BYTES + 1)
        scene = parse_json(data, most_bytes=MOST_GLTF_BYTES)
        holders = [*scene.get("buffers", []), *scene.get("images", [])]
        texts = [str(holder["uri"]) for holder in holders if "uri" in holder]
    except (ValueError, struct.error, TypeError, AttributeError) as error:
        raise RequestError(
            f"{path.name!r} cannot be read as glTF: {error}.", code="asset_unreadable", advice="Export it again."
        ) from error
    for text in texts:
        if not text.startswith("data:"):
            yield Reference(text=text, base=path.parent)


_READERS: dict[str, Reader] = {"urdf": _urdf, "mjcf": _mjcf, "usd": _usd}
_BY_SUFFIX: dict[str, Reader] = {
    **dict.fromkeys(USD_LAYERS, _usd),
    ".obj": _obj,
    ".mtl": _mtl,
    ".ply": _ply,
    ".dae": _dae,
    ".gltf": _gltf,
    ".glb": _gltf,
}
