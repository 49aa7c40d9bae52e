"""Episodes of the real simulator on film: what is drawn is what happened, and filming changes nothing."""

import ctypes.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated import Player

from simyard.runner.video.encoding import verify

pytestmark = [
    pytest.mark.sim,
    pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="this machine has no libEGL"),
]

SMALL = (320, 240)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("video") / "an evaluation, ünïcode"


@pytest.fixture(scope="module")
def filmed(player: Player, folder: Path) -> dict[str, Any]:
    """What the simulator's side found."""
    folder.mkdir(parents=True)
    return dict(player("film_player:film", folder))


def test_recording_reads_and_nothing_else(filmed: dict[str, Any]):
    assert filmed["meddled"] == []
    assert filmed["same figures"], "the second environment was not filmed"


def test_what_is_taken_is_what_happened_from_the_reset_on(filmed: dict[str, Any]):
    assert filmed["episodes"] >= 3
    assert filmed["as lived"]


def test_the_videos_play_and_the_pole_moves(filmed: dict[str, Any], folder: Path):
    import imageio_ffmpeg

    for name, size in (("longest", SMALL), ("other", SMALL), ("second", (640, 480))):
        path = folder / "videos" / f"{name}.mp4"
        report = verify(path, filmed[name]["frames"])
        assert report == filmed[name]
        assert (report["width"], report["height"]) == size
        assert report["duration_s"] == pytest.approx(report["frames"] / 60, abs=0.02)
        decoder = imageio_ffmpeg.read_frames(str(path))
        next(decoder)
        pictures = np.stack([np.frombuffer(data, np.uint8).reshape(*size[::-1], 3) for data in decoder]).astype(int)
        changed = (np.abs(pictures[1:] - pictures[:-1]) > 30).any(axis=3).sum(axis=(1, 2))
        assert np.median(changed) > 10, "pixels that change from one picture to the next"
        assert pictures[:, :10].mean() > pictures[:, -10:].mean() + 30, "the sky is above the ground"
    assert filmed["longest"]["frames"] >= filmed["other"]["frames"]


def test_the_worlds_beside_it_are_not_in_the_picture(filmed: dict[str, Any]):
    assert filmed["alone"] == [True, True]


def test_drawing_leaves_the_simulation_and_the_random_generators_alone(filmed: dict[str, Any]):
    assert filmed["drawing meddled"] == []


def test_what_cannot_be_recorded_or_drawn_says_why_and_leaves_nothing(filmed: dict[str, Any]):
    assert filmed["not finite"] == "the simulation of world 1 was not finite at step 3"
    assert "no room for 32000000 MB of trajectories in " in filmed["no room"]
    assert filmed["left"] == ["longest.mp4", "other.mp4", "second.mp4"]
