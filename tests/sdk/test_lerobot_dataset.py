"""LeRobot datasets as pyarrow and ffmpeg read them. LeRobot itself reads them in test_other_loaders.py."""

import json

import numpy as np
import pytest
from lazy import lazy

from simyard.convert import convert
from simyard.core.errors import RequestError
from simyard.lerobot_dataset import feature_names
from simyard.runner.recording.recorder import RolloutRecorder
from simyard.runner.video.encoding import encode

parquet = lazy("pyarrow.parquet")
imageio_ffmpeg = lazy("imageio_ffmpeg")

LENGTHS = (12, 7, 21)
"""Steps of the episodes, one after another in one environment; the last is cut off."""


def picture(step: int) -> np.ndarray:
    """A ramp that is brighter at each step, so that a picture tells its step."""
    return np.full((32, 48, 3), 40, np.uint8) + np.uint8(4 * step) + np.arange(3, dtype=np.uint8) * 10


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lerobot")
    attributes = {"task": "pick_lift", "bodies": ["cube", "lid"]}
    with RolloutRecorder(
        folder / "rollout.zarr", num_envs=1, longest=30, control_period_s=0.04, scratch=folder, attributes=attributes,
        shard_bytes=1 << 16,
    ) as recorder:  # fmt: skip
        recorder.describe("action", names=["elbow", "wrist"])
        recorder.describe("body_pose", names=["x", "y", "z"])
        for step in range(sum(LENGTHS)):
            recorder.record({
                "action": np.array([[step, -step]], np.float32), "joint_position": np.full((1, 3), step / 7),
                "body_pose": np.full((1, 2, 3), step, np.float32), "reward": np.array([step], np.float32),
                "images/front": picture(step)[None], "images/odd": picture(step)[None, :31],
                "contact": np.array([step % 2 == 0]),
            })  # fmt: skip
            ended = np.array([step + 1 in np.cumsum(LENGTHS)[:2]])
            recorder.end(ended, terminated=ended, success=np.array([step < 15]))
    found = convert(folder / "rollout.zarr", folder / "out", "lerobot")
    return folder / "out", found


def table(dataset, path):
    return parquet.read_table(dataset[0] / path)


def column(dataset, name, path="data/chunk-000/file-000.parquet"):
    return np.array(table(dataset, path)[name].to_pylist())


