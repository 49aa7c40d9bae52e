"""Robots as their files mean them: an MJCF is held against MuJoCo's own compilation, a URDF against its format."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated import Player

from simyard.core.errors import RequestError

pytestmark = pytest.mark.sim

LINK = (
    '<inertial><mass value="{mass}"/><inertia ixx="{ixx}" iyy="{iyy}" izz="{izz}" ixy="0" ixz="0" iyz="0"/></inertial>'
)
JOINT = '<parent link="a"/><child link="b"/><origin xyz="0 0 0.5"/>'


def inertial(mass: float = 1, ixx: float = 0.01, iyy: float = 0.01, izz: float = 0.01) -> str:
    return LINK.format(mass=mass, ixx=ixx, iyy=iyy, izz=izz)


def urdf(
    b: str | None = None,
    *,
    a: str | None = None,
    kind: str = "revolute",
    name: str = "j1",
    axis: str = '<axis xyz="0 1 0"/>',
    limit: str = '<limit lower="-1" upper="1" effort="5" velocity="1"/>',
    more: str = "",
) -> str:
    """Return a robot of two links."""
    links = f'<link name="a">{a or inertial()}</link><link name="b">{inertial() if b is None else b}</link>'
    return f'<robot name="r">{links}<joint name="{name}" type="{kind}">{JOINT}{axis}{limit}</joint>{more}</robot>'


def mjcf(
    joint: str = 'range="-60 60"', *, before: str = "", inside: str = "", after: str = "", name: str = "j1"
) -> str:
    """Return a robot of one link."""
    body = f'<body name="l1" pos="0 0 1"><joint name="{name}" axis="0 1 0" {joint}/>{inside}'
    geom = '<geom type="capsule" size="0.05" fromto="0 0 0 0 0 0.3" mass="1"/>'
    return f'<mujoco model="arm">{before}<worldbody>{body}{geom}</body></worldbody>{after}</mujoco>'


LOOP = """<mujoco model="fourbar"><worldbody>
  <body name="crank" pos="0 0 1"><joint name="crank" axis="0 1 0"/>
    <geom type="capsule" size="0.02" fromto="0 0 0 0.1 0 0" mass="0.1"/>
    <body name="rod" pos="0.1 0 0"><joint name="rod" axis="0 1 0"/>
      <geom type="capsule" size="0.02" fromto="0 0 0 0 0 0.3" mass="0.1"/></body></body>
  <body name="rocker" pos="0.25 0 1"><joint name="rocker" axis="0 1 0"/>
    <geom type="capsule" size="0.02" fromto="0 0 0 -0.15 0 0.3" mass="0.1"/></body>
  </worldbody><equality><connect body1="rod" body2="rocker" anchor="0 0 0.3"/></equality>
  <actuator><position name="m" joint="crank" kp="20" kv="1" forcerange="-9 9"/></actuator></mujoco>"""
GRIPPER = """<mujoco model="gripper"><worldbody><body name="palm" pos="0 0 1"><geom size="0.05"/>
  <body name="left"><joint name="left-finger" type="slide" axis="0 1 0" range="0 0.04"/>
    <geom size="0.02" mass="0.1"/></body>
  <body name="right"><joint name="right-finger" type="slide" axis="0 -1 0" range="0 0.04"/>
    <geom size="0.02" mass="0.1"/></body></body></worldbody>
  <tendon><fixed name="both"><joint joint="left-finger" coef="0.5"/>
    <joint joint="right-finger" coef="0.5"/></fixed></tendon>
  <equality><joint joint1="right-finger" joint2="left-finger"/></equality>
  <actuator><general tendon="both" gainprm="1" biastype="affine" biasprm="0 -100 -10" forcerange="-60 60"/></actuator>
