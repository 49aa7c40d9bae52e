"""Make the files of the job: `assets/franka.usdz`, `assets/table_scene.usdz` and `dist/my-isaac-lab-task.zip`.

    python make_assets.py [FOLDER]

The robot is an arm of boxes and cylinders with the lengths, the joints and the limits of a Franka Emika Panda; the
scene is a table with a block on it. Both are drawn here, of nothing but primitives: usd-core is all that this needs.
"""

import math
import sys
import tempfile
import zipfile
from pathlib import Path

from pxr import Gf, Sdf, Usd, UsdGeom, UsdPhysics, UsdShade, UsdUtils

HERE = Path(__file__).parent
WHITE, GREY, RED, WOOD = (0.9, 0.9, 0.88), (0.25, 0.27, 0.3), (0.8, 0.16, 0.12), (0.62, 0.47, 0.33)
HAND_TURN = 45.0
"""The hand is turned by this about the flange, in degrees."""
FINGER_TRAVEL = 0.04

# Each link: joint, axis and its sign, where the joint is when all are zero, limits in degrees, mass, and its shapes as
# (radius or None for a box, from, to): a capsule between two points seen from the joint.
ARM = (
    ("panda_joint1", "Z", 1, (0, 0, 0.333), (-166, 166), 3.0, [(0.06, (0, 0, -0.19), (0, 0, -0.02))]),
    ("panda_joint2", "Y", 1, (0, 0, 0.333), (-101, 101), 3.0, [(0.06, (0, 0, 0.02), (0, 0, 0.2))]),
    ("panda_joint3", "Z", 1, (0, 0, 0.649), (-166, 166), 2.5, [(0.055, (0, 0, -0.06), (0.0825, 0, 0))]),
    ("panda_joint4", "Y", -1, (0.0825, 0, 0.649), (-176, -4), 2.5, [(0.05, (0, 0, 0), (-0.0825, 0, 0.1))]),
    ("panda_joint5", "Z", 1, (0, 0, 1.033), (-166, 166), 2.5, [(0.05, (0, 0, -0.22), (0, 0, -0.02))]),
    ("panda_joint6", "Y", -1, (0, 0, 1.033), (-1, 215), 1.5, [(0.045, (0, 0, 0), (0.07, 0, 0))]),
    ("panda_joint7", "Z", -1, (0.088, 0, 1.033), (-166, 166), 0.5, [(0.04, (0, 0, -0.06), (0, 0, -0.02))]),
)
STIFFNESS, DAMPING = 8000.0, 400.0
"""Of the arm's drives, in N m/rad and N m s/rad: gravity moves the fingertips by a few millimetres."""


def make_all(folder: Path) -> None:
    """Make the three files."""
    for name, draw in (("franka", draw_robot), ("table_scene", draw_scene)):
        save(folder / "assets" / f"{name}.usdz", draw)
    package = folder / "dist" / "my-isaac-lab-task.zip"
    package.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((HERE / "my_workloads").glob("*.py")):
            archive.write(path, path.relative_to(HERE))


