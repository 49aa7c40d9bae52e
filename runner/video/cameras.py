"""Cameras of a rollout: pictures of every world, taken while it is simulated and recorded as quantities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from simyard.core.errors import unknown
from simyard.core.specs import CameraSpec
from simyard.runner.recording.recorder import RolloutRecorder
from simyard.runner.video.render import Renderer, View
from simyard.runner.video.trajectories import moved

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

IMAGES = "images"
"""Group of the pictures: `images/<camera>`."""
_SUN = (0.42, -0.5, 0.76)
"""The direction towards the light, the same for all cameras."""
_ALONG = 0.99
"""Cosine from which a camera looks along its frame's z, so that x is the top of the picture."""


def check_bodies(cameras: Sequence[CameraSpec], bodies: Mapping[str, int]) -> None:
    """Refuse cameras on bodies that are not there.

    Raises:
        RequestError: With those there are, and the nearest.
    """
    for number, camera in enumerate(cameras):
        if camera.body is not None and camera.body not in bodies:
            raise unknown(f"body in outputs.cameras[{number}].body:", camera.body, bodies, code="unknown_body")


class Cameras:
    """All cameras of a rollout, in all of its worlds; where there is none every call does nothing.

    The worlds are alike, so only the first is drawn, with its bodies where another world has them. Nothing is kept but
    the newest picture of each camera in each world: it is held until the next one is due, counted from the beginning of
    the world's episode.
    """

    def __init__(
        self,
        cameras: Sequence[CameraSpec],
        model: Any,
        now: Any,
        *,
        bodies: Mapping[str, int],
        num_envs: int,
        step_s: float,
        origin: Any = (0, 0, 0),
    ) -> None:
        """Open an OpenGL context, if there is a camera.

        Args:
            cameras: Those that the request asks for.
            model: The Newton model, of `num_envs` worlds that are alike.
            now: Its state.
            bodies: Index of each body in a world, by name.
            num_envs: Number of worlds.
            step_s: Seconds of a control step.
            origin: Position of the first world.

        Raises:
            VideoError: If this machine cannot draw, or the model cannot be drawn.
            RequestError: If a camera is on a body that is not there.
        """
        import numpy as np

        check_bodies(cameras, bodies)
        self._cameras, self._step_s, self._origin = tuple(cameras), step_s, np.array([*origin], float)
        self._bodies = [None if each.body is None else bodies[each.body] for each in cameras]
        self._every = [each.every(step_s) for each in cameras]
        self._pictures = [np.zeros((num_envs, each.height, each.width, 3), np.uint8) for each in cameras]
        self._age = np.zeros(num_envs, np.int64)
        self._renderer: Renderer | None = None
        if cameras:
            largest = max(each.width for each in cameras), max(each.height for each in cameras)
            self._renderer = Renderer(model, now, largest)
            self._renderer.show_first(_SUN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._renderer is not None:
            self._renderer.close()

    def describe(self, recorder: RolloutRecorder) -> None:
        """Describe the pictures, before the first step."""
        for camera, every in zip(self._cameras, self._every, strict=True):
            steps = "every step" if every == 1 else f"every {every} steps and held between"
            about = (
                f"What the camera {camera.name!r} sees before the step; taken {steps}, "
                f"{1 / (every * self._step_s):g} a second, with a vertical field of view of {camera.fov:g} degrees."
            )
            recorder.describe(f"{IMAGES}/{camera.name}", names=("red", "green", "blue"), about=about)

    def look(self, poses: Callable[[], Array]) -> dict[str, Array]:
        """Return a step's pictures by key, `(num_envs, height, width, 3)`: the same memory each time.

        Args:
            poses: Returns position and rotation of each body in its world, `(num_envs, bodies, 7)`; only called where
                a picture is due.

        Raises:
            VideoError: If drawing fails.
        """
        import numpy as np

        due = [np.flatnonzero(self._age % every == 0) for every in self._every]
        if self._renderer is not None and any(len(worlds) for worlds in due):
            now = np.asarray(poses(), np.float32)
            for number, worlds in enumerate(due):
                for world in worlds:
                    view = self._view(number, now[world])
                    self._renderer.shoot(now[world], view, self._pictures[number][world])
        self._age += 1
        names = (f"{IMAGES}/{camera.name}" for camera in self._cameras)
        return dict(zip(names, self._pictures, strict=True))

    def begin(self, ended: Array) -> None:
        """Begin new episodes.

        Args:
            ended: `(num_envs,)` bools, the worlds whose episodes ended with the step before.
        """
        self._age[ended] = 0

    def _view(self, number: int, poses: Array) -> View:
        """Return where a camera is in a world whose bodies are there, and where it looks."""
        import numpy as np

        spec, body = self._cameras[number], self._bodies[number]
        front = np.subtract(spec.look_at, spec.position)
        top = (1.0, 0.0, 0.0) if abs(front[2]) > _ALONG * np.linalg.norm(front) else (0.0, 0.0, 1.0)
        points = np.array([[spec.position, spec.look_at, np.add(spec.position, top)]])
        points = points + self._origin if body is None else moved(points, poses[body][None].astype(float))
        eye, target, above = points[0]
        distance = float(np.linalg.norm(target - eye))
        front = (target - eye) / distance
        right = np.cross(front, above - eye)
        up = np.cross(right / np.linalg.norm(right), front)
        return View(eye=eye, front=front, up=up, distance=distance, fov=spec.fov)
