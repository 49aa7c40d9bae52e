"""Task packages and registered tasks, rolled out on the real simulator: what is recorded, and how failures are told."""

import ctypes.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import HANG_S
from rolled import Rolled
from simulated import CARTPOLE, ENV, Player

from simyard.core.errors import Category, Failure
from simyard.core.files import AttemptPaths, read_json, write_json
from simyard.core.specs import ONE_JOB, Asset, AttemptSpec, CameraSpec, InputFile, JobSpec, Limits, PolicyFile, Rollout
from simyard.requests.rollout import RolloutRequest
from simyard.runner.progress import counting_reader
from simyard.runner.video.encoding import verify
from simyard.runner.workload import ChildWorkload
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.attempt.judge import judge
from simyard.tasks.attempt.supervise import Ending, Watched, supervise
from simyard.tasks.packages.install import install
from simyard.tasks.resolve import resolve

pytestmark = pytest.mark.sim

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "rollouts"
TEMPLATES = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "task-packages.md").read_text(), re.DOTALL | re.M)
"""The classes that the documentation shows."""
ARM = """<robot name="arm">
<link name="base"/><link name="arm"/>
<joint name="shoulder" type="revolute"><parent link="base"/><child link="arm"/><axis xyz="0 1 0"/>
<limit lower="-1" upper="1" effort="10" velocity="5"/></joint>
</robot>"""
HALF_A_SECOND = ("env.episode_length_s=0.5",)
"""30 steps of the cartpole."""
ENVS, STEPS = 4, 70
CAN_DRAW = ctypes.util.find_library("EGL") is not None

CHATTY = '''
"""A cartpole that keeps an account of its own of all that happens to it."""

import gymnasium
import json
import torch
from isaaclab.utils import configclass
from isaaclab_tasks.core.cartpole.cartpole_direct_env import CartpoleEnv
from isaaclab_tasks.core.cartpole.cartpole_direct_env_cfg import CartpoleEnvCfg


@configclass
class ChattyCfg(CartpoleEnvCfg):
    max_cart_pos = 1.2
    episode_length_s = 0.5


class Chatty(CartpoleEnv):
    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.account = {"state": [], "action": [], "reward": [], "ended": []}
        self.returns = torch.zeros(self.num_envs, dtype=torch.float64)

    def _pre_physics_step(self, actions):
        self.account["state"].append(self.cartpole.data.joint_pos.torch.tolist())
        self.account["action"].append(actions.tolist())
        super()._pre_physics_step(actions)

    def _get_rewards(self):
        reward = super()._get_rewards()
        self.account["reward"].append(reward.tolist())
        self.returns += reward
        return reward

    def _reset_idx(self, env_ids):
        if hasattr(self, "account"):
            for env in env_ids.tolist():
                flags = bool(self.reset_terminated[env]), bool(self.reset_time_outs[env])
                length = int(self.episode_length_buf[env])
                self.account["ended"].append([env, float(self.returns[env]), length, *flags])
                self.returns[env] = 0.0
        super()._reset_idx(env_ids)

    def close(self):
        with open("account.json", "w") as file:
            json.dump(self.account, file)
        super().close()


gymnasium.register(
    id="Chatty-Cartpole",
    entry_point=f"{__name__}:Chatty",
    disable_env_checker=True,
    kwargs={"env_cfg_entry_point": f"{__name__}:ChattyCfg"},
)
'''

