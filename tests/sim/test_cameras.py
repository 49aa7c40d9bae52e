"""Cameras of a rollout on the real renderer: what they show, when, and of which world."""

import ctypes.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rolled import Rolled
from simulated import Player
from test_standard_rollout import BENT, Case
from test_task_rollouts import CAMERA, HALF_A_SECOND, prepare

from simyard.core.errors import RequestError
from simyard.core.files import AttemptPaths, read_json
from simyard.core.specs import CameraSpec, JobSpec

pytestmark = [
    pytest.mark.sim,
    pytest.mark.long,  # films are drawn the same way, in test_video.py
    pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="this machine has no libEGL"),
]

CUBE = (0.4, 0.0, 0.025)


def camera(name: str, position: Any, look_at: Any, **changes: Any) -> CameraSpec:
    spec = CameraSpec(name=name, width=64, height=48, fps=50.0, fov=40.0, position=position, look_at=look_at)
    return replace(spec, **changes)


CAMERAS = (
    camera("front", (1.0, -0.6, 0.5), CUBE),
    camera("above", (0.3, 0.1, 0.8), (0.3, 0.1, 0.0), width=96, height=96, fps=4.5),
    camera("wrist", (0.0, 0.0, 0.0), (0.0, 0.0, 1.0), body="tcp", fov=100.0, fps=25.0),
)


@dataclass(frozen=True, kw_only=True)
class Seen(Case):
    """A job with cameras."""

    cameras: tuple[CameraSpec, ...] = CAMERAS

    @property
    def job(self) -> JobSpec:
        job = super().job
        assert job.rollout is not None
        return replace(job, rollout=replace(job.rollout, cameras=self.cameras))


MOVING = Seen(scene_id="table_top", steps=12, control={"task_mode": "random", "initial_positions": BENT})


def program(folder: Path) -> dict[str, Any]:
    return dict(_program(folder))


def _program(folder: Path) -> Iterator[tuple[str, Any]]:
    from simyard.runner.newton import standard
    from simyard.runner.session import run_alone

    yield "seen", run_alone(MOVING.prepare(folder / "seen"))
    on_the_moon = replace(MOVING, cameras=(camera("a", CUBE, (0, 0, 0), body="tpc"),))
    try:
        standard.check(on_the_moon.job, on_the_moon.files)
    except RequestError as error:
        yield "refused", (error.failure.code, str(error))
    yield "held", held()


def held() -> list[list[int]]:
    """Say for each step and world at which step its picture was taken, where a ball rises and world 1 begins anew."""
    import newton
    import warp

    from simyard.runner.video.cameras import Cameras

    one, both = newton.ModelBuilder(), newton.ModelBuilder()
    ball = one.add_body(xform=warp.transform((0.0, 0.0, 0.0), warp.quat_identity()), label="ball")
    one.add_shape_sphere(ball, radius=0.3)
    both.replicate(one, 2)
    model = both.finalize(device="cpu")
    poses = np.zeros((2, 1, 7), np.float32)
    poses[..., 6] = 1
    spec = camera("side", (0.0, -6.0, 1.0), (0.0, 0.0, 1.0), fps=1 / 3, width=16, height=64)
    taken: list[list[int]] = []
    looks: dict[bytes, int] = {}
    with Cameras([spec], model, model.state(), bodies={"ball": 0}, num_envs=2, step_s=1.0) as cameras:
        for step in range(8):
            poses[..., 2] = step / 4
            pictures = cameras.look(lambda: poses)["images/side"]
            taken.append([looks.setdefault(picture.tobytes(), step) for picture in pictures])
            cameras.begin(np.array([False, step == 3]))
    return taken


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cameras")


@pytest.fixture(scope="module")
def said(player: Player, folder: Path) -> dict[str, Any]:
    """What the simulator's side found."""
    return dict(player("test_cameras:program", folder))


@pytest.fixture(scope="module")
def seen(folder: Path, said: dict[str, Any]) -> Rolled:
    paths = AttemptPaths(folder / "seen")
    assert said["seen"] == 0, read_json(paths.outcome)
    return Rolled(paths)


