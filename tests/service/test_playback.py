"""An episode as a browser plays it: where bodies are, how much of it there is, and what is refused."""

import base64
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any, cast

import left_jobs
import numpy as np
import pytest
import recorded
from helpers import Server, make_bucket
from serving import site
from test_live_pages import CountingStore

from simyard.core.errors import RequestError
from simyard.service.job_look import JobLooks
from simyard.service.playback_page import episode_of, playback_page, rollout_of
from simyard.store.keys import JobKeys
from simyard.tasks.pages.playback import MOST_FRAMES, read_episode


def unpacked(text: str) -> Any:
    return np.frombuffer(base64.b64decode(text), "<f4")


def played(told: dict[str, Any]) -> Any:
    """Return the poses of an episode, `(frames, bodies, 7)`."""
    return unpacked(told["poses"]).reshape(told["frames"], -1, 7)


def test_bodies_follow_their_joints_and_poses(tmp_path: Path) -> None:
    recorded.rollout(tmp_path / "rollout.zarr", tmp_path)
    told = read_episode(tmp_path / "rollout.zarr", episode=4)
    assert (told["episodes"], told["env"], told["steps"], told["frames"]) == (4, 1, 250, 250)
    poses, step = played(told), 250 + 100
    slider, hinge = 0.8 * np.sin(step / 40) + 1, np.sin(step / 25)
    np.testing.assert_allclose(poses[100, 1], [0, slider, 1, 0, 0, 0, 1], atol=1e-5)
    np.testing.assert_allclose(poses[100, 2], [0, slider, 1, np.sin(hinge / 2), 0, 0, np.cos(hinge / 2)], atol=1e-5)
    np.testing.assert_allclose(poses[100, 3, :2], [0.6 * np.cos(step / 60), 0.6 * np.sin(step / 60)], atol=1e-5)
    assert [curve["name"] for curve in told["curves"]] == ["slider", "hinge", "action", "0", "1", "reward"]
    assert unpacked(told["curves"][1]["values"])[100] == pytest.approx(hinge, abs=1e-5)
    assert (told["success"], told["ended"], told["missing"]) == (None, "terminated", ["box"])

    recorded.rollout(tmp_path / "bare.zarr", tmp_path, geometry=None)
    bare = read_episode(tmp_path / "bare.zarr", episode=1)
    assert (bare["bodies"], bare["shapes"], bare["has_geometry"]) == (["ball"], [], False)


@pytest.mark.long  # fifty thousand steps
def test_a_long_episode_has_a_bounded_number_of_frames(tmp_path: Path) -> None:
    recorded.rollout(tmp_path / "rollout.zarr", tmp_path, steps=50_000, episode=50_000)
    told = read_episode(tmp_path / "rollout.zarr", episode=1)
    assert (told["steps"], told["stride"], told["frames"]) == (50_000, 25, MOST_FRAMES)
    hinge = unpacked(told["curves"][1]["values"])
    np.testing.assert_allclose(hinge, np.sin(np.arange(0, 50_000, 25) / 25), atol=1e-4)
    assert len(json.dumps(told)) < 1_000_000


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bodies": [{"name": "a", "parent": 1, "frame": [0] * 7, "turned": [0] * 7}]}, "comes before its parent"),
        ({"bodies": [{"name": "a", "parent": -1, "pose": ["no_such", 0]}]}, "which was not recorded"),
        ({"shapes": [{"body": 99, "type": "box", "size": [1, 1, 1], "pose": [0] * 7}]}, "a shape of its geometry"),
        ({"shapes": [{"body": 0, "type": "<b>", "size": [1, 1, 1], "pose": [0] * 7}]}, "a shape of its geometry"),
        ({"bodies": [{"name": str(n), "parent": -1} for n in range(300)]}, "300 bodies"),
        ({"bodies": 7}, "cannot be played"),
    ],
)
@pytest.mark.long  # a rollout each
def test_a_geometry_that_is_none_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    recorded.rollout(tmp_path / "rollout.zarr", tmp_path, steps=20, episode=10, geometry=recorded.GEOMETRY | change)
    with pytest.raises(RequestError, match=says) as refused:
        read_episode(tmp_path / "rollout.zarr", episode=1)
    assert refused.value.failure.code == "no_playback"