</mujoco>"""
COUPLED = """<mujoco><worldbody><body pos="0 0 1"><joint name="x" axis="1 0 0"/><joint name="y" axis="0 1 0"/>
  <geom size="0.1" mass="1"/></body></worldbody>
  <tendon><fixed name="t"><joint joint="x" coef="1"/><joint joint="y" coef="-1"/></fixed></tendon>
  <equality><tendon tendon1="t"/></equality></mujoco>"""
SPANNED = COUPLED.replace('coef="-1"/>', 'coef="-1"/><joint joint="z" coef="2"/>').replace(
    "<geom", '<joint name="z" axis="0 0 1"/><geom'
)
HIP = """<mujoco><worldbody><body name="pelvis" pos="0 0 1"><geom size="0.1"/><body name="leg" pos="0 0 -0.1">
  <joint name="yaw" axis="0 0 1" pos="0.1 0 0"/><joint name="reach" type="slide" axis="1 0 0" range="-0.1 0.1"/>
  <joint name="pitch" axis="0 1 0" pos="0 0 0.05"/><geom type="capsule" fromto="0 0 0 0 0 -0.4" size="0.04"/>
  <body name="foot" pos="0 0 -0.4"><joint name="spring" type="slide"/><joint name="ankle" type="ball" pos="0 0 0.1"/>
    <geom size="0.05"/></body></body></body></worldbody><actuator><motor joint="pitch"/></actuator></mujoco>"""
CHEETAH = """<mujoco model="planar"><compiler angle="radian" settotalmass="14"/><worldbody>
  <body name="torso" pos="0 0 0.7">
    <joint name="rootx" type="slide" axis="1 0 0"/><joint name="rootz" type="slide" axis="0 0 1" ref="0.7"/>
    <joint name="rooty" axis="0 1 0"/><geom type="capsule" fromto="-0.5 0 0 0.5 0 0" size="0.05"/>
    <body name="leg" pos="0.5 0 0"><joint name="hip" axis="0 1 0" range="0.2 1" ref="0.1"/>
      <geom type="capsule" fromto="0 0 0 0 0 -0.4" size="0.04"/></body></body></worldbody>
  <actuator><motor joint="hip" gear="30" ctrlrange="-1 1" ctrllimited="true"/></actuator></mujoco>"""
WALKER = """<mujoco model="walker"><worldbody><body name="trunk" pos="0 0 2"><freejoint/><geom size="0.1"/>
  <body name="arm"><joint name="shoulder" axis="0 1 0" range="10 90"/>
    <geom type="capsule" fromto="0 0 0 0 0 -0.3" size="0.02"/>
  </body></body></worldbody><keyframe><key name="lying" qpos="0 0 0.2 0 1 0 0 0.3"/>
  <key name="home" qpos="0 0 0.9 0.7071068 0 0 0.7071068 0.5"/></keyframe></mujoco>"""
INCLUDED = '<mujoco model="arm"><include file="parts/motor.xml"/>' + mjcf().partition('<mujoco model="arm">')[2]
MOTOR = '<mujoco><actuator><position joint="j1" kp="30" dampratio="1"/></actuator></mujoco>'
DEFAULTS = (
    '<default><joint armature="0.3" damping="2"/><default class="heavy"><geom density="5000"/></default></default>'
)

GOOD: dict[str, str] = {
    "total.xml": mjcf(before='<compiler settotalmass="14"/>'),
    "bound.xml": mjcf(before='<compiler boundmass="3" boundinertia="0.5"/>'),
    "group.xml": mjcf(before='<compiler inertiagrouprange="3 3"/>', inside='<geom size="0.1" group="3" mass="2"/>'),
    "from geoms.xml": mjcf(
        before='<compiler inertiafromgeom="true"/>', inside='<inertial mass="99" pos="0 0 0" diaginertia="1 1 1"/>'
    ),
    "radians.xml": mjcf('range="-1 1"', before='<compiler angle="radian"/>'),
    "unlimited.xml": mjcf('limited="false" range="-60 60"'),
    "no autolimits.xml": mjcf('limited="true" range="-60 60"', before='<compiler autolimits="false"/>'),
    "options.xml": mjcf(
        before='<option solver="PGS" integrator="RK4" timestep="0.01"><flag warmstart="disable"/></option>'
    ),
    "defaults.xml": mjcf(before=DEFAULTS, inside='<geom class="heavy" size="0.1" pos="0 0 0.4"/>'),
    "frames.xml": '<mujoco><worldbody><frame euler="0 90 0"><replicate count="2" offset="1 0 0" sep="-">'
    '<body name="l"><joint name="j" axis="0 1 0"/><geom size="0.1" pos="0.1 0 0"/></body>'
    "</replicate></frame></worldbody></mujoco>",
    "floor.xml": '<mujoco><worldbody><body name="floor" pos="0 0 -0.5"><geom type="plane" size="1 1 0.1"/></body>'
    '<body name="l"><joint name="j" axis="0 1 0"/><geom size="0.1"/></body></worldbody></mujoco>',
    "included.xml": INCLUDED,
    "dash.xml": mjcf(name="left-foot/a.b ü", after='<actuator><motor joint="left-foot/a.b ü"/></actuator>'),
    "loop.xml": LOOP,
    "gripper.xml": GRIPPER,
    "coupled.xml": COUPLED,
    "spanned.xml": SPANNED,
    "hip.xml": HIP,
    "cheetah.xml": CHEETAH,
    "walker.xml": WALKER,
    "dash.urdf": urdf(name="left-foot"),
    "slash.urdf": urdf(name="left/foot"),
    "continuous.urdf": urdf(kind="continuous"),
    "endless.urdf": urdf(limit=""),
    "rounding.urdf": urdf(
        '<inertial><mass value="0.57151"/><inertia ixx="0.00244505067267085" ixy="0.000252147874830745" '
        'ixz="6.0124150798151e-06" iyy="0.00479719534645669" iyz="-8.17505169469512e-07" '
        'izz="0.00240559741065627"/></inertial>'
    ),
    "weightless carrier.urdf": urdf(
        "",
        more=f'<link name="c">{inertial()}</link><joint name="j2" type="revolute"><parent link="b"/><child link="c"/>'
        '<axis xyz="1 0 0"/><limit lower="-1" upper="1" effort="5" velocity="1"/></joint>',
    ),
    "no inertials.urdf": urdf(
        '<collision><geometry><box size="1 1 2"/></geometry></collision>',
        a='<collision><geometry><box size="1 1 1"/></geometry></collision>',
    ),
    "triangle.urdf": urdf(inertial(ixx=0.1, iyy=0.001, izz=0.001)),
    "negative.urdf": urdf(inertial(ixx=-0.01)),
    "point.urdf": urdf(inertial(ixx=0, iyy=0, izz=0)),
    "mimic.urdf": urdf(limit='<limit lower="-1" upper="1" effort="5" velocity="0"/><mimic joint="gone"/>'),
    "held.urdf": urdf(limit='<limit lower="0.5" upper="0.5" effort="0" velocity="0"/>'),
    "mimics fixed.urdf": urdf(
        limit='<limit lower="-1" upper="1" effort="5" velocity="0"/><mimic joint="j2"/>',
        more=f'<link name="c">{inertial()}</link>'
        '<joint name="j2" type="fixed"><parent link="b"/><child link="c"/></joint>',
    ),
    "flat.urdf": urdf(f'{inertial()}<collision><geometry><mesh filename="parts/flat.obj"/></geometry></collision>'),
    "point shape.urdf": urdf(
        f'{inertial()}<collision><geometry><sphere radius="0.0"/></geometry></collision>'
        '<collision><geometry><cylinder radius="0.1" length="0"/></geometry></collision>'
    ),
    "sensor.urdf": urdf(
        more='<link name="camera"><collision><geometry><box size="1 1 1"/></geometry></collision></link>'
        '<joint name="mount" type="fixed"><parent link="b"/><child link="camera"/></joint>'
    ),
}
"""Robots that are taken, by file name."""

BAD: dict[str, tuple[str, list[str]]] = {
    "schema.xml": (mjcf('rnge="1 2"'), ["'rnge'", "Element 'joint'", "line 1", "XML reference"]),
    "massless.xml": (
        '<mujoco><worldbody><body name="l1"><joint name="j1"/></body></worldbody></mujoco>',
        ["mass and inertia of moving bodies", "'l1'", "Give every link after a moving joint a mass"],
    ),
    "triangle.xml": (
        mjcf(inside='<inertial mass="1" pos="0 0 0" diaginertia="1 1 3"/>'),
        ["A + B >= C", "'l1'", "no principal moment of a body is above the sum of the others"],
    ),
    "axis.xml": (
        '<mujoco><worldbody><body><joint name="j1" axis="0 0 0"/><geom size="1"/></body></worldbody></mujoco>',
        ["axis too small", "'j1'", "such as 0 0 1"],
    ),
    "axis.urdf": (urdf(axis='<axis xyz="0 0 0"/>'), ["axis '0 0 0'", "joint 'j1'", "any but zero"]),
    "order.urdf": (
        urdf(limit='<limit lower="1" upper="-1" effort="5" velocity="1"/>'),
        ["lower=1 and upper=-1", "joint 'j1'", "Exchange them"],
    ),
    "massless.urdf": (
        urdf('<visual><geometry><box size="0.1 0.1 0.1"/></geometry></visual>'),
        ["link 'b' moves by joint 'j1' and has no mass", "inertial element"],
    ),
    "zero mass.urdf": (urdf(inertial(mass=0, ixx=0, iyy=0, izz=0)), ["link 'b' moves by joint 'j1' and has no mass"]),
    "two roots.urdf": (
        urdf(more=f'<link name="z">{inertial()}</link>'),
        ["2 links that no joint holds: 'a', 'z'", "of the type fixed"],
    ),
    "no link.urdf": (urdf().replace('child link="b"', 'child link="bb"'), ["child link of joint 'j1'", "'bb'", "'b'"]),
    "circle.urdf": (
        urdf(more='<joint name="j2" type="fixed"><parent link="b"/><child link="a"/></joint>'),
        ["in a circle", "'a'"],
    ),
    "two above.urdf": (
        urdf(more='<joint name="j2" type="fixed"><parent link="a"/><child link="b"/></joint>'),
        ["two joints above link 'b'", "one tree"],
    ),
    "comma.urdf": (urdf().replace("0 0 0.5", "0, 0, 0.5"), ["xyz='0, 0, 0.5'", "<origin> of joint 'j1'", "3 numbers"]),
    "type.urdf": (urdf(kind="hinge"), ["type of joint 'j1'", "'hinge'", "revolute"]),
    "same name.urdf": (urdf(more='<link name="b"/>'), ["2 links of the name 'b'"]),
}
"""Robots that are refused, by file name, and what is said."""


def program(folder: Path) -> dict[str, Any]:
    return dict(_program(folder))


def _program(folder: Path) -> Iterator[tuple[str, Any]]:
    """Build every robot; the player calls it."""
    import mujoco
    from test_standard_rollout import Case

    from simyard.runner.newton import standard

    (folder / "parts").mkdir()
    (folder / "parts" / "motor.xml").write_text(MOTOR)
    (folder / "parts" / "flat.obj").write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3\nf 1 3 4\n")
    for name, text in GOOD.items():
        (folder / name).write_text(text, encoding="utf-8")
        yield name, describe(folder / name)
        if name.endswith(".xml"):
            model = mujoco.MjModel.from_xml_path(str(folder / name))
            yield (
                f"{name} by mujoco",
                {
                    "masses": [float(mass) for mass in model.body_mass[1:]],
                    "inertia": [sorted(map(float, each)) for each in model.body_inertia[1:]],
                    "limits": {
                        model.joint(joint).name: [float(bound) for bound in model.jnt_range[joint]]
                        if model.jnt_limited[joint]
                        else [-math.inf, math.inf]
                        for joint in range(model.njnt)
                        if int(model.jnt_type[joint]) >= int(mujoco.mjtJoint.mjJNT_SLIDE)
                    },
                },
            )
    (folder / "sunk.urdf").write_text(
        urdf(f'{inertial()}<collision><geometry><box size="2 2 2"/></geometry></collision>')
    )
    for scene in ("ground", "empty"):
        yield f"sunk into {scene}", describe(folder / "sunk.urdf", scene)["notes"]
    yield "exclusions", exclusions(folder / "chain.urdf")
    case = Case(robot=folder / "walker.xml", format="mjcf")
    yield "notes for the report", standard.check(case.job, case.files)[0]
    for name, (text, _) in BAD.items():
        (folder / name).write_text(text)
        try:
            describe(folder / name)
            yield name, None
        except RequestError as error:
            yield name, str(error)


def describe(robot: Path, scene: str = "empty") -> dict[str, Any]:
    from simyard.runner.newton.control import read_control
    from simyard.runner.newton.simulation import build_world

    format_ = {".xml": "mjcf", ".urdf": "urdf"}[robot.suffix]
    world = build_world(read_control({}), robot, format_, scene_id=scene, scene_file=None)
    found, builder = world.robot, world.builder
    dofs = [column.index for column in found.velocities]
    return {
        "masses": [float(builder.body_mass[body]) for body in found.bodies.values()],
        "inertia": [
            np.linalg.eigvalsh(np.array(builder.body_inertia[body]).reshape(3, 3)).tolist()
            for body in found.bodies.values()
        ],
        "joints": [column.name for column in found.positions],
        "limits": [
            [limit if abs(limit) < 1e6 else math.copysign(math.inf, limit) for limit in map(float, pair)]
            for pair in ((builder.joint_limit_lower[dof], builder.joint_limit_upper[dof]) for dof in dofs)
        ],
        "driven": found.driven,
        "gains": [
            [
                float(column[target.dof])
                for column in (builder.joint_target_ke, builder.joint_target_kd, builder.joint_effort_limit)
            ]
            for target in found.targets
        ],
        "first pose": [float(builder.joint_q[column.index]) for column in found.positions],
        "base": None if found.base is None else [float(x) for x in builder.joint_q[found.base.coordinate :][:7]],
        "height": float(world.builder.body_q[0][2]),
        "notes": world.notes,
    }


def exclusions(robot: Path) -> int:
    """Return how many pairs of bodies MuJoCo is told of, for a chain of 30 links of which three have a shape."""
    from simyard.runner.newton.control import read_control
    from simyard.runner.newton.simulation import _compile, build_world

    shape = '<collision><geometry><sphere radius="0.01"/></geometry></collision>'
    links = (f'<link name="l{link}">{inertial()}{shape if link % 10 == 0 else ""}</link>' for link in range(30))
    joints = (
        f'<joint name="j{link}" type="continuous"><parent link="l{link}"/><child link="l{link + 1}"/></joint>'
        for link in range(29)
    )
    robot.write_text(f'<robot name="chain">{"".join(links)}{"".join(joints)}</robot>')
    world = build_world(read_control({}), robot, "urdf", scene_id="empty", scene_file=None)
    return int(_compile(world.builder, robot, world.robot).engine.nexclude)


def run_loop(folder: Path) -> tuple[float, float]:
    """Turn the crank of the four-bar; return its last angle, and how far its loop opened at most, in metres."""
    import torch

    from simyard.runner.newton.control import read_control
    from simyard.runner.newton.simulation import Simulation, build_world

    robot = folder / "loop.xml"
    robot.write_text(LOOP)
    world = build_world(read_control({}), robot, "mjcf", scene_id="empty", scene_file=None)
    simulation = Simulation(world, num_envs=1, steps=100, device="cpu", dt=0.01, substeps=4, seed=1)
    opened = 0.0
    for step in range(100):
        simulation.step(torch.tensor([[0.3 * math.sin(step * 0.06)]]))
        crank, rod, rocker = simulation.joint_position()[0].tolist()
        bent = crank + rod
        end = (0.1 * math.cos(crank) + 0.3 * math.sin(bent), -0.1 * math.sin(crank) + 0.3 * math.cos(bent))
        other = (
            0.25 - 0.15 * math.cos(rocker) + 0.3 * math.sin(rocker),
            0.15 * math.sin(rocker) + 0.3 * math.cos(rocker),
        )
        opened = max(opened, math.dist(end, other))
    simulation.require_finite()
    return crank, opened


@pytest.fixture(scope="module")
def said(player: Player, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return dict(player("test_robots_as_meant:program", tmp_path_factory.mktemp("robots")))


@pytest.mark.parametrize("name", [name for name in GOOD if name.endswith(".xml")])
def test_an_mjcf_is_what_mujoco_compiles(said, name):
    found, meant = said[name], said[f"{name} by mujoco"]
    np.testing.assert_allclose(found["masses"], meant["masses"], rtol=1e-5)
    np.testing.assert_allclose(found["inertia"], meant["inertia"], rtol=1e-4, atol=1e-9)
    limits = dict(zip(found["joints"], found["limits"], strict=False))
    assert [name for name in limits if ":" not in name] == list(meant["limits"])
    for joint, pair in meant["limits"].items():
        np.testing.assert_allclose(limits[joint], pair, rtol=1e-5)


def test_a_total_mass_is_the_one_that_is_set(said):
    assert sum(said["total.xml"]["masses"]) == pytest.approx(14)
    assert sum(said["cheetah.xml"]["masses"]) == pytest.approx(14)
    assert said["bound.xml"]["masses"] == [3]


def test_options_of_a_simulation_are_left_out_and_said(said):
    (note,) = (note for note in said["options.xml"]["notes"] if "options" in note)
    assert "solver = PGS" in note
    assert "timestep = 0.01" in note


def test_joints_that_cannot_move_refuse_no_robot(said):
    (low, high), notes = said["held.urdf"]["limits"][0], said["held.urdf"]["notes"]
    assert low == pytest.approx(0.5)
    assert low < high < 0.5001
    assert "joint 'j1' is held where it is: both its limits are 0.5" in notes
    assert "mimics 'j2', which is none that moves" in said["mimics fixed.urdf"]["notes"][0]


def test_only_bodies_with_shapes_are_kept_apart(said):
    """Newton's cost of a pair grows with the links: a robot of 300, most of them frames, took three minutes."""
    assert said["exclusions"] == 3


