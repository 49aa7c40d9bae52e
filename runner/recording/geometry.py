"""Geometry of a recorded world: which joint moves which body, and what the bodies look like, as a rollout's attribute.

A rollout has the coordinates of joints and the poses of what floats, never those of every link: with thousands of
environments that would be most of the file. The attribute `geometry` says once how the others follow from them, so that
any episode can be played again without a simulator.

    bodies    in an order in which parents come first: `name`, `parent` (-1 is the world), and how it stands to that
              `frame`, `turned`  poses on the parent's and the body's side of the joint, the second one inverted
              `axes`             [linear or angular, x, y, z, key, column], one after another
              `ball`             [key, column], the first of four columns of a quaternion
              `pose`             [key, row], instead of all that: the pose itself is recorded; row is null without rows
    shapes    `body`, `type`, `size` (radii and half lengths), `pose` in the body's frame; `color` where it has one
    missing   names of the bodies of which the rollout does not say where they are: they are not drawn

Poses are x, y, z, and a quaternion with the scalar last; metres.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from simyard.runner.video.trajectories import part

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

GEOMETRY = "geometry"
"""The attribute of a rollout."""
MOST_BODIES = 256
MOST_SHAPES = 1024
"""Of a world; what is beyond them is not drawn."""
LINEAR, ANGULAR = "linear", "angular"
_STILL = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


class Geometry(TypedDict):
    """The attribute, as above."""

    bodies: list[dict[str, Any]]
    shapes: list[dict[str, Any]]
    missing: list[str]


Columns = Mapping[int, tuple[str, int]]
"""By joint coordinate of a world, the key of the quantity that has it, and its column there."""
Poses = Mapping[int, tuple[str, int | None]]
"""By body of a world, the key of the quantity that has its pose, and its row there."""


def geometry_of(model: Any, columns: Columns, poses: Poses, origin: Sequence[float] = (0.0, 0.0, 0.0)) -> Geometry:
    """Describe the first world of a Newton model.

    Args:
        model: The model, whose worlds are alike.
        columns: The recorded joint coordinates.
        poses: The recorded poses.
        origin: Position of the first world, from which poses are recorded.
    """
    import numpy as np
    from newton import JointType

    own = part(model.body_world_start, 0)
    first_q = int(model.joint_coord_world_start.numpy()[0])
    names = [str(label).rpartition("/")[2][:200] for label in model.body_label[own]]
    arrays = ("type", "parent", "child", "X_p", "X_c", "q_start", "qd_start", "dof_dim", "axis")
    kind, parents, children, before, after, q_start, qd_start, dofs, axes = (
        getattr(model, f"joint_{name}").numpy() for name in arrays
    )
    bodies: list[dict[str, Any]] = []
    at: dict[int, int] = {-1: -1}  # where a body of the model stands in the list

    def add(body: int, **fields: Any) -> None:
        at[body] = len(bodies)
        bodies.append({"name": names[body - own.start], "parent": -1} | fields)

    for body, place in poses.items():
        add(own.start + body, pose=list(place))
    for joint in range(len(kind)):  # parents come before their children
        body, parent = int(children[joint]), int(parents[joint])
        if not own.start <= body < own.stop or body in at or parent not in at or len(bodies) >= MOST_BODIES:
            continue
        frame, q, dof = before[joint].copy(), int(q_start[joint]) - first_q, int(qd_start[joint])
        if parent < 0:
            frame[:3] -= np.asarray(origin, frame.dtype)
        fixed: dict[str, Any] = {
            "parent": at[parent],
            "frame": _short(frame),
            "turned": _short(_inverted(after[joint])),
        }
        linear, count = int(dofs[joint][0]), int(dofs[joint].sum())
        if kind[joint] == JointType.FIXED:
            add(body, **fixed)
        elif kind[joint] == JointType.BALL and q in columns:
            add(body, **fixed, ball=list(columns[q]))
        elif kind[joint] in (JointType.REVOLUTE, JointType.PRISMATIC, JointType.D6) and all(
            q + axis in columns for axis in range(count)
        ):
            ways = [[LINEAR if n < linear else ANGULAR, *_short(axes[dof + n]), *columns[q + n]] for n in range(count)]
            add(body, **fixed, axes=ways)
    missing = [name for number, name in enumerate(names) if own.start + number not in at]
    return Geometry(bodies=bodies, shapes=_shapes(model, at, origin), missing=missing[:MOST_BODIES])


def _shapes(model: Any, at: Mapping[int, int], origin: Sequence[float]) -> list[dict[str, Any]]:
    """Return what is to be seen of the first world: where a body has no such shape, those that collide."""
    import numpy as np
    from newton import GeoType, ShapeFlags

    kinds = {
        GeoType.SPHERE: ("sphere", 1), GeoType.BOX: ("box", 3), GeoType.CAPSULE: ("capsule", 2),
        GeoType.CYLINDER: ("cylinder", 2), GeoType.CONE: ("cone", 2), GeoType.ELLIPSOID: ("ellipsoid", 3),
    }  # fmt: skip
    flags, owners, worlds, types, scale, placed = (
        getattr(model, f"shape_{name}").numpy() for name in ("flags", "body", "world", "type", "scale", "transform")
    )
    low, high = model.shape_collision_aabb_lower.numpy(), model.shape_collision_aabb_upper.numpy()
    colors = None if model.shape_color is None else model.shape_color.numpy()
    seen = (flags & ShapeFlags.VISIBLE) != 0
    collides = (flags & ShapeFlags.COLLIDE_SHAPES) != 0
    shown = seen | (collides & ~np.isin(owners, owners[seen]))
    found: list[dict[str, Any]] = []
    for shape in np.flatnonzero(shown & (worlds <= 0)):
        body, pose = int(owners[shape]), placed[shape].copy()
        if types[shape] == GeoType.PLANE or body not in at:
            continue  # the ground is drawn by whoever plays it
        if body < 0 and worlds[shape] == 0:
            pose[:3] -= np.asarray(origin, pose.dtype)
        name, count = kinds.get(GeoType(types[shape]), ("box", 0))
        size = scale[shape][:count]
        if not count:  # a mesh: its box, which may be beside its origin
            size = (high[shape] - low[shape]) / 2
            pose[:3] += _turn(pose[3:], (high[shape] + low[shape]) / 2)
        if not np.isfinite(size).all() or size.max() > 100:
            continue  # a ground made of something else
        one = {"body": at[body], "type": name, "size": _short(size), "pose": _short(pose)}
        found.append(one | ({} if colors is None else {"color": _short(colors[shape], 3)}))
    return found[:MOST_SHAPES]


def _short(values: Any, digits: int = 6) -> list[float]:
    return [round(float(value), digits) for value in values]


def _inverted(pose: Array) -> Array:
    import numpy as np

    back = np.array([*-pose[3:6], pose[6]], pose.dtype)
    return np.array([*_turn(back, -pose[:3]), *back], pose.dtype)


def _turn(rotation: Array, points: Array) -> Array:
    """Rotate `(..., 3)` points by `(..., 4)` quaternions."""
    import numpy as np

    twice = 2 * np.cross(rotation[..., :3], points)
    turned: Array = points + rotation[..., 3:] * twice + np.cross(rotation[..., :3], twice)
    return turned


def _after(first: Array, then: Array) -> Array:
    """Return poses `(frames, 7)`: the second one in the frame of the first."""
    import numpy as np

    (a, w), (b, v) = ((pose[:, 3:6], pose[:, 6:]) for pose in (first, then))
    rotation = np.concatenate([w * b + v * a + np.cross(a, b), w * v - (a * b).sum(1, keepdims=True)], axis=1)
    return np.concatenate([first[:, :3] + _turn(first[:, 3:], then[:, :3]), rotation], axis=1)


def body_poses(geometry: Geometry, read: Callable[[str], Array], frames: int) -> Array:
    """Return where every body was, `(frames, bodies, 7)`.

    Args:
        geometry: Of the rollout.
        read: Returns the values of a quantity in these frames, `(frames, ...)`.
        frames: How many.

    Raises:
        ValueError: If it is none, or what it names was not recorded.
    """
    import numpy as np

    bodies = geometry["bodies"]
    if len(bodies) > MOST_BODIES:
        raise ValueError(f"there are {len(bodies)} bodies; {MOST_BODIES} are played")
    found = np.tile(np.array(_STILL, np.float64), (frames, len(bodies) + 1, 1))  # the last one, -1, is the world

    def still(pose: Sequence[float]) -> Array:
        return np.broadcast_to(np.array(pose, np.float64).reshape(1, 7), (frames, 7))

    for number, body in enumerate(bodies):
        if not -1 <= (parent := int(body["parent"])) < number:
            raise ValueError(f"body {number} comes before its parent, {parent}")
        if "pose" in body:
            key, row = body["pose"]
            found[:, number] = read(key).reshape(frames, -1, 7)[:, 0 if row is None else int(row)]
            continue
        joint = np.array(still(_STILL))
        for way, x, y, z, key, column in body.get("axes", ()):
            axis, value = np.array([x, y, z], np.float64), read(key)[:, int(column), None]
            step = np.array(still(_STILL))
            if way == LINEAR:
                step[:, :3] = axis * value
            else:
                step[:, 3:6], step[:, 6:] = axis * np.sin(value / 2), np.cos(value / 2)
            joint = _after(joint, step)
        if "ball" in body:
            key, column = body["ball"]
            joint[:, 3:] = read(key)[:, int(column) : int(column) + 4]
        at = _after(_after(found[:, parent], still(body["frame"])), joint)
        found[:, number] = _after(at, still(body["turned"]))
    return found[:, :-1]
