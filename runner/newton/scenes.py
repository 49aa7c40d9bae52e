"""Scenes for a robot: built-in ones, and ones from USD.

Every scene keeps its own frame, and so does the robot: its origin stands on the scene's, where the surface is z = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from simyard.core.errors import unknown
from simyard.runner.newton.robots import Column, FreeBody, free_body, load, short_names

EMPTY = "empty"
"""The scene without anything."""
GROUND = "ground"
"""The scene of a request that names none."""
CUBE = "cube"
CUBE_SIZE_M = 0.05
CUBE_AT = (0.4, 0.0)
"""Position of the table's cube, x and y in metres."""
BLOCK = "block"
BLOCK_M = (0.05, 0.05, 0.06)
"""Sides of the block before the cabinet."""
DRAWER_OPENS_M = 0.3
_WOOD, _RED, _GREY, _WHITE = (0.62, 0.47, 0.33), (0.80, 0.16, 0.12), (0.55, 0.57, 0.60), (0.86, 0.87, 0.88)
_WOOD_KG_M3 = 400.0
_TABLE_M = 0.75


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


def _table_top(builder: Any) -> None:
    """Put the robot on a table, whose top is z = 0 and 75 cm above the ground, with a free 5 cm cube in front of it."""
    _table(builder, -0.3, 0.8)
    cube = builder.add_body(xform=_at(*CUBE_AT, CUBE_SIZE_M / 2), label=CUBE)
    _box(builder, (0.0, 0.0, 0.0), (CUBE_SIZE_M,) * 3, _RED, CUBE, body=cube)  # 50 g


def _franka_cabinet(builder: Any) -> None:
    """Put the robot on a table, with a free block before a cabinet of two drawers with handles, which face it."""
    _table(builder, -0.3, 1.3)
    at = (0.45, 0.0, BLOCK_M[2] / 2)
    _box(builder, (0.0, 0.0, 0.0), BLOCK_M, _RED, BLOCK, body=builder.add_body(xform=_at(*at), label=BLOCK))  # 60 g

    # The cabinet is open in front, at x = 0.8 m.
    front, depth, width, height, panel = 0.8, 0.4, 0.5, 0.44, 0.02
    middle, panels = front + depth / 2, builder.shape_count
    for z in (panel / 2, height / 2, height - panel / 2):
        _box(builder, (middle, 0.0, z), (depth, width, panel), _WHITE, "cabinet")
    for side in (-1, 1):
        _box(builder, (middle, side * (width - panel) / 2, height / 2), (depth, panel, height), _WHITE, "cabinet")
    _box(builder, (front + depth - panel / 2, 0.0, height / 2), (panel, width, height), _WHITE, "cabinet")

    # Each drawer's frame is in its front's middle; it slides towards the robot.
    across, tall, deep = width - 2 * panel - 0.01, height / 2 - 1.5 * panel - 0.01, depth - 2 * panel
    for name, z in (("drawer_bottom", 0.25 * height), ("drawer_top", 0.75 * height)):
        drawer = builder.add_link(label=name)
        joint = builder.add_joint_prismatic(
            -1, drawer, parent_xform=_at(front + panel / 2, 0.0, z), axis=(-1.0, 0.0, 0.0), limit_lower=0.0,
            limit_upper=DRAWER_OPENS_M, limit_ke=2e4, limit_kd=400.0, friction=5.0, damping=20.0, label=f"{name}_joint",
        )  # fmt: skip
        builder.add_articulation([joint], label=name)
        for at, size, color in (
            ((0.0, 0.0, 0.0), (panel, across, tall), _WOOD),
            ((deep / 2, 0.0, 0.01 - tall / 2), (deep, across, 0.01), _WOOD),
            ((deep / 2, across / 2, -0.03), (deep, 0.01, tall - 0.06), _WOOD),
            ((deep / 2, -across / 2, -0.03), (deep, 0.01, tall - 0.06), _WOOD),
            ((deep, 0.0, -0.03), (0.01, across, tall - 0.06), _WOOD),
            ((-0.05, 0.0, 0.0), (0.012, 0.16, 0.012), _GREY),
            ((-0.03, 0.07, 0.0), (0.04, 0.012, 0.012), _GREY),
            ((-0.03, -0.07, 0.0), (0.04, 0.012, 0.012), _GREY),
        ):
            _box(builder, at, size, color, name, body=drawer)

    # A drawer runs in the cabinet on its joint alone.
    for pair in combinations(range(panels, builder.shape_count), 2):
        builder.add_shape_collision_filter_pair(*pair)


def _table(builder: Any, low: float, high: float) -> None:
    """Stand a table on the ground, from one x to the other, whose top is z = 0."""
    thickness = 0.04
    builder.add_ground_plane(height=-_TABLE_M)
    _box(builder, ((low + high) / 2, 0.0, -thickness / 2), (high - low, 1.0, thickness), _WOOD, "table")
    for x in (low + 0.05, high - 0.05):
        for y in (-0.45, 0.45):
            _box(builder, (x, y, -(_TABLE_M + thickness) / 2), (0.05, 0.05, _TABLE_M - thickness), _WOOD, "leg")


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
    body: int = -1,
) -> None:
    import newton

    hx, hy, hz = (side / 2 for side in size)
    solid = newton.ModelBuilder.ShapeConfig(density=_WOOD_KG_M3)
    builder.add_shape_box(body, xform=_at(*at, yaw=turned), hx=hx, hy=hy, hz=hz, cfg=solid, color=color, label=label)


def _at(x: float, y: float, z: float, *, yaw: float = 0.0, pitch: float = 0.0) -> Any:
    import warp

    return warp.transform(warp.vec3(x, y, z), warp.quat_rpy(0.0, pitch, yaw))


SCENES: dict[str, Callable[[Any], None]] = {
    EMPTY: _empty,
    GROUND: lambda builder: builder.add_ground_plane(),
    "table_top": _table_top,
    "obstacles": _obstacles,
    "stairs": _stairs,
    "franka_cabinet_oige_v1": _franka_cabinet,
}
"""The built-in scenes by name: each adds itself to a world."""
