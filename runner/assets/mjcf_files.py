"""MJCF files: a copy in one piece, whose assets every reader finds in the same places.

MuJoCo pastes what a file includes, and reads assets from the folders that the whole says; Newton reads those of each
file from the folders that this file says. A copy without includes, with plain paths, means the same to both.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from simyard.core.errors import RequestError
from simyard.runner.assets.mesh_files import MESHES, MSH, as_obj
from simyard.runner.assets.references import Folder, Reference, address_fault
from simyard.runner.assets.safe_xml import bad_xml, elements, tree, write_tree

MJCF = (".xml", ".mjcf")
MOST_INCLUDES = 200
"""Files that one file includes, with what they include."""
_FOLDERS = ("assetdir", "meshdir", "texturedir", "strippath")
"""What a compiler element says of the places of assets."""


def is_mjcf(path: Path) -> bool:
    """Return whether a file can be read, and is a model of MuJoCo's."""
    try:
        return elements(path)[0].tag == "mujoco"
    except RequestError:
        return False


def included_by_mjcf(path: Path) -> list[str]:
    """Return the names of the files that a file includes; none for one that cannot be read."""
    with suppress(RequestError):
        return [each.attributes.get("file", "") for each in elements(path) if each.tag == "include"]
    return []


def settle_mjcf(path: Path, folder: Folder) -> list[Path]:
    """Make an MJCF one file that refers to nothing outside its folder; return the files that it refers to.

    Raises:
        RequestError: If it, or a file that it includes, cannot be read or refers to what is not there.
    """
    root, plain = _model(path)
    before = ET.tostring(root)

    # Everything that it includes, in its place; settings of the whole are in one element, the later ones hold.
    pasted = _Pasted(path, folder)
    pasted.paste(root, path)
    compilers = root.findall("compiler")
    merged = {name: value for compiler in compilers for name, value in compiler.attrib.items()}
    whole = _Places.of(merged)
    if len(pasted.files) > 1 or merged.keys() & set(_FOLDERS):
        for compiler in compilers:
            root.remove(compiler)
        root.insert(0, ET.Element("compiler", {name: merged[name] for name in merged if name not in _FOLDERS}))

    # Every file by its path from here.
    found: list[Path] = []
    for holder in list(root.iter()):
        for element in list(holder):
            for name in sorted(name for name in element.attrib if name.startswith("file")):
                home = pasted.home.get(element, path)
                places = (whole, pasted.files[home], pasted.files[path])
                reference = _reference(element, element.attrib[name], folder, (path, home), places)
                is_look = element.tag in ("texture", "skin")
                target = folder.look(reference, home) if is_look else folder.find(reference, home)
                if target is None:
                    _leave_out(holder, element, reference.text)
                    break
                if element.tag == "mesh" and target.suffix.lower() == MSH:
                    element.attrib.setdefault("name", target.stem)
                    element.attrib.pop("content_type", None)
                    target = as_obj(target)
                element.set(name, Path(os.path.relpath(target, path.parent)).as_posix())
                found.append(target)
    if not plain or ET.tostring(root) != before:
        write_tree(root, path)
    return found


@dataclass(frozen=True)
class _Places:
    """The folders that a compiler element names."""

    meshes: str
    textures: str
    strip: bool

    @classmethod
    def of(cls, compiler: dict[str, str]) -> _Places:
        both = compiler.get("assetdir", "")
        strip = compiler.get("strippath", "false").lower() in ("true", "1")
        return cls(compiler.get("meshdir", both), compiler.get("texturedir", both), strip)

    def path(self, tag: str, text: str) -> str:
        """Return the path of an element's file."""
        if tag in ("include", "model"):
            return text
        name = text.replace("\\", "/").rpartition("/")[2] if self.strip else text
        place = (self.textures if tag == "texture" else self.meshes).rstrip("/")
        return name if place in ("", ".") or address_fault(name) else f"{place}/{name}"


class _Pasted:
    """A model, with the files that it includes in their places."""

    def __init__(self, main: Path, folder: Folder) -> None:
        self._main, self._folder = main, folder
        self.files: dict[Path, _Places] = {}
        """Each file, and the folders that it names itself."""
        self.home: dict[ET.Element, Path] = {}
        """The file of each element that came from another one than the main file."""

    def paste(self, root: ET.Element, file: Path) -> None:
        """Put what a file includes in the place of its include elements."""
        own = root.find("compiler")
        self.files[file] = _Places.of({} if own is None else own.attrib)
        for holder in list(root.iter()):
            for element in list(holder):
                if element.tag != "include":
                    continue
                text = element.get("file", "")
                beside = [path.parent for path in (self._main, file) if self._folder.has(path.parent / text)]
                reference = Reference(text=text, base=(beside or [self._main.parent])[0], endings=MJCF)
                target = self._folder.find(reference, file)
                if target in self.files or len(self.files) > MOST_INCLUDES:
                    what = f"includes {self._folder.name(target)!r}, which is included already"
                    if target not in self.files:
                        what = f"includes more than {MOST_INCLUDES} files"
                    raise bad_xml(file, what, "MuJoCo takes each file once: leave one <include> out.")
                part, _ = _model(target)
                self.home |= dict.fromkeys(part.iter(), target)
                self.paste(part, target)
                at = list(holder).index(element)
                holder[at : at + 1] = list(part)


def _model(path: Path) -> tuple[ET.Element, bool]:
    root, plain = tree(path)
    if root.tag not in ("mujoco", "mujocoinclude"):
        raise bad_xml(path, f"is no MJCF: its root is <{root.tag}>, not <mujoco>", "Check the robot's format.")
    return root, plain


def _reference(
    element: ET.Element, text: str, folder: Folder, files: Sequence[Path], places: Sequence[_Places]
) -> Reference:
    """Return a reference in the first reading that leads to a file: MuJoCo's, then Newton's and mixtures of them."""
    tags = (element.tag, "mesh") if element.tag == "texture" else (element.tag,)
    options = [(file.parent, place.path(tag, text)) for tag in tags for file in files for place in places]
    base, path = next((option for option in options if folder.has(option[0] / option[1])), options[0])
    endings = MJCF if element.tag == "model" else (*MESHES, MSH) if element.tag == "mesh" else ()
    return Reference(text=path, base=base, endings=endings)


def _leave_out(holder: ET.Element, element: ET.Element, text: str) -> None:
    """Take out a skin, or make a texture that is nowhere a plain one."""
    if element.tag != "texture":
        holder.remove(element)
        return
    kept = {name: value for name, value in element.attrib.items() if not name.startswith(("file", "grid", "content"))}
    kept.setdefault("name", Path(text).stem)
    element.attrib.clear()
    element.attrib.update({**kept, "builtin": "flat", "width": "8", "height": "8"})
