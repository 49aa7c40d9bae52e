"""Converted rollouts in the hands of those they are for, each in an environment of its own."""

import ctypes.util
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import HANG_S
from rolled import Rolled
from simulated import Player
from test_cameras import Seen, camera
from test_standard_rollout import BENT, PICK

from simyard.convert import convert
from simyard.core.files import AttemptPaths, read_json
from simyard.runner.recording.recorder import RolloutRecorder

pytestmark = [
    pytest.mark.sim,
    pytest.mark.long,  # environments of gigabytes; test_convert.py and test_lerobot_dataset.py read the layouts
    pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="this machine has no libEGL"),
]

UV = Path(sys.executable).parent / "uv"
TORCH = [f"{name}=={metadata.version(name)}" for name in ("torch", "torchvision")]
"""The same that is here: uv has it in its cache."""
LEROBOT = ["lerobot[dataset]==0.6.1", "lerobot-doctor==0.2.0", "lerobot-lint==0.1.1"]
ROBOMIMIC = ["h5py", "psutil", "tqdm", "termcolor", "tensorboard", "tensorboardX", "imageio", "imageio-ffmpeg", "six"]
"""All that robomimic needs but egl_probe, which asks for GPUs in robosuite alone and has to be compiled."""
CHECKOUT = "SIMYARD_DIFFUSION_POLICY"
"""Environment variable: a checkout of diffusion_policy, which is on no package index."""
STEPS = 150
FRONT = camera("front", (1.1, -0.7, 0.6), (0.3, 0.0, 0.1), width=96, height=64)
WRIST = camera("wrist", (0.06, 0.0, -0.08), (0.0, 0.0, 0.1), body="tcp", fov=80.0, width=64, height=64)
PICKING = Seen(
    scene_id="table_top", num_envs=4, steps=STEPS, substeps=8, control={**PICK, "spread_m": 0.03},
    cameras=(FRONT, WRIST),
)  # fmt: skip
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_pitch", "wrist_roll", "wrist_yaw")
SWING = dict.fromkeys(JOINTS, 0.3) | {"left_finger_joint": 0.015, "right_finger_joint": 0.015}
BEGIN = BENT | {"left_finger_joint": 0.02, "right_finger_joint": 0.02}
SWINGING = Seen(
    num_envs=2, steps=STEPS, cameras=(WRIST,),
    control={"task_mode": "sine", "amplitude": SWING, "initial_positions": BEGIN},
)  # fmt: skip
"""All joints move, which is all that a checker of datasets can look for."""


def program(folder: Path) -> list[int]:
    """Roll out; the player calls it."""
    from simyard.runner.session import run_alone

    cases = {"picked": PICKING, "swung": SWINGING}
    return [run_alone(case.prepare(folder / name)) for name, case in cases.items()]


@pytest.fixture(scope="module")
def rollout(player: Player, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the rollout, and the arrays in it."""
    folder = tmp_path_factory.mktemp("loaders")
    paths = AttemptPaths(folder / "picked")
    assert player("test_other_loaders:program", folder) == [0, 0], read_json(paths.outcome)
    shutil.copy(paths.output / "rollout.zarr", folder)
    shutil.unpack_archive(folder / "rollout.zarr", folder / "rollout", "zip")
    arrays = Rolled(paths).arrays
    keys = ("action", "joint_position", "images/wrist")
    truth = {key.rpartition("/")[2]: arrays[f"data/{key}"] for key in keys}
    np.savez(folder / "truth.npz", episode_ends=arrays["meta/episode_ends"], **truth)
    return folder


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Make an environment of some packages; return what runs a program of it."""

    def make(name: str, *installs: list[str], **variables: str) -> Run:
        folder = tmp_path_factory.mktemp(name)
        # Nothing of ours leaks into it, and nothing of it asks a hub.
        env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        env |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "UV_INDEX_STRATEGY": "unsafe-best-match"}
        env |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", **variables}
        subprocess.run([UV, "venv", "-q", "--python", sys.executable, folder / "venv"], env=env, check=True)
        python = str(folder / "venv/bin/python")
        for packages in installs:
            subprocess.run([UV, "pip", "install", "-q", "--python", python, *packages], env=env, check=True)

        def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
            command = [str(folder / "venv/bin" / program), *map(str, arguments)]
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=HANG_S, check=False)
            print(done.stdout[-5000:], done.stderr[-5000:])
            return done

        return run

    return make


