"""Files of robots and scenes: what is found in them, and that nothing outside their folder is ever read."""

import io
import json
import struct
import tarfile
import xml.etree.ElementTree as ET
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from simyard.core.errors import Category, RequestError
from simyard.runner.assets import safe_xml as asset_xml
from simyard.runner.assets.robot_files import main_file

SHIPPED = Path(str(find_spec("newton").origin)).parent / "examples" / "assets"
EXAMPLES = Path(__file__).parents[2] / "examples" / "rollouts"
STL = b"solid s\nfacet normal 0 0 1\nouter loop\n" + b"vertex 0 0 0\n" * 3 + b"endloop\nendfacet\nendsolid s\n"
LFS = "version https://git-lfs.github.com/spec/v1\n"
USD = '#usda 1.0\n(\n    defaultPrim = "R"\n    metersPerUnit = 1\n)\n'


def urdf(mesh="m.stl", texture=""):
    material = f'<material name="m"><texture filename="{texture}"/></material>' if texture else ""
    geometry = f'<geometry><mesh filename="{mesh}"/></geometry>'
    return f'<robot name="r"><link name="a"><visual>{geometry}{material}</visual></link></robot>'


def mjcf(asset, compiler="", root="mujoco"):
    return f"<{root}>{compiler}<asset>{asset}</asset></{root}>"


def usd(attribute, metadata=""):
    return f'{USD}def Xform "R" ({metadata}) {{\n    {attribute}\n}}\n'


def glb(uri):
    scene = json.dumps({"images": [{"uri": uri}]}).encode()
    return struct.pack("<4sIII4s", b"glTF", 2, 20 + len(scene), len(scene), b"JSON") + scene


def bundle(path, files):
    """Pack texts or bytes by name."""
    data = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in data.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as archive:
            for name, content in data.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def refused(path, format_, into, match, code):
    """It is refused in words, and nothing is left."""
    with pytest.raises(RequestError, match=match) as error:
        main_file(path, format_, into)
    failure = error.value.failure
    assert (failure.code, failure.category) == (code, Category.USER)
    assert failure.advice
    assert not into.exists()
    return failure


# What is taken.


