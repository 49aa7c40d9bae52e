"""Videos of recorded episodes: drawn after the evaluation by Newton's own viewer, without a display."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import importlib
import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NotRequired, TypedDict

from simyard.core.files import replacing
from simyard.runner.video.trajectories import FIELD_OF_VIEW, Camera, Shapes, Trajectory, VideoError, newton_model, part

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_SKY, _HORIZON, _GROUND = (0.36, 0.55, 0.77), (0.78, 0.84, 0.90), (0.22, 0.24, 0.27)
_SHADOW_MAP, _SHADOW_BLUR = 1024, 1.0
"""Sides of the shadow map, and how far its edges are softened; in texels, of which one is hardly larger than a pixel.
The viewer's own 4096 take longer to clear, without a GPU, than a small robot to draw."""
_BLACK, _UNIFORM = 8.0, 3.0
"""A picture's mean and standard deviation, of 255, below which nothing can be seen in it."""


class Look(TypedDict):
    """Look of a picture, of 255."""

    mean: float
    std: float
    """Standard deviation."""


class VideoFacts(TypedDict):
    """Facts of a video, as it was decoded."""

    frames: int
    width: int
    height: int
    duration_s: float
    first: Look
    middle: NotRequired[Look]
    """Missing, as `last` is, of a video that somebody else made."""
    last: NotRequired[Look]


class Renderer:
    """Renderer of the trajectories of one Newton model's worlds: open it once, and close it before the simulation.

    It draws from a copy of the model on the CPU, so that it needs no more than OpenGL in software, wherever the
    simulation runs.
    """

    def __init__(self, model: Any, now: Any, size: tuple[int, int] = (640, 480)) -> None:
        """Open an OpenGL context and bring the model's shapes into it.

        Args:
            model: The Newton model; its worlds have the same joint coordinates each.
            now: Its state: where what no joint moves is.
            size: Width and height of the pictures; even numbers.

        Raises:
            VideoError: If this machine cannot draw or encode, or the model cannot be drawn.
        """
        if reason := why_not():
            raise VideoError(reason)
        import numpy as np
        import warp

        self._size = size
        with _viewer_errors():
            self._model = _drawable(model)
            self._state = self._model.state()
            warp.copy(self._state.body_q, now.body_q)
            self._joint_q = warp.clone(now.joint_q, device="cpu")
            self._rows, self._picture = np.empty((2, size[1], size[0], 3), np.uint8)
            self._viewer = _open_viewer(self._model, size)

    @classmethod
    def of_environment(cls, env: Any, size: tuple[int, int] = (640, 480)) -> Renderer:
        """Open one for a gymnasium environment of Isaac Lab, at any depth of wrappers.

        Raises:
            VideoError: If this machine cannot draw or encode, or the environment cannot be drawn.
        """
        return cls(newton_model(env), env.unwrapped.sim.physics_manager.get_state_0(), size)

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the OpenGL context."""
        with _viewer_errors():
            self._viewer.close()

    def render(
        self, trajectory: Trajectory, path: Path, *, fps: float, alive: Callable[[], None] = lambda: None
    ) -> VideoFacts:
        """Draw a trajectory into a video, one picture a state; the file appears when it is whole and was decoded.

        Args:
            trajectory: Of a world of this model.
            path: The `.mp4` file.
            fps: Pictures a second; one over the time between two states for real time.
            alive: Called for every picture.

        Returns:
            Facts of the video as it was decoded.

        Raises:
            VideoError: If drawing or encoding fails; nothing is left on disk then.
        """
        return write(self.frames(trajectory, fps, alive), path, fps=fps, size=self._size)

    def frames(self, trajectory: Trajectory, fps: float, alive: Callable[[], None] = lambda: None) -> Iterator[Array]:
        """Yield the pictures of a trajectory, `(height, width, 3)` bytes; each is overwritten by the next."""
        from pyglet.math import Vec3

        model, viewer, world = self._model, self._viewer, trajectory.world
        with _viewer_errors():
            poses = self._poses(trajectory)
            camera = Camera.around(Shapes.of(model, world), poses, fps, self._size)
            self._show(world, camera)
            bodies = self._state.body_q[part(model.body_world_start, world)]
            for step, pose in enumerate(poses):
                alive()
                bodies.assign(pose)
                viewer.camera.pos = Vec3(*map(float, camera.eye(step)))
                viewer.camera.look_at(camera.targets[step])
                viewer.begin_frame(float(step))
                viewer.log_state(self._state)
                viewer.end_frame()
                yield self._read()

    def _poses(self, trajectory: Trajectory) -> Array:
        """Return position and rotation of each of the world's bodies at each step, `(steps, bodies, 7)`."""
        import newton
        import numpy as np
        import warp

        model, world = self._model, trajectory.world
        finite = np.isfinite(trajectory.coordinates).all(axis=1)
        if not finite.all():
            raise VideoError(f"the simulation of world {world} was not finite at step {int(finite.argmin())}")
        coordinates = self._joint_q[part(model.joint_coord_world_start, world)]
        bodies = self._state.body_q[part(model.body_world_start, world)]
        articulations = np.flatnonzero(model.articulation_world.numpy() == world).astype(np.int32)
        indices: Any = warp.array(articulations, dtype=int, device="cpu")
        poses = np.empty((len(trajectory.coordinates), len(bodies), 7), np.float32)
        for pose, row in zip(poses, trajectory.coordinates, strict=True):
            coordinates.assign(row)
            newton.eval_fk(model, self._joint_q, model.joint_qd, self._state, indices=indices)
            pose[:] = bodies.numpy()
        return poses

    def _show(self, world: int, camera: Camera) -> None:
        """Show one world alone, where it is, and suit the renderer to the distance."""
        self._viewer.set_visible_worlds([world])
        self._viewer.set_world_offsets((0.0, 0.0, 0.0))
        self._viewer.camera.near = camera.distance / 100
        self._viewer.camera.far = max(1000.0, camera.distance * 20)
        self._viewer.renderer.shadow_extents = 2 * camera.distance + 1  # around the camera
        self._viewer.renderer._sun_direction = camera.sun

    def _read(self) -> Array:
        """Return the picture, its first row on top: the viewer's own way takes a kernel for that, and is slower."""
        gl = self._viewer.renderer.gl
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._viewer.renderer._frame_fbo)
        gl.glPixelStorei(gl.GL_PACK_ALIGNMENT, 1)
        gl.glReadPixels(0, 0, *self._size, gl.GL_RGB, gl.GL_UNSIGNED_BYTE, self._rows.ctypes.data)
        self._picture[:] = self._rows[::-1]
        return self._picture


