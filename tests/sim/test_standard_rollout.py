"""The standard profile on real Newton: robots of every format, scenes, modes, and whether what they do is physics."""

import ctypes.util
import hashlib
import math
import struct
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rolled import Rolled
from simulated import Player

from simyard.core.errors import RequestError
from simyard.core.files import AttemptPaths, read_json, write_json
from simyard.core.specs import Asset, AttemptSpec, Facts, InputFile, JobSpec, PolicyFile, Rollout
from simyard.runner.assets.robot_files import main_file
from simyard.runner.newton.control import read_control
from simyard.runner.newton.modes import MODES
from simyard.runner.newton.scenes import BLOCK_M, CUBE_SIZE_M, DRAWER_OPENS_M, SCENES

pytestmark = pytest.mark.sim

SHIPPED = Path(str(find_spec("newton").origin)).parent / "examples" / "assets"
EXAMPLES = Path(__file__).parents[2] / "examples" / "rollouts"
ARM, HOPPER = EXAMPLES / "gripper_arm.urdf", EXAMPLES / "hopper.xml"
CARTPOLE = SHIPPED / "cartpole_single_pendulum.usda"
BENT = {"shoulder_lift": 0.3, "elbow": 1.2, "wrist_pitch": 1.4}
PICK = {
    "task_mode": "pick_lift",
    "ee_body": "tcp",
    "finger_joints": ["left_finger_joint", "right_finger_joint"],
    "initial_positions": BENT,
}
FR3, CABINET = "fr3_pick_lift_block_v1", "franka_cabinet_oige_v1"
HAS_EGL = ctypes.util.find_library("EGL") is not None
SCENE = """#usda 1.0
(
    defaultPrim = "World"
    metersPerUnit = 1
    upAxis = "Z"
)
def Xform "World" {
    def PhysicsScene "physics" {
    }
    def Cube "shelf" (prepend apiSchemas = ["PhysicsCollisionAPI"]) {
        double size = 1
        double3 xformOp:translate = (10, 0, 0.5)
        uniform token[] xformOpOrder = ["xformOp:translate"]
    }
    def "book" (references = @parts/book.usda@) {
        double3 xformOp:translate = (10, 0, 1.3)
        uniform token[] xformOpOrder = ["xformOp:translate"]
    }
}
"""
BOOK = """#usda 1.0
(
    defaultPrim = "book"
    metersPerUnit = 1
)
def Xform "book" (prepend apiSchemas = ["PhysicsRigidBodyAPI", "PhysicsMassAPI"]) {
    float physics:mass = 0.3
    def Cube "cover" (prepend apiSchemas = ["PhysicsCollisionAPI"]) {
        double size = 0.2
    }
}
"""


