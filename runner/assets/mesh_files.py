"""Mesh files and their materials: which files they refer to, and how a copy does without some of them."""

from __future__ import annotations

import json
import re
import struct
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection, Iterator
from itertools import accumulate
from pathlib import Path

from simyard.core.errors import RequestError
from simyard.core.foreign import parse_json
from simyard.runner.assets.references import LEFT_OUT, Folder, Reference
from simyard.runner.assets.safe_xml import MOST_DAE_BYTES, elements, tree, write_tree

MESHES = (".dae", ".glb", ".gltf", ".obj", ".off", ".ply", ".stl")
"""Endings of mesh files that Newton's reader takes and that are looked into here."""
MSH = ".msh"
"""Ending of MuJoCo's own older meshes, which nobody else reads."""
MOST_GLTF_BYTES = 128 << 20
"""Of the JSON of a glTF, which may hold its buffers as text."""
_NO_IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4"
    "//8/AwAI/AL+p5qgoAAAAABJRU5ErkJggg=="
)
"""One white pixel."""
_FACES = {
    ".stl": rb"vertex",
    ".obj": rb"(?m)^[ \t]*f[ \t]",
    ".ply": rb"element\s+face\s+0*[1-9]",
    ".dae": rb"<(?:\w+:)?(?:triangles|polylist|polygons|tristrips|trifans)[\s>/]",
}
"""Text that a file with a face has, by its ending."""


def settle_mesh(path: Path, folder: Folder) -> list[Path]:
    """Make a mesh or material file refer to nothing outside its folder; return the files that it refers to.

    Raises:
        RequestError: If it cannot be read, or lacks more than its looks.
    """
    settle = _SETTLERS.get(path.suffix.lower())
    return settle(path, folder) if settle else []


def is_empty(path: Path) -> bool:
    """Return whether a mesh has no face, as exporters write for what has no look."""
    if path.suffix.lower() not in _FACES:
        return False
    data = path.read_bytes()
    if path.suffix.lower() == ".stl" and (b"\0" in data[:84] or not data.lstrip().startswith(b"solid")):
        return data[80:84] in (b"", b"\0\0\0\0")  # a binary one counts them
    return not data.startswith((b"\xff\xfe", b"\xfe\xff")) and not re.search(_FACES[path.suffix.lower()], data)


def as_obj(path: Path) -> Path:
    """Write a mesh of MuJoCo's older format as an OBJ beside it, which every reader takes, and return that.

    The format: four counts, of vertices, normals, texture coordinates and faces; then the numbers of each.

    Raises:
        RequestError: If it is not as long as its counts say, or a face has a vertex that is not there.
    """
    copy = path.with_name(f"{path.name}.obj")
    if copy.exists():
        return copy
    data = path.read_bytes()
    counts = struct.unpack_from("<4i", data) if len(data) >= 16 else (-1,)
    ends = list(accumulate((16, *(4 * size * count for size, count in zip((3, 3, 2, 3), counts, strict=False)))))
    if min(counts) < 0 or ends[-1] != len(data):
        raise _no_msh(path, f"has {len(data):,} bytes, and its counts {counts} ask for {ends[-1]:,}")
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in struct.iter_unpack("<3f", data[16 : ends[1]])]
    for face in struct.iter_unpack("<3i", data[ends[3] :]):
        if not 0 <= min(face) <= max(face) < counts[0]:
            raise _no_msh(path, f"has a face of the vertices {face}, and {counts[0]:,} vertices")
        lines.append("f {} {} {}".format(*(vertex + 1 for vertex in face)))
    copy.write_text("\n".join([*lines, ""]), encoding="ascii")
    return copy


def _no_msh(path: Path, what: str) -> RequestError:
    return RequestError(f"{path.name!r} {what}.", code="asset_unreadable", advice="Export it again, as OBJ or STL.")


# --- text: Wavefront and PLY ----------------------------------------------------------------------------------------


def _obj(path: Path, folder: Folder) -> list[Path]:
    return _settle_lines(path, folder, rb"(?m)^[ \t]*mtllib[ \t]+([^\r\n]*)[\r\n]*")


def _mtl(path: Path, folder: Folder) -> list[Path]:
    return _settle_lines(path, folder, rb"(?mi)^[ \t]*(?:map_|bump|disp|decal|refl|norm)[^\s]*[ \t]+([^\r\n]*)[\r\n]*")


def _settle_lines(path: Path, folder: Folder, naming: bytes) -> list[Path]:
    """Follow the names on some lines of a text file, and take out the lines that name what is left out."""
    found: list[Path] = []
    data, kept, end = path.read_bytes(), [], 0
    for line in re.finditer(naming, data):
        # A name may have spaces in it, be one of several, or follow options.
        text = line[1].decode("utf-8", "surrogateescape").strip()
        for name in dict.fromkeys([text, *text.split()] if text else []):
            target = folder.look(Reference(text=name, base=path.parent), path, guess=True)
            if target is None and end < line.end():
                kept.append(data[end : line.start()])
                end = line.end()
            elif target is not None and target != path:
                found.append(target)
    if end:
        path.write_bytes(b"".join([*kept, data[end:]]))
    return found