FAILING = '''
"""Tasks that end in every way but a good one."""

import atexit
import ctypes
import json
import os
import signal
import sys
import time

import numpy as np


class Good:
    """Records a random walk."""

    def __init__(self, context, *, pause_s=0.0):
        self.context, self.pause_s = context, pause_s

    def run(self):
        for step in range(self.context.steps):
            self.context.recorder.record(walk=np.random.rand(self.context.num_envs, 2))
            time.sleep(self.pause_s)
            self.after(step)
        self.context.log.info("walked %d steps", self.context.steps)

    def after(self, step):
        pass


class Looks(Good):
    """Writes down what it was given."""

    def run(self):
        super().run()
        given = self.context
        beside = given.output / ".given.json"
        names = ("steps", "dt", "substeps", "seed", "device", "control", "num_envs")
        fields = {name: getattr(given, name) for name in names}
        policy = given.policy.read_bytes()[:2].decode()
        files = [given.robot.read_text(), given.robot.name, given.scene, given.scene_id, policy]
        beside.write_text(json.dumps({**fields, "files": files}))
        beside.rename(given.output / "given.json")


class Raises(Good):
    def after(self, step):
        if step == 4:
            raise ValueError("the walk went wrong")


class Exits(Good):
    def after(self, step):
        sys.exit(0)


class NeedsMore(Good):
    def after(self, step):
        import no_such_library


class Leaves(Good):
    def after(self, step):
        print("leaving", flush=True)
        os._exit(0)


class Silent(Good):
    def run(self):
        print("nothing to see")


class CrashesLate(Good):
    def run(self):
        super().run()
        atexit.register(ctypes.string_at, 0)


class Stubborn(Good):
    def after(self, step):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


NOT_A_CLASS = 1
'''


OF_FAILING = {"module": "failing", "code": FAILING, "num_envs": 3, "steps": 8}
CAMERA = CameraSpec(
    name="front",
    width=64,
    height=64,
    fps=15.0,
    fov=80.0,
    position=(0.0, 0.5, 0.5),
    look_at=(0.0, 0.0, 0.3),
    body="cart",
)
REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "unknown mode": (CARTPOLE, {"control": {"task_mode": "hold"}}, "bad_control", "'hold'"),
    "unknown control": (CARTPOLE, {"control": {"task_mode": "zero", "gains": 1}}, "bad_control", "'gains'"),
    "no policy": (CARTPOLE, {"control": {"task_mode": "policy"}}, "bad_control", "the job has no policy"),
    "arguments": (
        CARTPOLE, {"task_args": {"height": 1}}, "unknown_task_argument", f"'{CARTPOLE}' is a registered task"
    ),
    "override": (CARTPOLE, {"overrides": ("env.nope=1",)}, "bad_override", "Unknown override key 'env.nope'"),
    "agent's override": (
        CARTPOLE, {"overrides": ("agent.seed=1",)}, "bad_override", "'agent.seed' would do nothing"
    ),
    "agents": ("Isaac-Pendulum-MARL-Direct", {}, "multi_agent", "several agents"),
    "unknown task": ("Isaac-Cartpole-Drict", {}, "unknown_task", f"Did you mean '{CARTPOLE}'?"),
    "cameras of a class": (
        "Good", {**OF_FAILING, "cameras": (CAMERA,)}, "bad_cameras", "'Good' is a class of 'failing'"
    ),
    "unknown class": ("Rises", OF_FAILING, "unknown_task_class", "Did you mean 'Raises'?"),
    "no class": ("NOT_A_CLASS", OF_FAILING, "unknown_task_class", "NOT_A_CLASS is a int, not a class"),
    "unknown argument": (
        "Good", {**OF_FAILING, "task_args": {"pause": 1}}, "unknown_task_argument", "Did you mean 'pause_s'?"
    ),
    "class with overrides": (
        "Good", {**OF_FAILING, "overrides": ("env.seed=1",)}, "bad_override", "'Good' is a class of 'failing'"
    ),
}  # fmt: skip
"""Task, fields, and the code and a part of the message with which it is refused."""


def prepare(folder: Path, task: str, module: str | None = None, code: str = "", **fields: Any) -> AttemptPaths:
    """Write down an attempt; `code` is the module's."""
    paths = AttemptPaths(folder)
    paths.make()
    packages = ()
    if code:
        paths.overlay.mkdir()
        (paths.overlay / f"{module}.py").write_text(code)
        packages = (an_input("task.zip"),)
    of_rollout = ("steps", "control", "task_args", "video", "cameras", "robot", "scene_id")
    rollout = {name: fields.pop(name) for name in of_rollout if name in fields}
    defaults: dict[str, Any] = {"num_envs": ENVS, "seed": 7, "library": "", "gpus": 0, "packages": packages}
    wanted = Rollout(
        profile="isaac_lab_rollout", dt=0.005, substeps=2, task_module=module, **{"steps": STEPS, **rollout}
    )
    write(paths, JobSpec(
        job_id=folder.name, kind="rollout", name=folder.name, simulator="isaaclab", task=task, rollout=wanted,
        **(defaults | fields),
    ))  # fmt: skip
    return paths


