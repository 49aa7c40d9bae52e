"""An asset root for machines without NVIDIA's asset store, from what installed packages carry."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from simyard.core.files import write_atomic

_OWN = {
    "Isaac/IsaacLab/Environments/Grid/default_ground_plane_checker_v1/default_ground_plane.usda": "ground_plane.usda",
    "Isaac/Props/UIElements/arrow_x.usd": "arrow_x.usda",
    "Isaac/Props/UIElements/frame_prim.usd": "frame_prim.usda",
}
"""Where a task looks for a thing around the robot, and our file in its place, beside this one."""
_SHIPPED = {
    "Isaac/IsaacLab/Robots/Classic/Cartpole/cartpole.usd": "cartpole_single_pendulum.usda",
    "Isaac/IsaacLab/Robots/Classic/CartDoublePendulum/cart_double_pendulum.usd": "cartpole.usda",
    "Isaac/Robots/IsaacSim/Ant/ant_instanceable.usd": "ant.usda",
    "Isaac/Robots/IsaacSim/Humanoid/humanoid_instanceable.usd": "humanoid.usda",
}
"""Where a task looks for a robot, and newton's file of it."""
_OURS = b"\n# laid out by simyard\n"
"""Last line of what is placed here."""
_RENAMED = {
    # Isaac Lab spawns the default prim and looks for the robot below it by this name.
    'defaultPrim = "cartPole"': 'defaultPrim = "cartpole"',
    'def Xform "cartPole"': 'def Xform "cartpole"',
    "</cartPole/": "</cartpole/",
    # Its cart with two poles has other names for the joints.
    '"railCartJoint"': '"slider_to_cart"',
    '"cartPoleJoint"': '"cart_to_pole"',
    '"polePoleJoint"': '"pole_to_pendulum"',
    # Its humanoid has these joints named for the body below them, as all the others are.
    'PhysicsRevoluteJoint "abdomen_x"': 'PhysicsRevoluteJoint "pelvis"',
    'PhysicsRevoluteJoint "right_knee"': 'PhysicsRevoluteJoint "right_shin"',
    'PhysicsRevoluteJoint "left_knee"': 'PhysicsRevoluteJoint "left_shin"',
    'PhysicsRevoluteJoint "right_elbow"': 'PhysicsRevoluteJoint "right_lower_arm"',
    'PhysicsRevoluteJoint "left_elbow"': 'PhysicsRevoluteJoint "left_lower_arm"',
}


def embedded_root(root: Path) -> Path | None:
    """Lay out the asset root below `root` on first use and return it, or None where Newton is not installed.

    It holds what newton's own examples ship in Isaac Lab's form (the cartpole, the ant and the humanoid) or nearly so
    (the cart with two poles, whose sizes are newton's), and plain
    things of ours: a ground plane with the prims that Isaac Lab's spawner touches, and markers. `simyard assets build`
    adds robots.
    """
    newton = importlib.util.find_spec("newton")
    if newton is None or newton.origin is None:
        return None
    shipped = Path(newton.origin).parent / "examples" / "assets"
    for path, file in _SHIPPED.items():
        text = (shipped / file).read_text(encoding="utf-8")
        for old, new in _RENAMED.items():
            text = text.replace(old, new)
        _place(root / path, text)
    for path, file in _OWN.items():
        _place(root / path, (Path(__file__).parent / file).read_text(encoding="utf-8"))
    return root


def _place(path: Path, text: str) -> None:
    """Write a file of ours where there is none, or an older one of ours; NVIDIA's, copied there, is better."""
    data = text.rstrip().encode() + _OURS
    if path.exists() and ((there := path.read_bytes()) == data or not there.endswith(_OURS)):
        return
    write_atomic(path, data)