def test_names_are_those_of_the_file(said):
    assert said["dash.xml"]["joints"] == said["dash.xml"]["driven"] == ["left-foot/a.b ü"]
    assert said["dash.urdf"]["driven"] == ["left-foot"]
    assert said["slash.urdf"]["driven"] == ["left/foot"]
    assert said["frames.xml"]["joints"] == ["j-0", "j-1"]


def test_only_joints_with_an_actuator_are_driven(said):
    loop = said["loop.xml"]
    assert loop["joints"] == ["crank", "rod", "rocker"]
    assert loop["driven"] == ["crank"]
    assert loop["gains"] == [[20, 1, 9]]
    assert any("'rod', 'rocker'" in note and "passive" in note for note in loop["notes"])


@pytest.mark.long  # a simulation of its own costs a compilation, 10 s
def test_a_closed_loop_stays_closed(player, tmp_path):
    turned, opened = player("test_robots_as_meant:run_loop", tmp_path)
    assert abs(turned) > 0.05, "the crank turns"
    assert opened < 2e-3, "metres between the ends of rod and rocker"


def test_a_tendon_s_motor_moves_its_joints_together(said):
    """Each finger of MuJoCo's feels half of a force of 100 N/m, and the first one leads."""
    gripper = said["gripper.xml"]
    assert gripper["joints"] == ["left-finger", "right-finger"]
    assert gripper["driven"] == ["left-finger"]
    np.testing.assert_allclose(gripper["gains"], [[100, 10, 60]])
    assert said["included.xml"]["gains"][0][0] == 30
    assert said["included.xml"]["gains"][0][1] > 0, "a damping ratio is worked out"


