"""An exported policy in plain MuJoCo: it balances a pole in a process that has neither torch nor Isaac Lab."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import FUNCTIONS, term
from lazy import lazy

from simyard.runner.evaluation.episode_statistics import Episode
from simyard.runner.exporting.contract import (
    ActionTerm,
    Articulation,
    Checkpoint,
    Contract,
    Drive,
    ExportedFile,
    Function,
    ObservationGroup,
    Port,
    Simulation,
    parse_contract,
    write_contract,
)
from simyard.runner.exporting.elsewhere import comparison, in_mujoco
from simyard.runner.exporting.evidence import SecondSimulator
from simyard.runner.mujoco.play import Played, play
from simyard.runner.mujoco.robot import Model, State, matched, rotation
from simyard.runner.mujoco.terms import Sensing, Terms

onnx = lazy("onnx")
mujoco = lazy("mujoco")

PREFIX = "_World_envs_env_0_Robot_"
CART = f"""
<mujoco><compiler angle="radian"/><worldbody>
  <body name="{PREFIX}slider" pos="2 -2 2" mocap="true">
    <geom type="box" size=".1 .1 .1" contype="0" conaffinity="0"/>
    <body name="{PREFIX}cart"><inertial pos="0 0 0" mass="1" diaginertia=".01 .01 .01"/>
      <joint name="{PREFIX}slider_slider_to_cart" type="slide" axis="0 1 0"/>
      <body name="{PREFIX}pole"><inertial pos="0 0 .47" mass="1" diaginertia=".08 .08 .001"/>
        <joint name="{PREFIX}cart_cart_to_pole" axis="1 0 0"/>
      </body></body></body>
</worldbody><actuator><motor joint="{PREFIX}cart_cart_to_pole"/></actuator></mujoco>
"""
JOINTS = ("slider_to_cart", "cart_to_pole")
GAINS = [[0.68], [-3.0], [0.76], [-0.75]]
"""Of cart and pole, positions and velocities: with them it stands."""
REWARDS = (
    Function(name="alive", function="isaaclab.envs.mdp.rewards:is_alive", params={}, weight=1.0),
    Function(name="fallen", function="isaaclab.envs.mdp.rewards:is_terminated", params={}, weight=-2.0),
)
ENDS = (
    Function(name="time_out", function="isaaclab.envs.mdp.terminations:time_out", params={}, time_out=True),
    Function(
        name="out", function="isaaclab.envs.mdp.terminations:joint_pos_out_of_manual_limit",
        params={"asset_cfg": {"entity": "robot", "joints": ["slider_to_cart"], "bodies": None}, "bounds": [-3.0, 3.0]},
        time_out=False,
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, a linear policy and its contract."""
    folder = tmp_path_factory.mktemp("cart")
    (folder / "robot.xml").write_text(CART)
    helper = onnx.helper
    ports = [helper.make_tensor_value_info(name, 1, ["batch", size]) for name, size in (("obs", 4), ("actions", 1))]
    weights = onnx.numpy_helper.from_array(np.array(GAINS, np.float32), "gains")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["obs", "gains"], ["actions"])], "p", ports[:1], ports[1:], [weights]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (folder / "policy.onnx").write_bytes(model.SerializeToString())
    write_contract(told(folder), folder)
    return folder