@pytest.mark.parametrize(
    ("source", "format_"),
    [
        (SHIPPED / "cartpole.urdf", "urdf"),
        (SHIPPED / "quadruped.urdf", "urdf"),
        (SHIPPED / "nv_ant.xml", "mjcf"),
        (SHIPPED / "ant.usda", "usd"),
        (SHIPPED / "rj45_plug.usd", "usd"),
        (EXAMPLES / "gripper_arm.urdf", "urdf"),
        (EXAMPLES / "hopper.xml", "mjcf"),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else value,
)
def test_a_file_by_itself_is_copied_as_it_is(source, format_, tmp_path):
    main = main_file(source, format_, tmp_path / "robot")
    assert main == tmp_path / "robot" / source.name
    assert main.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("name", ["r.zip", "R.ZIP", "r.tar.gz", "r.tgz"])
def test_the_least_deep_file_of_the_format_counts(name, tmp_path):
    files = {"pkg/robot.urdf": urdf("meshes/m.stl"), "pkg/meshes/m.stl": STL, "pkg/old/robot.urdf": "<robot/>"}
    files |= {"__MACOSX/pkg/._robot.urdf": b"\0", "pkg/README.md": "text"}
    path = bundle(tmp_path / name.lower(), files)
    path = path.rename(tmp_path / name)
    assert main_file(path, "urdf", tmp_path / "robot") == tmp_path / "robot" / "pkg" / "robot.urdf"


def test_an_xml_file_is_an_mjcf_by_its_root_alone(tmp_path):
    files = {"package.xml": "<package/>", "broken.xml": "<", "arm.xml": "<mujoco/>", "hand.xml": "<mujocoinclude/>"}
    path = bundle(tmp_path / "r.zip", files)
    assert main_file(path, "mjcf", tmp_path / "robot").name == "arm.xml"


@pytest.mark.parametrize(
    ("urdf_at", "mesh_at", "reference"),
    [
        ("arm_description/urdf/a.urdf", "arm_description/meshes/m.stl", "package://arm_description/meshes/m.stl"),
        ("a.urdf", "arm_description/meshes/m.stl", "package://arm_description/meshes/m.stl"),
        ("urdf/a.urdf", "meshes/m.stl", "package://arm_description/meshes/m.stl"),
        ("a.urdf", "meshes/m.stl", "model://arm/meshes/m.stl"),
        ("urdf/a.urdf", "meshes/m.stl", "../meshes/m.stl"),
        ("arm/urdf/a.urdf", "arm/meshes/m.stl", "package://all/robots/arm/meshes/m.stl"),
        ("a.urdf", "m.stl", "package://all/robots/arm/meshes/m.stl"),
        ("urdf/a.urdf", "meshes/m.stl", "file://meshes/m.stl"),
        ("a.urdf", "meshes/m.stl", "/home/me/robots/arm/meshes/m.stl"),
        ("a.urdf", "m.stl", "C:/robots/m.stl"),
        ("a.urdf", "meshes/m.stl", "package:///m.stl"),
        ("a.urdf", "meshes/m.stl", "package://m.stl"),
    ],
    ids=[
        *("package around it", "package beside it", "bundle is the package", "gazebo", "plain", "its end", "its name"),
        *("file url", "another machine", "another system", "no package", "a file as a package"),
    ],
)
def test_packages_are_folders_of_the_bundle(urdf_at, mesh_at, reference, tmp_path):
    """And the copy says so in plain paths, so that Newton looks nothing up on this machine."""
    path = bundle(tmp_path / "r.zip", {urdf_at: urdf(reference), mesh_at: STL})
    main = main_file(path, "urdf", tmp_path / "robot")
    (mesh,) = ET.parse(main).iter("mesh")
    written = mesh.attrib["filename"]
    assert "://" not in written
    assert (main.parent / written).resolve() == tmp_path / "robot" / mesh_at


FOLLOWED = {
    "includes and asset folders": (
        "scene.xml",
        {
            "scene.xml": '<mujoco><include file="parts/arm.xml"/></mujoco>',
            "parts/arm.xml": mjcf(
                '<mesh file="a.obj"/><texture file="t.png"/>', '<compiler meshdir="m" texturedir="t"/>'
            ),
            "parts/m/a.obj": "mtllib a.mtl missing.mtl\nv 0 0 0\n",
            "parts/m/a.mtl": "newmtl x\nmap_Kd -s 1 1 1 a b.png\n",
            "parts/t/t.png": b"png",
            "other/with/strip.xml": "<mujocoinclude/>",
        },
    ),
    "strippath leaves the name alone": (
        "a.xml",
        {"a.xml": mjcf('<mesh file="/gone/b.stl"/>', '<compiler strippath="true" assetdir="m"/>'), "m/b.stl": STL},
    ),
    "every kind of reference of a usd": (
        "robot.usda",
        {
            "robot.usda": usd(
                "asset t = @tex/<UDIM>.png@\n    asset m = @OmniPBR.mdl@\n    asset e = @@",
                "references = @./parts/arm.usda@\n    payload = @parts/hand.usda@",
            ),
            "parts/arm.usda": usd("asset[] t = [@../tex/1001.png@]"),
            "parts/hand.usda": usd("asset t.timeSamples = {0: @deep/a.png@}"),
            "parts/deep/a.png": b"png",
            "tex/1001.png": b"png",
        },
    ),
    "data inside a gltf": (
        "a.urdf",
        {
            "a.urdf": urdf("m.gltf"),
            "m.gltf": '{"buffers": [{"uri": "data:text/plain;base64,AA=="}], "images": [{"bufferView": 0}]}',
        },
    ),
}


@pytest.mark.parametrize("case", FOLLOWED)
def test_what_a_bundle_may_refer_to(case, tmp_path):
    main, files = FOLLOWED[case]
    format_ = {".xml": "mjcf", ".usda": "usd", ".urdf": "urdf"}[Path(main).suffix]
    assert main_file(bundle(tmp_path / "r.zip", files), format_, tmp_path / "robot").name == main


def test_a_usdz_is_unpacked_and_its_first_file_counts(tmp_path):
    path = bundle(tmp_path / "r.zip", {"z.usda": usd("asset t = @a.png@"), "a.png": b"png", "b.usda": USD})
    path = path.rename(tmp_path / "r.usdz")
    assert main_file(path, "usd", tmp_path / "robot").name == "z.usda"


def test_a_folder_that_is_there_is_not_touched(tmp_path):
    into = tmp_path / "robot"
    into.mkdir()
    (into / "mine").write_text("x")
    with pytest.raises(FileExistsError):
        main_file(SHIPPED / "cartpole.urdf", "urdf", into)
    assert (into / "mine").read_text() == "x"


# Which file of a bundle is meant.

ARM = '<mujoco><worldbody><body><joint name="j"/></body></worldbody></mujoco>'
LEG = '<robot name="r"><link name="a"/><link name="b"/><joint name="j"/></robot>'
MEANT = {
    "the one that others include": (
        {"scene.xml": '<mujoco><include file="arm.xml"/></mujoco>', "arm.xml": ARM, "hand.xml": ARM}, "arm.xml"
    ),
    "of two the one named as its folder": (
        {
            "unitree_go2/scene.xml": '<mujoco><include file="go2.xml"/></mujoco>',
            "unitree_go2/scene_mjx.xml": '<mujoco><include file="go2_mjx.xml"/></mujoco>',
            "unitree_go2/go2.xml": ARM,
            "unitree_go2/go2_mjx.xml": ARM,
        },
        "unitree_go2/go2.xml",
    ),
    "the one named as the bundle": ({"leg.urdf": LEG, "foot.urdf": LEG}, "leg.urdf"),
    "the only one with joints": ({"table.xml": "<mujoco/>", "robot.xml": ARM}, "robot.xml"),
    "a usd that no other is made of": (
        {"a.usda": USD, "b.usda": USD, "z.usda": usd("", "references = [@a.usda@, @b.usda@]")},
        "z.usda",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MEANT)
def test_the_file_that_must_be_meant(case, tmp_path):
    files, meant = MEANT[case]
    format_ = {".xml": "mjcf", ".usda": "usd", ".urdf": "urdf"}[Path(meant).suffix]
    main = main_file(bundle(tmp_path / "my-leg.zip", files), format_, tmp_path / "robot")
    assert main == tmp_path / "robot" / meant


def test_a_file_that_somebody_names_is_taken_and_otherwise_the_line_is_said(tmp_path):
    files = {"robots/arm.xml": ARM, "robots/hand.xml": ARM, "readme.txt": "x"}
    path = bundle(tmp_path / "r.zip", files)
    failure = refused(path, "mjcf", tmp_path / "robot", "holds 2 files that could be meant", "asset_ambiguous")
    assert '"file": "robots/arm.xml"' in failure.advice
    assert "--entry robots/arm.xml" in failure.advice
    assert main_file(path, "mjcf", tmp_path / "robot", "robots/hand.xml") == tmp_path / "robot" / "robots/hand.xml"
    for wrong in ("hand.xml", "readme.txt", "../r.zip", "/etc/passwd"):
        with pytest.raises(RequestError, match=r"Unknown file of 'r\.zip'") as error:
            main_file(path, "mjcf", tmp_path / "other", wrong)
        assert error.value.failure.advice == "Allowed: 'robots/arm.xml', 'robots/hand.xml'."
    (tmp_path / "arm.xml").write_text(ARM)
    with pytest.raises(RequestError, match=r"'arm.xml' is one file, and 'b.xml' was asked for"):
        main_file(tmp_path / "arm.xml", "mjcf", tmp_path / "other", "b.xml")


# What a copy is made to say.


def obj(mtl):
    return {"a.urdf": urdf("m.obj"), "m.obj": f"mtllib {mtl}\nv 0 0 0\nf 1 1 1\n"}


DAE = "<C><library_geometries><triangles/></library_geometries>{}</C>"
LOOKS = {
    "texture url": ({"a.urdf": urdf(texture="http://host/t.png")}, "http://host/t.png"),
    "texture absolute": ({"a.urdf": urdf(texture="/t.png")}, "/t.png"),
    "texture missing": ({"a.urdf": urdf(texture="package://p/t.png")}, "package://p/t.png"),
    "obj": (obj("../m.mtl"), "../m.mtl"),
    "mtl": ({**obj("m.mtl"), "m.mtl": "newmtl m\nmap_Kd -s 1 1 1 /etc/t.png\nKd 1 0 0\n"}, "/etc/t.png"),
    "mtl of another system": ({**obj("m.mtl"), "m.mtl": "map_Kd D:\\art\\t.png\n"}, "D:\\art\\t.png"),
    "mtl url": ({**obj("m.mtl"), "m.mtl": "bump http://host/t.png\n"}, "http://host/t.png"),
    "ply": (
        {"a.urdf": urdf("m.ply"), "m.ply": "ply\ncomment TextureFile /t.png\nelement face 1\nend_header\n"}, "/t.png"
    ),
    "dae": (
        {"a.urdf": urdf("m.dae"), "m.dae": DAE.format("<image><init_from>file:///t.png</init_from></image>")},
        "file:///t.png",
    ),
    "dae ref": (
        {"a.urdf": urdf("m.dae"), "m.dae": DAE.format("<image><init_from><ref>../t.png</ref></init_from></image>")},
        "../t.png",
    ),
    "dae attribute": (
        {"a.urdf": urdf("m.dae"), "m.dae": DAE.format('<diffuse><texture texture="/t.png"/></diffuse>')}, "/t.png"
    ),
    "glb": ({"a.urdf": urdf("m.glb"), "m.glb": glb("https://host/t.png")}, "https://host/t.png"),
    "mjcf texture": ({"a.xml": mjcf('<texture name="t" type="2d" file="/t.png"/>')}, "/t.png"),
    "mjcf cube": ({"a.xml": mjcf('<texture name="t" type="cube" fileup="http://host/t.png"/>')}, "http://host/t.png"),
    "mjcf skin": ({"a.xml": mjcf('<skin file="/s.skn"/>')}, "/s.skn"),
    **{
        f"usd {text}": ({"a.usda": usd(attribute, metadata)}, text)
        for attribute, metadata, text in [
            ("asset t = @http://host/t.png@", "", "http://host/t.png"),
            ("asset t = @../t.hdr@", "", "../t.hdr"),
            ("asset t.timeSamples = {0: @/t.png@}", "", "/t.png"),
            ("asset t = @tex/<UDIM>.png@", "", "tex/<UDIM>.png"),
            ("asset m = @omniverse://host/Steel.mdl@", "", "omniverse://host/Steel.mdl"),
            ("asset m = @../OmniPBR.mdl@", "", "../OmniPBR.mdl"),
            ("", "customData = { asset t = @/c.png@ }", "/c.png"),
            ("", "references = @looks/b.mtlx@", "looks/b.mtlx"),
            ('variantSet "v" = {\n "x" {\n asset t = @/v.png@\n }\n }', 'prepend variantSets = "v"', "/v.png"),
        ]
    },
}  # fmt: skip


@pytest.mark.parametrize("case", LOOKS)
def test_a_look_that_is_elsewhere_is_left_out_of_the_copy_and_said(case, tmp_path):
    files, text = LOOKS[case]
    format_ = {".urdf": "urdf", ".xml": "mjcf", ".usda": "usd"}[Path(next(iter(files))).suffix]
    notes = []
    path = bundle(tmp_path / "r.zip", {"m.stl": STL, **files})
    main_file(path, format_, tmp_path / "robot", note=notes.append)
    (note,) = notes
    assert repr(text) in note
    assert "left out" in note
    # Nothing in the copy has the name any more.
    assert not [
        found for found in (tmp_path / "robot").rglob("*") if found.is_file() and text.encode() in found.read_bytes()
    ]


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("m.stl", b"solid s\nendsolid s\n"),
        ("m.STL", bytes(84)),
        ("m.obj", b"v 0 0 0\n"),
        ("m.ply", b"ply\nformat ascii 1.0\nelement vertex 0\nelement face 0\nend_header\n"),
        ("m.dae", b"<COLLADA><lines/></COLLADA>"),
    ],
)
def test_a_mesh_without_a_face_is_left_out_and_said(name, mesh, tmp_path):
    notes = []
    path = bundle(tmp_path / "r.zip", {"a.urdf": urdf(name), name: mesh})
    main = main_file(path, "urdf", tmp_path / "robot", note=notes.append)
    assert notes == [f"the mesh '{name}' has no face: it is left out"]
    assert not list(ET.parse(main).iter("mesh"))


