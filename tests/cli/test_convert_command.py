"""`simyard convert` on the command line: what it writes, says and refuses."""

import json

import click.testing
import h5py
import numpy as np
import pytest
import zarr

from simyard.cli.main import main
from simyard.cli.shared import JSON_KEYS
from simyard.runner.recording.arrays import pack
from simyard.runner.recording.recorder import RolloutRecorder


@pytest.fixture
def rollout(tmp_path):
    with RolloutRecorder(
        tmp_path / "rollout.zarr", num_envs=2, longest=20, control_period_s=0.02, scratch=tmp_path
    ) as recorder:
        for step in range(20):
            recorder.record({"action": np.full((2, 3), step), "obs/policy": np.zeros((2, 4))})
            recorder.end(np.array([step % 5 == 4, False]))
    return tmp_path / "rollout.zarr"


def run(*arguments):
    return click.testing.CliRunner().invoke(main, ["convert", *map(str, arguments)])


def test_it_writes_a_replay_buffer_and_says_so(tmp_path, rollout):
    done = run(rollout, tmp_path / "buffer", "--to", "diffusion_policy")
    assert done.exit_code == 0, done.output
    assert f"5 episodes, 40 steps in {tmp_path / 'buffer'}" in done.stdout
    assert "obs/policy" in done.stdout
    assert zarr.open(tmp_path / "buffer", mode="r")["meta/episode_ends"][:].tolist() == [5, 10, 15, 20, 40]


def test_it_converts_the_one_file_that_was_downloaded(tmp_path, rollout):
    pack(rollout, tmp_path / "downloaded.zarr")
    done = run(tmp_path / "downloaded.zarr", tmp_path / "demos.hdf5", "--to", "robomimic", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "out": str(tmp_path / "demos.hdf5"), "format": "robomimic", "episodes": 5, "steps": 40,
        "keys": {"action": "actions", "obs/policy": "obs/policy"},
    }  # fmt: skip
    assert done.stderr == ""
    with h5py.File(tmp_path / "demos.hdf5") as file:
        assert file["data/demo_4/actions"][:, 0].tolist() == list(range(20))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{folder}/nowhere", "{folder}/out", "--to", "robomimic"], "not there"),
        (["{folder}", "{folder}/out", "--to", "robomimic"], "is no rollout"),
        (["{folder}/rollout.zarr", "{folder}/rollout.zarr", "--to", "robomimic"], "exists"),
        (["{folder}/rollout.zarr", "{folder}/out", "--to", "rlds"], "'rlds' is not one of 'lerobot'"),
        (["{folder}/rollout.zarr", "{folder}/out"], "Missing option '--to'"),
        (["{folder}/rollout.zarr", "--to", "robomimic"], "Missing argument 'OUT'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_command_is_refused(tmp_path, rollout, arguments, said):
    done = run(*(argument.format(folder=tmp_path) for argument in arguments))
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["rollout.zarr"]


def test_a_rollout_without_actions_is_refused_in_json_too(tmp_path):
    with RolloutRecorder(
        tmp_path / "rollout.zarr", num_envs=1, longest=1, control_period_s=1, scratch=tmp_path
    ) as recorder:
        recorder.record(obs=np.zeros((1, 2)))
    done = run(tmp_path / "rollout.zarr", tmp_path / "out", "--to", "diffusion_policy", "--json")
    assert done.exit_code == 2
    said = json.loads(done.stdout)
    assert set(said) >= set(JSON_KEYS)
    assert said["error"]["code"] == "no_action"
    assert "It has: obs" in said["error"]["advice"]