def write(paths: AttemptPaths, job: JobSpec) -> None:
    write_json(paths.spec, AttemptSpec(job=job, number=1).to_json())


def prepare_example(folder: Path, name: str, steps: int, **task_args: Any) -> AttemptPaths:
    """Pack an example, resolve its JOB.json, and install it; a few environments are enough here."""
    source = folder.parent / f"{folder.name} source"
    # Without JOB.json and the archive beside it, as the README packs it.
    leave_out = shutil.ignore_patterns("__pycache__", "*.json", "*.zip")
    shutil.copytree(EXAMPLES / name, source / "packed", ignore=leave_out)
    shutil.make_archive(str(source / name), "zip", source / "packed")
    config = json.loads((EXAMPLES / name / "JOB.json").read_text())
    job = resolve(RolloutRequest.model_validate(config), Store.open(str(source)), keys.new_job_id(), source).spec
    assert job.rollout is not None
    rollout = replace(
        job.rollout,
        steps=steps,
        video=job.rollout.video and CAN_DRAW and not task_args,
        task_args={**job.rollout.task_args, **task_args},
    )
    paths = AttemptPaths(folder)
    paths.make()
    archive, module = source / f"{name}.zip", rollout.task_module
    install(archive, paths.overlay, python=sys.executable, scratch=paths.root, module=module)
    write(paths, replace(job, gpus=0, num_envs=6, rollout=rollout))
    return paths


def an_input(name: str) -> InputFile:
    """A file that is there already: nobody asks for its digest here."""
    return InputFile(name=name, key="", sha256=f"{sum(name.encode()):064x}", size_bytes=1)


def policy() -> PolicyFile:
    """The checkpoint that the player makes."""
    return PolicyFile(checkpoint=an_input("model_0.pt"))


@pytest.fixture(scope="module")
def played(player: Player, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Rolled]:
    """Everything that needs no process of its own, in one."""
    folder = tmp_path_factory.mktemp("rollouts")
    random = {"control": {"task_mode": "random"}}
    chatty = {"module": "chatty", "code": CHATTY, **random}
    prepare_example(folder / "gripper", "gripper_lift", 60)
    prepare_example(folder / "gripper, heavy", "gripper_lift", 30, cube_mass_kg=50.0)
    prepare_example(folder / "gripper, slippery", "gripper_lift", 30, friction=0.0)
    prepare_example(folder / "slippery", "slippery_cartpole", 40)
    prepare(
        folder / "template", "FallingBox", "falling", TEMPLATES[0], steps=12, num_envs=2, task_args={"height_m": 0.05}
    )
    prepare(folder / "template of Isaac Lab", "Pushed", "pushed", TEMPLATES[1], steps=12)
    looks = prepare(
        folder / "Looks", "Looks", **OF_FAILING, robot=Asset(file=an_input("arm.urdf"), format="urdf"),
        scene_id="shelf", control={"task_mode": "mine", "gain": 2}, policies=(policy(),),
    )  # fmt: skip
    (looks.inputs / "arm.urdf").write_text(ARM)
    for name, fields in {
        "chatty": {**chatty},
        "chatty again": {**chatty},
        "chatty, another seed": {**chatty, "seed": 8, "steps": 5},
        "chatty, still": {**chatty, "control": {}, "steps": 5},
    }.items():
        prepare(folder / name, "Chatty-Cartpole", **fields)
    prepare(folder / "managed", "Isaac-Cartpole", overrides=HALF_A_SECOND, control={"task_mode": "zero"})
    for name, sample in {"policy": {}, "sampled": {"sample": True}, "sampled again": {"sample": True}}.items():
        prepare(
            folder / name, CARTPOLE, overrides=(*HALF_A_SECOND, "env.max_cart_pos=1.2"), library="rsl_rl",
            policies=(policy(),), control={"task_mode": "policy", **sample},
        )  # fmt: skip
    for name in ("Good", "Raises", "Exits", "NeedsMore", "Silent"):
        prepare(folder / name, name, **OF_FAILING)
    for name, (task, fields, _, _) in REFUSED.items():
        prepare(folder / name, task, **fields)
    folders = sorted(path for path in folder.iterdir() if (path / "attempt.json").exists())
    player("rollout_player:play_all", folder, [path.name for path in folders])
    return lambda name: Rolled(AttemptPaths(folder / name))