UNSURFACED = """<COLLADA>
<library_effects>
<effect id="red"><profile_COMMON><newparam sid="s"/><sampler2D><source>s</source></sampler2D></profile_COMMON></effect>
<effect id="wood"><profile_COMMON><newparam sid="t"/><sampler2D><source>u</source></sampler2D></profile_COMMON></effect>
</library_effects>
<library_materials>
<material id="r"><instance_effect url="#red"/></material><material id="w"><instance_effect url="#wood"/></material>
</library_materials>
<triangles/><instance_material symbol="r" target="#r"/><instance_material symbol="w" target="#w"/>
</COLLADA>"""


def test_a_material_that_samples_a_missing_surface_does_not_cost_the_mesh(tmp_path):
    """Readers of COLLADA leave out whatever is bound to such a material."""
    notes = []
    path = bundle(tmp_path / "r.zip", {"a.urdf": urdf("m.dae"), "m.dae": UNSURFACED.encode()})
    main_file(path, "urdf", tmp_path / "robot", note=notes.append)
    assert notes == ["the material 'w' of 'm.dae' samples a surface that is not there: no look"]
    (copy,) = (tmp_path / "robot").rglob("m.dae")
    assert [each.get("target") for each in ET.parse(copy).iter("instance_material")] == ["#r"]