CORNERS = ((0, 0, 0), (0.2, 0, 0), (0, 0.2, 0), (0, 0, 0.2))
FACETS = "".join(
    "facet normal 0 0 0\nouter loop\n"
    + "".join("vertex {} {} {}\n".format(*CORNERS[corner]) for corner in face)
    + "endloop\nendfacet\n"
    for face in ((0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3))
)
STL = f"solid s\n{FACETS}endsolid s\n"
BINARY_STL = (
    bytes(80)
    + struct.pack("<I", 4)
    + b"".join(
        struct.pack("<12fH", 0, 0, 0, *CORNERS[a], *CORNERS[b], *CORNERS[c], 0)
        for a, b, c in ((0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3))
    )
)  # MuJoCo reads no other
HAND = """<robot name="hand">
  <link name="palm"><collision><geometry><mesh filename="package://hand_description/meshes/m.stl"/></geometry></collision></link>
  <link name="left"><collision><geometry><mesh filename="package://hand_description/meshes/m.stl"/></geometry></collision></link>
  <link name="right"><collision><geometry><box size="0.1 0.1 0.1"/></geometry></collision></link>
  <joint name="squeeze" type="prismatic"><parent link="palm"/><child link="left"/><axis xyz="0 1 0"/>
    <limit lower="0" upper="0.04" effort="0" velocity="1"/><dynamics damping="0.3"/></joint>
  <joint name="follow" type="prismatic"><parent link="palm"/><child link="right"/><axis xyz="0 -1 0"/>
    <limit lower="0" upper="0.04" effort="9" velocity="1"/>
    <mimic joint="squeeze" multiplier="0.5" offset="0.01"/></joint>
</robot>"""
SERVOS = """<mujoco model="servos">
  <compiler angle="radian" meshdir="assets"/>
  <asset><mesh name="m" file="m.stl"/></asset>
  <worldbody>
    <body name="upper" pos="0 0 1">
      <joint name="servo" axis="0 1 0" range="-1 1"/>
      <geom type="mesh" mesh="m"/>
      <body name="lower" pos="0 0 -0.3">
        <joint name="pitch" axis="0 1 0" range="0.5 2"/><joint name="roll" axis="1 0 0" range="-2 2"/>
        <geom type="capsule" fromto="0 0 0 0 0 -0.3" size="0.03"/>
        <body name="weight" pos="0 0 -0.4"><joint name="socket" type="ball"/><geom type="sphere" size="0.05"/></body>
      </body>
    </body>
    <body name="box" pos="1 0 0.1"><freejoint/><geom type="box" size="0.05 0.05 0.05"/></body>
  </worldbody>
  <actuator>
    <general joint="servo" biastype="affine" gainprm="450" biasprm="0 -450 -45" forcerange="-80 80"/>
    <motor joint="pitch" gear="3"/>
  </actuator>
</mujoco>"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One job."""

    robot: Path = ARM
    format: str = "urdf"
    control: dict[str, Any] = field(default_factory=dict)
    num_envs: int = 2
    steps: int = 50
    dt: float = 0.02
    substeps: int = 4
    scene_id: str | None = "ground"
    scene: Path | None = None
    video: bool = False
    policy: Path | None = None

    @property
    def files(self) -> dict[str, Path]:
        named = [path for path in (self.robot, self.scene, self.policy) if path]
        return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in named}

    @property
    def job(self) -> JobSpec:
        by_path = {path: digest for digest, path in self.files.items()}

        def file(path: Path) -> InputFile:
            return InputFile(name=path.name, key=path.name, sha256=by_path[path], size_bytes=path.stat().st_size)

        return JobSpec(
            job_id="job-test",
            kind="rollout",
            name="test",
            simulator="newton",
            task=self.control.get("task_mode", "hold"),
            library="",
            num_envs=self.num_envs,
            seed=7,
            policies=(PolicyFile(checkpoint=file(self.policy)),) if self.policy else (),
            rollout=Rollout(
                profile="standard",
                steps=self.steps,
                dt=self.dt,
                substeps=self.substeps,
                control=self.control,
                video=self.video,
                robot=Asset(file=file(self.robot), format=self.format),
                scene=Asset(file=file(self.scene), format="usd") if self.scene else None,
                scene_id=self.scene_id,
            ),
        )

    def prepare(self, folder: Path) -> AttemptPaths:
        """Write the job's folder, as the supervisor does."""
        paths = AttemptPaths(folder)
        paths.make()
        for path in self.files.values():
            (paths.inputs / path.name).write_bytes(path.read_bytes())
        facts = Facts(simulator="newton", version="", flavor="api", device="cpu", rollout=1, overrides=())
        write_json(paths.spec, AttemptSpec(job=self.job, number=1).to_json())
        write_json(paths.facts, facts.to_json())
        return paths


HOPPING = Case(robot=HOPPER, format="mjcf", scene_id="obstacles", num_envs=64, control={"task_mode": "random"})


def arm(
    scene_id: str = "table_top", num_envs: int = 1, steps: int = 50, dt: float = 0.02, policy: Path | None = None,
    **control: Any,
) -> Case:  # fmt: skip
    return Case(scene_id=scene_id, num_envs=num_envs, steps=steps, dt=dt, policy=policy, control=control)


def fr3() -> Case:
    """The rollout of the managed training quickstart, as the request's mode makes it, in two worlds."""
    steps = 128
    dt, substeps = read_control({"task_mode": FR3}).mode.own_time(steps)
    control = {"task_mode": FR3, "fix_base": True}
    return Case(robot=MODES[FR3].ROBOT.file, scene_id=CABINET, steps=steps, dt=dt, substeps=substeps, control=control)