def told(folder: Path) -> Contract:
    data = (folder / "policy.onnx").read_bytes()
    file = ExportedFile(
        format="onnx", name="policy.onnx", sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data)
    )
    terms = tuple(
        term(name, 2 * n, 2 * n + 2, function=f"{FUNCTIONS}{name}", joints=JOINTS)
        for n, name in enumerate(("joint_pos_rel", "joint_vel_rel"))
    )
    action = ActionTerm(
        name="push", type=None, command="effort", start=0, stop=1, joints=("slider_to_cart",), scale=(100.0,),
        offset=(0.0,), clip=None, limits=None,
    )  # fmt: skip
    drive = Drive(
        name="all", type="isaaclab.actuators:ImplicitActuatorCfg", joints=JOINTS, stiffness=(0.0, 0.0),
        damping=(10.0, 0.0), effort_limit=(400.0, None), armature=(0.0, 0.0), friction=(0.0, 0.0), delay_steps=None,
    )  # fmt: skip
    simulation = Simulation(
        robot="robot", fixed_base=True, substeps=1, episode_steps=200, joint_limits=None, default_velocities=(0.0, 0.0),
        drives=(drive,), rewards=REWARDS, terminations=ENDS, resets=(),
    )  # fmt: skip
    return Contract(
        schema_version=3,
        task="Isaac-Cartpole",
        library="rsl_rl",
        versions={},
        input=Port(name="obs", shape=(None, 4), dtype="float32"),
        control_period_s=1 / 60,
        physics_dt_s=1 / 120,
        decimation=2,
        checkpoint=Checkpoint(sha256="a" * 64, iteration=1),
        output=Port(name="actions", shape=(None, 1), dtype="float32"),
        observation_groups=(ObservationGroup(name="policy", names_known=True, start=0, size=4, terms=terms),),
        actions=(action,),
        normalizer=None,
        articulations=(Articulation(name="robot", joints=JOINTS, default_positions=(0.0, 0.0)),),
        files=(file,),
        simulation=simulation,
    )


def changed(read: Contract, **changes: Any) -> Contract:
    return replace(read, simulation=replace(read.simulation, **changes))


def starts(count: int = 3, steps: int = 40) -> dict[str, Any]:
    """Poles that lean a little, and what MuJoCo itself makes of no action from there."""
    lean = np.linspace(-0.3, 0.3, count)
    root = np.tile([0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 1.0], (count, 1))
    begin = {
        "joint_pos": np.stack([np.zeros(count), lean], 1), "joint_vel": np.zeros((count, 2)), "root": root,
        "root_vel": np.zeros((count, 6)), "targets": np.zeros((count, 2)), "origin": np.array([2.0, -2.0, 0.0]),
    }  # fmt: skip
    model = mujoco.MjModel.from_xml_string(CART.replace("<compiler", '<option timestep="0.00833333333"/><compiler'))
    model.dof_damping[0] = 10.0
    path = np.zeros((steps, count, 2))
    for n in range(count):
        data = mujoco.MjData(model)
        data.qpos[:] = begin["joint_pos"][n]
        for step in range(steps):
            mujoco.mj_step(model, data, 2)
            path[step, n] = data.qpos
    return {**begin, "actions": np.zeros((steps, count, 1)), "path": path, "root_path": np.zeros((steps, count, 3)),
            "steps": np.full(count, steps)}  # fmt: skip


def here(count: int = 3) -> list[Episode]:
    """Episodes as they were in training's engine: all of them lasted."""
    return [
        Episode(number=n, env=n, total=200 / 60, length=200, ended="truncated", term="time_out", success=None)
        for n in range(count)
    ]


def alone(folder: Path, read: Contract, own: Path | None = None) -> tuple[SecondSimulator | None, str | None]:
    """Play in a process of its own, as an export does."""
    write_contract(read, folder)
    return in_mujoco(read, folder, folder / "robot.xml", own, starts(), here(), "newton", 1)


def played(folder: Path, read: Contract, own: Path | None = None, given: dict[str, Any] | None = None) -> Played:
    """Play in this process."""
    return play(read, folder, folder / "robot.xml", own, given or starts(), 1)


def test_a_policy_balances_the_pole_in_a_process_of_its_own(exported: Path):
    other, why_not = alone(exported, told(exported))
    assert why_not is None
    assert other is not None
    assert other.physics == f"mujoco {mujoco.__version__}"
    assert (other.survived, other.reference_survived, other.episodes) == (1.0, 1.0, 3)
    assert other.mean_return == pytest.approx(200 / 60)
    assert (other.diverged_s, other.open_loop_s) == (None, pytest.approx(40 / 60))


