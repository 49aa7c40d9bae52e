"""Scenes for a robot: built-in ones, and ones from USD.

Every scene keeps its own frame, and so does the robot: its origin stands on the scene's, where the surface is z = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simyard.core.errors import unknown
from simyard.runner.newton.robots import Column, FreeBody, free_body, load, short_names

GROUND = "ground"
"""The scene of a request that names none."""
CUBE = "cube"
CUBE_SIZE_M = 0.05
CUBE_AT = (0.4, 0.0)
"""Position of the table's cube, x and y in metres."""
_WOOD, _RED, _GREY = (0.62, 0.47, 0.33), (0.80, 0.16, 0.12), (0.55, 0.57, 0.60)


@dataclass(frozen=True, kw_only=True)
class Objects:
    """The free bodies and joints of a scene, without the robot's."""

    bodies: Mapping[str, FreeBody]
    """Free bodies by name."""
    positions: tuple[Column, ...]
    """Coordinates of joints, such as a cabinet's doors."""
    velocities: tuple[Column, ...]
    """Their velocities."""


def check_scene_id(scene_id: str | None) -> str:
    """Return the name of a built-in scene, the ground where none is given.

    Raises:
        RequestError: If there is none of that name.
    """
    if scene_id is None:
        return GROUND
    if scene_id not in SCENES:
        raise unknown("scene_id", scene_id, SCENES, code="unknown_scene")
    return scene_id


def add_scene(builder: Any, scene_id: str | None, path: Path | None) -> Objects:
    """Add a scene to a world that has its robot.

    Args:
        builder: The world's `newton.ModelBuilder`.
        scene_id: A built-in scene, where there is no file.
        path: The main file of a USD. What has no rigid body in it stands still.

    Raises:
        RequestError: If Newton cannot read it, or there is no such scene.
    """
    from newton import JointType

    first = builder.joint_count
    if path is not None:
        load(builder, path, "usd")
    else:
        SCENES[check_scene_id(scene_id)](builder)

    # All joints after the robot's are the scene's: a free one makes a free body.
    names, joints = short_names(list(builder.body_label)), short_names(list(builder.joint_label))
    bodies: dict[str, FreeBody] = {}
    positions: list[Column] = []
    velocities: list[Column] = []
    for joint in range(first, builder.joint_count):
        if builder.joint_type[joint] == JointType.FREE:
            bodies[names[builder.body_label[builder.joint_child[joint]]]] = free_body(builder, joint)
        elif builder.joint_type[joint] in (JointType.REVOLUTE, JointType.PRISMATIC):
            name = joints[builder.joint_label[joint]]
            positions.append(Column(name, builder.joint_q_start[joint]))
            velocities.append(Column(name, builder.joint_qd_start[joint]))
    return Objects(bodies=bodies, positions=tuple(positions), velocities=tuple(velocities))


# The built-in ones.


def _empty(builder: Any) -> None:
    """Leave nothing but gravity."""


def _ground(builder: Any) -> None:
    """Lay a level ground, at z = 0."""
    builder.add_ground_plane()


def _table_top(builder: Any) -> None:
    """Put the robot on a table, whose top is z = 0 and 75 cm above the ground, with a free 5 cm cube in front of it."""
    import newton

    height, thickness = 0.75, 0.04
    builder.add_ground_plane(height=-height)
    _box(builder, (0.25, 0.0, -thickness / 2), (1.1, 1.0, thickness), _WOOD, "table")
    for x in (-0.25, 0.75):
        for y in (-0.45, 0.45):
            _box(builder, (x, y, -(height + thickness) / 2), (0.05, 0.05, height - thickness), _WOOD, "leg")
    cube = builder.add_body(xform=_at(*CUBE_AT, CUBE_SIZE_M / 2), label=CUBE)
    half = CUBE_SIZE_M / 2
    solid = newton.ModelBuilder.ShapeConfig(density=400.0)  # 50 g: wood
    builder.add_shape_box(cube, hx=half, hy=half, hz=half, cfg=solid, color=_RED, label=CUBE)


def _obstacles(builder: Any) -> None:
    """Stand boxes, posts and a ramp around a clear middle of 1.5 m."""
    builder.add_ground_plane()
    for index in range(8):
        angle = index * math.pi / 4 + math.pi / 8
        distance, height = 2.0 + 0.5 * (index % 3), 0.15 + 0.1 * (index % 4)
        at = (distance * math.cos(angle), distance * math.sin(angle), height / 2)
        _box(builder, at, (0.4, 0.4, height), _GREY, f"box_{index}", turned=angle)
    for index in range(4):
        angle = index * math.pi / 2
        at = (1.8 * math.cos(angle), 1.8 * math.sin(angle), 0.5)
        builder.add_shape_cylinder(-1, xform=_at(*at), radius=0.08, half_height=0.5, color=_WOOD, label=f"post_{index}")
    builder.add_shape_box(-1, xform=_at(3.5, 0.0, 0.2, pitch=-0.2), hx=1.2, hy=0.6, hz=0.05, color=_GREY, label="ramp")


def _stairs(builder: Any) -> None:
    """Lead up in steps of 10 cm by 30 cm, from 1 m in front."""
    builder.add_ground_plane()
    for index in range(6):
        height = 0.1 * (index + 1)
        _box(builder, (1.15 + 0.3 * index, 0.0, height / 2), (0.3, 1.5, height), _GREY, f"step_{index}")


def _box(
    builder: Any,
    at: tuple[float, float, float],
    size: tuple[float, float, float],
    color: tuple[float, float, float],
    label: str,
    turned: float = 0.0,
) -> None:
    hx, hy, hz = (side / 2 for side in size)
    builder.add_shape_box(-1, xform=_at(*at, yaw=turned), hx=hx, hy=hy, hz=hz, color=color, label=label)


def _at(x: float, y: float, z: float, *, yaw: float = 0.0, pitch: float = 0.0) -> Any:
    import warp

    return warp.transform(warp.vec3(x, y, z), warp.quat_rpy(0.0, pitch, yaw))


SCENES: dict[str, Callable[[Any], None]] = {
    "empty": _empty,
    GROUND: _ground,
    "table_top": _table_top,
    "obstacles": _obstacles,
    "stairs": _stairs,
}
"""The built-in scenes by name: each adds itself to a world."""