def _ply(path: Path, folder: Folder) -> list[Path]:
    found: list[Path] = []
    for line in _header(path):
        if match := re.match(r"comment\s+TextureFile\s+(.+)", line, re.IGNORECASE):
            target = folder.look(Reference(text=match[1].strip(), base=path.parent), path, guess=True)
            if target is None:  # the header's end stays where it is: vertices of any kind follow
                old = line.rstrip("\n").encode(errors="surrogateescape")
                path.write_bytes(path.read_bytes().replace(old, b"comment".ljust(len(old)), 1))
            elif target != path:
                found.append(target)
    return found


def _header(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline=None) as file:
        while (line := file.readline(1 << 16)) and not line.startswith("end_header"):
            yield line


# --- COLLADA and glTF -----------------------------------------------------------------------------------------------


def _dae(path: Path, folder: Folder) -> list[Path]:
    """Take every name of a texture for a path, as Newton does with those that are no ids."""
    found: list[Path] = []
    left_out, surfaces, sampled = set(), set(), set()
    for element in elements(path, MOST_DAE_BYTES, texts=("init_from", "ref", "source")):
        text = element.attributes.get("texture", "") if element.tag == "texture" else element.text.strip()
        if element.tag == "newparam":
            surfaces.add(element.attributes.get("sid", ""))
        elif element.tag == "source" and text:
            sampled.add(text)
        if text:
            target = folder.look(Reference(text=text, base=path.parent), path, guess=True)
            if target is None:
                left_out.add(text)
            elif target != path:
                found.append(target)
    broken = sampled - surfaces
    if left_out or broken:
        root, _ = tree(path, MOST_DAE_BYTES, foreign=True)
        for name in _without_looks(root, broken):
            folder.note(f"the material {name!r} of {folder.name(path)!r} samples a surface that is not there: no look")
        for each in root.iter():
            if each.text and each.text.strip() in left_out:
                each.text = LEFT_OUT
            if each.get("texture") in left_out:
                each.set("texture", LEFT_OUT)
        write_tree(root, path)
    return found


def _without_looks(root: ET.Element, broken: Collection[str]) -> list[str]:
    """Take materials that sample missing surfaces off the geometry: a reader drops both. Return their names."""

    def all_of(tag: str, below: ET.Element = root) -> Iterator[ET.Element]:
        return (each for each in below.iter() if str(each.tag).rpartition("}")[2] == tag)

    def samples(effect: ET.Element) -> bool:
        return any((source.text or "").strip() in broken for source in all_of("source", effect))

    effects = {f"#{effect.get('id')}" for effect in all_of("effect") if samples(effect)}
    materials = {
        f"#{material.get('id')}": material.get("name") or material.get("id") or ""
        for material in all_of("material")
        if any(each.get("url") in effects for each in all_of("instance_effect", material))
    }
    for holder in list(root.iter()):
        for bound in list(holder):
            if str(bound.tag).endswith("instance_material") and bound.get("target") in materials:
                holder.remove(bound)
    return sorted(materials.values())


def _gltf(path: Path, folder: Folder) -> list[Path]:
    is_binary = path.suffix.lower() == ".glb"
    try:
        with path.open("rb") as file:
            length = MOST_GLTF_BYTES + 1
            if is_binary:  # its JSON comes first, and says how long it is
                length, kind = struct.unpack("<I4s", file.read(20)[12:])
                if kind != b"JSON":
                    raise ValueError("its first chunk is not JSON")
            data = file.read(min(length, MOST_GLTF_BYTES + 1))
            rest = file.tell()
        scene = parse_json(data, most_bytes=MOST_GLTF_BYTES)
        buffers = [str(buffer["uri"]) for buffer in scene.get("buffers", []) if "uri" in buffer]
        images = [image for image in scene.get("images", []) if "uri" in image]
        texts = [str(image["uri"]) for image in images]
    except (ValueError, struct.error, TypeError, AttributeError) as error:
        raise RequestError(
            f"{path.name!r} cannot be read as glTF: {error}.", code="asset_unreadable", advice="Export it again."
        ) from error

    # Without its buffers it is nothing; an image may be missing.
    def reference(text: str) -> Reference:
        return Reference(text=text, base=path.parent)

    found = [folder.find(reference(text), path) for text in buffers if not text.startswith("data:")]
    changed = False
    for image, text in zip(images, texts, strict=True):
        if text.startswith("data:"):
            continue
        if target := folder.look(reference(text), path):
            found.append(target)
        else:
            image["uri"], changed = _NO_IMAGE, True
    if changed:
        data = json.dumps(scene, separators=(",", ":")).encode()
        if is_binary:  # what follows the JSON is kept
            data += b" " * (-len(data) % 4)
            kept = path.read_bytes()[rest:]
            head = struct.pack("<4sIII4s", b"glTF", 2, 20 + len(data) + len(kept), len(data), b"JSON")
            data = head + data + kept
        path.write_bytes(data)
    return found


_SETTLERS: dict[str, Callable[[Path, Folder], list[Path]]] = {
    ".obj": _obj,
    ".mtl": _mtl,
    ".ply": _ply,
    ".dae": _dae,
    ".gltf": _gltf,
    ".glb": _gltf,
}