def test_info_says_what_there_is(dataset):
    info = json.loads((dataset[0] / "meta/info.json").read_text())
    features = info.pop("features")
    assert info == {
        "codebase_version": "v3.0", "robot_type": None, "total_episodes": 3, "total_frames": 40, "total_tasks": 1,
        "chunks_size": 1000, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200, "fps": 25,
        "splits": {"train": "0:3"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }  # fmt: skip
    kinds = {name: (each["dtype"], each["shape"], each["names"]) for name, each in features.items()}
    number = {name: ("int64", [1], None) for name in ("frame_index", "episode_index", "index", "task_index")}
    assert kinds == number | {
        "action": ("float32", [2], ["elbow", "wrist"]),
        "observation.state": ("float32", [3], None),
        "observation.environment_state": ("float32", [6], [f"{b}.{n}" for b in ("cube", "lid") for n in "xyz"]),
        "observation.contact": ("bool", [1], None),
        "observation.images.front": ("video", [32, 48, 3], ["height", "width", "channels"]),
        "observation.images_odd": ("uint8", [31, 48, 3], None),
        "next.reward": ("float32", [1], None),
        "next.done": ("bool", [1], None),
        "timestamp": ("float32", [1], None),
    }
    assert features["observation.images.front"]["info"]["video.codec"] == "h264"
    assert dataset[1]["keys"]["joint_position"] == "observation.state"


def test_rows_are_the_steps_and_row_groups_the_episodes(dataset):
    steps, episodes = np.arange(40), np.repeat(np.arange(3), LENGTHS)
    frames = np.concatenate([np.arange(length) for length in LENGTHS])
    assert column(dataset, "index").tolist() == steps.tolist()
    assert column(dataset, "episode_index").tolist() == episodes.tolist()
    assert column(dataset, "frame_index").tolist() == frames.tolist()
    np.testing.assert_allclose(column(dataset, "timestamp"), frames / 25, atol=1e-6)
    assert column(dataset, "action").tolist() == np.stack([steps, -steps], 1).tolist()
    assert column(dataset, "next.reward").tolist() == steps.tolist()
    assert column(dataset, "next.done").nonzero()[0].tolist() == [11, 18, 39]
    assert column(dataset, "observation.images_odd").shape == (40, 31, 48, 3)
    file = parquet.ParquetFile(dataset[0] / "data/chunk-000/file-000.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == list(LENGTHS)


def test_episodes_say_where_they_are_and_how_they_ended(dataset):
    rows = table(dataset, "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["tasks"] for row in rows] == [["pick_lift"]] * 3
    ends = np.cumsum(LENGTHS).tolist()
    for row, start, end in zip(rows, [0, *ends], ends, strict=False):
        assert (row["length"], row["dataset_from_index"], row["dataset_to_index"]) == (end - start, start, end)
        front = "videos/observation.images.front"
        assert (row[f"{front}/from_timestamp"], row[f"{front}/to_timestamp"]) == (start / 25, end / 25)
        assert row["stats/action/mean"] == pytest.approx([(start + end - 1) / 2, -(start + end - 1) / 2])
        assert row["stats/action/count"] == [end - start]
    assert [row["success"] for row in rows] == [1, 0, -1]
    assert [row["termination"] for row in rows] == [1, 1, 2]


def test_statistics_of_all_are_those_of_the_values(dataset):
    stats = json.loads((dataset[0] / "meta/stats.json").read_text())
    action = column(dataset, "action")
    for name, value in (("min", action.min(0)), ("max", action.max(0)), ("mean", action.mean(0))):
        np.testing.assert_allclose(stats["action"][name], value, rtol=1e-6)
    np.testing.assert_allclose(stats["action"]["std"], action.std(0), rtol=1e-6)
    assert stats["action"]["count"] == [40]
    pixels = np.stack([picture(step) for step in range(40)]).reshape(-1, 3) / 255
    front = {name: np.array(value) for name, value in stats["observation.images.front"].items()}
    assert front["mean"].shape == (3, 1, 1)
    np.testing.assert_allclose(front["mean"].ravel(), pixels.mean(0), rtol=1e-9)
    np.testing.assert_allclose(front["std"].ravel(), pixels.std(0), rtol=1e-9)
    assert front["count"].tolist() == [40]


def test_a_frame_of_the_video_is_the_picture_of_its_step(dataset):
    path = dataset[0] / "videos/observation.images.front/chunk-000/file-000.mp4"
    decoder = imageio_ffmpeg.read_frames(str(path))
    facts = next(decoder)
    assert (facts["fps"], facts["codec"]) == (25.0, "h264")
    frames = np.stack([np.frombuffer(data, np.uint8).reshape(32, 48, 3) for data in decoder]).astype(int)
    assert len(frames) == 40
    for step, frame in enumerate(frames):
        assert np.abs(frame - picture(step)).mean() < 3, step


def one_long_episode(folder, steps=60, num_envs=1):
    with RolloutRecorder(
        folder / "rollout.zarr", num_envs=num_envs, longest=steps, control_period_s=0.01, scratch=folder
    ) as recorder:
        for step in range(steps):
            recorder.record(action=np.full((num_envs, 1), step, np.float32))
    return folder / "rollout.zarr"


def test_a_film_becomes_a_video_with_a_picture_a_step(tmp_path):
    """As simyard films a control step of 10 ms: every third one."""
    ramp = np.broadcast_to(np.arange(48, dtype=np.uint8)[:, None], (32, 48, 3)) * 2
    encode([ramp + np.uint8(5 * n) for n in range(20)], tmp_path / "render.mp4", fps=100 / 3, size=(48, 32))
    found = convert(one_long_episode(tmp_path), tmp_path / "out", "lerobot", film=tmp_path / "render.mp4")
    assert found["keys"] == {"action": "action", "film": "observation.images.film"}
    decoder = imageio_ffmpeg.read_frames(str(tmp_path / "out/videos/observation.images.film/chunk-000/file-000.mp4"))
    assert next(decoder)["fps"] == 100.0
    frames = np.stack([np.frombuffer(data, np.uint8).reshape(32, 48, 3) for data in decoder]).astype(int)
    assert len(frames) == 60
    for step, frame in enumerate(frames):
        assert np.abs(frame - ramp - 5 * (step // 3)).mean() < 4, step


@pytest.mark.parametrize(
    ("frames", "num_envs", "said"),
    [
        (20, 2, "shows environment 0, and the rollout has 2 of them.*outputs.cameras"),
        (17, 1, "has 17 pictures, which do not show the 60 steps"),
        (0, 1, "is no film"),
    ],
    ids=["two worlds", "another film", "no film"],
)
def test_a_film_that_does_not_fit_is_refused(tmp_path, frames, num_envs, said):
    path = tmp_path / "render.mp4"
    path.write_text("nothing")
    if frames:
        ramp = np.broadcast_to(np.arange(48, dtype=np.uint8)[:, None], (32, 48, 3)) * 2
        encode([ramp] * frames, path, fps=30, size=(48, 32))
    with pytest.raises(RequestError, match=said) as caught:
        convert(one_long_episode(tmp_path, num_envs=num_envs), tmp_path / "out", "lerobot", film=path)
    assert caught.value.failure.code == "bad_film"
    assert not (tmp_path / "out").exists()


def test_tasks_are_a_table_of_pandas(dataset):
    tasks = table(dataset, "meta/tasks.parquet")
    assert tasks.to_pylist() == [{"task_index": 0, "task": "pick_lift"}]
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]


@pytest.mark.parametrize(
    ("keys", "state", "environment"),
    [
        (["action", "joint_position", "obs/policy", "body_pose"], "joint_position", "obs/policy"),
        (["action", "obs/policy", "obs/critic"], "obs/policy", None),
        (["action", "obs", "body_pose"], "obs", "body_pose"),
        (["action", "reward"], None, None),
    ],
)
def test_what_a_policy_needs_has_the_names_that_it_looks_for(keys, state, environment):
    names = feature_names({key: {"shape": [3], "dtype": "float32"} for key in keys})
    found = {name: key for key, name in names.items()}
    assert (found.get("observation.state"), found.get("observation.environment_state")) == (state, environment)
    assert len(found) == len(keys)


@pytest.mark.parametrize(("period", "fps"), [(0.02, 50), (1 / 60, 60), (0.0333, 30), (0.03, 1 / 0.03), (4.0, 0.25)])
def test_the_rate_is_a_whole_number_where_it_is_one(tmp_path, period, fps):
    folder = tmp_path / "rollout.zarr"
    with RolloutRecorder(folder, num_envs=1, longest=5, control_period_s=period, scratch=tmp_path) as recorder:
        for _ in range(3):
            recorder.record(action=np.zeros((1, 2), np.float32))
    convert(folder, tmp_path / "out", "lerobot")
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    assert (info["fps"], type(info["fps"])) == (fps, type(fps))
    assert info["video_path"] is None
    rows = parquet.read_table(tmp_path / "out/data/chunk-000/file-000.parquet")
    np.testing.assert_allclose(rows["timestamp"].to_pylist(), np.arange(3) / fps, rtol=1e-6)