def msh(*numbers, counts=(4, 0, 0, 4)):
    """Return a mesh of MuJoCo's older format: a tetrahedron, and what else is given."""
    points = (0.0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0.1)
    faces = numbers or (0, 2, 1, 0, 1, 3, 0, 3, 2, 1, 2, 3)
    return struct.pack(f"<4i12f{len(faces)}i", *counts, *points, *faces)


def test_a_mesh_of_mujocos_older_format_is_one_that_every_reader_takes(tmp_path):
    model = '<mujoco><asset><mesh file="wing.msh"/></asset></mujoco>'
    robot = bundle(tmp_path / "r.zip", {"r.xml": model, "wing.msh": msh(), "wing.obj": "another"})
    copy = main_file(robot, "mjcf", tmp_path / "out")
    (mesh,) = ET.parse(copy).iter("mesh")
    assert mesh.attrib == {"name": "wing", "file": "wing.msh.obj"}
    lines = (copy.parent / mesh.attrib["file"]).read_text().splitlines()
    assert lines[3:6] == [f"v 0.0 0.0 {struct.unpack('f', struct.pack('f', 0.1))[0]!r}", "f 1 3 2", "f 1 2 4"]
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "0 bytes"),
        (msh()[:-1], "111 bytes, and its counts .* ask for 112"),
        (msh(counts=(4, 0, 0, -1)), "its counts"),
        (msh(counts=(2**31 - 1, 0, 0, 4)), "its counts"),
        (msh(*[0, 1, 4] * 4), r"vertices \(0, 1, 4\), and 4 vertices"),
    ],
    ids=["empty", "cut off", "below 0", "huge", "no such vertex"],
)
def test_a_mesh_of_mujocos_older_format_that_is_none(data, match, tmp_path):
    model = '<mujoco><asset><mesh file="wing.msh"/></asset></mujoco>'
    robot = bundle(tmp_path / "r.zip", {"r.xml": model, "wing.msh": data})
    refused(robot, "mjcf", tmp_path / "out", match, "asset_unreadable")