# The examples


def test_the_gripper_lifts_by_friction(played: Callable[[str], Rolled]):
    job = played("gripper")
    assert job.failure is None
    assert job.summary["success"]["rate"] == 1.0
    assert job.summary["episodes"] == 6
    heights = read_json(job.paths.output / "heights.json")["cube_height_m"]
    assert min(heights) > 0.1
    pose, joints = job.by_step("cube_pose"), job.by_step("joint_position")
    assert np.allclose(pose[0, :, 2], 0.02)
    assert len({tuple(place) for place in pose[0, :, :2].tolist()}) == 6, "each lies where its seed put it"
    held = joints[:, :, 0] > 0.02
    assert held[-1].all()
    gap = (pose[:, :, 2] - 0.02 - joints[:, :, 0])[held]
    assert (np.abs(gap) < 0.04).all(), "the cube goes up with the gripper"
    assert (joints[:, :, 1:][held] < 0.03).all(), "and is between the fingers: they stop at its sides"
    assert "6 of 6 cubes are up" in job.paths.user_log.read_text()
    assert job.root["data/joint_position"].attrs["names"] == ["lift", "left_finger", "right_finger"]
    if CAN_DRAW:
        assert job.summary["video"] == {"file": "render.mp4", **verify(job.paths.output / "render.mp4", 30)}


@pytest.mark.parametrize("name", ["gripper, heavy", "gripper, slippery"])
def test_success_is_measured(name: str, played: Callable[[str], Rolled]):
    job = played(name)
    assert job.failure is None, "what does not succeed is a rollout all the same"
    assert job.summary["success"]["rate"] == 0.0
    assert job.by_step("cube_pose")[:, :, 2].max() < 0.05, "its side is 0.04: it may be tipped, and no more"
    assert job.by_step("joint_position")[-1, :, 0].min() > 0.1, "the gripper went up without it"


def test_a_task_that_the_package_registers_is_driven(played: Callable[[str], Rolled]):
    job = played("slippery")
    assert job.failure is None
    assert job.root.attrs["driven_by"] == "random"
    assert np.abs(job.by_step("joint_position")[0, :, 0]).max() <= 0.3
    actions = job.arrays["data/action"]
    assert -1 <= actions.min() < -0.9
    assert 0.9 < actions.max() <= 1
    if CAN_DRAW:
        assert job.summary["video"] == {"file": "render.mp4", **verify(job.paths.output / "render.mp4", 20)}


# The contract


def test_a_class_is_given_what_the_request_has(played: Callable[[str], Rolled]):
    job = played("Looks")
    assert job.failure is None
    given = read_json(job.paths.output / "given.json")
    (arm, name, scene, scene_id, weights) = given.pop("files")
    assert given == {
        "steps": 8, "dt": 0.005, "substeps": 2, "seed": 7, "device": "cpu", "num_envs": 3,
        "control": {"task_mode": "mine", "gain": 2},
    }  # fmt: skip
    assert ('<joint name="shoulder"' in arm, name, scene, scene_id) == (True, "arm.urdf", None, "shelf")
    assert weights == "PK", "a file of torch"
    assert {record["name"] for record in read_json(job.paths.outcome)["opened"]} == {
        "given.json", "rollout.zarr", "summary.json"
    }  # fmt: skip


