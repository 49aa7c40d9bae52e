"""URDF files: a copy that refers to nothing outside its folder, by plain paths, and says the same to every reader."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from pathlib import Path

from simyard.runner.assets.archive_formats import show
from simyard.runner.assets.mesh_files import MESHES, is_empty
from simyard.runner.assets.references import Folder, Reference
from simyard.runner.assets.safe_xml import EXPAND, bad_xml, tree, write_tree


def settle_urdf(path: Path, folder: Folder) -> list[Path]:
    """Make a URDF refer to nothing outside its folder; return the files that it refers to.

    Raises:
        RequestError: If it cannot be read, or refers to what is not there.
    """
    root, plain = tree(path)
    if root.tag != "robot":
        raise bad_xml(path, f"is no URDF: its root is <{root.tag}>, not <robot>", "Check the robot's format.")
    before = ET.tostring(root)
    for element in root.iter():
        for name, value in element.attrib.items():
            if "${" in value or "$(" in value:
                raise bad_xml(path, f"is a xacro template: it has <{element.tag} {name}={show(value)}>", EXPAND)
    if root.find("link") is None:
        raise bad_xml(path, "has no link", "A robot has a <link> for each of its bodies.")
    for joint in root.findall("joint"):
        if joint.get("type") == "floating":
            what = f"has the floating joint {show(joint.get('name', ''))}, and a robot's joints are of axes"
            advice = (
                "Leave out the joint and what is above it, and set control.fix_base to false: then the base floats."
            )
            raise bad_xml(path, what, advice)

    # Newton would look packages up on this machine, and stumbles over a mesh without a face.
    found: list[Path] = []
    empty: dict[Path, bool] = {}
    for holder in list(root.iter()):
        for element in list(holder):
            text = element.get("filename")
            if not text or element.tag not in ("mesh", "texture"):
                continue
            target: Path | None
            if element.tag == "texture":
                target = folder.look(Reference(text=text, base=path.parent, packages=True), path)
            else:
                target = folder.find(Reference(text=text, base=path.parent, endings=MESHES, packages=True), path)
                if target not in empty:
                    empty[target] = is_empty(target)
                if empty[target]:
                    folder.note(f"the mesh {folder.name(target)!r} has no face: it is left out")
                    target = None
            if target is None:
                holder.remove(element)
                continue
            element.set("filename", Path(os.path.relpath(target, path.parent)).as_posix())
            found.append(target)
    if not plain or ET.tostring(root) != before:
        write_tree(root, path)
    return found