def save(path: Path, draw) -> None:
    """Draw a stage and pack it as one `.usdz`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        layer = str(Path(folder) / f"{path.stem}.usdc")
        stage = Usd.Stage.CreateNew(layer)
        UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z)
        draw(stage)
        stage.GetRootLayer().Save()
        if not UsdUtils.CreateNewUsdzPackage(Sdf.AssetPath(layer), str(path)):
            raise SystemExit(f"{path} could not be packed.")


# The robot.


def draw_robot(stage: Usd.Stage) -> None:
    """Draw the arm with all joints at zero, its base at the origin."""
    root = UsdGeom.Xform.Define(stage, "/franka").GetPrim()
    stage.SetDefaultPrim(root)
    UsdPhysics.ArticulationRootAPI.Apply(root)
    at, turned = Gf.Vec3d(0, 0, 0), Gf.Quatd(1)
    parent = add_body(stage, "panda_link0", at, turned, 3.0)
    add_capsule(stage, parent, 0.07, (0, 0, 0.05), (0, 0, 0.12), WHITE)
    UsdPhysics.FixedJoint.Define(stage, "/franka/to_world").CreateBody1Rel().SetTargets([parent.GetPath()])
    for number, (name, axis, sign, place, limits, mass, shapes) in enumerate(ARM, start=1):
        link = add_body(stage, f"panda_link{number}", Gf.Vec3d(place), turned, mass)
        for radius, begin, end in shapes:
            add_capsule(stage, link, radius, begin, end, WHITE if number % 2 else GREY)
        joint = add_joint(stage, UsdPhysics.RevoluteJoint, name, parent, link, Gf.Vec3d(place) - at, axis, sign)
        joint.CreateLowerLimitAttr(limits[0])
        joint.CreateUpperLimitAttr(limits[1])
        # USD counts in degrees.
        add_drive(joint, "angular", math.radians(STIFFNESS), math.radians(DAMPING), 87.0 if number < 5 else 12.0)
        parent, at = link, Gf.Vec3d(place)

    # The hand looks along its own z, which is down while all joints are zero; its fingers slide along its y.
    down = Gf.Rotation(Gf.Vec3d(1, 0, 0), 180)
    turned = (Gf.Rotation(Gf.Vec3d(0, 0, 1), -HAND_TURN) * down).GetQuat()
    flange = Gf.Vec3d(0.088, 0, 0.926)
    hand = add_body(stage, "panda_hand", flange, turned, 0.6)
    add_box(stage, hand, (0, 0, 0.03), (0.06, 0.2, 0.06), GREY)
    fixed = UsdPhysics.FixedJoint.Define(stage, "/franka/panda_hand_joint")
    link_up(fixed, parent, hand, flange - at, turned)
    for number, (name, side) in enumerate((("panda_leftfinger", 1), ("panda_rightfinger", -1)), start=1):
        offset = Gf.Vec3d(0, 0, 0.0584)
        finger = add_body(stage, name, flange + Gf.Rotation(turned).TransformDir(offset), turned, 0.1)
        add_box(stage, finger, (0, side * 0.0075, 0.027), (0.02, 0.015, 0.054), WHITE)
        joint = add_joint(
            stage, UsdPhysics.PrismaticJoint, f"panda_finger_joint{number}", hand, finger, offset, "Y", side
        )
        joint.CreateLowerLimitAttr(0.0)
        joint.CreateUpperLimitAttr(FINGER_TRAVEL)
        add_drive(joint, "linear", 2000.0, 100.0, 40.0)


def add_body(stage: Usd.Stage, name: str, at: Gf.Vec3d, turned: Gf.Quatd, mass: float) -> Usd.Prim:
    """Add a rigid body, without shapes yet."""
    xform = UsdGeom.Xform.Define(stage, f"{stage.GetDefaultPrim().GetPath()}/{name}")
    xform.AddTranslateOp().Set(at)
    xform.AddOrientOp(UsdGeom.XformOp.PrecisionDouble).Set(turned)
    UsdPhysics.RigidBodyAPI.Apply(xform.GetPrim())
    UsdPhysics.MassAPI.Apply(xform.GetPrim()).CreateMassAttr(mass)
    return xform.GetPrim()


def add_joint(stage, kind, name, parent, child, offset, axis, sign):
    """Add a joint about or along an axis of both bodies; a negative sign turns the axis round."""
    joint = kind.Define(stage, f"/franka/{name}")
    joint.CreateAxisAttr(axis)
    link_up(joint, parent, child, offset, Gf.Quatd(1))
    if sign < 0:
        round_ = Gf.Quatf(0, 1, 0, 0)  # half a turn about x, which turns y and z round
        joint.CreateLocalRot0Attr(round_)
        joint.CreateLocalRot1Attr(round_)
    return joint


def link_up(joint, parent: Usd.Prim, child: Usd.Prim, offset: Gf.Vec3d, turned: Gf.Quatd) -> None:
    """Join two bodies at the child's origin."""
    joint.CreateBody0Rel().SetTargets([parent.GetPath()])
    joint.CreateBody1Rel().SetTargets([child.GetPath()])
    joint.CreateLocalPos0Attr(Gf.Vec3f(offset))
    joint.CreateLocalPos1Attr(Gf.Vec3f(0))
    joint.CreateLocalRot0Attr(Gf.Quatf(turned))
    joint.CreateLocalRot1Attr(Gf.Quatf(1))