def test_the_documented_classes_run_as_they_stand(played: Callable[[str], Rolled]):
    box, pushed = played("template"), played("template of Isaac Lab")
    assert box.failure is None
    assert box.summary["success"]["rate"] == 1.0
    assert "2 of 2 boxes rest on the ground" in box.paths.user_log.read_text()
    assert pushed.failure is None
    assert pushed.summary["recorded_steps"] == 12 * ENVS
    assert pushed.summary["success"]["rate"] is None
    assert np.ptp(pushed.by_step("observation")[:, 0, 0]) > 0


# What is recorded of a registered task


def test_the_arrays_are_what_the_environment_lived_through(played: Callable[[str], Rolled]):
    job = played("chatty")
    account = read_json(job.paths.work / "account.json")
    assert np.array_equal(job.by_step("joint_position"), np.float32(account["state"])[-STEPS:])
    assert np.array_equal(job.by_step("action"), np.float32(account["action"])[-STEPS:])
    assert np.array_equal(job.by_step("reward"), np.float32(account["reward"])[-STEPS:])
    assert np.array_equal(job.by_step("obs/policy")[:, :, :2], job.by_step("joint_position"))
    assert "root_pose" not in job.summary["keys"], "its base is fixed"
    assert job.root.attrs["control_period_s"] == pytest.approx(1 / 60)


def test_episodes_end_as_the_environment_says(played: Callable[[str], Rolled]):
    job = played("chatty")
    account = read_json(job.paths.work / "account.json")
    lived = [ended for ended in account["ended"] if ended[2] > 0]
    episodes = job.episodes
    complete = [episode for episode in episodes if episode["termination"] != 2]
    assert [episode["env"] for episode in complete] == [ended[0] for ended in lived]
    for episode, (_, total, length, terminated, timed_out) in zip(complete, lived, strict=True):
        assert len(episode["reward"]) == length
        assert episode["reward"].sum(dtype=np.float64) == pytest.approx(total, abs=1e-6)
        assert episode["termination"] == int(terminated)
        assert episode["success"] == int(timed_out), "the task's own metric"
    assert {episode["termination"] for episode in complete} == {0, 1}, "so that this test has seen both"
    assert [(e["env"], e["success"]) for e in episodes if e["termination"] == 2] == [(env, -1) for env in range(ENVS)]
    known = [episode["success"] for episode in complete]
    assert job.summary["success"]["rate"] == pytest.approx(sum(known) / len(known))
    returns = [episode["reward"].sum(dtype=np.float64) for episode in episodes]
    assert job.summary["return"]["mean"] == pytest.approx(np.mean(returns), abs=1e-5)


def test_a_reset_is_never_what_followed_an_action(played: Callable[[str], Rolled]):
    """The last row of an episode has what led to its end; the state after the reset is the next episode's first."""
    job = played("chatty")
    by_env = {env: [e for e in job.episodes if e["env"] == env] for env in range(ENVS)}
    fell = [e for e in job.episodes if e["termination"] == 1]
    assert all(np.abs(episode["joint_position"][-1, 0]) > 0.9 for episode in fell), "near the rail's end, of 1.2 m"
    for episodes in by_env.values():
        assert len(episodes) > 1
        for before, after in pairwise(episodes):
            assert after["start_step"] == before["start_step"] + len(before["reward"])


def test_the_same_seed_gives_the_same_arrays(played: Callable[[str], Rolled]):
    first, again, other = (played(name).arrays for name in ("chatty", "chatty again", "chatty, another seed"))
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["data/obs/policy"][:1], other["data/obs/policy"][:1])


def test_what_drives_does_not_change_where_it_begins(played: Callable[[str], Rolled]):
    random, still = played("chatty"), played("chatty, still")
    assert still.root.attrs["driven_by"] == "zero", "what drives where the job does not say"
    assert not still.arrays["data/action"].any()
    assert np.array_equal(random.by_step("obs/policy")[0], still.by_step("obs/policy")[0])