def cases(folder: Path) -> dict[str, Case]:
    """Return the jobs, which share four robots: each new one costs a compilation."""
    swing = {"amplitude": {"shoulder_pan": 0.5, "elbow": 0.2}, "frequency_hz": 0.5, "initial_positions": BENT}
    trip = [{"time_s": 1.0, "positions": {"elbow": 1.0, "left_finger_joint": 0.04}}]
    passive = {"task_mode": "zero", "initial_positions": {"cart_to_pole": 0.2}}
    stiff = {"task_mode": "sine", "amplitude": 2.0, "gains": {"stiffness": 1e9, "damping": 0}}
    return {
        "hold": arm(task_mode="hold", initial_positions=BENT),
        "sine": arm(num_envs=8, steps=100, task_mode="sine", **swing),
        "trajectory": arm(steps=75, task_mode="trajectory", base_position=[0.0, 0.2, 0.1], keyframes=trip),
        "pick": arm(num_envs=2, steps=250, dt=0.01, **PICK),
        "fr3": fr3(),
        "miss": arm(steps=120, **PICK, closed=0.04),
        "swing": Case(robot=CARTPOLE, format="usd", scene=folder / "scene.zip", steps=100, substeps=8, control=passive),
        "random": replace(HOPPING, video=HAS_EGL),
        "again": HOPPING,
        "policy": replace(HOPPING, num_envs=3, steps=5, control={"task_mode": "policy"}, policy=folder / "policy.onnx"),
        "broken": replace(HOPPING, num_envs=2, steps=30, dt=1.0, substeps=1, control=stiff),
    }


