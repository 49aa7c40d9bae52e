"""How a robot is driven: what a request may say, what a robot can do of it, and where each mode sends the joints."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from lazy import lazy

from simyard.core.errors import Category, RequestError
from simyard.runner.newton.control import read_control
from simyard.runner.newton.robots import Column, Driven, FreeBody, Robot, short_names

onnx = lazy("onnx")
torch = lazy("torch")

JOINTS = ("shoulder", "elbow", "slide", "wheel")
ROBOT = Robot(
    positions=tuple(Column(name, index) for index, name in enumerate(JOINTS)),
    velocities=tuple(Column(name, index) for index, name in enumerate(JOINTS)),
    targets=(
        Driven("shoulder", 0, 0, -1.0, 1.0, False),
        Driven("elbow", 1, 1, 0.0, 2.0, False),
        Driven("slide", 2, 2, -0.1, 0.3, True),
        Driven("wheel", 3, 3, -math.inf, math.inf, False),
    ),
    bodies={"base": 0, "arm": 1},
    base=None,
    objects={},
)
FIRST = (0.1, 0.5, 0.0, 0.0)


@dataclass
class Bench:
    """What a mode sees of a simulation in which nothing moves."""

    num_envs: int = 3
    seed: int = 1
    dt: float = 0.1
    device: str = "cpu"
    robot: Robot = ROBOT

    @property
    def first_targets(self) -> torch.Tensor:
        return torch.tensor([FIRST]).repeat(self.num_envs, 1)

    def joint_position(self) -> torch.Tensor:
        return self.first_targets

    def joint_velocity(self) -> torch.Tensor:
        return torch.zeros(self.num_envs, len(JOINTS))


def targets(control, steps, bench=None, policy=None):
    """Return what a mode asks for, `(steps, num_envs, joints)`."""
    mode = read_control(control).mode
    mode.prepare(bench or Bench(), policy)
    return torch.stack([mode.targets(step) for step in range(steps)])


def refused(control, match, code="bad_control"):
    with pytest.raises(RequestError, match=match) as error:
        read_control(control).check(ROBOT, (), None)
    failure = error.value.failure
    assert (failure.code, failure.category) == (code, Category.USER)
    return failure


# What the workload reads.


def test_it_is_read_with_the_standard_library_alone():
    code = (
        "import json, sys\nfrom simyard.runner.newton.control import read_control\n"
        "read_control({'task_mode': 'trajectory', 'keyframes': [{'time_s': 1, 'positions': {'a': 1}}]})\n"
        "print(json.dumps([name for name in sys.modules if '.' not in name]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    foreign = {"torch", "numpy", "newton", "warp", "onnxruntime", "pydantic", "prefect", "zarr"}
    assert not foreign & set(json.loads(done.stdout))


def test_a_job_of_another_version_is_refused_in_words():
    refused({"task_mode": "hodl"}, "Unknown task_mode 'hodl'. Did you mean 'hold'?", "unknown_mode")
    refused({"task_mode": "sine", "amplitud": 1}, "Unknown field of control 'amplitud'. Did you mean 'amplitude'?")
    refused({"gains": {"stifness": 1}}, "Unknown field of control 'stifness'")


# What a robot can do of it.


@pytest.mark.parametrize(
    "control",
    [
        {"initial_positions": {"ellbow": 1}},
        {"gains": {"stiffness": {"ellbow": 1}}},
        {"task_mode": "sine", "amplitude": {"ellbow": 1}},
        {"task_mode": "sine", "phase": {"ellbow": 1}},
        {"task_mode": "trajectory", "keyframes": [{"time_s": 1, "positions": {"ellbow": 1}}]},
    ],
    ids=str,
)
def test_joints_that_the_robot_has_not(control):
    failure = refused(control, "'ellbow'", "unknown_joint")
    assert "Did you mean 'elbow'?" in failure.message
    assert failure.advice == "Allowed: 'elbow', 'shoulder', 'slide', 'wheel'."


@pytest.mark.parametrize(
    ("control", "match"),
    [
        ({"initial_positions": {"elbow": -0.1}}, "control.initial_positions.elbow is -0.1, beyond"),
        (
            {"task_mode": "trajectory", "keyframes": [{"time_s": 1, "positions": {"slide": 0.4}}]},
            r"control.keyframes\[0\].positions.slide is 0.4, beyond",
        ),
    ],
)
def test_positions_beyond_the_limits(control, match):
    assert refused(control, match, "beyond_limits").advice.startswith("Allowed: ")


def test_a_robot_without_driven_joints_can_only_let_go():
    drone = Robot(positions=(), velocities=(), targets=(), bodies={"body": 0}, base=FreeBody(0, 0), objects={})
    read_control({"task_mode": "zero"}).check(drone, (), None)
    with pytest.raises(RequestError, match=r"control\.task_mode is 'hold'"):
        read_control({}).check(drone, (), None)


def test_names_are_short_where_that_is_enough():
    assert short_names(["arm/base/elbow", "/arm/joints/wrist", "slide"]) == {
        "arm/base/elbow": "elbow",
        "/arm/joints/wrist": "wrist",
        "slide": "slide",
    }
    assert set(short_names(["/left/knee", "/right/knee"]).values()) == {"left/knee", "right/knee"}


# Where each mode sends the joints.


def test_hold_stays():
    assert torch.equal(targets({}, 3), torch.tensor(FIRST).expand(3, 3, 4))


def test_zero_asks_for_nothing():
    mode = read_control({"task_mode": "zero"}).mode
    mode.prepare(Bench(), None)
    assert mode.targets(0) is None
    assert not mode.DRIVES


def test_random_stays_within_the_limits_and_differs_by_world_and_seed():
    found = targets({"task_mode": "random"}, 200)
    assert torch.equal(found[0], torch.tensor(FIRST).expand(3, 4))
    for joint, driven in enumerate(ROBOT.targets):
        low = driven.low if driven.low > -math.inf else FIRST[joint] - math.pi / 2
        high = driven.high if driven.high < math.inf else FIRST[joint] + math.pi / 2
        assert found[..., joint].min() >= low - 1e-6
        assert found[..., joint].max() <= high + 1e-6
        assert found[..., joint].max() - found[..., joint].min() > 0.8 * (high - low)
    assert (found[5:].diff(dim=1).abs().amax(dim=(0, 2)) > 0.1).all()
    assert torch.equal(found, targets({"task_mode": "random"}, 200))
    assert not torch.equal(found, targets({"task_mode": "random"}, 200, Bench(seed=2)))


def test_a_world_s_random_targets_do_not_depend_on_how_many_there_are():
    few, many = (targets({"task_mode": "random"}, 40, Bench(num_envs=count)) for count in (2, 9))
    assert torch.equal(few, many[:, :2])


def test_random_moves_at_one_speed_or_jumps():
    smooth = targets({"task_mode": "random", "period_s": 0.5}, 26)
    jumpy = targets({"task_mode": "random", "period_s": 0.5, "smooth": False}, 26)
    for segment in range(4):
        rows = smooth[5 * segment : 5 * segment + 6]
        torch.testing.assert_close(rows.diff(dim=0), (rows[5] - rows[0]).expand(5, -1, -1) / 5, atol=1e-5, rtol=0)
        torch.testing.assert_close(rows[5], jumpy[5 * segment])
        assert torch.equal(jumpy[5 * segment], jumpy[5 * segment + 4])
        assert not torch.equal(jumpy[5 * segment], jumpy[5 * segment + 5])


def test_random_takes_a_part_of_the_range():
    found = targets({"task_mode": "random", "range": 0.1, "smooth": False}, 300)
    assert (found[..., 0].abs() <= 0.1 + 1e-6).all()
    assert ((found[..., 1] - 1.0).abs() <= 0.1 + 1e-6).all()


def test_sine_swings_around_the_first_pose_within_the_limits():
    control = {"task_mode": "sine", "amplitude": {"elbow": 0.2, "slide": 1.0}, "frequency_hz": 0.25, "phase": 0.5}
    found = targets(control, 50)
    time = torch.arange(50) * 0.1
    wave = torch.sin(2 * math.pi * 0.25 * time + 0.5)
    torch.testing.assert_close(found[:, 2, 1], 0.5 + 0.2 * wave, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, 0, 2], wave.clamp(-0.1, 0.3), atol=1e-5, rtol=0)
    assert torch.equal(found[..., 0], torch.full((50, 3), 0.1))


def test_a_trajectory_goes_straight_from_keyframe_to_keyframe():
    keyframes = [
        {"time_s": 1.0, "positions": {"elbow": 1.5, "slide": 0.2}},
        {"time_s": 1.5, "positions": {"slide": 0.0}},
        {"time_s": 2.0, "positions": {"elbow": 0.5}},
    ]
    found = targets({"task_mode": "trajectory", "keyframes": keyframes}, 31)[:, 1]
    time = np.arange(31) * 0.1
    np.testing.assert_allclose(found[:, 1], np.interp(time, [0, 1, 2], [0.5, 1.5, 0.5]), atol=1e-6)
    np.testing.assert_allclose(found[:, 2], np.interp(time, [0, 1, 1.5], [0.0, 0.2, 0.0]), atol=1e-6)
    assert (found[:, 3] == 0).all()


def test_a_trajectory_may_begin_elsewhere():
    keyframes = [{"time_s": 0, "positions": {"elbow": 1.5}}]
    assert (targets({"task_mode": "trajectory", "keyframes": keyframes}, 3)[..., 1] == 1.5).all()


# Policies.


def policy_file(path: Path, inputs=8, outputs=4, batch="batch", kind="FLOAT", count=1) -> Path:
    """Write a network whose action is the positions, twice."""
    helper, kind = onnx.helper, getattr(onnx.TensorProto, kind)
    weight = np.eye(inputs if isinstance(inputs, int) else 8, outputs, dtype=np.float32) * 2
    x = [helper.make_tensor_value_info(f"x{index}", kind, [batch, inputs]) for index in range(count)]
    y = helper.make_tensor_value_info("y", kind, [batch, outputs])
    nodes = [helper.make_node("MatMul", ["x0", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", x, [y], [onnx.numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_policy_sees_positions_and_velocities_and_gives_targets(tmp_path):
    path = policy_file(tmp_path / "p.onnx")
    read_control({"task_mode": "policy"}).check(ROBOT, (), path)
    found = targets({"task_mode": "policy"}, 2, policy=path)
    torch.testing.assert_close(found, 2 * torch.tensor(FIRST).expand(2, 3, 4))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda path: policy_file(path, inputs=9), r"its input is tensor\(float\) \['batch', 9\]"),
        (lambda path: policy_file(path, outputs=3), r"its output for a batch of 2 is \(2, 3\)"),
        (lambda path: policy_file(path, batch=1), "its batch is always 1"),
        (lambda path: policy_file(path, kind="DOUBLE"), r"its input is tensor\(double\)|cannot be opened"),
        (lambda path: policy_file(path, count=2), "it has 2 inputs"),
        (lambda path: path.write_bytes(b"nonsense"), "it cannot be opened"),
        (lambda path: path.write_bytes(b""), "it cannot be opened"),
    ],
    ids=["inputs", "outputs", "batch", "double", "two inputs", "nonsense", "empty"],
)
def test_a_policy_that_does_not_fit(make, match, tmp_path):
    make(tmp_path / "p.onnx")
    with pytest.raises(RequestError, match=match) as error:
        read_control({"task_mode": "policy"}).check(ROBOT, (), tmp_path / "p.onnx")
    assert error.value.failure.code == "policy_does_not_fit"


def test_a_policy_reads_no_other_file(tmp_path, monkeypatch):
    """ONNX can keep weights in a file of their own, by any path: a session from memory takes it from this folder."""
    path = policy_file(tmp_path / "p.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").exists()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="its weights are in other files"):
        read_control({"task_mode": "policy"}).check(ROBOT, (), path)


def test_nor_does_a_branch_of_it(tmp_path):
    helper = onnx.helper
    hidden = helper.make_tensor("hidden", onnx.TensorProto.FLOAT, [1], [1.0])
    hidden.data_location = onnx.TensorProto.EXTERNAL
    hidden.external_data.add(key="location", value="/etc/passwd")
    branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=hidden)], "b", [], [])
    node = helper.make_node("If", ["x0"], ["y"], then_branch=branch, else_branch=branch)
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    (tmp_path / "p.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(RequestError, match="its weights are in other files"):
        read_control({"task_mode": "policy"}).check(ROBOT, (), tmp_path / "p.onnx")
