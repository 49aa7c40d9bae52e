"""Robots that Isaac Lab's tasks ask for, and the packages that carry them under an open licence.

A recipe is data: the package and its digest, the file in it, the path below the asset root where a task looks, and what
has to be changed so that names, base and drives are those that the task's configuration counts on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from simyard.core.errors import unknown
from simyard.core.wire import Wire

_ROBOTS = "Isaac/IsaacLab/Robots"


@dataclass(frozen=True)
class Package(Wire):
    """A wheel on the package index."""

    name: str
    """Its name there."""
    version: str
    """The version that the recipes were written for."""
    sha256: str
    """Digest of the wheel; another one is not installed."""


@dataclass(frozen=True)
class Drive(Wire):
    """The drive of joints, in newton metres, radians and seconds; along a line in newtons and metres."""

    joints: str
    """Expression that a joint's whole name matches."""
    stiffness: float
    """Torque for each radian of error."""
    damping: float
    """Torque for each radian per second."""
    armature: float
    """Inertia of the motor's rotor behind its gear."""


@dataclass(frozen=True)
class Recipe(Wire):
    """One robot."""

    name: str
    """The name that `simyard assets build` takes."""
    target: str
    """Path below the asset root."""
    package: Package
    """The package that carries it."""
    file: str
    """The description in the installed package: URDF, or MJCF where it ends in .xml."""
    licence: str
    """SPDX identifier."""
    licence_file: str
    """The text in the installed package, or its name beside this module."""
    tasks: tuple[str, ...]
    """Registered tasks that train with it."""
    fixed: bool = False
    """Whether the base stands on the world."""
    nested: bool = False
    """Whether a link's prim is below its parent's, as newer assets have it; else all are below the robot."""
    keep: str = ""
    """Links on fixed joints that stay bodies of their own; all others become part of their parents."""
    rename: dict[str, str] = field(default_factory=dict)
    """New names of links and joints."""
    collide: str = ".*"
    """Links that collide."""
    spheres: dict[str, float] = field(default_factory=dict)
    """Links whose shape for collisions is a sphere at their origin, with its radius in metres."""
    drives: tuple[Drive, ...] = ()
    """Drives of joints; the first that matches holds, and a joint without one gets an empty one."""
    variants: dict[str, dict[str, str]] = field(default_factory=dict)
    """Variants that the task selects: by set and name, the links that do not collide in it."""


_EXAMPLE_ROBOTS = Package(
    "example-robot-data", "6.0.0", "424092a8093411ac2cd4ccc0572382bfc6b5eb4833aa984ef5e671dd67cd0a6e"
)
_MANI_SKILL = Package("mani-skill", "3.0.1", "685de2f03c300b1ede49881a1bf6306ad062082d39c8d3be8b8e85603f32e33a")
_EXAMPLES = "cmeel.prefix/share/example-robot-data/robots"
_PANDA_ARM = "panda_link[0-7]"

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="go2",
            target=f"{_ROBOTS}/Unitree/Go2/go2.usd",
            package=_EXAMPLE_ROBOTS,
            file=f"{_EXAMPLES}/go2_description/urdf/go2.urdf",
            licence="BSD-3-Clause",
            licence_file="unitree.txt",
            tasks=("Isaac-Velocity-Flat-UnitreeGo2", "Isaac-Velocity-Rough-UnitreeGo2"),
            keep=".*_foot",
            spheres={".*_foot": 0.022},
        ),
        Recipe(
            name="a1",
            target=f"{_ROBOTS}/Unitree/A1/a1.usd",
            package=_EXAMPLE_ROBOTS,
            file=f"{_EXAMPLES}/a1_description/urdf/a1.urdf",
            licence="BSD-3-Clause",
            licence_file="unitree.txt",
            tasks=("IsaacContrib-Velocity-Flat-UnitreeA1", "IsaacContrib-Velocity-Rough-UnitreeA1"),
            keep=".*_foot",
            rename={"base": "trunk"},
        ),
        Recipe(
            name="g1",
            target=f"{_ROBOTS}/Unitree/G1/g1_minimal.usd",
            package=_MANI_SKILL,
            file="mani_skill/assets/robots/g1_humanoid/g1.urdf",
            licence="BSD-3-Clause",
            licence_file="mani_skill/assets/robots/g1_humanoid/LICENSE.txt",
            tasks=("Isaac-Velocity-Flat-G1", "Isaac-Velocity-Rough-G1"),
            keep=".*_palm_link",
            collide=".*_ankle_roll_link|.*_knee_link|torso_link",
        ),
        Recipe(
            name="franka",
            target=f"{_ROBOTS}/FrankaEmika/franka_panda.usda",
            package=_EXAMPLE_ROBOTS,
            file=f"{_EXAMPLES}/panda_description/urdf/panda.urdf",
            licence="Apache-2.0",
            licence_file=f"{_EXAMPLES}/panda_description/LICENSE",
            tasks=("Isaac-Reach-Franka", "Isaac-Reach-Franka-OSC", "Isaac-Lift-Franka"),
            fixed=True,
            nested=True,
            keep="panda_hand",
            drives=(
                Drive("panda_joint.*", 400.0, 80.0, 0.1),
                Drive("panda_finger_joint1", 2000.0, 100.0, 0.1),
                Drive("panda_finger_joint2", 0.0, 0.0, 0.1),
            ),
            variants={
                "Physics": {"mujoco": "", "physx": ""},
                "Colliders": {"primitives": "", "gripper_only": _PANDA_ARM},
            },
        ),
        Recipe(
            name="ur10",
            target=f"{_ROBOTS}/UniversalRobots/UR10/ur10_instanceable.usd",
            package=_EXAMPLE_ROBOTS,
            file=f"{_EXAMPLES}/ur_description/urdf/ur10_robot.urdf",
            licence="BSD-2-Clause",
            licence_file="example_robot_data-6.0.0.dist-info/licenses/LICENSE",
            tasks=("Isaac-Reach-UR10",),
            fixed=True,
            keep="ee_link",
        ),
    )
}
"""Every robot that can be built, by name."""


def chosen(names: Sequence[str]) -> list[Recipe]:
    """Return the recipes of some names, each once; without a name all of them.

    Raises:
        RequestError: A name is of no recipe; it says which there are.
    """
    for name in names:
        if name not in RECIPES:
            raise unknown("robot", name, RECIPES, code="unknown_robot")
    return [RECIPES[name] for name in dict.fromkeys(names or RECIPES)]