def play(run: Run, function: str, folder: Path) -> Any:
    done = run("python", Path(__file__).with_name("foreign_loaders.py"), function, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def lerobot(rollout: Path, environment: Callable[..., Run]) -> Run:
    convert(rollout / "rollout.zarr", rollout / "dataset", "lerobot")
    convert(AttemptPaths(rollout / "swung").output / "rollout.zarr", rollout / "swung-dataset", "lerobot")
    return environment("lerobot", [*TORCH, *LEROBOT])


def test_lerobot_loads_trains_and_edits(rollout: Path, lerobot: Run):
    found = play(lerobot, "lerobot", rollout)
    assert (found["episodes"], found["frames"], found["fps"], found["task"]) == (4, 4 * STEPS, 50, "pick_lift")
    assert found["names"][:2] == ["shoulder_pan", "shoulder_lift"]
    assert found["successful"] == 4
    assert found["pyav"] < 6, "of 255, on average: H.264 is not exact"
    assert isinstance(found["torchcodec"], str) or found["torchcodec"] < 6
    apart = found["statistics"]
    assert len(apart) == 10
    assert all(value < (0.05 if name.startswith("q") else 1e-4) for name, value in apart.items()), "within neighbours"
    assert len(found["losses"]) == math.ceil(4 * STEPS / 32)
    assert np.mean(found["losses"][-5:]) < np.mean(found["losses"][:5])
    assert found["left"] == [3, 3 * STEPS]


@pytest.mark.parametrize(
    "checker",
    [["lerobot-doctor", "check", "--ci", "--fail-on", "fail"], ["lelint", "check"]],
    ids=["lerobot-doctor", "lerobot-lint"],
)
def test_the_checkers_of_datasets_find_no_fault(rollout: Path, lerobot: Run, checker: list[str]):
    """Warnings are about what was done, such as swings that are alike; 2 is an error of lerobot-lint."""
    done = lerobot(*checker, rollout / "swung-dataset")
    assert done.returncode in ((0, 1) if checker[0] == "lelint" else (0,))


def test_robomimic_trains(rollout: Path, environment: Callable[..., Run]):
    convert(rollout / "rollout.zarr", rollout / "demos.hdf5", "robomimic")
    random = np.random.default_rng(0)
    with RolloutRecorder(
        rollout / "valued.zarr", num_envs=2, longest=50, control_period_s=0.02, scratch=rollout
    ) as recorder:
        for step in range(100):
            row = {"action": random.uniform(-1, 1, (2, 3)), "obs/policy": random.normal(size=(2, 5))}
            recorder.record(row, reward=random.normal(size=2))
            recorder.end(np.full(2, step % 50 == 49), terminated=np.array([True, False]))
    convert(rollout / "valued.zarr", rollout / "valued.hdf5", "robomimic")
    run = environment("robomimic", [*TORCH, "matplotlib", *ROBOMIMIC], ["--no-deps", "robomimic==0.3.0"])
    found = play(run, "robomimic", rollout)
    assert found["environment"] == {"env_name": "pick_lift", "type": 2, "env_kwargs": {}}
    assert found["bc"]["keys"] == ["actions", "dones", "obs", "rewards"]
    assert found["td3_bc"]["keys"] == ["actions", "dones", "next_obs", "obs", "rewards"]
    for name, sequences in (("bc", 4 * STEPS), ("td3_bc", 200)):
        assert found[name]["sequences"] == sequences
        assert all(math.isfinite(loss) for loss in found[name]["loss"].values())


@pytest.mark.skipif(CHECKOUT not in os.environ, reason=f"diffusion_policy is on no package index; {CHECKOUT} is unset")
def test_diffusion_policy_samples_and_trains(rollout: Path, environment: Callable[..., Run]):
    convert(rollout / "rollout.zarr", rollout / "buffer", "diffusion_policy")
    packages = [TORCH[0], "zarr<3", "numcodecs<0.16", "numba", "einops"]
    run = environment("diffusion", packages, PYTHONPATH=os.environ[CHECKOUT])
    found = play(run, "diffusion_policy", rollout)
    assert (found["episodes"], found["steps"]) == (4, 4 * STEPS)
    assert np.mean(found["losses"][-100:]) < np.mean(found["losses"][:100])


def test_xarray_opens_the_rollout_itself(rollout: Path, environment: Callable[..., Run]):
    run = environment("xarray", ["xarray", f"zarr=={metadata.version('zarr')}"])
    found = play(run, "xarray", rollout)
    assert found["dimensions"]["joint_position"] == ["step", "joint_position:1"]
    assert found["dimensions"]["body_pose"] == ["step", "body_pose:1", "body_pose:2"]
    assert set(map(tuple, found["meta"].values())) == {("episode",)}
    assert found["names"][0] == "shoulder_pan"
    assert found["period"] == 0.02