def _drawable(model: Any) -> Any:
    """Return a copy of the model on the CPU, with flags and colors for a viewer.

    Where an asset has no shapes to look at, those that collide are shown, and so is a ground that only collides.
    """
    import numpy as np
    import warp
    from newton import GeoType, ShapeFlags

    drawable = copy.copy(model)
    drawable.device = warp.get_device("cpu")
    arrays: dict[str, Any] = {name: value for name, value in vars(model).items() if isinstance(value, warp.array)}
    vars(drawable).update({name: array.to("cpu") for name, array in arrays.items()})
    flags, bodies, worlds = (getattr(drawable, f"shape_{name}").numpy() for name in ("flags", "body", "world"))
    planes = drawable.shape_type.numpy() == GeoType.PLANE
    visible, collides = (flags & ShapeFlags.VISIBLE) != 0, (flags & ShapeFlags.COLLIDE_SHAPES) != 0
    groups = np.where(bodies < 0, -2 - worlds, bodies)
    wide = drawable.shape_collision_aabb_upper.numpy() - drawable.shape_collision_aabb_lower.numpy() > 10
    floor = visible & (bodies < 0) & (planes | wide[:, :2].all(axis=1))
    shown = visible | (collides & ~planes & ~np.isin(groups, groups[visible])) | (planes & ~floor.any())
    drawable.shape_flags = warp.array(flags | (shown * ShapeFlags.VISIBLE), dtype=int, device="cpu")
    if drawable.shape_color is not None:
        colors = np.where(planes[:, None], np.array(_GROUND, np.float32), drawable.shape_color.numpy())
        drawable.shape_color = warp.array(colors, dtype=warp.vec3, device="cpu")
    return drawable


def _open_viewer(model: Any, size: tuple[int, int]) -> Any:
    import pyglet.app
    import warp
    from newton.viewer import ViewerGL

    with warp.ScopedDevice("cpu"):
        with contextlib.redirect_stdout(io.StringIO()):  # it says that its window has no anti-aliasing; see below
            viewer: Any = ViewerGL(*size, headless=True)
        pyglet.app.event_loop.has_exit = False  # closing the one before has set it, and then a viewer draws nothing
        if not viewer.renderer.msaa_samples:
            viewer.renderer.msaa_samples = 4
            viewer.renderer.resize(*size)
        viewer.renderer._shadow_width = viewer.renderer._shadow_height = _SHADOW_MAP
        viewer.renderer._setup_shadow_buffer()
        viewer.renderer.shadow_radius = _SHADOW_BLUR
        viewer.renderer.sky_upper, viewer.renderer.sky_lower = _SKY, _HORIZON
        viewer.renderer.spotlight_enabled = False  # it leaves in the dark what is far from the camera
        viewer.set_model(model)
        viewer.camera.fov = FIELD_OF_VIEW
    return viewer


