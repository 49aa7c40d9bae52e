"""Videos as files: what is written plays, what does not play is refused, and no half file is ever seen."""

import ctypes.util
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import imageio_ffmpeg
import numpy as np
import pytest

from simyard.runner.video.encoding import encode, verify, write
from simyard.runner.video.films import RolloutFilm
from simyard.runner.video.render import why_not
from simyard.runner.video.trajectories import Camera, Shapes, TrajectoryRecorder, VideoError

SIZE = (64, 48)
BLACK = np.zeros((48, 64, 3), np.uint8)
GRAY = BLACK + 128


def frames(count: int) -> Iterator[np.ndarray]:
    """A bright bar that moves over a gradient."""
    for number in range(count):
        picture = np.repeat(np.linspace(40, 200, 64, dtype=np.uint8)[None, :, None], 48, axis=0).repeat(3, axis=2)
        picture[:, number % 60 : number % 60 + 4] = (250, 250, 120)
        yield picture


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Awkward for ffmpeg on purpose: a pattern, an option and a protocol could be read into it."""
    folder = tmp_path / "a folder, ünïcode"
    folder.mkdir()
    return folder / "-pipe:1 50% %03d.mp4"


def contents(path: Path) -> list[str]:
    return sorted(found.name for found in path.parent.iterdir())


@pytest.mark.parametrize(("count", "fps"), [(1, 30.0), (2, 60.0), (50, 1 / 0.02), (30, 1 / 0.012)])
def test_what_is_written_is_decoded_frame_by_frame(path: Path, count: int, fps: float):
    report = write(frames(count), path, fps=fps, size=SIZE)
    assert contents(path) == [path.name]
    assert (report["frames"], report["width"], report["height"]) == (count, *SIZE)
    assert report["duration_s"] == pytest.approx(count / fps, abs=0.02)
    assert all(40 < report[name]["mean"] < 200 and report[name]["std"] > 20 for name in ("first", "middle", "last"))
    assert verify(path, count) == report
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "a browser begins to play before it has the whole file"


def test_the_pictures_come_back_in_order_and_upright(path: Path):
    write(frames(20), path, fps=20, size=SIZE)
    decoder = imageio_ffmpeg.read_frames(str(path))
    next(decoder)
    for original, data in zip(frames(20), decoder, strict=True):
        decoded = np.frombuffer(data, np.uint8).reshape(48, 64, 3)
        assert np.abs(decoded.astype(int) - original).mean() < 8


@pytest.mark.parametrize(
    ("pictures", "says"),
    [
        pytest.param([BLACK] * 5, r"the first frame of .* is black: its mean is 0\.0 of 255", id="black"),
        pytest.param([GRAY] * 5, r"the first frame of .* is uniform: its standard deviation is 0\.\d+ of", id="gray"),
        pytest.param([*frames(4), BLACK], "the last frame of .* is black", id="the last is black"),
        pytest.param([*frames(2), GRAY, *frames(2)], "the middle frame of .* is uniform", id="the middle is gray"),
        pytest.param([*frames(4)], "has 4 frames, not 5", id="too short"),
        pytest.param([*frames(6)], "has 6 frames, not 5", id="too long"),
    ],
)
def test_a_video_that_shows_nothing_or_has_the_wrong_length_is_refused(path: Path, pictures, says: str):
    encode(pictures, path, fps=30, size=SIZE)
    with pytest.raises(VideoError, match=says):
        verify(path, 5)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.99])
def test_a_truncated_video_is_refused(path: Path, kept: float):
    encode(frames(50), path, fps=30, size=SIZE)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(VideoError):
        verify(path, 50)


def test_a_file_that_is_no_video_or_is_not_there_is_refused(path: Path):
    with pytest.raises(VideoError, match="No such file"):
        verify(path, 1)
    path.write_text("<html>")
    with pytest.raises(VideoError, match="Invalid data"):
        verify(path, 1)


@pytest.mark.parametrize("how", [["-c:v", "mpeg4"], ["-c:v", "libx264", "-pix_fmt", "yuv444p"]])
def test_a_video_that_browsers_do_not_play_is_refused(path: Path, how: list[str]):
    source = ["-f", "lavfi", "-i", "testsrc=size=64x48:duration=1:rate=5"]
    program = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([program, "-v", "error", *source, *how, f"file:{path}"], check=True)
    with pytest.raises(VideoError, match=r"is not H\.264 in yuv420p"):
        verify(path, 5)


def test_the_file_appears_when_it_is_whole(path: Path):
    seen = []

    def watched() -> Iterator[np.ndarray]:
        for picture in frames(10):
            seen.append(path.exists())
            yield picture

    write(watched(), path, fps=30, size=SIZE)
    assert not any(seen)
    assert path.exists()


@pytest.mark.parametrize("error", [VideoError("the renderer failed"), KeyboardInterrupt()])
def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(path: Path, error: BaseException):
    path.write_bytes(b"the old one")

    def failing() -> Iterator[np.ndarray]:
        yield from frames(10)
        raise error

    with pytest.raises(type(error)):
        write(failing(), path, fps=30, size=SIZE)
    assert contents(path) == [path.name]
    assert path.read_bytes() == b"the old one"


def test_a_task_may_film_though_the_request_does_not_ask(path: Path):
    if why_not():
        pytest.skip("this machine cannot draw")
    film = RolloutFilm(path.parent, 1 / 30, wanted=False)
    film.add(GRAY)
    assert (film.wanted, film.develop(path)) == (False, None)
    film.force()
    film.force()
    for picture in frames(5):
        film.add(picture)
    report = film.develop(path)
    assert report is not None
    assert (film.wanted, report["frames"]) == (True, 5)


@pytest.mark.parametrize("pictures", [[], [BLACK] * 3])
def test_what_cannot_be_watched_never_appears(path: Path, pictures):
    with pytest.raises(VideoError):
        write(pictures, path, fps=30, size=SIZE)
    assert contents(path) == []


def test_a_folder_that_is_not_there_is_named(path: Path):
    with pytest.raises(VideoError, match="No such file or directory"):
        write(frames(3), path.parent / "missing" / "a.mp4", fps=30, size=SIZE)


def test_a_missing_ffmpeg_is_named(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    with pytest.raises(VideoError, match=r"ffmpeg does not start: .*No such file.*'/nowhere/ffmpeg'") as caught:
        write(frames(3), path, fps=30, size=SIZE)
    assert caught.value.reason == str(caught.value)
    assert contents(path) == []


def test_ffmpegs_own_words_are_the_reason(path: Path, monkeypatch: pytest.MonkeyPatch):
    program = path.parent / "ffmpeg"
    program.write_text("#!/bin/sh\nhead -c 1000 >/dev/null\necho 'No space left on device' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    with pytest.raises(VideoError, match="ffmpeg: No space left on device"):
        write(frames(500), path, fps=30, size=SIZE)
    assert contents(path) == ["ffmpeg"]


@pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="this machine has no libEGL")
@pytest.mark.parametrize(
    ("env", "says"),
    [
        pytest.param({}, "None", id="nothing"),
        pytest.param({"__EGL_VENDOR_LIBRARY_FILENAMES": "/nowhere"}, r"EGL has no .*\(no devices\).*apt", id="vendor"),
        pytest.param({"LIBGL_DRIVERS_PATH": "/nowhere"}, "EGL has no device .*device 0: error 0x3001", id="driver"),
        pytest.param({"IMAGEIO_FFMPEG_EXE": "/nowhere/ffmpeg"}, "ffmpeg does not start: .*'/nowhere/", id="ffmpeg"),
    ],
)
def test_why_not_tries_what_it_speaks_of(env: dict[str, str], says: str):
    code = "from simyard.runner.video.render import why_not; print(why_not())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, check=True
    )
    assert re.search(says, done.stdout), done.stdout


@pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="this machine has no libEGL")
def test_without_egl_nothing_is_drawn_and_the_reason_is_told(path: Path):
    code = """if True:
        import sys
        from pathlib import Path
        from simyard.runner.video.trajectories import VideoError
        from simyard.runner.video.render import Renderer
        try:
            with Renderer(model=None, now=None) as renderer:
                renderer.render(None, Path(sys.argv[1]), fps=60)
        except VideoError as error:
            print(error.reason)
    """
    env = {**os.environ, "__EGL_VENDOR_LIBRARY_FILENAMES": "/nowhere"}
    command = [sys.executable, "-c", code, path]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("EGL has no device that gives OpenGL 3.3 (no devices); on Debian and Ubuntu: apt")
    assert contents(path) == []


@pytest.mark.long  # the same obstacle as that of films, above
@pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="this machine has no libEGL")
def test_without_egl_cameras_say_why():
    code = """if True:
        from simyard.core.specs import CameraSpec
        from simyard.runner.rollout.run import no_pictures
        from simyard.runner.video.cameras import Cameras
        from simyard.runner.video.trajectories import VideoError
        spec = CameraSpec(name="a", width=16, height=16, fps=1.0, fov=40.0, position=(1, 0, 0), look_at=(0, 0, 0))
        try:
            Cameras([spec], None, None, bodies={}, num_envs=1, step_s=1.0)
        except VideoError as error:
            print(no_pictures(error.reason))
    """
    env = {**os.environ, "__EGL_VENDOR_LIBRARY_FILENAMES": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert "cameras that the request asks for cannot take pictures: EGL has no device" in done.stdout
    assert "Leave outputs.cameras out" in done.stdout


def test_physics_of_kit_is_refused_with_a_way_out(tmp_path: Path):
    physics = SimpleNamespace(video_capture_backend=lambda: "kit")
    simulation = SimpleNamespace(physics_manager=physics, cfg=SimpleNamespace(physics=type("PhysxCfg", (), {})()))
    env = SimpleNamespace(unwrapped=SimpleNamespace(sim=simulation))
    with pytest.raises(VideoError, match="use physics 'newton', or 'physx' without Kit"):
        TrajectoryRecorder(env, tmp_path, 10)


# Where the camera stands. A robot of one body, a cube of 1 m whose middle is at its origin, and a long rail that
# belongs to the world.

CUBE = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
RAIL = CUBE * (0.05, 20.0, 0.05)
SHAPES = Shapes(bodies=np.array([0, -1]), corners=np.stack([CUBE, RAIL]))
PICTURE = (640, 480)


def path_of(places: np.ndarray) -> np.ndarray:
    """Poses of the cube that goes through places without turning."""
    return np.concatenate([places, np.tile([0.0, 0, 0, 1], (len(places), 1))], axis=1)[:, None]


def seen(camera: Camera, poses: np.ndarray) -> np.ndarray:
    """Where the cube's corners are in each picture, from -1 to 1, `(steps, 8, 2)`."""
    right = np.cross([0, 0, 1], camera.direction) / math.hypot(*camera.direction[:2])
    up = np.cross(camera.direction, right)
    where = []
    for step, pose in enumerate(poses):
        sight = SHAPES.at(pose)[0] - camera.eye(step)
        depth = sight @ -camera.direction
        assert (depth > 0).all()
        half = depth * math.tan(math.radians(20))
        where.append(np.stack([sight @ right / (half * PICTURE[0] / PICTURE[1]), sight @ up / half], axis=-1))
    return np.stack(where)