def test_a_managed_task_names_what_it_observes(played: Callable[[str], Rolled]):
    job = played("managed")
    assert job.failure is None
    names = job.root["data/obs/policy"].attrs["names"]
    assert len(names) == job.arrays["data/obs/policy"].shape[1] == 4
    assert names[0].endswith("[0]")
    assert job.root["data/joint_position"].attrs["names"] == ["slider_to_cart", "cart_to_pole"]
    assert job.facts["notes"] == [
        "the task's own control step of 0.0166667 s with 2 physics steps holds, not physics.dt 0.005 s with 2 substeps"
    ]
    assert {len(e["reward"]) for e in job.episodes if e["termination"] == 0} == {30}


def test_a_checkpoint_drives_by_its_librarys_own_inference(played: Callable[[str], Rolled]):
    job = played("policy")
    assert job.failure is None
    mean, _ = distribution(job)
    assert np.allclose(mean.numpy(), job.arrays["data/action"], atol=1e-5), "in every row, the first ones too"
    assert np.ptp(job.arrays["data/action"]) > 0.01
    assert len(job.episodes) > ENVS
    assert "data/log_prob" not in job.arrays


def distribution(job: Rolled) -> tuple[Any, Any]:
    """Mean and deviation of the checkpoint's actions in every row, by its weights alone."""
    import torch

    weights = torch.load(job.paths.inputs / "model_0.pt", weights_only=True)["actor_state_dict"]
    layers = sorted(name.removesuffix(".weight") for name in weights if name.startswith("mlp.") and "weight" in name)
    seen = torch.from_numpy(job.arrays["data/obs/policy"])
    for number, layer in enumerate(layers):
        seen = torch.nn.functional.linear(seen, weights[f"{layer}.weight"], weights[f"{layer}.bias"])
        seen = torch.nn.functional.elu(seen) if number + 1 < len(layers) else seen
    return seen, weights["distribution.std_param"]


def test_a_sampled_rollout_says_how_likely_each_action_was(played: Callable[[str], Rolled]):
    import torch

    job = played("sampled")
    assert job.failure is None
    mean, std = distribution(job)
    actions = torch.from_numpy(job.arrays["data/action"])
    expected = torch.distributions.Normal(mean, std).log_prob(actions).sum(-1)
    recorded = job.arrays["data/log_prob"]
    assert (recorded.dtype, recorded.shape) == (np.float32, (STEPS * ENVS,))
    assert np.allclose(recorded, expected.numpy(), atol=1e-4)
    noise = (actions - mean) / std
    assert abs(noise.mean()) < 0.2, "280 draws of a standard normal"
    assert 0.85 < noise.std() < 1.15
    assert "as it was drawn" in job.root["data/log_prob"].attrs["about"]


def test_the_same_seed_draws_the_same_actions(played: Callable[[str], Rolled]):
    first, again = played("sampled").arrays, played("sampled again").arrays
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[name], again[name]) for name in first)
    starts = [played(name).by_step("obs/policy")[0] for name in ("sampled", "policy")]
    assert np.array_equal(*starts), "what drives does not change where it begins"


# Failures


def test_a_task_that_raises_keeps_what_it_recorded(played: Callable[[str], Rolled]):
    job = played("Raises")
    assert job.failure is not None
    assert (job.failure["code"], job.failure["category"]) == ("exception", "user")
    assert job.failure["message"] == "ValueError: the walk went wrong"
    for log in (job.paths.stderr, job.paths.user_log):
        assert 'raise ValueError("the walk went wrong")' in log.read_text(), "the line of the user's code"
    assert job.by_step("walk").shape == (5, 3, 2)
    assert job.arrays["meta/termination"].tolist() == [2, 2, 2]
    assert not (job.paths.output / "summary.json").exists()


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("Exits", "exit_called", "sys.exit(0)"),
        ("NeedsMore", "missing_dependency", "No module named 'no_such_library'"),
        ("Silent", "artifact_missing", "ended without rollout.zarr"),
    ],
)
def test_a_task_that_ends_without_its_work_fails(name: str, code: str, says: str, played: Callable[[str], Rolled]):
    job = played(name)
    assert job.failure is not None
    assert (job.failure["code"], job.failure["category"]) == (code, "user")
    assert says in job.failure["message"]
    assert job.failure["advice"]


