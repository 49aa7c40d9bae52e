"""Turn a robot description into one USD file, in the converters' own environment: nothing of simyard is there.

    python -I convert.py PLAN

The plan is a JSON file: `file` is the description, `out` the USD file to write, `packages` where `package://NAME/`
leads, and `recipe` what `recipes.py` says of the robot; without one the description is converted as it stands.
"""

from __future__ import annotations

import json
import math
import re
import resource
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np

MEMORY_BYTES = 4 << 30
"""Address space: the largest robots take a fifth of it."""
CPU_S = 300
"""Seconds of a processor: the largest robots take a tenth."""
_SMALL = (1e-3, 1e-6)
"""Mass and moments of inertia of a body that is kept without any: an engine has none for what weighs nothing."""


def main(plan_file: Path) -> None:
    """Convert what a plan says."""
    for what, most in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CPU, CPU_S)):
        resource.setrlimit(what, (most, most))
    plan = json.loads(plan_file.read_text(encoding="utf-8"))
    source, out, recipe = Path(plan["file"]), Path(plan["out"]), plan.get("recipe")
    work = plan_file.parent / "converted"
    if source.suffix.lower() == ".urdf":
        import urdf_usd_converter

        if recipe:
            prepared = plan_file.parent / "prepared.urdf"
            prepare(source, recipe, plan["packages"]).write(prepared, encoding="utf-8", xml_declaration=True)
            source = prepared
        packages = [{"name": name, "path": path} for name, path in plan["packages"].items()]
        converter = urdf_usd_converter.Converter(layer_structure=False, scene=False, ros_packages=packages)
    else:
        import mujoco_usd_converter

        converter = mujoco_usd_converter.Converter(layer_structure=False, scene=False)
    work.mkdir()
    made = converter.convert(str(source), str(work)).path
    finish(Path(made), recipe, out)


# --- the description, before it is converted ------------------------------------------------------------------------


def prepare(source: Path, recipe: dict[str, Any], packages: dict[str, str]) -> ET.ElementTree[ET.Element]:
    """Return a URDF as a recipe wants it: fixed links merged, names changed, shapes that collide chosen."""
    tree = ET.parse(source)
    robot = tree.getroot()
    assert robot is not None
    robot.set("name", "robot")
    for element in [element for element in robot if element.tag not in ("link", "joint", "material")]:
        robot.remove(element)

    # A root that is nothing stands for the world: the base follows from the recipe.
    links, joints = _named(robot, "link"), robot.findall("joint")
    children = {joint.find("child").get("link") for joint in joints}  # type: ignore[union-attr]
    for name in set(links) - children:
        below = [joint for joint in joints if joint.find("parent").get("link") == name]  # type: ignore[union-attr]
        if len(links[name]) == 0 and len(below) == 1 and below[0].get("type") in ("fixed", "floating"):
            robot.remove(links[name])
            robot.remove(below[0])
    for joint in [joint for joint in robot.findall("joint") if joint.get("type") == "fixed"]:
        child = joint.find("child").get("link", "")  # type: ignore[union-attr]
        if not re.fullmatch(recipe["keep"], child):
            _merge(robot, joint)
        elif _mass(link := _named(robot, "link")[child]) <= 0:
            _put_inertia(link, _SMALL[0], np.zeros(3), np.eye(3) * _SMALL[1])

    # Names, in all places where they stand.
    for element in robot.iter():
        for attribute in {"link": ("name", "link"), "joint": ("name", "joint")}.get(element.tag, ("link", "joint")):
            if (new := recipe["rename"].get(element.get(attribute))) is not None:
                element.set(attribute, new)

    # Shapes.
    for name, link in _named(robot, "link").items():
        radius = next((size for links, size in recipe["spheres"].items() if re.fullmatch(links, name)), None)
        if radius is not None or not re.fullmatch(recipe["collide"], name):
            for shape in link.findall("collision"):
                link.remove(shape)
        if radius is not None:
            shape = ET.SubElement(ET.SubElement(link, "collision"), "geometry")
            ET.SubElement(shape, "sphere", radius=str(radius))
    for mesh in robot.iter("mesh"):
        name = mesh.get("filename", "")
        package, _, inside = name.removeprefix("package://").partition("/")
        is_packed = name.startswith("package://")
        mesh.set("filename", str(Path(packages[package]) / inside if is_packed else source.parent / name))
    return tree