def test_a_robot_that_stays_is_seen_by_a_camera_that_stands_still():
    time = np.linspace(0, 6, 100)
    poses = path_of(np.stack([0 * time, 0.2 * np.sin(time), 2 + 0 * time], axis=1))
    camera = Camera.around(SHAPES, poses, 30, PICTURE)
    assert (camera.targets == camera.targets[0]).all()
    where = seen(camera, poses)
    assert 0.6 < np.abs(where).max() < 0.81, "it fills the picture and is not cut off"
    assert abs(camera.direction[0]) > abs(camera.direction[1]), "it moves along y, so the camera looks along x"
    assert 0.2 < camera.direction[2] < 0.4, "from a little above"
    assert camera.sun @ camera.direction > 0.3, "the side that is seen is lit"


def test_a_robot_that_walks_away_is_followed():
    time = np.linspace(0, 10, 300)
    poses = path_of(np.stack([3 * time, 0.3 * np.sin(time), 1 + 0.1 * np.sin(12 * time)], axis=1))
    camera = Camera.around(SHAPES, poses, 30, PICTURE)
    where = seen(camera, poses)
    assert 0.4 < np.abs(where).max() < 0.81
    assert np.abs(where.mean(axis=1)).max() < 0.2, "it stays in the middle"
    steps = np.diff(camera.targets, axis=0)
    assert np.abs(np.diff(steps, axis=0)).max() < 0.01, "the camera does not shake with the gait"
    assert camera.direction[0] > 0, "it is seen from the front"


@pytest.mark.parametrize("steps", [1, 2])
def test_a_short_episode_has_a_camera_too(steps: int):
    poses = path_of(np.zeros((steps, 3)))
    camera = Camera.around(SHAPES, poses, 60, PICTURE)
    assert camera.targets.shape == (steps, 3)
    assert np.abs(seen(camera, poses)).max() < 0.81
