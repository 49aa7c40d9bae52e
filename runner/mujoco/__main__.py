"""`python -m simyard.runner.mujoco FOLDER`: play what the folder says, and leave `played.json` in it.

The folder has `plan.json` (paths of contract, model and functions, seed) and `starts.npz`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NoReturn


class _Refuse:
    """Refuses what a robot does not have: the policy stands alone."""

    REFUSED = ("isaaclab", "isaacsim", "newton", "omni", "torch", "warp")

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse a module, and leave all others to those who find them."""
        top = name.partition(".")[0]
        if top in self.REFUSED or top.startswith("isaaclab_"):
            self.refuse(name)

    def refuse(self, name: str) -> NoReturn:
        """Say that a module has no place here."""
        raise ModuleNotFoundError(f"No module named {name!r}: the policy runs without it", name=name)


def main(folder: Path) -> None:
    """Play, and write the result."""
    sys.meta_path.insert(0, _Refuse())
    import numpy as np

    from simyard.core.files import write_json
    from simyard.runner.exporting.contract import read_contract
    from simyard.runner.mujoco.play import play

    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    contract = read_contract(Path(plan["contract"]))
    with np.load(folder / "starts.npz", allow_pickle=False) as starts:
        played = play(
            contract,
            Path(plan["contract"]).parent,
            Path(plan["model"]),
            Path(plan["functions"]) if plan["functions"] else None,
            dict(starts),
            plan["seed"],
        )
    write_json(folder / "played.json", played.to_json())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