def test_other_physics_show(exported: Path):
    """Fourfold damping, half the path, an episode that ends: everything that is reported moves."""
    given = starts()
    given["path"] = given["path"] + np.linspace(0, 0.2, 40)[:, None, None]
    weak = replace(told(exported).actions[0], scale=(1.0,))
    found = played(exported, replace(told(exported), actions=(weak,)), given=given)
    other = comparison(found, here(), "newton", 1 / 60)
    assert other.mean_return < 200 / 60
    assert other.survived < 1.0
    assert other.diverged_s == pytest.approx(10 / 60, abs=0.03)


def test_what_cannot_be_computed_is_named_and_a_function_of_the_user_takes_its_place(exported: Path, tmp_path: Path):
    read = told(exported)
    (group,) = read.observation_groups
    strange = replace(group, terms=(replace(group.terms[0], function="mine.mdp:poles"), group.terms[1]))
    drive = replace(read.simulation.drives[0], type="isaaclab.actuators:ActuatorNetMLPCfg")
    unpaid = Function(name="style", function="mine.mdp:style", params={}, weight=1.0)
    read = replace(read, observation_groups=(strange,))
    found = played(exported, changed(read, drives=(drive,), rewards=(*REWARDS, unpaid)))
    assert found.missing == ("observation 'joint_pos_rel' (mine.mdp:poles)", "drive 'all' (ActuatorNetMLPCfg)")
    assert found.unpaid == ("reward 'style' (mine.mdp:style)",)
    assert (found.survived, found.returns) == ((), None)
    own = tmp_path / "terms.py"
    own.write_text(
        "observations = {'joint_pos_rel': lambda robot: robot.joint_pos - robot.default_joint_pos}\n"
        "rewards = {'style': lambda robot: 1.0}\n"
    )
    found = played(exported, changed(read, rewards=(*REWARDS, unpaid)), own)
    assert (found.missing, found.unpaid, found.survived) == ((), (), (True, True, True))
    assert found.returns == pytest.approx([2 * 200 / 60] * 3)
    own.write_text("observations = {'joint_pos_rel': lambda robot: [0.0]}")
    with pytest.raises(ValueError, match="has 1 numbers here, 2 in training"):
        played(exported, read, own)


@pytest.mark.long  # the test that balances the pole runs in that process too
def test_the_process_has_no_torch_and_says_what_it_lacks(exported: Path, tmp_path: Path):
    own = tmp_path / "terms.py"
    own.write_text("import torch\n")
    other, why_not = alone(exported, told(exported), own)
    assert other is None
    assert "No module named 'torch': the policy runs without it" in why_not
    read = replace(told(exported), actions=(replace(told(exported).actions[0], command=None),))
    assert alone(exported, read)[1] == f"mujoco {mujoco.__version__} cannot compute action 'push' (None)"


def test_rewards_that_cannot_be_computed_leave_the_survival(exported: Path):
    unpaid = Function(name="style", function="mine.mdp:style", params={}, weight=1.0)
    other = comparison(played(exported, changed(told(exported), rewards=(unpaid,))), here(), "newton", 1 / 60)
    assert (other.mean_return, other.survived, other.unpaid) == (None, 1.0, ("reward 'style' (mine.mdp:style)",))


def test_observations_are_delayed_and_kept_as_in_training(exported: Path):
    read = told(exported)
    (group,) = read.observation_groups
    late = replace(
        group.terms[0],
        size=4,
        slices=((0, 2), (2, 4)),
        history_length=2,
        delay_steps=(1, 1),
        scale=(2.0,),
        clip=(-1.0, 1.0),
    )
    newest = replace(group.terms[1], slices=((4, 6),))
    read = replace(
        read,
        observation_groups=(replace(group, size=6, terms=(late, newest)),),
        input=Port(name="obs", shape=(None, 6), dtype="float32"),
    )
    model = Model(read, exported / "robot.xml")
    state, sensing = State(model), Sensing(Terms(read, None), read, np.random.default_rng(0))
    sensing.begin()
    rows = []
    for place in (0.1, 0.2, 0.3, 5.0, 0.4):
        state.data.qpos[:], state.data.qvel[:] = place, place
        rows.append(sensing.see(state))
    assert [row[1].round(4) for row in rows] == [0.2, 0.2, 0.2, 0.4, 0.6], "one step late, one step older"
    assert [row[3].round(4) for row in rows] == [0.2, 0.2, 0.4, 0.6, 2.0], "clipped, then scaled"
    assert [row[5].round(4) for row in rows] == [0.1, 0.2, 0.3, 5.0, 0.4]


