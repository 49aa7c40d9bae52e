"""Write `runner/newton/models/fr3.zip`, the FR3 of the mode `fr3_pick_lift_block_v1`, from Franka's own description.

    pip install xacrodoc==2.0.1 && python tests/runner/make_fr3.py FOLDER

FOLDER is a checkout of `franka_description` 1.0.1, under that name. The xacro files are expanded once, with the hand.
The visual meshes, of 15 MB, are left out: the collision meshes stand for them. The same sources give the same bytes.
"""

import sys
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

from xacrodoc import XacroDoc, packages

MODELS = Path(__file__).parents[2] / "runner" / "newton" / "models"
PACKAGE = "package://franka_description/"
WHITE = "0.92 0.93 0.94 1"


def main(source: Path) -> None:
    packages.update_package_cache({"franka_description": str(source)})
    described = XacroDoc.from_file(source / "robots/fr3/fr3.urdf.xacro", resolve_packages=False)
    robot = ET.fromstring(described.to_urdf_string())  # the parser leaves comments out

    # Every link looks as it collides, and meshes lie beside the URDF, each once.
    meshes: dict[str, Path] = {}
    for link in robot.iter("link"):
        for visual in link.findall("visual"):
            link.remove(visual)
        for number, collision in enumerate(link.findall("collision")):
            if (mesh := collision.find("geometry/mesh")) is not None:
                file = source / mesh.attrib["filename"].removeprefix(PACKAGE)
                mesh.set("filename", f"meshes/{file.name}")
                meshes[f"meshes/{file.name}"] = file
            visual = ET.Element("visual")
            visual.extend(part for part in collision if part.tag in ("origin", "geometry"))
            ET.SubElement(ET.SubElement(visual, "material", name="white"), "color", rgba=WHITE)
            link.insert(number, visual)
    ET.indent(robot)

    files = {"fr3.urdf": ET.tostring(robot, encoding="utf-8", xml_declaration=True) + b"\n"}
    files |= {name: file.read_bytes() for name, file in sorted(meshes.items())}
    files |= {name: (source / name).read_bytes() for name in ("LICENSE", "NOTICE")}
    with zipfile.ZipFile(MODELS / "fr3.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)  # of 1980: the same every time
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, data)
    for name in ("LICENSE", "NOTICE"):
        (MODELS / f"franka_description.{name}").write_bytes(files[name])


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