def test_names_with_a_prefix_are_taken_out_whether_or_not_something_declares_them(tmp_path):
    """Readers stumble over the one kind, and a default namespace makes every element another's."""
    text = urdf().replace('<link name="a">', '<gz:a><link name="z"/></gz:a><link name="a" drake:x="2">')
    text = text.replace("<robot", '<robot xmlns="http://www.ros.org" xmlns:gz="http://gz"')
    text = text.replace("</robot>", '<xacro:property name="p" value="1"/></robot>')
    main = main_file(bundle(tmp_path / "r.zip", {"a.urdf": text, "m.stl": STL}), "urdf", tmp_path / "robot")
    root = ET.parse(main).getroot()
    assert root.tag == "robot"
    assert [link.attrib for link in root.iter("link")] == [{"name": "a"}]


def test_a_model_in_parts_is_one_file_in_the_copy_and_means_what_mujoco_reads(tmp_path):
    """The places of assets are those of the whole, or of the part; a part is taken once."""
    mujoco = pytest.importorskip("mujoco")
    box = "".join(f"v {x} {y} {z}\n" for x in (0, 1) for y in (0, 1) for z in (0, 1))
    box += "".join(f"f {a} {b} {c}\n" for a, b, c in [(1, 2, 4), (1, 4, 3), (5, 7, 8), (5, 8, 6), (1, 5, 6), (1, 6, 2)])
    box += "".join(f"f {a} {b} {c}\n" for a, b, c in [(3, 4, 8), (3, 8, 7), (1, 3, 7), (1, 7, 5), (2, 6, 8), (2, 8, 4)])

    def part(name, more):
        geom = f'<geom type="mesh" mesh="{name}"/>'
        body = f'<worldbody><body name="{name}"><joint name="{name}"/>{geom}</body></worldbody>'
        return f'<mujoco><asset><mesh file="{name}.obj"/></asset>{body}{more}</mujoco>'

    files = {
        "scene.xml": '<mujoco><compiler meshdir="m" angle="radian"/><include file="p/arm.xml"/></mujoco>',
        "p/arm.xml": part("arm", '<include file="p/hand.xml"/>'),
        "p/hand.xml": part("hand", '<compiler meshdir="own"/>'),
        "m/arm.obj": box,
        "p/own/hand.obj": box,
    }
    main = main_file(bundle(tmp_path / "r.zip", files), "mjcf", tmp_path / "robot")
    model = mujoco.MjModel.from_xml_path(str(main))
    assert [model.body(index).name for index in range(model.nbody)] == ["world", "arm", "hand"]
    assert [mesh.attrib["file"] for mesh in ET.parse(main).iter("mesh")] == ["m/arm.obj", "p/own/hand.obj"]
    files["p/hand.xml"] = '<mujoco><include file="p/arm.xml"/></mujoco>'
    path = bundle(tmp_path / "s.zip", files)
    refused(path, "mjcf", tmp_path / "again", "includes 'p/arm.xml', which is included already", "asset_unreadable")


# What is refused, each with its own words.

OUTSIDE = "leads out of the folder"
URL = "is a URL"
ABSOLUTE = "is absolute"
MISSING = "there is no such file"


