"""Converted rollouts hold the same numbers, and are laid out as those who read them expect."""

import json
import sys
import zipfile

import numpy as np
import pytest
from lazy import lazy

from simyard.convert import convert
from simyard.core.errors import RequestError, StoreError
from simyard.runner.recording.arrays import pack
from simyard.runner.recording.recorder import RolloutRecorder

h5py = lazy("h5py")
zarr = lazy("zarr")

ROWS = {
    "action": ((7,), "float32"), "obs/policy": ((5,), "float32"), "obs/camera": ((4, 4, 3), "uint8"),
    "reward": ((), "float32"), "joint/pos": ((3,), "float64"), "contact": ((), "bool"),
}  # fmt: skip


FORMATS = pytest.mark.parametrize("to", ["diffusion_policy", "robomimic", "lerobot"])


def rollout(folder, rows=ROWS, steps=90, attributes=None, **sizes):
    """Record random numbers; return the rollout and its episodes."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    with RolloutRecorder(
        folder / "rollout.zarr", num_envs=4, longest=100, control_period_s=0.02, scratch=folder,
        attributes=attributes, **{"shard_bytes": 1 << 11, **sizes},
    ) as recorder:  # fmt: skip
        for _ in range(steps):
            values = {key: random.integers(0, 200, (4, *shape)) / 3 for key, (shape, _) in rows.items()}
            recorder.record({key: each.astype(rows[key][1]) for key, each in values.items()})
            ended = random.random(4) < 0.08
            recorder.end(ended, terminated=random.random(4) < 0.5, success=np.where(random.random(4) < 0.3, -1, ended))
    root = zarr.open(folder / "rollout.zarr", mode="r")
    ends = root["meta/episode_ends"][:].tolist()
    data = {key: root[f"data/{key}"][:] for key in rows}
    episodes = [{key: data[key][a:b] for key in rows} for a, b in zip([0, *ends], ends, strict=False)]
    meta = list(zip(root["meta/success"][:].tolist(), root["meta/termination"][:].tolist(), strict=True))
    return folder / "rollout.zarr", episodes, meta


def equal(found, expected, shape=None):
    """Compare to the bit; `shape` is what a step has in the other format."""
    expected = expected if shape is None else expected.reshape(len(expected), *shape)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


@pytest.fixture(params=["folder", "zip"])
def recorded(request, tmp_path):
    path, episodes, meta = rollout(tmp_path / "recorded", attributes={"task": "Isaac-Lift-Cube"})
    if request.param == "zip":
        pack(path, tmp_path / "one-file.zarr")
        path = tmp_path / "one-file.zarr"
    return path, episodes, meta


def test_a_replay_buffer_holds_the_same_episodes(tmp_path, recorded):
    path, episodes, _ = recorded
    done = []
    found = convert(path, tmp_path / "new" / "buffer", "diffusion_policy", lambda *progress: done.append(progress))
    names = {"action": "action", "obs/policy": "obs", "obs/camera": "obs_camera", "reward": "reward",
             "joint/pos": "joint_pos", "contact": "contact"}  # fmt: skip
    assert found["keys"] == names
    assert (found["episodes"], found["steps"]) == (len(episodes), 4 * 90)
    assert done[-1] == (6 * 360, 6 * 360)
    assert [rows for rows, _ in done] == sorted(rows for rows, _ in done)

    root = zarr.open(tmp_path / "new" / "buffer", mode="r")
    assert root.metadata.zarr_format == 2
    assert (tmp_path / "new" / "buffer" / ".zgroup").exists()
    assert sorted(root["meta"]) == ["episode_ends"]
    assert sorted(root["data"]) == sorted(names.values())
    ends = root["meta/episode_ends"][:]
    assert ends.dtype == np.int64
    for start, end, episode in zip([0, *ends], ends, episodes, strict=False):
        for key, name in names.items():
            equal(root[f"data/{name}"][start:end], episode[key], (1,) if key == "contact" else None)
    for name in names.values():
        assert len(root[f"data/{name}"].shape) == len(root[f"data/{name}"].chunks)
        assert root[f"data/{name}"].shape[0] == ends[-1]
        assert root[f"data/{name}"].chunks[1:] == root[f"data/{name}"].shape[1:], "only time is chunked"
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["buffer"]


def test_a_replay_buffer_takes_the_recorded_obs_before_that_of_the_policy(tmp_path):
    path, episodes, _ = rollout(tmp_path, {"action": ((2, 3), "float32"), "obs": ((), "float32")})
    assert convert(path, tmp_path / "buffer", "diffusion_policy")["keys"] == {"action": "action", "obs": "obs"}
    data = zarr.open(tmp_path / "buffer", mode="r")["data"]
    equal(data["action"][:], np.concatenate([episode["action"] for episode in episodes]), (6,))
    equal(data["obs"][:], np.concatenate([episode["obs"] for episode in episodes]), (1,))


def test_a_robomimic_dataset_holds_the_same_episodes(tmp_path, recorded):
    path, episodes, meta = recorded
    found = convert(path, tmp_path / "demos.hdf5", "robomimic")
    names = {"action": "actions", "obs/policy": "obs/policy", "obs/camera": "obs/camera", "reward": "rewards",
             "joint/pos": "obs/joint_pos", "contact": "obs/contact"}  # fmt: skip
    assert found["keys"] == names
    with h5py.File(tmp_path / "demos.hdf5", "r", swmr=True, libver="latest") as file:  # as robomimic opens it
        data = file["data"]
        assert data.attrs["total"] == 4 * 90
        assert json.loads(data.attrs["env_args"]) == {"env_name": "Isaac-Lift-Cube", "type": 2, "env_kwargs": {}}
        assert sorted(data, key=lambda name: int(name[5:])) == [f"demo_{number}" for number in range(len(episodes))]
        for number, (episode, (success, termination)) in enumerate(zip(episodes, meta, strict=True)):
            demo = data[f"demo_{number}"]
            length = len(episode["action"])
            assert demo.attrs["num_samples"] == length
            assert demo["dones"][:].tolist() == [0] * (length - 1) + [int(termination == 1)]
            assert demo.attrs.get("success") == {1: True, 0: False, -1: None}[success]
            assert sorted(demo) == ["actions", "dones", "next_obs", "obs", "rewards"]
            for key, name in names.items():
                equal(demo[name][:], episode[key], (1,) if key == "contact" else None)
                if name.startswith("obs/"):
                    later = np.concatenate([episode[key][1:], episode[key][-1:]])
                    equal(demo[f"next_{name}"][:], later, (1,) if key == "contact" else None)
        successful = [name.decode() for name in file["mask/successful"][:]]
    assert successful == [f"demo_{number}" for number, (success, _) in enumerate(meta) if success == 1]


@FORMATS
def test_names_and_period_stay(tmp_path, to):
    folder = tmp_path / "rollout.zarr"
    with RolloutRecorder(folder, num_envs=1, longest=5, control_period_s=0.02, scratch=tmp_path) as recorder:
        recorder.describe("action", unit="rad", names=["elbow", "wrist"], about="Targets.")
        recorder.record(action=np.zeros((1, 2)), joint_position=np.zeros((1, 3)))
    convert(folder, tmp_path / "out", to)
    said = {"unit": "rad", "names": ["elbow", "wrist"], "about": "Targets."}
    if to == "robomimic":
        with h5py.File(tmp_path / "out") as file:
            assert file["data"].attrs["control_period_s"] == 0.02
            attributes = dict(file["data/demo_0/actions"].attrs)
            assert attributes | {"names": attributes["names"].tolist()} == said
    elif to == "diffusion_policy":
        root = zarr.open(tmp_path / "out", mode="r")
        assert root.attrs["control_period_s"] == 0.02
        assert dict(root["data/action"].attrs) == said
    else:
        info = json.loads((tmp_path / "out/meta/info.json").read_text())
        assert info["fps"] == 50
        assert info["features"]["action"]["names"] == ["elbow", "wrist"]
        assert info["features"]["observation.state"]["names"] is None


def test_what_was_not_recorded_is_not_made_up(tmp_path):
    folder = tmp_path / "rollout.zarr"
    with RolloutRecorder(folder, num_envs=1, longest=5, control_period_s=1, scratch=tmp_path) as recorder:
        recorder.record(action=np.zeros((1, 2)))
    convert(folder, tmp_path / "demos.hdf5", "robomimic")
    with h5py.File(tmp_path / "demos.hdf5") as file:
        assert "mask" not in file
        assert "success" not in file["data/demo_0"].attrs
        assert "rewards" not in file["data/demo_0"]
        assert json.loads(file["data"].attrs["env_args"])["env_name"] == ""


def test_rows_that_no_episode_lists_are_left_out(tmp_path):
    path, episodes, _ = rollout(tmp_path)
    for node, changes in {"": {"attributes": json.loads((path / "zarr.json").read_text())["attributes"]},
                          "meta/episode_ends": {"shape": [3]}}.items():  # fmt: skip
        metadata = json.loads((path / node / "zarr.json").read_text()) | changes
        metadata["attributes"].pop("finished", None)
        (path / node / "zarr.json").write_text(json.dumps(metadata))
    assert convert(path, tmp_path / "buffer", "diffusion_policy")["episodes"] == 3
    kept = sum(len(episode["action"]) for episode in episodes[:3])
    assert zarr.open(tmp_path / "buffer", mode="r")["data/action"].shape == (kept, 7)
    convert(path, tmp_path / "demos.hdf5", "robomimic")
    with h5py.File(tmp_path / "demos.hdf5") as file:
        assert sorted(file["data"]) == ["demo_0", "demo_1", "demo_2"]


def another_zip(folder):
    with zipfile.ZipFile(folder / "rollout.zarr", "w") as archive:
        archive.writestr("a.txt", "hello")


def lost_shard(folder):
    path, *_ = rollout(folder)
    (path / "data/action/c.1.0").unlink()


def no_episode(folder):
    RolloutRecorder(folder / "rollout.zarr", num_envs=1, longest=1, control_period_s=1, scratch=folder).close()


@FORMATS
@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        (lambda folder: (folder / "rollout.zarr").mkdir(), "bad_rollout", "no Zarr v3 group"),
        (lambda folder: None, "bad_rollout", "not there"),
        (another_zip, "bad_rollout", "no Zarr v3 group"),
        (lost_shard, "bad_rollout", "has lost"),
        (lambda folder: rollout(folder, {"obs": ((2,), "float32")}), "no_action", "no quantity 'action'.*It has: obs"),
        (no_episode, "empty_rollout", "no episode"),
    ],
    ids=["empty", "absent", "another zip", "lost shard", "no action", "no episode"],
)
def test_what_cannot_be_converted_is_refused_and_leaves_nothing(tmp_path, make, code, said, to):
    make(tmp_path)
    with pytest.raises(RequestError, match=said) as caught:
        convert(tmp_path / "rollout.zarr", tmp_path / "out", to)
    assert caught.value.failure.code == code
    assert [path.name for path in tmp_path.iterdir()] in (["rollout.zarr"], [])


def test_two_quantities_never_become_one(tmp_path):
    rollout(tmp_path, {"action": ((2,), "float32"), "obs/pos": ((2,), "float32"), "obs_pos": ((2,), "float32")})
    with pytest.raises(RequestError, match="Both 'obs/pos' and 'obs_pos' would be 'obs_pos'"):
        convert(tmp_path / "rollout.zarr", tmp_path / "out", "diffusion_policy")
    assert convert(tmp_path / "rollout.zarr", tmp_path / "out", "robomimic")["keys"]["obs_pos"] == "obs/obs_pos"


@pytest.mark.parametrize(
    ("to", "missing"), [("robomimic", "h5py"), ("diffusion_policy", "zarr"), ("lerobot", "pyarrow")]
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, to, missing):
    monkeypatch.setitem(sys.modules, missing, None)  # so that importing it fails
    with pytest.raises(RequestError, match=rf"{missing} is not installed.*simyard\[(rollouts|lerobot)\]"):
        convert(tmp_path, tmp_path / "out", to)


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"'rlds'.*Allowed: lerobot, robomimic, diffusion_policy"):
        convert(tmp_path, tmp_path / "out", "rlds")


@FORMATS
def test_what_is_there_is_never_overwritten(tmp_path, to):
    path, *_ = rollout(tmp_path)
    (tmp_path / "out").write_text("precious")
    with pytest.raises(RequestError, match="exists"):
        convert(path, tmp_path / "out", to)
    assert (tmp_path / "out").read_text() == "precious"


@FORMATS
def test_a_conversion_that_is_interrupted_leaves_nothing(tmp_path, to):
    path, *_ = rollout(tmp_path)

    def interrupt(done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(path, tmp_path / "out", to, interrupt)
    assert [entry.name for entry in tmp_path.iterdir()] == ["rollout.zarr"]


def test_a_folder_that_cannot_be_written_is_an_error_of_the_machine(tmp_path):
    path, *_ = rollout(tmp_path / "recorded")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        convert(path, tmp_path / "file" / "out", "robomimic")


def test_memory_does_not_grow_with_the_rollout(tmp_path):
    """Every piece is one shard of one quantity."""
    path, episodes, _ = rollout(tmp_path, {"action": ((64,), "float32")}, steps=800, shard_bytes=1 << 13)
    pieces = []
    convert(path, tmp_path / "demos.hdf5", "robomimic", lambda done, total: pieces.append(done))
    assert np.diff([0, *pieces]).max() * 256 == 1 << 13
    with h5py.File(tmp_path / "demos.hdf5") as file:
        for number, episode in enumerate(episodes):
            equal(file[f"data/demo_{number}/actions"][:], episode["action"])