def test_joints_of_one_body_move_as_mujoco_has_them(said):
    """In random poses each body is where MuJoCo has it, also with joints about different points, or that turn first."""
    assert said["hip.xml"]["joints"] == ["yaw", "reach", "pitch", "spring", *(f"ankle:{at}" for at in "xyzw")]
    assert said["hip.xml"]["driven"] == ["pitch"]
    assert not any("from where MuJoCo has it" in note for name in GOOD for note in said[name]["notes"])


def test_what_a_tendon_couples_is_coupled_or_said(said):
    assert said["coupled.xml"]["driven"] == ["y"], "x follows it"
    assert not any("tendon" in note for note in said["coupled.xml"]["notes"])
    notes = " ".join(said["spanned.xml"]["notes"])
    assert "equalities of tendons are not simulated: 't'; what they hold moves by itself" in notes


def test_the_first_pose_is_the_home_key_or_zero_within_limits(said):
    walker = said["walker.xml"]
    assert walker["first pose"] == [0.5]
    np.testing.assert_allclose(walker["base"], [0, 0, 0.9, 0, 0, math.sqrt(0.5), math.sqrt(0.5)], atol=1e-6)
    assert "first pose: keyframe 'home' of 2" in walker["notes"]
    assert said["notes for the report"] == walker["notes"]
    cheetah = said["cheetah.xml"]
    np.testing.assert_allclose(cheetah["first pose"], [0, 0.7, 0, 0.2], atol=1e-6)
    assert any("'hip' 0.1 to 0.2" in note for note in cheetah["notes"])
    assert cheetah["driven"] == ["hip"]
    assert cheetah["gains"][0][2] == 30, "a motor has no more force than its control gives it"


