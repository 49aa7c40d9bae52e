"""Trajectories of an environment's worlds, recorded while an evaluation runs, and the camera to see them with."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, Any]

FIELD_OF_VIEW = 40.0
"""Vertical, in degrees."""
_ELEVATION = math.radians(17)
"""Of the camera above its target; below half the field of view, so that the horizon is in the picture."""
_TURN = math.radians(30)
"""Angle of the camera from a pure side view, towards the front."""
_SUN = math.radians(50)
"""The light's height, and how far it comes from the side of the camera."""
_FILL = 0.8
"""Share of the picture's half width and height that the robot may reach."""
_SMALLER = 1.3
"""Factor by which the robot may look smaller if the camera need not follow it then."""


class VideoError(Exception):
    """Error of recording, drawing or encoding an episode, or of a video file that is not as it should be."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        """The true cause, in one line for the user."""


@dataclass(frozen=True)
class Trajectory:
    """One episode of one world: the states on which its actions were taken."""

    world: int
    """Index of its world."""
    coordinates: Array
    """`(steps, joint coordinates of a world)`, or poses, `(steps, bodies, 7)`, where physics is not Newton; float32."""


class TrajectoryRecorder:
    """Keeps the running episode of every world on disk, so that any of them can be drawn once it is known to matter.

    It only reads: the simulation and every random generator are as they would be without it. Its file has no name, so
    nothing is left of it, however the process ends.
    """

    def __init__(self, env: Any, folder: Path, longest: int) -> None:
        """Reserve the disk space for one episode of each world.

        Args:
            env: The gymnasium environment, at any depth of wrappers.
            folder: Where there is room.
            longest: Steps of the longest episode.

        Raises:
            VideoError: If this environment cannot be drawn, or the disk is full.
        """
        self._drawn = drawn = Drawn.of_environment(env)
        import numpy as np
        import torch
        import warp

        model, width = drawn.model, warp.to_torch(drawn.values(drawn.state())).shape[1:]
        starts = drawn.starts[: model.world_count + 1]
        counts = sorted(set((starts[1:] - starts[:-1]).tolist()))
        if len(counts) != 1 or not counts[0]:
            raise VideoError(f"the worlds have {' or '.join(map(str, counts))} {drawn.rows_are} each")
        self._rows = torch.from_numpy(starts[:-1, None] + np.arange(counts[0])).to(str(model.device))
        self._worlds = np.arange(model.world_count)
        self._longest = longest
        self._buffer = _reserve(folder, (longest, model.world_count, counts[0], *width))

    def capture(self, steps: torch.Tensor) -> None:
        """Read the state of every world; call it before each step of the environment.

        Args:
            steps: `(num_envs,)`, how many steps the running episode of each world has taken.
        """
        import warp

        values = warp.to_torch(self._drawn.values(self._drawn.state()))[self._rows]
        self._buffer[steps.cpu().numpy(), self._worlds] = values.cpu().numpy()

    def take(self, world: int, length: int) -> Trajectory:
        """Copy the first `length` states of a world's episode; call it before `capture` begins the next one."""
        if not 0 < length <= self._longest:
            raise ValueError(f"An episode has 1 to {self._longest} steps, not {length}.")
        return Trajectory(world, self._buffer[:length, world].copy())

    def close(self) -> None:
        """Give the disk space back."""
        del self._buffer


class Drawn:
    """View of an environment's simulation as Newton's viewer takes it: a model of its worlds, and their state.

    Newton's own model is the simulation's, whose joint coordinates say everything. Beside other physics stands one that
    Isaac Lab made of the same scene (`drawable` has it made): only the poses of its bodies are ever set.
    """

    def __init__(self, model: Any, state: Callable[[], Any], *, by_joints: bool) -> None:
        self.model = model
        """The Newton model."""
        self.state = state
        """Returns the state now; nobody but the simulation may change it."""
        self.by_joints = by_joints
        self.rows_are = "joint coordinates" if by_joints else "bodies"
        starts = model.joint_coord_world_start if by_joints else model.body_world_start
        self.starts = starts.numpy().astype(int)
        """Of each world, the row of `values` with which it begins."""

    def rows(self, world: int) -> slice:
        """Return the rows of `values` that belong to a world."""
        return slice(int(self.starts[world]), int(self.starts[world + 1]))

    def values(self, state: Any) -> Any:
        """Return what a trajectory keeps of a state."""
        return state.joint_q if self.by_joints else state.body_q

    @classmethod
    def of_environment(cls, env: Any) -> Drawn:
        """Return the view of a gymnasium environment of Isaac Lab, at any depth of wrappers.

        Raises:
            VideoError: If it cannot be drawn.
        """
        simulation = env.unwrapped.sim
        physics = simulation.physics_manager
        if physics.video_capture_backend() == "kit":
            raise VideoError(
                "Newton's viewer draws no physics of Isaac Sim's: use physics 'newton', or 'physx' without Kit"
            )
        if physics.video_capture_backend() == "newton_gl":
            drawn = cls(physics.get_model(), physics.get_state_0, by_joints=True)
        else:
            drawn = cls(*_beside(simulation), by_joints=False)
        from newton import JointType

        model = drawn.model
        if model.particle_count or JointType.ROD in model.joint_type.numpy():
            raise VideoError("the task has cloth, soft bodies, particles or cables, which have no joint coordinates")
        if model.world_count != env.unwrapped.num_envs:
            raise VideoError(f"Newton has {model.world_count} worlds for {env.unwrapped.num_envs} environments")
        return drawn