@pytest.mark.parametrize(
    ("reference", "match"),
    [
        ("../m.stl", OUTSIDE),
        ("a/../../m.stl", OUTSIDE),
        ("/etc/passwd", ABSOLUTE),
        ("~/m.stl", ABSOLUTE),
        ("C:/other.stl", ABSOLUTE),
        ("/home/me/two.stl", ABSOLUTE),
        ("http://host/m.stl", URL),
        ("https://host/m.stl", URL),
        ("file:///etc/passwd", URL),
        ("file:/etc/passwd", URL),
        ("//host/m.stl", URL),
        ("omniverse://host/m.stl", URL),
        ("package://pkg/../../../m.stl", OUTSIDE),
        ("package://../m.stl", URL),
        ("package:///etc/passwd", URL),
        ("package://other/x.stl", MISSING),
        ("model://other/x.stl", MISSING),
        ("meshes\\m.stl", "has a backslash"),
        ("missing.stl", MISSING),
        ("M.STL", MISSING),
        ("m.step", "of a format that is not read"),
        ("lfs.stl", "pointer of Git LFS"),
        ("package://pkg/deep/two.stl", MISSING),
        ("x" * 5000 + ".stl", MISSING),
    ],
    ids=lambda value: value[:30],
)
def test_meshes_of_a_urdf(reference, match, tmp_path):
    (tmp_path / "m.stl").write_bytes(STL)
    files = {"a.urdf": urdf(reference), "m.stl": STL, "m.step": b"step"}
    files |= {"lfs.stl": LFS, "p/two.stl": STL, "q/two.stl": STL}
    refused(bundle(tmp_path / "r.zip", files), "urdf", tmp_path / "robot", match, "asset_reference")


def test_a_missing_file_names_those_that_are_nearly_meant(tmp_path):
    path = bundle(tmp_path / "r.zip", {"a.urdf": urdf("meshes/M.stl"), "meshes/m.stl": STL})
    failure = refused(path, "urdf", tmp_path / "robot", MISSING, "asset_reference")
    assert failure.message == "'a.urdf' refers to 'meshes/M.stl', and there is no such file."
    assert failure.advice == "There is 'meshes/m.stl': mind folders, and upper and lower case."


def test_a_file_by_itself_that_needs_others_asks_for_a_bundle(tmp_path):
    (tmp_path / "a.urdf").write_text(urdf("m.stl"))
    (tmp_path / "m.stl").write_bytes(STL)
    failure = refused(tmp_path / "a.urdf", "urdf", tmp_path / "robot", MISSING, "asset_reference")
    assert failure.advice == "Send a .zip bundle with every file that is referred to."


REFERENCES = {
    "gltf": ({"a.urdf": urdf("m.gltf"), "m.gltf": '{"buffers": [{"uri": "../b.bin"}]}'}, OUTSIDE),
    "gltf missing": ({"a.urdf": urdf("m.gltf"), "m.gltf": '{"buffers": [{"uri": "b.bin"}]}'}, MISSING),
    "include": ({"a.xml": '<mujoco><include file="../b.xml"/></mujoco>'}, OUTSIDE),
    "include absolute": ({"a.xml": '<mujoco><include file="/etc/passwd"/></mujoco>'}, ABSOLUTE),
    "include missing": ({"a.xml": '<mujoco><include file="b.xml"/></mujoco>'}, MISSING),
    "nested": (
        {"a.xml": '<mujoco><include file="p/b.xml"/></mujoco>', "p/b.xml": mjcf('<mesh file="../../m.stl"/>')}, OUTSIDE
    ),
    "meshdir absolute": ({"a.xml": mjcf('<mesh file="m.stl"/>', '<compiler meshdir="/usr"/>')}, ABSOLUTE),
    "meshdir": ({"a.xml": mjcf('<mesh file="m.stl"/>', '<compiler meshdir=".."/>')}, OUTSIDE),
    "assetdir": ({"a.xml": mjcf('<hfield file="t.png"/>', '<compiler assetdir="../x"/>')}, OUTSIDE),
    "hfield": ({"a.xml": mjcf('<hfield file="../h.png"/>')}, OUTSIDE),
    "model": ({"a.xml": mjcf('<model file="../b.xml"/>')}, OUTSIDE),
    "format": ({"a.xml": mjcf('<mesh file="m.step"/>'), "m.step": b"x"}, "of a format that is not read"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFERENCES)
def test_what_files_refer_to(case, tmp_path):
    files, match = REFERENCES[case]
    format_ = "urdf" if "a.urdf" in files else "mjcf"
    path = bundle(tmp_path / "r.zip", {"m.stl": STL, **files})
    refused(path, format_, tmp_path / "robot", match, "asset_reference")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (usd("", "references = @../b.usda@"), OUTSIDE),
        (usd("", "payload = @/b.usda@"), ABSOLUTE),
        (usd("", "references = @https://host/b.usda@"), URL),
        (usd("", "references = @omniverse://host/b.usd@"), URL),
        (usd("", "references = @b.usda@"), MISSING),
        (usd("", "references = @.@"), MISSING),
        (usd("", "references = @./m@"), MISSING),
        (usd("", "references = @b.usdz@"), "is not looked into"),
        (usd("", "references = @b.usdz[c.usd]@"), "is not looked into"),
        (usd("", "references = @b.usda:SDF_FORMAT_ARGS:a=b@"), "with arguments for its format"),
        (usd('variantSet "v" = {\n "x" ( references = @/b.usda@ ) {\n }\n }', 'prepend variantSets = "v"'), ABSOLUTE),
        (USD.replace("(", "(\n    subLayers = [@../b.usda@]"), OUTSIDE),
        (USD.replace("(", '(\n    expressionVariables = { string X = "/b" }'), "has expressionVariables"),
    ],
)
def test_what_a_usd_refers_to(text, match, tmp_path):
    refused(bundle(tmp_path / "r.zip", {"a.usda": text}), "usd", tmp_path / "robot", match, "asset_reference")


