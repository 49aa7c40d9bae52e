"""The gripper and the cube, built of boxes: in metres, kilograms and newtons."""

import newton
import warp as wp

CUBE = 0.04
"""Side of the cube."""
OPENING = 0.045
"""From the gripper's middle to an open finger."""
STROKE = 0.4
"""How high the gripper can go."""
CONTACT = {"ke": 1e4, "kd": 200.0}
"""Stiffness [N/m] and damping [N s/m] of what touches: with softer contacts a grasp creeps."""
JOINTS = ("lift", "left_finger", "right_finger")
"""The first joint coordinates of each world; the cube's pose follows."""


def build_model(num_envs: int, cube_mass_kg: float, friction: float, device: str) -> newton.Model:
    """Return a model with one gripper and one cube in each world, and a ground for all."""
    world = newton.ModelBuilder()
    newton.solvers.SolverMuJoCo.register_custom_attributes(world)
    add_gripper(world, friction)
    material = newton.ModelBuilder.ShapeConfig(density=cube_mass_kg / CUBE**3, mu=friction, **CONTACT)
    cube = world.add_body(xform=at(0, 0, CUBE / 2), label="cube")
    world.add_shape_box(cube, hx=CUBE / 2, hy=CUBE / 2, hz=CUBE / 2, cfg=material, color=(0.85, 0.35, 0.15))
    scene = newton.ModelBuilder()
    scene.replicate(world, num_envs)
    scene.add_ground_plane(cfg=newton.ModelBuilder.ShapeConfig(mu=friction, **CONTACT))
    return scene.finalize(device=device)


def add_gripper(world: newton.ModelBuilder, friction: float) -> None:
    """Add a palm that goes up and down, and two fingers below it that close on each other."""
    steel = newton.ModelBuilder.ShapeConfig(mu=friction, **CONTACT)
    palm = world.add_link(label="palm")
    world.add_shape_box(palm, hx=0.03, hy=0.06, hz=0.015, cfg=steel, color=(0.5, 0.55, 0.6))
    rail = {"limit_lower": 0.0, "limit_upper": STROKE, "target_ke": 4000.0, "target_kd": 200.0}
    joints = [
        world.add_joint_prismatic(-1, palm, axis=(0, 0, 1), parent_xform=at(0, 0, 0.075), label=JOINTS[0], **rail)
    ]
    drive = {"limit_lower": 0.0, "limit_upper": OPENING, "target_ke": 400.0, "target_kd": 20.0, "effort_limit": 20.0}
    for name, side in zip(JOINTS[1:], (1, -1), strict=True):
        finger = world.add_link(label=name)
        pad = at(0, 0, -0.045)
        world.add_shape_box(finger, xform=pad, hx=0.012, hy=0.006, hz=0.03, cfg=steel, color=(0.2, 0.25, 0.3))
        place = at(0, side * OPENING, 0)
        joints.append(
            world.add_joint_prismatic(palm, finger, axis=(0, -side, 0), parent_xform=place, label=name, **drive)
        )
    world.add_articulation(joints, label="gripper")


def at(x: float, y: float, z: float) -> wp.transform:
    """Return a place, unturned."""
    return wp.transform((x, y, z), wp.quat_identity())