def _beside(simulation: Any) -> tuple[Any, Callable[[], Any]]:
    """Return the model that stands beside a simulation, and what returns its state with every body where it is."""
    from isaaclab.scene_data import SceneDataFormat
    from isaaclab_newton.physics.newton_manager_cfg import NewtonBackendCfg

    backend = simulation.get_or_create_backend(
        NewtonBackendCfg(physics_cfg=simulation.cfg.physics, device=simulation.device)
    )
    if not backend.model.body_count:
        raise VideoError(f"nothing of {type(simulation.cfg.physics).__name__.removesuffix('Cfg')} was made to be drawn")
    provider = simulation.get_scene_data_provider()
    mapping = provider.create_mapping(list(backend.model.body_label))
    poses = SceneDataFormat.Transform()
    poses.transforms = backend.state_0.body_q

    def state() -> Any:
        provider.get_transforms(poses, mapping=mapping, allow_passthrough=False, count=backend.model.body_count)
        return backend.state_0

    return backend.model, state


@contextmanager
def drawable() -> Iterator[None]:
    """Have every environment that is made in the body stand beside a Newton model of itself, unless it is Newton's."""
    from isaaclab.renderers.render_context import RenderContext

    make = RenderContext.__init__

    def with_model(self: Any, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        self.clone_contexts.add("isaaclab_newton.cloner:NewtonReplicateContext")

    RenderContext.__init__ = with_model
    try:
        yield
    finally:
        RenderContext.__init__ = make


def part(starts: Any, world: int) -> slice:
    """Return a world's slice of an array of the model, from the model's array of starts."""
    first, end = starts.numpy()[world : world + 2]
    return slice(int(first), int(end))


def _reserve(folder: Path, shape: tuple[int, ...]) -> Array:
    import numpy as np

    size = 4 * math.prod(shape)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # Blocks that are only found missing when a page of the map is written would kill the process.
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype=np.float32, mode="r+", shape=shape)
    except OSError as error:
        raise VideoError(f"no room for {size / 1e6:.0f} MB of trajectories in {folder}: {error.strerror}") from error


@dataclass(frozen=True)
class Shapes:
    """The corners of what is drawn of one world."""

    bodies: Array
    """`(shapes,)`, which of the world's bodies each is fixed to; -1 for none."""
    corners: Array
    """`(shapes, 8, 3)`, of its box, in the frame of its body."""

    @classmethod
    def of(cls, model: Any, world: int) -> Shapes:
        """Collect the visible shapes of a world; the ground is none of them."""
        import numpy as np
        from newton import GeoType, ShapeFlags

        visible = (model.shape_flags.numpy() & ShapeFlags.VISIBLE) != 0
        drawn = visible & (model.shape_world.numpy() == world) & (model.shape_type.numpy() != GeoType.PLANE)
        if not drawn.any():
            raise VideoError(f"world {world} has no shapes to draw")
        box = np.stack([model.shape_collision_aabb_lower.numpy(), model.shape_collision_aabb_upper.numpy()], axis=1)
        bodies = model.shape_body.numpy()[drawn]
        first = part(model.body_world_start, world).start
        corners = moved(_corners(box[drawn]), model.shape_transform.numpy()[drawn])
        return cls(np.where(bodies < 0, -1, bodies - first), corners)

    def at(self, pose: Array) -> Array:
        """Return the corners of the shapes for a pose of the world's bodies, `(shapes, 8, 3)`, metres."""
        import numpy as np

        still = np.array([[0, 0, 0, 0, 0, 0, 1]], pose.dtype)
        return moved(self.corners, np.concatenate([pose, still])[self.bodies])