def test_what_is_no_rollout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.zarr").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "zip.zarr", "w") as archive:
        archive.writestr("zarr.json", '{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    for name in ("text.zarr", "zip.zarr"):
        with pytest.raises(RequestError, match="cannot be played"):
            read_episode(tmp_path / name, episode=1)


@pytest.mark.long  # a child process reads each episode
def test_an_episode_costs_at_most_five_reads_and_is_read_once(tmp_path: Path) -> None:
    store = cast(CountingStore, CountingStore.open(str(tmp_path / "store")))
    recorded.rollout(tmp_path / "rollout.zarr", tmp_path)
    files = {"rollout.zarr": (tmp_path / "rollout.zarr").read_bytes()}
    job_id = left_jobs.leave(store, left_jobs.spec("rollout"), files, done=500, total=500)
    looks = JobLooks()

    def view(episode: int) -> int:
        before, look = store.reads, looks.of(store, job_id)
        rollout_of(look)
        assert "data-episodes" in playback_page(look.spec, "t", "n")
        assert json.loads(episode_of(looks.of(store, job_id), episode))["episode"] == episode
        return store.reads - before

    assert view(2) <= 5
    assert view(2) <= 2, "the listings alone"
    with pytest.raises(RequestError, match="no episode 5"):
        view(5)


@pytest.mark.long  # an S3 server, a service of its own, and a child process that reads
def test_a_rollout_in_a_bucket_is_played_as_one_in_a_folder(
    deployments: Server, s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A rollout larger than what is fetched at once: a camera's pictures, which are noise, do not compress.
    recorded.rollout(tmp_path / "rollout.zarr", tmp_path)
    with zipfile.ZipFile(tmp_path / "rollout.zarr", "a", zipfile.ZIP_STORED) as archive:
        archive.writestr("noise", np.random.default_rng(1).bytes(12_000_000))
    expected = json.loads(json.dumps(read_episode(tmp_path / "rollout.zarr", episode=2)))

    bucket = make_bucket(s3_server, "played")
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    service = site(tmp_path, deployments, **bucket, SIMYARD_STORE="s3://played/a store")
    files = {"rollout.zarr": (tmp_path / "rollout.zarr").read_bytes()}
    success = {"rate": None, "interval_95": None}
    summary = {"episodes": 4, "recorded_steps": 1000, "success": success, "return": None, "keys": {}}
    job_id = left_jobs.leave(service.store, left_jobs.spec("rollout"), files, summary=summary, done=500, total=500)
    kept = set(Path(tempfile.gettempdir()).glob("simyard-playback-*"))
    service.start()
    try:
        key, data = service.key(), f"/jobs/{job_id}/playback"
        page = service.call("GET", service.call("GET", f"/v0/jobs/{job_id}", key=key).json["page_url"])
        assert f"{job_id}/playback?" in page.body.decode()
        assert b"data-episodes" in service.call("GET", data, key=key).body
        played_one = service.call("GET", f"{data}/2", key=key)
        assert (played_one.status, played_one.json) == (200, expected)
        assert service.call("GET", f"{data}/2").status == 401
        beyond = service.call("GET", f"{data}/5", key=key)
        assert (beyond.status, beyond.json["code"]) == (404, "no_such_episode")
        assert set(Path(tempfile.gettempdir()).glob("simyard-playback-*")) <= kept, "what was fetched is gone"

        # One whose bytes in the bucket are cut off is refused; one that is gone has nothing to play.
        name = JobKeys(job_id).artifact("rollout.zarr")
        service.store.put_bytes(name, files["rollout.zarr"][:-1000])
        cut = service.call("GET", f"{data}/1", key=key)
        assert (cut.status, cut.json["code"]) == (400, "no_playback"), cut.body
        assert "simyard-playback-" not in cut.json["detail"], "no path of the service's machine"
        service.store.delete(name)
        gone = service.call("GET", f"{data}/1", key=key)
        assert (gone.status, gone.json["code"]) == (404, "no_rollout"), gone.body
    finally:
        service.stop()