def add_drive(joint, kind: str, stiffness: float, damping: float, most: float) -> None:
    """Let a joint go to its target."""
    drive = UsdPhysics.DriveAPI.Apply(joint.GetPrim(), kind)
    drive.CreateTypeAttr("force")
    drive.CreateStiffnessAttr(stiffness)
    drive.CreateDampingAttr(damping)
    drive.CreateMaxForceAttr(most)


# The scene.


def draw_scene(stage: Usd.Stage) -> None:
    """Draw a table whose top is z = 0, and a free block of 5 cm on it; the robot stands at the origin."""
    stage.SetDefaultPrim(UsdGeom.Xform.Define(stage, "/World").GetPrim())
    physics = UsdPhysics.Scene.Define(stage, "/World/physics")
    physics.CreateGravityDirectionAttr(Gf.Vec3f(0, 0, -1))
    physics.CreateGravityMagnitudeAttr(9.81)
    table = UsdGeom.Xform.Define(stage, "/World/table").GetPrim()
    add_box(stage, table, (0.3, 0, -0.02), (1.2, 1.0, 0.04), WOOD)
    for x, y in ((-0.25, -0.45), (-0.25, 0.45), (0.85, -0.45), (0.85, 0.45)):
        add_box(stage, table, (x, y, -0.395), (0.05, 0.05, 0.71), WOOD)
    add_box(stage, table, (0, 0, -0.76), (6, 6, 0.02), GREY)
    block = add_body(stage, "block", Gf.Vec3d(0.5, 0.0, 0.025), Gf.Quatd(1), 0.1)
    add_box(stage, block, (0, 0, 0), (0.05, 0.05, 0.05), RED)


# Shapes.


def add_box(stage: Usd.Stage, body: Usd.Prim, at, size, color) -> None:
    """Add a box that collides."""
    cube = UsdGeom.Cube.Define(stage, f"{body.GetPath()}/box_{len(body.GetChildren())}")
    cube.CreateSizeAttr(1.0)
    cube.AddTranslateOp().Set(Gf.Vec3d(at))
    cube.AddScaleOp().Set(Gf.Vec3f(size))
    finish(stage, cube, color)


def add_capsule(stage: Usd.Stage, body: Usd.Prim, radius: float, begin, end, color) -> None:
    """Add a capsule between two points, that collides."""
    begin, end = Gf.Vec3d(begin), Gf.Vec3d(end)
    capsule = UsdGeom.Capsule.Define(stage, f"{body.GetPath()}/capsule_{len(body.GetChildren())}")
    capsule.CreateAxisAttr("Z")
    capsule.CreateRadiusAttr(radius)
    capsule.CreateHeightAttr((end - begin).GetLength())
    capsule.AddTranslateOp().Set((begin + end) / 2)
    turned = Gf.Rotation(Gf.Vec3d(0, 0, 1), (end - begin).GetNormalized()).GetQuat()
    capsule.AddOrientOp(UsdGeom.XformOp.PrecisionDouble).Set(turned)
    finish(stage, capsule, color)


def finish(stage: Usd.Stage, shape, color) -> None:
    """Give a shape its color and its friction, and let it collide."""
    shape.CreateDisplayColorAttr([Gf.Vec3f(color)])
    UsdPhysics.CollisionAPI.Apply(shape.GetPrim())
    path = stage.GetDefaultPrim().GetPath().AppendChild("grip")
    if not stage.GetPrimAtPath(path):
        material = UsdPhysics.MaterialAPI.Apply(UsdShade.Material.Define(stage, path).GetPrim())
        material.CreateStaticFrictionAttr(1.0)
        material.CreateDynamicFrictionAttr(1.0)
    UsdShade.MaterialBindingAPI.Apply(shape.GetPrim()).Bind(
        UsdShade.Material(stage.GetPrimAtPath(path)), materialPurpose="physics"
    )


if __name__ == "__main__":
    make_all(Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd())