def test_a_urdf_is_what_its_format_says(said):
    assert said["continuous.urdf"]["limits"] == said["endless.urdf"]["limits"] == [[-math.inf, math.inf]]
    assert any("'j1' is continuous, so that its limits -1 to 1" in note for note in said["continuous.urdf"]["notes"])
    assert any("without limits" in note and "'j1'" in note for note in said["endless.urdf"]["notes"])
    assert any("velocity are not enforced" in note and "'left-foot' 1" in note for note in said["dash.urdf"]["notes"])
    assert said["sensor.urdf"]["masses"] == [1, 1, 0]
    assert said["rounding.urdf"]["masses"] == pytest.approx([1, 0.57151])


def test_guessed_masses_are_said_with_their_numbers(said):
    masses = said["no inertials.urdf"]
    assert masses["masses"] == [0, 2000], "what does not move needs none"
    (note,) = (note for note in masses["notes"] if "inertial" in note)
    assert "2,000 of 2,000 kg: 'b' 2,000 kg" in note
    assert "1000 kg/m3" in note
    carrier = said["weightless carrier.urdf"]
    assert carrier["masses"] == pytest.approx([1, 1e-6, 1])
    assert any("'b'" in note and "1 mg" in note for note in carrier["notes"])


def test_impossible_inertias_are_enlarged_and_said_with_their_numbers(said):
    for name, moments in (("triangle.urdf", "'b' 0.001, 0.001, 0.1"), ("negative.urdf", "'b' -0.01, 0.01, 0.01")):
        least, middle, most = said[name]["inertia"][1]
        assert least > 0
        assert least + middle > most
        assert any(moments in note and "enlarged" in note for note in said[name]["notes"])
    assert not any("moments" in note for note in said["rounding.urdf"]["notes"]), "rounding is nothing to tell"
    np.testing.assert_allclose(said["point.urdf"]["inertia"][1], 1e-4, rtol=1e-5)
    assert any("mass without inertia" in note and "'b'" in note for note in said["point.urdf"]["notes"])
    assert "shapes without a thickness touch nothing: of 'b'" in said["flat.urdf"]["notes"]
    assert "shapes without a thickness touch nothing: of 'b', 'b'" in said["point shape.urdf"]["notes"]
    assert any("'j1' mimics 'gone'" in note for note in said["mimic.urdf"]["notes"])


def test_a_plane_on_a_body_that_stands_still_is_taken(said):
    assert said["floor.xml"]["joints"] == ["j"]
    assert said["floor.xml"]["masses"] == pytest.approx(said["floor.xml by mujoco"]["masses"])


def test_a_fixed_robot_in_the_ground_is_said(said):
    (note,) = (note for note in said["sunk into ground"] if "below z = 0" in note)
    assert "0.5 m below" in note
    assert "scene_id 'empty'" in note
    assert not any("below" in note for note in said["sunk into empty"])


@pytest.mark.parametrize("name", BAD)
def test_bad_robots_are_refused_with_the_element_and_advice(said, name):
    assert said[name], "it was accepted"
    for part in BAD[name][1]:
        assert part in said[name]
    assert name in said[name]