@contextlib.contextmanager
def _viewer_errors() -> Iterator[None]:
    """Give whatever OpenGL, pyglet or the viewer raise its true cause: no picture is worth an evaluation."""
    try:
        yield
    except VideoError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        raise VideoError(f"Newton's viewer: {type(cause).__name__}: {cause}") from error


def why_not() -> str | None:
    """Return the obstacle to videos here, or None: makes an OpenGL context and encodes an image, in 0.2 s."""
    try:
        import pyglet

        if "pyglet.window" not in sys.modules:  # which decides for the life of the process
            pyglet.options["headless_device"] = _find_device()
            pyglet.options["headless"] = True
        with _ffmpeg("-f", "lavfi", "-i", "color=size=64x64:duration=0.04", "-c:v", "libx264", "-f", "null", "-"):
            pass
    except ImportError as error:
        return f"{error}: it comes with isaaclab[video]"
    except VideoError as error:
        return error.reason
    return None


def _find_device() -> int:
    """Return the first EGL device that gives an OpenGL 3.3 context without a display.

    A display that was initialized is not terminated: it is the same one that the viewer gets.
    """
    advice = "on Debian and Ubuntu: apt install libegl1 libgl1 libgl1-mesa-dri"
    try:
        from pyglet.libs.egl import egl, eglext
    except (ImportError, AttributeError) as error:
        raise VideoError(f"EGL: {error}; {advice}") from error
    count = egl.EGLint()
    eglext.eglQueryDevicesEXT(0, None, ctypes.byref(count))
    devices = (eglext.EGLDeviceEXT * count.value)()
    eglext.eglQueryDevicesEXT(count.value, devices, ctypes.byref(count))
    errors = []
    for number, device in enumerate(devices):
        display = eglext.eglGetPlatformDisplayEXT(eglext.EGL_PLATFORM_DEVICE_EXT, device, None)
        if _gives_opengl(egl, display):
            return number
        errors.append(f"device {number}: error {egl.eglGetError():#x}")
    raise VideoError(f"EGL has no device that gives OpenGL 3.3 ({', '.join(errors) or 'no devices'}); {advice}")


def _gives_opengl(egl: Any, display: Any) -> bool:
    if not display or not egl.eglInitialize(display, None, None) or not egl.eglBindAPI(egl.EGL_OPENGL_API):
        return False
    wanted = (egl.EGLint * 5)(
        egl.EGL_SURFACE_TYPE, egl.EGL_PBUFFER_BIT, egl.EGL_RENDERABLE_TYPE, egl.EGL_OPENGL_BIT, egl.EGL_NONE
    )
    config, found = (egl.EGLConfig * 1)(), egl.EGLint()
    if not egl.eglChooseConfig(display, wanted, config, 1, ctypes.byref(found)) or not found.value:
        return False
    version = (egl.EGLint * 5)(egl.EGL_CONTEXT_MAJOR_VERSION, 3, egl.EGL_CONTEXT_MINOR_VERSION, 3, egl.EGL_NONE)
    context = egl.eglCreateContext(display, config[0], None, version)
    return bool(context) and bool(egl.eglDestroyContext(display, context))


def write(frames: Iterable[Any], path: Path, *, fps: float, size: tuple[int, int]) -> VideoFacts:
    """Encode pictures as they come; the file appears when it is whole and every picture in it was decoded again.

    Raises:
        VideoError: If it cannot be encoded, or cannot be watched; nothing is left on disk then.
    """
    try:
        with replacing(path) as beside:
            count = encode(frames, beside, fps=fps, size=size)
            return verify(beside, count)
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror}") from error


