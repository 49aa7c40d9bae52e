"""Robots that are made from packages: what is done to a description, what is refused, what is never replaced."""

import hashlib
import json
import os
import xml.etree.ElementTree as ET
import zipfile

import numpy as np
import pytest

from simyard.core.errors import Category, RequestError, SimyardError
from simyard.runner.assets import asset_root
from simyard.runner.assets.asset_root import embedded_root
from simyard.tasks.robots import build, convert, recipes
from simyard.tasks.robots.recipes import Package, Recipe

PACKAGE = Package("tiny-robots", "1.0", "0" * 64)
RECIPE = Recipe(
    name="tiny", target="Isaac/Robots/tiny.usd", package=PACKAGE, file="tiny/tiny.urdf", licence="MIT",
    licence_file="unitree.txt", tasks=("Isaac-Tiny",), keep="foot", rename={"base": "trunk", "hip": "hip_joint"},
    collide="trunk", spheres={"foot": 0.02},
)  # fmt: skip
URDF = """<robot name="t">
 <link name="world"/>
 <link name="base"><inertial><origin xyz="0 0 0"/><mass value="2"/>
  <inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/></inertial>
  <collision><geometry><mesh filename="package://tiny-robots/a/b.stl"/></geometry></collision></link>
 <link name="plate"><inertial><origin xyz="0 0 0"/><mass value="2"/>
  <inertia ixx="1" ixy="0" ixz="0" iyy="2" iyz="0" izz="3"/></inertial>
  <visual><geometry><mesh filename="c.stl"/></geometry></visual></link>
 <link name="leg"><inertial><mass value="1"/><inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/></inertial>
  <collision><geometry><box size="1 1 1"/></geometry></collision></link>
 <link name="foot"/>
 <joint name="stand" type="floating"><parent link="world"/><child link="base"/></joint>
 <joint name="bolt" type="fixed"><parent link="base"/><child link="plate"/>
  <origin xyz="1 0 0" rpy="0 0 1.5707963267948966"/></joint>
 <joint name="hip" type="revolute"><parent link="plate"/><child link="leg"/><origin xyz="1 0 0"/><axis xyz="1 0 0"/>
  <limit lower="-1" upper="1" effort="1" velocity="1"/></joint>
 <joint name="ankle" type="fixed"><parent link="leg"/><child link="foot"/><origin xyz="0 0 -1"/></joint>
</robot>
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    source = tmp_path_factory.mktemp("tiny") / "tiny.urdf"
    source.write_text(URDF)
    return source, convert.prepare(source, RECIPE.to_json(), {"tiny-robots": "/packages/tiny"}).getroot()


def test_fixed_links_become_part_of_their_parents(prepared):
    robot = prepared[1]
    links = {link.get("name"): link for link in robot.findall("link")}
    assert list(links) == ["trunk", "leg", "foot"]
    mass, center, moments = convert._inertia(links["trunk"], np.eye(4))
    assert mass == 4
    assert np.allclose(center, [0.5, 0, 0])
    # The plate is turned by 90 degrees: its x and y change places. Both are half a metre from the common centre.
    assert np.allclose(np.diag(moments), [1 + 2, 1 + 1 + 2 * 2 * 0.25, 1 + 3 + 2 * 2 * 0.25])
    assert len(links["trunk"].findall("visual")) == 1
    joints = {joint.get("name"): joint for joint in robot.findall("joint")}
    assert list(joints) == ["hip_joint", "ankle"]
    assert joints["hip_joint"].find("parent").get("link") == "trunk"
    assert np.allclose(convert._pose(joints["hip_joint"])[:3, 3], [1, 1, 0])  # along the plate's x, which is y


def test_a_kept_link_weighs_something_and_shapes_are_those_of_the_recipe(prepared):
    source, robot = prepared
    links = {link.get("name"): link for link in robot.findall("link")}
    assert convert._mass(links["foot"]) == 1e-3
    assert links["foot"].find("collision/geometry/sphere").get("radius") == "0.02"
    assert links["leg"].find("collision") is None
    files = [mesh.get("filename") for mesh in robot.iter("mesh")]
    assert files == ["/packages/tiny/a/b.stl", str(source.parent / "c.stl")]


@pytest.mark.parametrize("roll", [0.0, 0.3, -2.0])
@pytest.mark.parametrize("pitch", [0.0, 1.2, np.pi / 2, -np.pi / 2])
def test_poses_come_back_from_their_angles(roll, pitch):
    element = ET.Element("joint")
    ET.SubElement(element, "origin", rpy=f"{roll} {pitch} 0.7", xyz="1 2 3")
    pose = convert._pose(element)
    convert._put_pose(element, pose)
    assert np.allclose(convert._pose(element), pose)


def test_every_recipe_is_whole():
    for name, recipe in recipes.RECIPES.items():
        assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
        assert recipe.target.startswith("Isaac/"), name
        assert len(recipe.package.sha256) == 64, name
        assert "/" in recipe.licence_file or (build._HERE / recipe.licence_file).is_file(), name
    assert len({recipe.target for recipe in recipes.RECIPES.values()}) == len(recipes.RECIPES)


def test_a_robot_that_there_is_not_is_refused():
    with pytest.raises(RequestError, match=r"Unknown robot 'g02'\. Did you mean 'go2'\?.*'franka'"):
        recipes.chosen(["go2", "g02"])
    assert [recipe.name for recipe in recipes.chosen(["go2", "g1", "go2"])] == ["go2", "g1"]
    assert len(recipes.chosen([])) == len(recipes.RECIPES)


def put(root, recipe=RECIPE, converters=build.CONVERTERS):
    target = root / recipe.target
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"usd")
    digest = hashlib.sha256(b"usd").hexdigest()
    origin = build.Origin(1, recipe, converters, "0" * 64, digest)
    target.with_name("tiny.usd.origin.json").write_text(json.dumps(origin.to_json()))
    return target


def test_what_stands_below_a_root_is_told_by_its_record(tmp_path):
    assert build.state(tmp_path, RECIPE) == "missing"
    target = put(tmp_path)
    assert build.state(tmp_path, RECIPE) == "built"
    put(tmp_path, converters=("another==1",))
    assert build.state(tmp_path, RECIPE) == "older"
    put(tmp_path)
    target.write_bytes(b"NVIDIA's own")
    assert build.state(tmp_path, RECIPE) == "not ours"
    target.with_name("tiny.usd.origin.json").unlink()
    assert build.state(tmp_path, RECIPE) == "not ours"
    said = []
    assert build.build(tmp_path / "home", tmp_path, [RECIPE], said.append) == {"tiny": "not ours"}
    assert target.read_bytes() == b"NVIDIA's own"
    assert not (tmp_path / "home").exists()


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel in the only folder that uv finds packages in."""
    path = tmp_path / "index" / "tiny_robots-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        info = "tiny_robots-1.0.dist-info"
        archive.writestr("tiny/tiny.urdf", URDF)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-robots\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    for name in [name for name in os.environ if name.startswith("UV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_FIND_LINKS", str(path.parent))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    return path


def test_a_package_is_installed_once_with_its_digest_and_with_no_other(wheel, tmp_path, monkeypatch):
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with pytest.raises(SimyardError, match=r"uv could not install tiny-robots==1\.0.*") as refused:
        build._installed(tmp_path / "home", PACKAGE)
    assert refused.value.failure.category is Category.INFRA
    assert digest in refused.value.failure.message, "it says which digest there was"
    assert "UV_DEFAULT_INDEX" in refused.value.failure.advice
    assert not list((tmp_path / "home").rglob("*.urdf")), "nothing half installed counts"

    package = Package("tiny-robots", "1.0", digest)
    folder = build._installed(tmp_path / "home", package)
    assert (folder / "tiny/tiny.urdf").read_text() == URDF
    monkeypatch.setattr(build, "_uv", None)  # not asked for again
    assert build._installed(tmp_path / "home", package) == folder


def test_what_is_laid_out_never_replaces_an_asset_of_the_stores_own(tmp_path):
    embedded_root(tmp_path)
    ant, cartpole = (
        tmp_path / "Isaac/Robots/IsaacSim/Ant/ant_instanceable.usd",
        tmp_path / "Isaac/IsaacLab/Robots/Classic/Cartpole/cartpole.usd",
    )
    ours = ant.read_bytes()
    ant.write_bytes(b"#usda 1.0\nan older one" + asset_root._OURS)
    cartpole.write_bytes(b"PXR-USDC\xff\xfe")
    embedded_root(tmp_path)
    assert ant.read_bytes() == ours
    assert cartpole.read_bytes() == b"PXR-USDC\xff\xfe"


def test_bodies_of_a_walking_robot_lie_right_below_it_where_they_stood():
    from pxr import Gf, Usd, UsdGeom, UsdPhysics

    stage = Usd.Stage.CreateInMemory()
    root = UsdGeom.Xform.Define(stage, "/robot")
    stage.SetDefaultPrim(root.GetPrim())
    UsdGeom.Scope.Define(stage, "/robot/Geometry")
    path = "/robot/Geometry"
    for name in ("base", "leg", "foot"):
        path += f"/{name}"
        body = UsdGeom.Xform.Define(stage, path)
        UsdPhysics.RigidBodyAPI.Apply(body.GetPrim())
        body.AddTranslateOp().Set((1, 0, 2))
        body.AddOrientOp().Set(Gf.Quatf(Gf.Rotation((1, 1, 0), 40).GetQuat()))
        UsdGeom.Sphere.Define(stage, f"{path}/shape").AddTranslateOp().Set((0, 0, 1))
    joint = UsdPhysics.FixedJoint.Define(stage, "/robot/Physics/ankle")
    joint.CreateBody0Rel().SetTargets([path.removesuffix("/foot")])
    joint.CreateBody1Rel().SetTargets([path])
    before = UsdGeom.XformCache()
    stood = {name: before.GetLocalToWorldTransform(stage.GetPrimAtPath(f"{path.partition(name)[0]}{name}/shape"))
             for name in ("base", "leg", "foot")}  # fmt: skip

    flat = Usd.Stage.Open(convert.flat(stage))
    robot = flat.GetPrimAtPath("/robot")
    assert {child.GetName() for child in robot.GetChildren()} == {"Geometry", "Physics", "base", "leg", "foot"}
    after = UsdGeom.XformCache()
    for name, pose in stood.items():
        assert np.allclose(after.GetLocalToWorldTransform(flat.GetPrimAtPath(f"/robot/{name}/shape")), pose, atol=1e-6)
    ankle = UsdPhysics.Joint(flat.GetPrimAtPath("/robot/Physics/ankle"))
    targets = [str(target) for rel in (ankle.GetBody0Rel(), ankle.GetBody1Rel()) for target in rel.GetTargets()]
    assert targets == ["/robot/leg", "/robot/foot"]