def test_a_floating_root_is_as_isaac_lab_has_it(exported: Path, tmp_path: Path):
    """Velocities are those of the centre of mass; quaternions have w last."""
    (tmp_path / "robot.xml").write_text(
        '<mujoco><worldbody><body name="base"><freejoint/><inertial pos=".1 .2 .3" mass="1" diaginertia="1 1 1"/>'
        '<body name="leg"><joint name="slider_to_cart"/><geom size=".1"/><body name="foot"><joint name="cart_to_pole"/>'
        '<geom size=".1"/></body></body></body></worldbody></mujoco>'
    )
    state = State(Model(changed(told(exported), fixed_base=False), tmp_path / "robot.xml"))
    turned = np.array([0.1, -0.2, 0.3, 0.9])
    root = np.concatenate([[1.0, 2.0, 3.0], turned / np.linalg.norm(turned)])
    start = {"joint_pos": np.array([0.1, 0.2]), "joint_vel": np.array([0.3, 0.4]), "root": root,
             "root_vel": np.array([1.0, 2.0, 3.0, 0.5, -0.6, 0.7]), "targets": np.zeros(2)}  # fmt: skip
    state.begin(start, np.array([5.0, 0.0, 0.0]))
    np.testing.assert_allclose(np.concatenate([state.root_pos, state.root_quat]), root)
    np.testing.assert_allclose(np.concatenate([state.root_lin_vel_w, state.root_ang_vel_w]), start["root_vel"])
    velocity = np.zeros(6)
    mujoco.mj_objectVelocity(state.model.model, state.data, mujoco.mjtObj.mjOBJ_BODY, state.model.root, velocity, 0)
    np.testing.assert_allclose(velocity[3:], start["root_vel"][:3], atol=1e-12)
    np.testing.assert_allclose(state.projected_gravity, rotation(root[3:]).T @ [0, 0, -1])
    with pytest.raises(ValueError, match="root of the model floats"):
        Model(told(exported), tmp_path / "robot.xml")


def test_joints_are_found_by_their_ends():
    there = ["_World_left_hip", "_World_hip", "knee"]
    assert matched(["hip", "left_hip", "knee"], there) == {
        "hip": "_World_hip", "left_hip": "_World_left_hip", "knee": "knee"
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"The model has nothing for 'tail'"):
        matched(["tail"], there)
    with pytest.raises(ValueError, match=r"The model has \['_World_left_hip', '_World_hip'\] for 'hip'"):
        matched(["hip"], there)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema_version is 2, which has no simulation"),
        ({"simulation.robot": "arm"}, r"simulation.robot is 'arm', which is not among \['robot'\]"),
        ({"simulation.drives.0.damping": [1.0]}, "drive 'all': damping has 1 values, expected 2"),
        ({"simulation.drives.0.joints": ["tail", "cart_to_pole"]}, "has the joint 'tail', which the robot has not"),
        ({"simulation.substeps": 0}, "0 substeps"),
    ],
)
def test_a_simulation_that_cannot_be_true_is_refused(changes: dict[str, Any], message: str, exported: Path):
    data = told(exported).to_json()
    assert parse_contract(data) == told(exported)
    for path, value in changes.items():
        *folders, last = path.split(".")
        place = data
        for name in folders:
            place = place[int(name)] if isinstance(place, list) else place[name]
        place[last] = value
    with pytest.raises(ValueError, match=message):
        parse_contract(data)