def is_red(pixels: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(pixels.astype(int), -1, 0)
    return (red > 2 * green) & (red > 2 * blue) & (red > 60)


def test_a_camera_shows_what_it_looks_at(seen):
    """The cube is the one red thing."""
    front = seen["images/front"]
    assert (front.shape, front.dtype) == ((2, 12, 48, 64, 3), np.uint8)
    assert is_red(front[:, 0, 24, 32]).all(), "in the middle, which is looked at"
    assert 4 < is_red(front[0, 0]).sum() < 200
    assert (front.std(axis=(2, 3, 4)) > 10).all()


def test_a_camera_that_looks_down_has_x_on_top(seen):
    """The cube is 0.1 m towards x of the middle, and 0.1 m to the right of it, where y is less."""
    above = seen["images/above"][1, -1]  # the arm has moved away
    metres = 2 * 0.775 * np.tan(np.radians(20)) / 96  # of a pixel on the cube's top
    row, column = np.argwhere(is_red(above)).mean(axis=0)
    assert (47.5 - row) * metres == pytest.approx(0.1, abs=0.012)
    assert (column - 47.5) * metres == pytest.approx(0.1, abs=0.012)


def test_pictures_are_of_each_world_before_each_step(seen):
    front = seen["images/front"].astype(int)
    assert np.array_equal(front[0, 0], front[1, 0]), "both begin alike"
    apart = (np.abs(front[0, -1] - front[1, -1]).max(axis=-1) > 30).sum()
    assert apart > 20, "and are driven apart"
    assert (np.abs(np.diff(front, axis=1)).max(axis=-1) > 30).any(axis=(0, 2, 3))[2:].all()


def test_a_slower_camera_holds_its_picture(seen):
    wrist = seen["images/wrist"]
    assert np.array_equal(wrist[:, 0::2], wrist[:, 1::2])
    assert (wrist[:, 2::2] != wrist[:, :-2:2]).any(axis=(2, 3, 4)).all(), "it moves with the hand"


def test_a_picture_is_never_held_over_the_end_of_an_episode(said):
    assert said["held"] == [[0, 0], [0, 0], [0, 0], [3, 3], [3, 4], [3, 4], [6, 4], [6, 7]]


def test_the_recording_says_how_pictures_were_taken(seen):
    attributes = dict(seen.root["data/images/wrist"].attrs)
    assert attributes["names"] == ["red", "green", "blue"]
    assert "every 2 steps and held between, 25 a second" in attributes["about"]
    assert seen.root.attrs["cameras"][2]["body"] == "tcp"
    assert seen.root["data/images/wrist"].chunks[0] < 12, "chunked by time"


@pytest.mark.long  # a registered task's start; the standard profile shows the rest
def test_a_registered_task_is_seen_in_every_environment(player, tmp_path):
    job = Rolled(prepare(
        tmp_path / "seen", "Isaac-Cartpole-Direct", overrides=HALF_A_SECOND, control={"task_mode": "random"}, steps=40,
        num_envs=2, cameras=(CAMERA,),
    ))  # fmt: skip
    player("rollout_player:play_all", tmp_path, ["seen"])
    assert job.failure is None
    assert len(job.episodes) >= 4
    for episode in job.episodes:
        pictures = episode["images/front"]
        assert pictures.std(axis=(1, 2, 3)).min() > 10
        changes = [step for step in range(1, len(pictures)) if (pictures[step] != pictures[step - 1]).any()]
        assert changes == [*range(4, len(pictures), 4)], "each episode begins with a picture of its own"
    first = [episode["images/front"][0] for episode in job.episodes]
    assert len({picture.tobytes() for picture in first}) == len(first)


def test_an_unknown_body_is_refused_with_the_nearest(said):
    code, text = said["refused"]
    assert code == "unknown_body"
    assert "outputs.cameras[0].body: 'tpc'. Did you mean 'tcp'?" in text