def test_the_seed_is_in_every_generator(played: Callable[[str], Rolled]):
    job = played("Good")
    assert job.failure is None
    assert np.array_equal(job.by_step("walk"), np.random.RandomState(7).rand(8, 3, 2))
    assert "INFO walked 8 steps" in job.paths.user_log.read_text()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_run_is_refused_before_it(name: str, played: Callable[[str], Rolled]):
    *_, code, says = REFUSED[name]
    refused = played(name).refused
    assert (refused["code"], refused["category"]) == (code, "user")
    assert says in refused["message"]
    assert refused["advice"]
    assert not played(name).paths.facts.exists()


# Ends that take the process along


def attempt(
    folder: Path, task: str, watch: Callable[[Watched], Failure | None], **fields: Any
) -> tuple[Ending, Rolled]:
    """Run a failing task as a job's attempt is run, in a process of its own under supervision."""
    paths = prepare(folder, task, **{**OF_FAILING, **fields})
    job = AttemptSpec.from_json(read_json(paths.spec)).job
    env = {**os.environ, **ENV, "PYTHONUNBUFFERED": "1"}
    workload = ChildWorkload.start(
        sys.executable, folder / "process", simulator="isaaclab", library=None, env=env, bounds=ONE_JOB
    )
    try:
        write_json(paths.facts, workload.check(job, paths.overlay, {}, 120).to_json())
        workload.run(paths)
        reader = counting_reader("step")
        ending = supervise(workload, paths, limits=Limits(wall_s=60, term_grace_s=3), reader=reader, watch=watch)
    finally:
        workload.end(0.0)
    return ending, Rolled(paths)


def cancel_after_a_step(seen: Watched) -> Failure | None:
    if not seen.done:
        return None
    return Failure(code="canceled", category=Category.CANCELED, message="enough")


def test_a_process_that_leaves_without_a_word_has_not_succeeded(tmp_path: Path):
    ending, job = attempt(tmp_path / "job", "Leaves", lambda seen: None)
    assert (ending.exit_code, ending.signal, ending.watched.end_marker) == (0, None, False)
    assert not job.paths.outcome.exists()
    assert not [*job.paths.output.iterdir()]
    assert "leaving" in job.paths.stdout.read_text()
    failure = judge(ending, None, lambda *words, **more: None, folder=job.paths.root, runs_user_code=True)
    assert failure is not None
    assert (failure.code, failure.category) == ("ended_without_result", Category.USER)


@pytest.mark.long
def test_a_crash_in_the_end_spoils_nothing(played: Callable[[str], Rolled], tmp_path: Path):
    """In the interpreter's own clean-up, that is: a process under supervision leaves before it."""
    job = Rolled(prepare(tmp_path / "job", "CrashesLate", "failing", FAILING, steps=8))
    shutil.copy(played("Good").paths.facts, job.paths.facts)
    command = [sys.executable, "-m", "simyard.runner", job.paths.root]
    done = subprocess.run(command, env={**os.environ, **ENV}, capture_output=True, timeout=HANG_S, check=False)
    assert done.returncode == -signal.SIGSEGV
    assert job.failure is None
    assert job.summary["recorded_steps"] == 8 * ENVS
    assert job.by_step("walk").shape == (8, ENVS, 2)


def test_a_task_that_is_stopped_keeps_what_it_recorded(tmp_path: Path):
    ending, job = attempt(tmp_path / "job", "Good", cancel_after_a_step, steps=1000, task_args={"pause_s": 0.05})
    assert (ending.exit_code, ending.signal, ending.watched.end_marker) == (0, None, False)
    assert 1 < len(job.by_step("walk")) < 1000
    assert "the task was ended: Stopped" in job.paths.user_log.read_text()


@pytest.mark.long
def test_a_task_that_ignores_the_signal_is_killed(tmp_path: Path):
    began = time.monotonic()
    ending, job = attempt(tmp_path / "job", "Stubborn", cancel_after_a_step, steps=1000, task_args={"pause_s": 0.05})
    assert ending.signal == "SIGKILL"
    assert time.monotonic() - began < 45
    assert not [*job.paths.output.iterdir()], "nothing half-done has a name"