def encode(frames: Iterable[Any], path: Path, *, fps: float, size: tuple[int, int]) -> int:
    """Write H.264 in MP4 that every browser plays, straight into a file.

    Args:
        frames: Each a buffer of `height * width * 3` bytes, RGB.
        path: The file.
        fps: Pictures a second.
        size: Width and height; even numbers.

    Returns:
        How many pictures there were.

    Raises:
        VideoError: With ffmpeg's own words.
    """
    rate = str(Fraction(fps).limit_denominator(1001))
    count = 0
    arguments = [
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}", "-r", rate, "-i", "-",
        "-c:v", "libx264", "-preset", "fast", "-crf", "20", "-pix_fmt", "yuv420p",
        "-movflags", "+faststart", "-f", "mp4", "-y", f"file:{path}",
    ]  # fmt: skip
    with _ffmpeg(*arguments) as run, contextlib.suppress(BrokenPipeError), run.stdin as pipe:
        for frame in frames:
            pipe.write(frame)
            count += 1
    return count


def verify(path: Path, frames: int | None = None) -> VideoFacts:
    """Decode every picture of a video and look at the first, the middle and the last.

    Args:
        path: The video.
        frames: How many pictures it must have; None for one that somebody else made, of which the first is looked at.

    Raises:
        VideoError: If it does not decode, is not H.264 for browsers, has not as many frames, or shows nothing.
    """
    # Decode all of it; a damaged file makes ffmpeg fail.
    count, shape = 0, (0, 0)
    looks: dict[str, Look] = {}
    at = {"first": 0} if frames is None else {"first": 0, "middle": frames // 2, "last": frames - 1}
    arguments = [
        "-xerror", "-i", f"file:{path}", "-map", "0:v:0", "-fps_mode", "passthrough",
        "-c:v", "ppm", "-f", "image2pipe", "-",
    ]  # fmt: skip
    with _ffmpeg(*arguments, level="info") as run:
        for picture in _pictures(run.stdout):
            if count in at.values():
                look: Look = {"mean": round(float(picture.mean()), 2), "std": round(float(picture.std()), 2)}
                looks |= {name: look for name, number in at.items() if number == count}
            shape = picture.shape[:2]
            count += 1

    # It must be as long as it should be, play in a browser, and show something.
    if not count or count != (frames or count):
        raise VideoError(f"{path.name} has {count} frames, not {frames or 'one or more'}")
    duration = re.search(r"Duration: (\d+):(\d+):([\d.]+)", run.said)
    if not duration or not re.search(r"Video: h264 .*yuv420p\W", run.said):
        raise VideoError(f"{path.name} is not H.264 in yuv420p")
    for name, look in looks.items():
        if look["mean"] < _BLACK:
            raise VideoError(f"the {name} frame of {path.name} is black: its mean is {look['mean']} of 255")
        if look["std"] < _UNIFORM:
            raise VideoError(
                f"the {name} frame of {path.name} is uniform: its standard deviation is {look['std']} of 255"
            )
    hours, minutes, seconds = map(float, duration.groups())
    lasts = round(3600 * hours + 60 * minutes + seconds, 2)
    facts: VideoFacts = {
        "frames": count, "width": shape[1], "height": shape[0], "duration_s": lasts, "first": looks["first"]
    }  # fmt: skip
    if frames is not None:
        facts["middle"], facts["last"] = looks["middle"], looks["last"]
    return facts


def _pictures(stream: IO[bytes]) -> Iterator[Array]:
    """Yield the whole pictures of a stream of PPM files."""
    import numpy as np

    while stream.readline():
        width, height = map(int, stream.readline().split())
        stream.readline()
        data = stream.read(width * height * 3)
        if len(data) == width * height * 3:
            yield np.frombuffer(data, np.uint8).reshape(height, width, 3)


@dataclass
class _Run:
    """A running ffmpeg."""

    stdin: IO[bytes]
    stdout: IO[bytes]
    said: str = ""
    """Its log, after it ended."""


@contextlib.contextmanager
def _ffmpeg(*arguments: str, level: str = "error") -> Iterator[_Run]:
    """Run ffmpeg around a block that feeds or drains it.

    imageio_ffmpeg's own writer and reader are as fast, but do not look at ffmpeg's exit code, nor, when writing, at its
    log: a full disk and a damaged file would go unseen.
    """
    with tempfile.TemporaryFile() as log:
        try:
            program = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
            process = subprocess.Popen(
                [program, "-v", level, "-nostats", "-hide_banner", *arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        except (ImportError, OSError, RuntimeError) as error:
            raise VideoError(f"ffmpeg does not start: {error}") from error
        assert process.stdin and process.stdout
        run = _Run(process.stdin, process.stdout)
        with process:
            try:
                yield run
            except BaseException:
                process.kill()
                raise
        log.seek(0)
        run.said = log.read().decode(errors="replace").strip()
    if process.returncode:
        last = run.said.splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise VideoError(f"ffmpeg: {last[0]}")