def _merge(robot: ET.Element, joint: ET.Element) -> None:
    """Make the link of a fixed joint part of its parent: shapes, mass and the joints below it."""
    links = _named(robot, "link")
    parent_name = joint.find("parent").get("link", "")  # type: ignore[union-attr]
    child_name = joint.find("child").get("link", "")  # type: ignore[union-attr]
    parent, child, at = links[parent_name], links[child_name], _pose(joint)
    for shape in (*child.findall("visual"), *child.findall("collision")):
        _put_pose(shape, at @ _pose(shape))
        parent.append(shape)
    for below in robot.findall("joint"):
        link = below.find("parent")
        assert link is not None
        if link.get("link") == child_name:
            link.set("link", parent_name)
            _put_pose(below, at @ _pose(below))
    bodies = [_inertia(parent, np.eye(4)), _inertia(child, at)]
    mass = sum(body[0] for body in bodies)
    if bodies[1][0] > 0:
        center = np.sum([body[0] * body[1] for body in bodies], axis=0) / mass
        moments = np.zeros((3, 3))
        for body in bodies:
            r = body[1] - center
            moments += body[2] + body[0] * (np.dot(r, r) * np.eye(3) - np.outer(r, r))
        _put_inertia(parent, mass, center, moments)
    robot.remove(child)
    robot.remove(joint)


def _named(robot: ET.Element, tag: str) -> dict[str, ET.Element]:
    return {element.get("name", ""): element for element in robot.findall(tag)}