def test_references_of_references_of_a_usd(tmp_path):
    files = {"a.usda": usd("", "references = @p/b.usda@"), "p/b.usda": usd("", "payload = @../../c.usda@")}
    failure = refused(bundle(tmp_path / "r.zip", files), "usd", tmp_path / "robot", OUTSIDE, "asset_reference")
    assert failure.message.startswith("'p/b.usda' refers to '../../c.usda'")


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (f'<!DOCTYPE robot [<!ENTITY l0 "lol">{LAUGHS}]><robot>&l9;</robot>', "has a DTD"),
        ('<!DOCTYPE robot [<!ENTITY e SYSTEM "file:///etc/passwd">]><robot>&e;</robot>', "has a DTD"),
        ('<!DOCTYPE robot SYSTEM "http://host/robot.dtd"><robot/>', "has a DTD"),
        ("<robot><link></robot>", "is not well-formed XML: mismatched tag: line 1"),
        ("", "is not well-formed XML: no element found"),
        ("\0\1", "is not well-formed XML"),
        ("<a>" * 600 + "</a>" * 600, "has more than 500 elements in each other"),
        ('<robot xmlns:xacro="x"><xacro:macro/></robot>', "is a xacro template"),
        ("<mujoco/>", "is no URDF: its root is <mujoco>"),
        ('<?xml version="1.0" encoding="utf-7"?><robot/>', "is in the encoding 'utf-7'"),
        ('<?xml version="1.0" encoding="klingon"?><robot/>', "is in the encoding 'klingon'"),
        ('<?xml version="1.0" encoding="utf-16"?><robot/>', "is not well-formed XML"),
        (f"<robot>{'<a/>' * 200_000}</robot>", "has more than 200,000 elements"),
        (f'<robot name="{"x" * 2_000_000}"/>', "a tag or a comment of more than 1,048,576 bytes in line 1"),
        (f"<robot><!--{'x' * 2_000_000}--></robot>", "a tag or a comment of more than 1,048,576 bytes"),
    ],
    ids=[
        *("billion laughs", "external entity", "external dtd", "tag", "empty", "binary", "deep", "xacro", "mjcf"),
        *("utf-7", "no encoding", "another encoding", "elements", "attribute", "comment"),
    ],
)
def test_xml_that_is_not_read(text, match, tmp_path):
    (tmp_path / "a.urdf").write_text(text)
    refused(tmp_path / "a.urdf", "urdf", tmp_path / "robot", match, "asset_unreadable")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "us-ascii", "iso-8859-1"])
def test_encodings_that_are_read(encoding, tmp_path):
    """And the copy is in UTF-8, which every reader takes."""
    name = "K\u00e4fer" if encoding != "us-ascii" else "Kaefer"
    text = f'<?xml version="1.0" encoding="{encoding}"?><robot><!--{"x" * 500_000}-->\r\n<link name="{name}"/></robot>'
    data = text.encode(encoding)
    text = text.replace("x-->", "x -- y-->") if encoding == "utf-8" else text
    before = {"utf-8": b"\xef\xbb\xbf", "us-ascii": b"\n\n"}.get(encoding, b"")
    (tmp_path / "a.urdf").write_bytes(before + data + (b"\n\0\n" if encoding == "us-ascii" else b""))
    main = main_file(tmp_path / "a.urdf", "urdf", tmp_path / "robot")
    assert f'name="{name}"' in main.read_text(encoding="utf-8-sig")


GLTF = {
    "deep": ('{"buffers": ' + "[" * 200 + "]" * 200 + "}", "it is nested more than 100 deep"),
    "deeper": ("[" * 100_000, "it is nested more than 100 deep"),
    "half a character": (r'{"images": [{"uri": "\ud800.png"}]}', "half of a surrogate pair"),
    "many": ("[" + "[]," * 600_000 + "0]", "it has more than 1,000,000 values"),
    "other text": ('{"images": []}'.encode("utf-16"), "can't decode"),
}


@pytest.mark.parametrize("case", GLTF)
def test_json_that_is_not_read(case, tmp_path):
    text, match = GLTF[case]
    path = bundle(tmp_path / "r.zip", {"a.urdf": urdf("m.gltf"), "m.gltf": text})
    refused(path, "urdf", tmp_path / "robot", f"'m.gltf' cannot be read as glTF: .*{match}", "asset_unreadable")