def write_inputs(folder: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    for name, main, text, mesh, solid in (
        ("hand.zip", "hand_description/urdf/hand.urdf", HAND, "hand_description/meshes/m.stl", STL),
        ("servos.zip", "servos.xml", SERVOS, "assets/m.stl", BINARY_STL),
    ):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr(main, text)
            archive.writestr(mesh, solid)
    with zipfile.ZipFile(folder / "scene.zip", "w") as archive:
        archive.writestr("room/scene.usda", SCENE)
        archive.writestr("room/parts/book.usda", BOOK)
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name, width in (("x", 4), ("y", 2))
    ]
    weight = onnx.numpy_helper.from_array(np.array([[0, 1], [1, 0], [0, 0], [0, 0]], np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ports[:1], ports[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "policy.onnx").write_bytes(model.SerializeToString())
    weightless = '<robot name="r"><link name="a"/><link name="b"/><joint name="j" type="revolute"><parent link="a"/>'
    weightless += (
        '<child link="b"/><axis xyz="0 0 1"/><limit lower="-1" upper="1" effort="1" velocity="1"/></joint></robot>'
    )
    (folder / "weightless.urdf").write_text(weightless)
    (folder / "still.urdf").write_text('<robot name="r"><link name="a"/></robot>')
    (folder / "loop.urdf").write_text(weightless.replace('<child link="b"/>', '<child link="a"/>'))
    (folder / "centimetres.usda").write_text(CARTPOLE.read_text().replace("metersPerUnit = 1", "metersPerUnit = 0.01"))
    (folder / "unitless.usda").write_text('#usda 1.0\ndef Xform "r" {\n}\n')
    (folder / "stage.usda").write_text('#usda 1.0\n(\n    metersPerUnit = 1\n)\ndef Xform "r" {\n}\n')


def bad_cases(folder: Path) -> dict[str, tuple[Case, str]]:
    """Return jobs that a check refuses, with the beginning of what it says."""

    def robot(name: str, format_: str = "urdf", **control: Any) -> Case:
        return Case(robot=folder / name, format=format_, control=control)

    return {
        "weightless": (robot("weightless.urdf"), "'weightless.urdf': link 'b' moves by joint 'j' and has no mass"),
        "still": (robot("still.urdf", task_mode="zero", fix_base=True), "'still.urdf' has nothing that moves"),
        "loop": (robot("loop.urdf"), "'loop.urdf' has joints in a circle, at link 'a'"),
        "units": (robot("centimetres.usda", "usd"), "'centimetres.usda' is in units of 0.01 m"),
        "unitless": (robot("unitless.usda", "usd"), "'unitless.usda' is in units of 0.01 m, since it names none"),
        "stage": (robot("stage.usda", "usd"), "'stage.usda' has nothing that moves"),
        "format": (Case(format="mjcf"), "'gripper_arm.urdf' is not named as a file of the format 'mjcf'"),
        "scene": (arm("grund"), "Unknown scene_id 'grund'. Did you mean 'ground'?"),
        "joint": (arm(initial_positions={"elbo": 1}), "Unknown joint in control.initial_positions"),
        "limit": (arm(initial_positions={"elbow": 3}), "control.initial_positions.elbow is 3, beyond"),
        "policy": (arm(task_mode="policy"), "task_mode 'policy' needs a policy"),
        "unfit": (
            arm(policy=folder / "policy.onnx", task_mode="policy"),
            "The policy 'policy.onnx' does not fit this robot: its input is tensor(float) ['n', 4]",
        ),
        "nothing to pick": (arm("ground", **PICK), "There is nothing to pick up: the scene has no body"),
        "hand": (arm(**{**PICK, "ee_body": "hnd"}), "Unknown body in control.ee_body: 'hnd'. Did you mean 'hand'?"),
        "object": (arm(**PICK, object="cub"), "Unknown body in control.object: 'cub'. Did you mean 'cube'?"),
        "afloat": (arm(**PICK, fix_base=False), "control.fix_base is False"),
    }


def program(folder: Path) -> dict[str, Any]:
    return dict(_program(folder))


def _program(folder: Path) -> Iterator[tuple[str, Any]]:
    """Check and run everything; the player calls it."""
    from simyard.runner.newton import standard
    from simyard.runner.session import run_alone

    def refusal(case: Case) -> str | None:
        try:
            standard.check(case.job, case.files)
        except RequestError as error:
            return str(error)
        return None

    yield "refusals", {name: refusal(case) for name, (case, _) in bad_cases(folder).items()}
    yield "accepted", {name: refusal(case) for name, case in cases(folder).items()}
    began = time.perf_counter()
    yield "scenes", {scene: refusal(Case(scene_id=scene)) for scene in SCENES}
    yield "seconds for a check", (time.perf_counter() - began) / len(SCENES)
    yield "drawers", pulled_drawers()
    yield "robots", {file: describe(SHIPPED / file, kind, fixed) for file, kind, fixed in ROBOTS}
    for name, kind in (("hand", "urdf"), ("servos", "mjcf")):
        main = main_file(folder / f"{name}.zip", kind, folder / name)
        yield name, describe(main, kind, None, {"initial_positions": {"squeeze": 0.02}} if name == "hand" else {})
    for name, case in cases(folder).items():
        yield name, run_alone(case.prepare(folder / name))


ROBOTS = [
    ("cartpole.urdf", "urdf", None),
    ("quadruped.urdf", "urdf", False),
    ("nv_ant.xml", "mjcf", None),
    ("nv_ant.xml", "mjcf", True),
    ("nv_humanoid.xml", "mjcf", None),
    ("ant.usda", "usd", None),
    ("humanoid.usda", "usd", None),
    ("cartpole.usda", "usd", None),
]


def pulled_drawers() -> dict[str, list[float]]:
    """Push one drawer of the cabinet out of it; return where each drawer is, ten times a second."""
    from simyard.runner.newton.control import read_control
    from simyard.runner.newton.simulation import Simulation, build_world

    world = build_world(read_control({}), ARM, "urdf", scene_id=CABINET, scene_file=None)
    simulation = Simulation(world, num_envs=1, steps=15, device="cpu", dt=0.1, substeps=40, seed=7)
    (speed,) = [column.index for column in world.objects.velocities if column.name == "drawer_top_joint"]
    simulation.joint_qd[:, speed] = 3.0
    seen: dict[str, list[float]] = {column.name: [] for column in world.objects.positions}
    for _ in range(15):
        simulation.step(simulation.first_targets)
        for column in world.objects.positions:
            seen[column.name].append(float(simulation.joint_q[0, column.index]))
    return seen


def describe(robot: Path, format_: str, fix_base: bool | None, control: dict[str, Any] | None = None) -> dict[str, Any]:
    from simyard.runner.newton.control import read_control
    from simyard.runner.newton.simulation import build_world

    given = (control or {}) | ({} if fix_base is None else {"fix_base": fix_base})
    world = build_world(read_control(given), robot, format_, scene_id="ground", scene_file=None)
    targets, builder = world.robot.targets, world.builder
    return {
        "driven": world.robot.driven,
        "positions": [column.name for column in world.robot.positions],
        "free": [*world.free],
        "first pose": [float(builder.joint_q[column.index]) for column in world.robot.positions],
        "damping": [float(builder.joint_target_kd[target.dof]) for target in targets],
        "own damping": [float(builder.joint_damping[target.dof]) for target in targets],
        "effort": [float(builder.joint_effort_limit[target.dof]) for target in targets],
        "floats": world.robot.base is not None,
        "height": float(builder.joint_q[world.robot.base.coordinate + 2]) if world.robot.base else None,
        "stiffness": [float(builder.joint_target_ke[target.dof]) for target in targets],
        "within limits": all(t.low <= builder.joint_q[t.coordinate] <= t.high for t in targets),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rollouts")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def said(player: Player, folder: Path) -> dict[str, Any]:
    """What the simulator's side found."""
    return dict(player("test_standard_rollout:program", folder))


@pytest.fixture(scope="module")
def result(folder: Path, said: dict[str, Any]):
    def get(name: str) -> Rolled:
        paths = AttemptPaths(folder / name)
        assert said[name] == 0, read_json(paths.outcome)
        return Rolled(paths)

    return get


# What is checked before anything is simulated.


@pytest.mark.parametrize("name", bad_cases(Path()))
def test_bad_jobs_die_in_the_check(name, folder, said):
    assert said["refusals"][name], "it was accepted"
    assert said["refusals"][name].startswith(bad_cases(folder)[name][1])


def test_good_ones_pass_in_every_built_in_scene(said):
    assert set(said["accepted"].values()) == {None}
    assert said["scenes"] == dict.fromkeys(SCENES)
    assert said["seconds for a check"] < 5


def test_a_drawer_of_the_cabinet_opens_and_the_other_stays(said):
    assert said["drawers"].keys() == {"drawer_bottom_joint", "drawer_top_joint"}
    top, bottom = said["drawers"]["drawer_top_joint"], said["drawers"]["drawer_bottom_joint"]
    assert top[-1] == pytest.approx(top[-2], abs=1e-4), "friction holds it where it is"
    assert 0.15 < top[-1] < DRAWER_OPENS_M
    np.testing.assert_allclose(bottom, 0, atol=1e-3)


def test_robots_of_every_format(said):
    robots = said["robots"]
    assert robots["cartpole.urdf"]["driven"] == ["slider_to_cart", "cart_to_pole1", "pole1_to_pole2"]
    assert robots["nv_humanoid.xml"]["driven"][:6] == [
        "abdomen_z", "abdomen_y", "abdomen_x", "right_hip_x", "right_hip_z", "right_hip_y",
    ]  # fmt: skip
    assert {"left_upper_arm:rotX", "left_elbow"} <= set(robots["humanoid.usda"]["driven"])
    assert {name for name, robot in robots.items() if not robot["floats"]} == {
        "cartpole.urdf", "nv_ant.xml", "cartpole.usda"
    }  # fmt: skip
    assert len(robots) == 7
    assert all(robot["within limits"] for robot in robots.values())
    assert all(min(robot["stiffness"]) > 0 for robot in robots.values())


def test_gains_are_those_of_the_file_where_it_has_some(said):
    drives = said["robots"]["ant.usda"]["stiffness"]
    np.testing.assert_allclose(drives, np.degrees(1) * 0.04, rtol=1e-3)


def test_a_bundle_with_meshes_and_a_joint_that_follows(said):
    hand = said["hand"]
    assert hand["positions"] == ["squeeze", "follow"]
    assert hand["driven"] == ["squeeze"]
    np.testing.assert_allclose(hand["first pose"], [0.02, 0.01 + 0.5 * 0.02])
    assert hand["own damping"] == pytest.approx([0.3])
    assert hand["effort"][0] >= 1e6, "an effort of 0 was never written by anybody who meant it"


def test_servos_and_motors_of_an_mjcf(said):
    """MuJoCo's would pull to 0 by themselves; here targets do, with the servo's own gains."""
    servos = said["servos"]
    assert servos["driven"] == ["servo", "pitch"], "roll has no actuator"
    assert servos["positions"] == ["servo", "pitch", "roll", "socket:x", "socket:y", "socket:z", "socket:w"]
    assert servos["free"] == ["box"]
    assert (servos["stiffness"][0], servos["damping"][0], servos["effort"][0]) == (450, 45, 80)
    assert servos["first pose"] == [0, 0.5, 0, 0, 0, 0, 1]


def test_a_floating_robot_begins_above_the_ground(said):
    """The quadruped's file has its trunk at 0, and its legs below."""
    assert 0.5 < said["robots"]["quadruped.urdf"]["height"] < 1.0
    assert said["robots"]["ant.usda"]["height"] == 1.0


# What they do.


def test_hold_holds_under_gravity(result):
    held = result("hold")
    assert held.paths.stdout.read_text().splitlines()[-1].startswith("Rollout time: ")
    assert held.keys == {"joint_position", "joint_velocity", "action", "body_pose"}
    assert held["joint_position"].shape == (1, 50, 8)
    np.testing.assert_allclose(held["joint_position"], held["action"], atol=0.03)
    for name, value in BENT.items():
        assert (held.column("action", name) == np.float32(value)).all()
    assert np.abs(held["joint_velocity"][0, -1]).max() < 0.01
    assert held.root["meta/termination"][:].tolist() == [0]
    assert held.root["meta/success"][:].tolist() == [-1]
    attributes = dict(held.root.attrs)
    assert attributes["bodies"] == ["cube"]
    assert attributes["scene"] == "table_top"
    assert attributes["control_period_s"] == 0.02
    assert attributes["physics_dt_s"] == 0.005


def test_a_cube_rests_on_the_table(result):
    pose = result("sine")["body_pose"][:, :, 0]
    np.testing.assert_allclose(pose[:, :, 2], CUBE_SIZE_M / 2, atol=1e-3)
    np.testing.assert_allclose(pose[:, -1], pose[:, 0], atol=1e-3)


def test_sine_is_followed(result):
    swing = result("sine")
    assert swing["action"].shape == (8, 100, 8)
    time_s = np.arange(100) * 0.02
    for name, amplitude in (("shoulder_pan", 0.5), ("elbow", 0.2)):
        wanted = BENT.get(name, 0.0) + amplitude * np.sin(2 * math.pi * 0.5 * time_s)
        np.testing.assert_allclose(swing.column("action", name), np.tile(wanted, (8, 1)), atol=1e-5)
        late = np.interp(time_s - 2 / (2 * math.pi * 10), time_s, wanted)
        np.testing.assert_allclose(
            swing.column("joint_position", name), np.tile(late, (8, 1)), atol=0.06 * amplitude + 0.02
        )


def test_a_trajectory_is_followed_where_the_base_was_put(result):
    trip = result("trajectory")
    assert trip.column("action", "elbow")[0, 25] == pytest.approx(0.5)
    assert trip.column("joint_position", "elbow")[0, -1] == pytest.approx(1.0, abs=0.03)
    assert trip.column("joint_position", "left_finger_joint")[0, -1] == pytest.approx(0.04, abs=0.003)
    assert trip.column("joint_position", "right_finger_joint")[0, -1] == pytest.approx(0.0, abs=0.003)


def test_a_passive_pole_swings_without_gaining_energy(result):
    swing = result("swing")
    assert swing.keys == {"joint_position", "joint_velocity", "body_pose"}
    angle = swing.column("joint_position", "cart_to_pole")
    assert angle[0, 0] == pytest.approx(0.2)
    assert (np.diff(angle[0, :20]) > 0).all(), "it falls to the side that it leans to"
    assert angle.max() > math.pi, "and swings through"
    assert angle.max() < 2 * math.pi - 0.2 + 0.05, "but no higher than it began"
    assert np.array_equal(angle[0], angle[1])


def test_a_scene_stands_still_but_for_its_rigid_bodies(result):
    book = result("swing")["body_pose"][:, :, 0]
    assert dict(result("swing").root.attrs)["bodies"] == ["book"]
    assert dict(result("swing").root.attrs)["scene"] == "scene.zip"
    np.testing.assert_allclose(book[:, 0, :3], [[10, 0, 1.3]] * 2, atol=1e-6)
    fallen = 1.3 - 0.5 * 9.81 * 0.1**2
    np.testing.assert_allclose(book[:, 5, 2], fallen, atol=0.01)
    np.testing.assert_allclose(book[:, -1, 2], 1.1, atol=2e-3)


def test_random_differs_between_worlds_and_repeats(result):
    first, again = result("random"), result("again")
    assert first.keys == {"joint_position", "joint_velocity", "action", "root_pose", "root_velocity"}
    assert first["joint_position"].shape == (64, 50, 2)
    for key in first.keys:
        assert np.array_equal(first[key], again[key]), key
    last = first["action"][:, -1]
    assert len(np.unique(last, axis=0)) == 64
    hip, knee = last.T
    assert (np.abs(hip) <= 1.2).all()
    assert ((knee >= -0.1) & (knee <= 2.2)).all()


def test_a_floating_base_falls_onto_the_ground_and_no_further(result):
    assert "INFO first pose: the zero of every joint" in result("random").paths.user_log.read_text(encoding="utf-8")
    pose, velocity = result("random")["root_pose"], result("random")["root_velocity"]
    assert (pose[..., 2] > 0.05).all()
    assert (pose[:, -1, 2] < 0.7).all()
    np.testing.assert_allclose(np.linalg.norm(pose[..., 3:], axis=-1), 1.0, atol=1e-4)
    np.testing.assert_allclose(np.diff(pose[:, :4, 2], axis=1) / 0.02, velocity[:, 1:4, 2], atol=0.15)


@pytest.mark.skipif(not HAS_EGL, reason="this machine has no libEGL")
def test_the_film_shows_something(result):
    video = result("random").summary["video"]
    assert video["frames"] == 25
    assert video["duration_s"] == pytest.approx(1.0, abs=0.05)
    assert all(video[name]["mean"] > 20 and video[name]["std"] > 10 for name in ("first", "middle", "last"))
    assert (result("random").paths.output / "render.mp4").stat().st_size > 5000


def test_a_policy_is_asked_at_every_step(result):
    played = result("policy")
    np.testing.assert_allclose(played["action"], played["joint_position"][..., ::-1], atol=1e-6)


def test_a_simulation_that_breaks_names_world_and_step(folder, said):
    assert said["broken"] == 1
    failure = read_json(AttemptPaths(folder / "broken").outcome)["failure"]
    assert (failure["code"], failure["category"]) == ("not_finite", "user")
    assert failure["message"].startswith("The simulation became NaN or infinite in world ")
    assert "at control step " in failure["message"]
    assert (folder / "broken" / "output" / "rollout.zarr").exists(), "what there was is kept"


# A hand that grips by friction alone.


def test_what_is_gripped_is_lifted(result):
    lifted = result("pick")
    assert lifted.root["meta/success"][:].tolist() == [1, 1]
    assert lifted.summary["success"]["rate"] == 1.0
    cube, fingers = lifted["body_pose"][:, :, 0], lifted.column("joint_position", "left_finger_joint")
    assert (cube[:, -1, 2] - cube[:, 0, 2] > 0.1).all()
    np.testing.assert_allclose(fingers[:, -1], CUBE_SIZE_M / 2, atol=3e-3)
    assert len(np.unique(cube[:, 0, :2], axis=0)) == 2, "it lies elsewhere in each world"
    np.testing.assert_allclose(cube[:, 0, 2], cube[:, 140, 2], atol=2e-3)


def test_the_quickstarts_fr3_lifts_its_block(result):
    """A time base of the mode's own: 128 steps take three seconds."""
    lifted = result("fr3")
    assert lifted.root["meta/success"][:].tolist() == [1, 1]
    attributes = dict(lifted.root.attrs)
    assert attributes["control_period_s"] * 128 == pytest.approx(3.0)
    assert attributes["physics_dt_s"] <= 0.0025
    assert attributes["bodies"] == ["block"]
    arm = [*(f"fr3_joint{number}" for number in range(1, 8)), "fr3_finger_joint1"]
    assert lifted.root["data/action"].attrs["names"] == arm
    assert lifted.root["data/joint_position"].attrs["names"] == [*arm, "fr3_finger_joint2"]
    np.testing.assert_allclose(
        lifted["joint_position"][:, 0, :7], [[0, -0.785, 0, -2.356, 0, 1.571, 0.785]] * 2, atol=1e-6
    )
    block, fingers = lifted["body_pose"][:, :, 0], lifted.column("joint_position", "fr3_finger_joint1")
    assert (block[:, -1, 2] - block[:, 0, 2] > 0.1).all()
    np.testing.assert_allclose(fingers[:, -1], BLOCK_M[0] / 2, atol=3e-3)
    np.testing.assert_allclose(lifted["scene_joint_position"], 0, atol=1e-3)


def test_what_is_not_gripped_stays(result):
    missed = result("miss")
    assert missed.root["meta/success"][:].tolist() == [0]
    assert missed.summary["success"]["rate"] == 0.0
    np.testing.assert_allclose(missed["body_pose"][:, -1, 0, 2], CUBE_SIZE_M / 2, atol=2e-3)