def _pose(element: ET.Element) -> np.ndarray[Any, Any]:
    """Return the pose that an element's origin gives it, as a matrix of 4 by 4."""
    origin = element.find("origin")
    matrix = np.eye(4)
    if origin is not None:
        roll, pitch, yaw = map(float, (origin.get("rpy") or "0 0 0").split())
        (sr, cr), (sp, cp), (sy, cy) = ((math.sin(a), math.cos(a)) for a in (roll, pitch, yaw))
        matrix[:3, :3] = [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
        matrix[:3, 3] = [float(number) for number in (origin.get("xyz") or "0 0 0").split()]
    return matrix


def _put_pose(element: ET.Element, matrix: np.ndarray[Any, Any]) -> None:
    for origin in element.findall("origin"):
        element.remove(origin)
    r = matrix[:3, :3]
    pitch = math.atan2(-r[2, 0], math.hypot(r[0, 0], r[1, 0]))
    if math.hypot(r[0, 0], r[1, 0]) < 1e-9:  # straight up or down: roll alone is enough
        roll, yaw = math.atan2(-r[1, 2], r[1, 1]), 0.0
    else:
        roll, yaw = math.atan2(r[2, 1], r[2, 2]), math.atan2(r[1, 0], r[0, 0])
    rpy, xyz = (" ".join(repr(float(number)) for number in three) for three in ((roll, pitch, yaw), matrix[:3, 3]))
    ET.SubElement(element, "origin", rpy=rpy, xyz=xyz)


def _mass(link: ET.Element) -> float:
    mass = link.find("inertial/mass")
    return 0.0 if mass is None else float(mass.get("value", "0"))


def _inertia(link: ET.Element, at: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return a link's mass, centre and moments about it, in a frame where the link stands at a pose."""
    inertial, mass = link.find("inertial"), _mass(link)
    if inertial is None or mass <= 0:
        return 0.0, np.zeros(3), np.zeros((3, 3))
    given = inertial.find("inertia")
    i = {name: float(given.get(name, "0")) if given is not None else 0.0 for name in _MOMENTS}
    moments = np.array([[i["ixx"], i["ixy"], i["ixz"]], [i["ixy"], i["iyy"], i["iyz"]], [i["ixz"], i["iyz"], i["izz"]]])
    pose = at @ _pose(inertial)
    return mass, pose[:3, 3], pose[:3, :3] @ moments @ pose[:3, :3].T


_MOMENTS = ("ixx", "ixy", "ixz", "iyy", "iyz", "izz")


def _put_inertia(link: ET.Element, mass: float, center: np.ndarray[Any, Any], moments: np.ndarray[Any, Any]) -> None:
    for old in link.findall("inertial"):
        link.remove(old)
    inertial = ET.SubElement(link, "inertial")
    ET.SubElement(inertial, "origin", rpy="0 0 0", xyz=" ".join(repr(float(number)) for number in center))
    ET.SubElement(inertial, "mass", value=repr(float(mass)))
    values = {name: repr(float(moments["xyz".index(name[1]), "xyz".index(name[2])])) for name in _MOMENTS}
    ET.SubElement(inertial, "inertia", values)


# --- the USD file, after it was converted ---------------------------------------------------------------------------


def finish(made: Path, recipe: dict[str, Any] | None, out: Path) -> None:
    """Give a converted robot its base, drives, variants and layout, and write it."""
    from pxr import Usd, UsdPhysics

    stage = Usd.Stage.Open(str(made))
    root = stage.GetDefaultPrim()
    if recipe:
        for prim in list(stage.Traverse()):
            if prim.IsA(UsdPhysics.FixedJoint) and prim.GetName() == "root_joint" and not recipe["fixed"]:
                stage.RemovePrim(prim.GetPath())
            elif prim.IsA(UsdPhysics.RevoluteJoint) or prim.IsA(UsdPhysics.PrismaticJoint):
                _drive(prim, recipe["drives"])
        for set_name, variants in recipe["variants"].items():
            _add_variants(stage, root, set_name, variants)
    layer = flat(stage) if recipe and not recipe["nested"] else stage.GetRootLayer()
    if not layer.Export(str(out)):
        raise OSError(f"{out} cannot be written")


def _drive(prim: Any, drives: list[dict[str, Any]]) -> None:
    """Give a joint its drive: USD has angles in degrees."""
    from pxr import Sdf, UsdPhysics

    mine = next((drive for drive in drives if re.fullmatch(drive["joints"], prim.GetName())), None)
    is_angle = prim.IsA(UsdPhysics.RevoluteJoint)
    scale = math.pi / 180 if is_angle else 1.0
    api = UsdPhysics.DriveAPI.Apply(prim, "angular" if is_angle else "linear")
    api.CreateTypeAttr("force")
    api.CreateStiffnessAttr(mine["stiffness"] * scale if mine else 0.0)
    api.CreateDampingAttr(mine["damping"] * scale if mine else 0.0)
    if effort := prim.GetAttribute("urdf:limit:effort").Get():
        api.CreateMaxForceAttr(effort)
    if mine:
        prim.ApplyAPI("NewtonJointAPI")
        prim.CreateAttribute("newton:armature", Sdf.ValueTypeNames.Float).Set(mine["armature"])


def _add_variants(stage: Any, root: Any, name: str, variants: dict[str, str]) -> None:
    """Add a set of variants, each with the links whose shapes do not collide in it."""
    from pxr import Usd, UsdPhysics

    variant_set = root.GetVariantSets().AddVariantSet(name)
    shapes = [prim for prim in Usd.PrimRange(root) if prim.HasAPI(UsdPhysics.CollisionAPI)]
    for variant, links in variants.items():
        variant_set.AddVariant(variant)
        variant_set.SetVariantSelection(variant)
        with variant_set.GetVariantEditContext():
            for shape in shapes:
                if re.fullmatch(links, _body_of(shape).GetName()):
                    UsdPhysics.CollisionAPI(shape).GetCollisionEnabledAttr().Set(False)
    variant_set.SetVariantSelection(next(iter(variants)))


def _body_of(prim: Any) -> Any:
    from pxr import UsdPhysics

    while prim and not prim.HasAPI(UsdPhysics.RigidBodyAPI):
        prim = prim.GetParent()
    return prim


def flat(stage: Any) -> Any:
    """Return a robot's layer with every body right below the robot, where it stands now.

    Tasks of walking robots look for bodies there: `Robot/[^/]*`.
    """
    from pxr import Gf, Sdf, Usd, UsdGeom, UsdPhysics

    root, old = stage.GetDefaultPrim(), stage.GetRootLayer()
    layer = Sdf.Layer.CreateAnonymous(".usda")
    layer.TransferContent(old)
    bodies = [prim for prim in Usd.PrimRange(root) if prim.HasAPI(UsdPhysics.RigidBodyAPI)]
    cache = UsdGeom.XformCache()
    moved = {body.GetPath(): root.GetPath().AppendChild(body.GetName()) for body in bodies}
    poses = {body.GetPath(): cache.ComputeRelativeTransform(body, root)[0] for body in bodies}

    # Each body with its own shapes, the deepest first: what is left below it then is its own.
    for path in sorted(moved, key=lambda path: -path.pathElementCount):
        Sdf.CopySpec(layer, path, layer, moved[path])
        edit = Sdf.BatchNamespaceEdit()
        edit.Add(path, Sdf.Path.emptyPath)
        assert layer.Apply(edit)
    new = Usd.Stage.Open(layer)
    for path, target in moved.items():
        xform = UsdGeom.Xformable(new.GetPrimAtPath(target))
        xform.ClearXformOpOrder()
        for name in [name for name in xform.GetPrim().GetPropertyNames() if name.startswith("xformOp:")]:
            xform.GetPrim().RemoveProperty(name)
        pose = Gf.Transform(poses[path])
        xform.AddTranslateOp(UsdGeom.XformOp.PrecisionDouble).Set(pose.GetTranslation())
        xform.AddOrientOp(UsdGeom.XformOp.PrecisionDouble).Set(pose.GetRotation().GetQuat())

    # What pointed at a body, or into one, points at its new place.
    for prim in new.Traverse():
        for relationship in prim.GetRelationships():
            targets = relationship.GetTargets()
            changed = [_moved(target, moved) for target in targets]
            if changed != targets:
                relationship.SetTargets(changed)
    return layer


def _moved(path: Any, moved: dict[Any, Any]) -> Any:
    prefixes = [old for old in moved if path.HasPrefix(old)]
    if not prefixes:
        return path
    old = max(prefixes, key=lambda prefix: prefix.pathElementCount)
    return path.ReplacePrefix(old, moved[old])


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Exception as error:  # whatever a reader says of a description, in one line
        sys.exit(f"{type(error).__name__}: {error}")