def test_references_without_end_are_not_followed(tmp_path):
    files = {**obj("m.mtl"), "m.mtl": "map_Kd a\n" * 20_000}
    match = "more than 20,000 references"
    refused(bundle(tmp_path / "r.zip", files), "urdf", tmp_path / "robot", match, "asset_reference")


def test_xml_of_any_size_is_not_read(tmp_path):
    with (tmp_path / "a.urdf").open("wb") as file:
        file.truncate(asset_xml.MOST_XML_BYTES + 1)
    refused(tmp_path / "a.urdf", "urdf", tmp_path / "robot", "allowed are 33,554,432", "asset_unreadable")


@pytest.mark.parametrize(
    ("name", "data", "format_", "match", "code"),
    [
        ("a.obj", "v 0 0 0", "urdf", "is not named as a file of the format 'urdf'", "asset_wrong_format"),
        ("a.usd", USD, "mjcf", "is not named as a file of the format 'mjcf'", "asset_wrong_format"),
        ("a.usda", "#usda 1.0\ndef {", "usd", "as USD: line 2 has a syntax error at 'def {'", "asset_unreadable"),
        ("a.usd", "nonsense", "usd", "as USD: it is none, or damaged", "asset_unreadable"),
        ("a.urdf", LFS, "urdf", "'a.urdf' is a pointer of Git LFS, and not the file itself", "git_lfs_pointer"),
        ("a.usd", LFS, "usd", "'a.usd' is a pointer of Git LFS", "git_lfs_pointer"),
        ("a.urdf", "<robot/>", "urdf", "'a.urdf' has no link", "asset_unreadable"),
        ("a.urdf", LEG.replace('"j"', '"j" type="floating"'), "urdf", "the floating joint 'j'", "asset_unreadable"),
        (
            "a.urdf",
            urdf("${m}.stl"),
            "urdf",
            r"a xacro template: it has <mesh filename='\${m}.stl'>",
            "asset_unreadable",
        ),
        ("a.usda", usd("", "references = @caf\udce9.usda@"), "usd", "its text is not UTF-8", "asset_unreadable"),
        ("a.xml", "<robot/>", "mjcf", "is no MJCF: its root is <robot>", "asset_unreadable"),
        ("a.urdf", "<robot/>", "stl", "Unknown asset format 'stl'", "unknown_name"),
    ],
)
def test_files_of_another_format(name, data, format_, match, code, tmp_path):
    (tmp_path / name).write_bytes(data.encode(errors="surrogateescape"))
    refused(tmp_path / name, format_, tmp_path / "robot", match, code)


@pytest.mark.parametrize(
    ("files", "format_", "match", "code"),
    [
        ({"a.stl": STL}, "urdf", "holds no file of the format 'urdf'", "asset_wrong_format"),
        ({"a.xml": "<robot/>"}, "mjcf", "holds no file of the format 'mjcf'", "asset_wrong_format"),
        ({"a.xml": "<mujoco>"}, "mjcf", "is not well-formed XML", "asset_unreadable"),
        ({"x/a.urdf": "<robot/>", "x/b.urdf": "<robot/>"}, "urdf", "'x/a.urdf', 'x/b.urdf'", "asset_ambiguous"),
        ({"a.usda": USD, "b.usd": USD}, "usd", "holds 2 files that could be meant", "asset_ambiguous"),
        ({"../a.urdf": "<robot/>"}, "urdf", "leads out of the folder with '..'", "archive_unsafe_name"),
        ({"a.xml": LFS}, "mjcf", "'a.xml' is a pointer of Git LFS", "git_lfs_pointer"),
        ({"a.urdf.xacro": "<robot/>"}, "urdf", "holds no file of the format 'urdf'", "asset_wrong_format"),
    ],
    ids=["none", "other xml", "broken xml", "two", "two usd", "archive", "git lfs", "template"],
)
def test_bundles_without_one_main_file(files, format_, match, code, tmp_path):
    refused(bundle(tmp_path / "r.zip", files), format_, tmp_path / "robot", match, code)


@pytest.mark.parametrize(
    ("files", "match", "code"),
    [
        ({"t.png": b"png", "a.usda": USD}, "does not begin with a USD file", "asset_wrong_format"),
        ({"a.usda": usd("", "references = @../../t.usda@")}, OUTSIDE, "asset_reference"),
    ],
    ids=["another file first", "the same rules"],
)
def test_a_usdz_that_is_refused(files, match, code, tmp_path):
    path = bundle(tmp_path / "r.zip", files).rename(tmp_path / "r.usdz")
    refused(path, "usd", tmp_path / "robot", match, code)