@dataclass(frozen=True)
class Camera:
    """Looks at one world for a whole trajectory, from one direction and distance."""

    targets: Array
    """`(steps, 3)`, what is in the middle of each picture."""
    direction: Array
    """The unit vector from the target to the camera."""
    distance: float

    def eye(self, step: int) -> Array:
        """Return the position of the camera."""
        eye: Array = self.targets[step] + self.distance * self.direction
        return eye

    @property
    def sun(self) -> Array:
        """The unit vector towards the light: over the shoulder, so that what the camera sees is lit."""
        return _raised(_turned(self.direction, -_SUN), _SUN)

    @classmethod
    def around(cls, shapes: Shapes, poses: Array, fps: float, size: tuple[int, int]) -> Camera:
        """Stand still if that shows the robot large enough, with its surroundings if possible; else go with it.

        Args:
            shapes: Of the world.
            poses: `(steps, bodies, 7)`: position and rotation of each of the world's bodies.
            fps: Steps a second.
            size: Width and height of the picture.
        """
        import numpy as np

        moving = np.append((np.ptp(poses, axis=0) > 1e-3).any(axis=1), False)[shapes.bodies]
        if not moving.any():
            moving[:] = True
        everything, movers = np.empty((2, len(poses), 2, 3))
        start, motion = shapes.at(poses[0])[moving], np.zeros((2, 2))
        for step, pose in enumerate(poses):
            points = shapes.at(pose)
            everything[step] = points.min(axis=(0, 1)), points.max(axis=(0, 1))
            movers[step] = points[moving].min(axis=(0, 1)), points[moving].max(axis=(0, 1))
            moved = (points[moving] - start)[..., :2].reshape(-1, 2)
            motion += moved.T @ moved
        direction = _side_view(motion, movers)
        choices = [(everything, _middle(everything)), (movers, _middle(movers)), (movers, _smooth(movers, fps / 2))]
        cameras = [cls(path, direction, _distance(boxes - path[:, None], direction, size)) for boxes, path in choices]
        limit = _SMALLER * min(camera.distance for camera in cameras)
        return next(camera for camera in cameras if camera.distance <= limit)


def _side_view(motion: Array, boxes: Array) -> Array:
    """Return the direction from which one sees most of the motion: from its right, and a little from the front."""
    import numpy as np

    strengths, axes = np.linalg.eigh(motion)
    front = axes[:, 1] if strengths[1] > 4 * strengths[0] else np.array([1.0, 0.0])
    front = front * np.sign(front[np.abs(front).argmax()])
    travel = (boxes[-1] - boxes[0]).mean(axis=0)[:2] @ front
    if travel < -0.5 * (boxes[0, 1] - boxes[0, 0])[:2].max():
        front = -front
    return _raised(_turned(front, math.pi / 2 - _TURN), _ELEVATION)


def _turned(direction: Array, angle: float) -> Array:
    """Turn a direction clockwise, seen from above."""
    import numpy as np

    x, y = direction[:2]
    return np.array([x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)])


def _raised(flat: Array, angle: float) -> Array:
    """Return the unit vector that points up from the horizon by an angle."""
    import numpy as np

    return np.array([*(math.cos(angle) / np.linalg.norm(flat) * flat), math.sin(angle)])


def _middle(boxes: Array) -> Array:
    """Return the middle of everything, for each step."""
    import numpy as np

    return np.broadcast_to((boxes[:, 0].min(axis=0) + boxes[:, 1].max(axis=0)) / 2, (len(boxes), 3))


def _smooth(boxes: Array, width: float) -> Array:
    """Return the middle of the box at each step, smoothed over `width` steps to both sides."""
    import numpy as np

    reach = math.ceil(3 * width)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    path = np.pad(boxes.mean(axis=1), ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
    return np.stack([np.convolve(path[:, axis], weights / weights.sum(), mode="valid") for axis in range(3)], axis=1)


def _distance(boxes: Array, direction: Array, size: tuple[int, int]) -> float:
    """Return the distance at which a camera sees all corners of boxes around its target."""
    import numpy as np

    right = np.cross([0.0, 0.0, 1.0], direction)
    right /= np.linalg.norm(right)
    corners = _corners(boxes).reshape(-1, 3)
    height = _FILL * math.tan(math.radians(FIELD_OF_VIEW) / 2)
    sideways = np.abs(corners @ right) / (height * size[0] / size[1])
    upwards = np.abs(corners @ np.cross(direction, right)) / height
    return max(0.1, float((np.maximum(sideways, upwards) + corners @ direction).max()))


def _corners(boxes: Array) -> Array:
    """Return the corners, `(n, 8, 3)`, of `(n, 2, 3)` boxes."""
    import numpy as np

    low_or_high = np.indices((2, 2, 2)).reshape(3, 8)
    return np.stack([boxes[:, low_or_high[axis], axis] for axis in range(3)], axis=-1)


def moved(points: Array, poses: Array) -> Array:
    """Transform `(n, m, 3)` points by `(n, 7)` poses: position, then quaternion with the scalar last."""
    import numpy as np

    axis, scalar = poses[:, None, 3:6], poses[:, None, 6:]
    twice = 2 * np.cross(axis, points)
    moved: Array = points + scalar * twice + np.cross(axis, twice) + poses[:, None, :3]
    return moved
