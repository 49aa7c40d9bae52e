"""An asset root for machines without NVIDIA's asset store, from what installed packages carry."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from simyard.core.files import write_atomic

_GROUND = "Isaac/IsaacLab/Environments/Grid/default_ground_plane_checker_v1/default_ground_plane.usda"
_CARTPOLE = "Isaac/IsaacLab/Robots/Classic/Cartpole/cartpole.usd"
_ANT = "Isaac/Robots/IsaacSim/Ant/ant_instanceable.usd"


def embedded_root(root: Path) -> Path | None:
    """Lay out the asset root below `root` on first use and return it, or None where Newton is not installed.

    It holds what newton's own examples ship in Isaac Lab's form (the cartpole and the ant), and a plain ground plane
    with the prims that Isaac Lab's spawner touches.
    """
    newton = importlib.util.find_spec("newton")
    if newton is None or newton.origin is None:
        return None
    shipped = Path(newton.origin).parent / "examples" / "assets"
    cartpole = (shipped / "cartpole_single_pendulum.usda").read_text(encoding="utf-8")
    # Isaac Lab spawns the default prim and looks for the robot below it by this name.
    _place(root / _CARTPOLE, cartpole.replace('defaultPrim = "cartPole"', 'defaultPrim = "cartpole"'))
    _place(root / _ANT, (shipped / "ant.usda").read_text(encoding="utf-8"))
    _place(root / _GROUND, (Path(__file__).parent / "ground_plane.usda").read_text(encoding="utf-8"))
    return root


def _place(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    write_atomic(path, text.encode())
