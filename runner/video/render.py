"""Videos of recorded episodes: drawn after the evaluation by Newton's own viewer, without a display."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.runner.video.encoding import VideoFacts, ffmpeg, write
from simyard.runner.video.trajectories import FIELD_OF_VIEW, Camera, Drawn, Shapes, Trajectory, VideoError, part

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_SKY, _HORIZON, _GROUND = (0.36, 0.55, 0.77), (0.78, 0.84, 0.90), (0.22, 0.24, 0.27)
_SHADOW_MAP, _SHADOW_BLUR = 1024, 1.0
"""Sides of the shadow map, and how far its edges are softened; in texels, of which one is hardly larger than a pixel.
The viewer's own 4096 take longer to clear, without a GPU, than a small robot to draw."""
_NEAR, _FAR = 0.01, 1000.0
"""Distances between which a camera of a rollout sees, in metres."""


@dataclass(frozen=True, kw_only=True)
class View:
    """View of a camera, in the world that is shown."""

    eye: Array
    """Position of the lens."""
    front: Array
    """The unit vector along which it looks."""
    up: Array
    """The unit vector to the top of the picture."""
    distance: float
    """Distance of what it looks at: shadows are drawn around."""
    fov: float
    """Vertical field of view, in degrees."""


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
            self._joint_q: Any = warp.clone(now.joint_q, device="cpu")
            self._rows, self._picture = np.empty((2, size[1], size[0], 3), np.uint8)
            self._viewer = _open_viewer(self._model, size)

    @classmethod
    def of_environment(cls, env: Any, size: tuple[int, int] = (640, 480)) -> Renderer:
        """Open one for a gymnasium environment of Isaac Lab, at any depth of wrappers.

        Raises:
            VideoError: If this machine cannot draw or encode, or the environment cannot be drawn.
        """
        drawn = Drawn.of_environment(env)
        return cls(drawn.model, drawn.state(), size)

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
        return self.render_beside([trajectory], path, fps=fps, alive=alive)

    def render_beside(
        self, trajectories: Sequence[Trajectory], path: Path, *, fps: float, alive: Callable[[], None] = lambda: None
    ) -> VideoFacts:
        """Draw trajectories of one world side by side, as `render` does one; the shorter ones stand still at the end.

        All are seen from the same direction and distance.
        """
        size = (self._size[0] * len(trajectories), self._size[1])
        return write(self.frames(trajectories, fps, alive), path, fps=fps, size=size)

    def frames(
        self, trajectories: Sequence[Trajectory], fps: float, alive: Callable[[], None] = lambda: None
    ) -> Iterator[Array]:
        """Yield the pictures of trajectories of one world, `(height, width, 3)` bytes, all in a row."""
        import numpy as np
        from pyglet.math import Vec3

        model, viewer, world = self._model, self._viewer, trajectories[0].world
        with _viewer_errors():
            shapes, runs = Shapes.of(model, world), [self._poses(trajectory) for trajectory in trajectories]
            cameras = [Camera.around(shapes, poses, fps, self._size) for poses in runs]
            furthest = max(camera.distance for camera in cameras)
            cameras = [Camera(camera.targets, cameras[0].direction, furthest) for camera in cameras]
            self._show(world, cameras[0])
            bodies = self._state.body_q[part(model.body_world_start, world)]
            for step in range(max(map(len, runs))):
                alive()
                pictures = []
                for poses, camera in zip(runs, cameras, strict=True):
                    at = min(step, len(poses) - 1)
                    bodies.assign(poses[at])
                    viewer.camera.pos = Vec3(*map(float, camera.eye(at)))
                    viewer.camera.look_at(camera.targets[at])
                    viewer.begin_frame(float(step))
                    viewer.log_state(self._state)
                    viewer.end_frame()
                    pictures.append(self._read(self._picture).copy())
                yield np.concatenate(pictures, axis=1)

    def _poses(self, trajectory: Trajectory) -> Array:
        """Return position and rotation of each of the world's bodies at each step, `(steps, bodies, 7)`."""
        import newton
        import numpy as np
        import warp

        model, world = self._model, trajectory.world
        rows = trajectory.coordinates
        finite = np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
        if not finite.all():
            raise VideoError(f"the simulation of world {world} was not finite at step {int(finite.argmin())}")
        if rows.ndim == 3:
            return rows
        coordinates = self._joint_q[part(model.joint_coord_world_start, world)]
        bodies = self._state.body_q[part(model.body_world_start, world)]
        articulations = np.flatnonzero(model.articulation_world.numpy() == world).astype(np.int32)
        indices: Any = warp.array(articulations, dtype=int, device="cpu")
        poses = np.empty((len(rows), len(bodies), 7), np.float32)
        for pose, row in zip(poses, rows, strict=True):
            coordinates.assign(row)
            newton.eval_fk(model, self._joint_q, model.joint_qd, self._state, indices=indices)
            pose[:] = bodies.numpy()
        return poses

    def show_first(self, sun: tuple[float, float, float]) -> None:
        """Show the first world alone, for `shoot`.

        Args:
            sun: The direction towards the light.
        """
        import numpy as np

        with _viewer_errors():
            self._viewer.set_visible_worlds([0])
            self._viewer.set_world_offsets((0.0, 0.0, 0.0))
            self._viewer.camera.near, self._viewer.camera.far = _NEAR, _FAR
            self._viewer.renderer._sun_direction = np.array(sun) / np.linalg.norm(sun)

    def shoot(self, poses: Array, view: View, picture: Array) -> None:
        """Draw the first world.

        Args:
            poses: `(bodies, 7)`: position and rotation of each of its bodies.
            view: What is seen.
            picture: Filled, `(height, width, 3)` bytes; no larger than the renderer's own.
        """
        from pyglet.math import Vec3

        viewer, (height, width) = self._viewer, picture.shape[:2]
        with _viewer_errors():
            # The viewer's own camera keeps its head upright, and looks up and down by 89 degrees at most.
            camera, front, up = viewer.camera, Vec3(*map(float, view.front)), Vec3(*map(float, view.up))
            camera.get_front, camera.get_up = (lambda: front), (lambda: up)
            camera.pos, camera.fov = Vec3(*map(float, view.eye)), view.fov
            camera.update_screen_size(width, height)
            viewer.renderer._screen_width, viewer.renderer._screen_height = width, height
            viewer.renderer.shadow_extents = 2 * view.distance + 1  # around the camera
            self._state.body_q[part(self._model.body_world_start, 0)].assign(poses)
            viewer.begin_frame(0.0)
            viewer.log_state(self._state)
            viewer.end_frame()
            self._read(picture)

    def _show(self, world: int, camera: Camera) -> None:
        """Show one world alone, where it is, and suit the renderer to the distance."""
        self._viewer.set_visible_worlds([world])
        self._viewer.set_world_offsets((0.0, 0.0, 0.0))
        self._viewer.camera.near = camera.distance / 100
        self._viewer.camera.far = max(1000.0, camera.distance * 20)
        self._viewer.renderer.shadow_extents = 2 * camera.distance + 1  # around the camera
        self._viewer.renderer._sun_direction = camera.sun

    def _read(self, picture: Array) -> Array:
        """Fill a picture, its first row on top: the viewer's own way takes a kernel for that, and is slower."""
        gl, (height, width) = self._viewer.renderer.gl, picture.shape[:2]
        rows = self._rows.reshape(-1)[: picture.size].reshape(picture.shape)
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._viewer.renderer._frame_fbo)
        gl.glPixelStorei(gl.GL_PACK_ALIGNMENT, 1)
        gl.glReadPixels(0, 0, width, height, gl.GL_RGB, gl.GL_UNSIGNED_BYTE, rows.ctypes.data)
        picture[:] = rows[::-1]
        return picture


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
        with ffmpeg("-f", "lavfi", "-i", "color=size=64x64:duration=0.04", "-c:v", "libx264", "-f", "null", "-"):
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
