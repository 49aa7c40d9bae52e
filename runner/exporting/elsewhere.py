"""The second simulators of an export: what plain MuJoCo needs of the rollouts, and the process that plays there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.files import read_json
from simyard.runner.evaluation.across import paired_returns
from simyard.runner.evaluation.episode_statistics import Episode
from simyard.runner.exporting.contract import CONTRACT_FILE, Contract
from simyard.runner.exporting.evidence import SecondSimulator
from simyard.runner.mujoco.play import Played

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_ROBOTS = 64
"""Episodes played there; each is one of an environment's first."""
MOST_OPEN = 8
"""Trajectories without the policy."""
MOST_OPEN_STEPS = 200
_TIMEOUT_S = 600.0


class StateRecorder:
    """Stands in an environment's `step` and keeps how first episodes began, and how they went on."""

    def __init__(self, env: Any) -> None:
        """Take the place."""
        self._base = env.unwrapped
        robots = dict(self._base.scene.articulations)
        self._robot: Any = next(iter(robots.values())) if len(robots) == 1 else None
        self._step = self._base.step
        self._count = min(int(self._base.num_envs), MOST_ROBOTS)
        self._most = int(self._base.max_episode_length)
        self._commands: dict[str, list[NDArray[Any]]] = {}
        self._actions: list[NDArray[Any]] = []
        self._path: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self._begins: list[NDArray[Any]] = []
        self._start: dict[str, NDArray[Any]] = {}
        if self._robot is not None:
            self._base.step = self._record

    def _record(self, action: Any) -> Any:
        steps = len(self._begins)
        if steps == 0:
            self._start = self._state() | {"targets": self._kept(self._robot.data.joint_pos_target.torch)}
        if steps < self._most:
            manager: Any = getattr(self._base, "command_manager", None)
            for name in manager.active_terms if manager else ():
                self._commands.setdefault(name, []).append(self._kept(manager.get_command(name)))
            self._begins.append(self._kept(self._base.episode_length_buf == 0))
        if steps <= MOST_OPEN_STEPS:
            self._actions.append(self._kept(action)[:MOST_OPEN])
            now = self._state()
            self._path.append((now["joint_pos"][:MOST_OPEN], now["root"][:MOST_OPEN, :3]))
        return self._step(action)

    def _state(self) -> dict[str, NDArray[Any]]:
        import numpy as np

        data = self._robot.data
        root = self._kept(data.root_link_pose_w.torch)
        root[:, :3] -= self._kept(self._base.scene.env_origins)
        found = {
            "joint_pos": self._kept(data.joint_pos.torch), "joint_vel": self._kept(data.joint_vel.torch),
            "root": root, "root_vel": self._kept(data.root_com_vel_w.torch),
        }  # fmt: skip
        return {name: np.asarray(values, np.float64) for name, values in found.items()}

    def _kept(self, tensor: Any) -> NDArray[Any]:
        kept: NDArray[Any] = tensor[: self._count].detach().cpu().numpy().copy()
        return kept

    def starts(self) -> dict[str, NDArray[Any]] | None:
        """Return the arrays for the other process; None where the scene is not one robot."""
        import numpy as np

        if self._robot is None or not self._path:
            return None
        begins = np.stack(self._begins)[: len(self._path)]
        begins[0] = False
        # A trajectory lasts until its episode ends: what follows begins anew.
        ends = [int(np.argmax(column)) - 1 if column.any() else len(self._path) - 1 for column in begins.T[:MOST_OPEN]]
        return {
            **self._start,
            **{f"command:{name}": np.stack(given).astype(np.float64) for name, given in self._commands.items()},
            "origin": np.asarray(self._base.scene.env_origins[0].cpu().numpy(), np.float64),
            "actions": np.stack(self._actions[:-1] or self._actions).astype(np.float64),
            "path": np.stack([joints for joints, _ in self._path[1:]] or [self._path[0][0]]),
            "root_path": np.stack([root for _, root in self._path[1:]] or [self._path[0][1]]),
            "steps": np.array(ends),
        }


def in_mujoco(
    contract: Contract,
    output: Path,
    model: Path,
    functions: Path | None,
    starts: dict[str, NDArray[np.float64]],
    here: Sequence[Episode],
    physics: str,
    seed: int,
) -> tuple[SecondSimulator | None, str | None]:
    """Play in plain MuJoCo from the same starts; return the comparison in pairs, or None and why there is none.

    Args:
        contract: Of the policy.
        output: Where contract and ONNX file are.
        model: MJCF or URDF of the robot.
        functions: The user's functions, if there are any.
        starts: Of the rollouts here.
        here: Episodes of those rollouts; the first of each environment is one of a pair.
        physics: The engine here.
        seed: Seed of noise and delays there.
    """
    import numpy as np

    first: dict[int, Episode] = {}
    for episode in here:
        first.setdefault(episode.env, episode)
    robots = [env for env in sorted(first) if env < len(starts["joint_pos"])]
    if not model.exists():
        return None, f"there is no {model.name}: {physics or 'the engine'} does not convert its model to MJCF"
    own = {name: starts[name][robots] for name in ("joint_pos", "joint_vel", "root", "root_vel", "targets")}
    given = {name: values[:, robots] for name, values in starts.items() if name.startswith("command:")}
    with tempfile.TemporaryDirectory(prefix="simyard-mujoco-") as scratch:
        arrays: dict[str, Any] = {**own, **given, **_open_loop(starts, robots), "origin": starts["origin"]}
        np.savez(Path(scratch) / "starts.npz", **arrays)
        plan = {
            "contract": str(output / CONTRACT_FILE), "model": str(model), "seed": seed,
            "functions": str(functions) if functions else None,
        }  # fmt: skip
        (Path(scratch) / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "simyard.runner.mujoco", scratch],
                capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, cwd=scratch, env=env,
            )  # fmt: skip
        except (subprocess.TimeoutExpired, OSError) as failure:
            return None, str(failure)
        if done.returncode != 0:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            return None, lines[-1] if lines else f"exit code {done.returncode}"
        played = Played.from_json(read_json(Path(scratch) / "played.json"))
    if played.missing:
        return None, f"{played.engine} cannot compute {', '.join(played.missing)}"
    return comparison(played, [first[env] for env in robots], physics, contract.control_period_s), None


def _open_loop(starts: dict[str, NDArray[Any]], robots: list[int]) -> dict[str, NDArray[Any]]:
    few = [n for n in robots if n < starts["actions"].shape[1]]
    # They stand first among the robots, as environments are in order.
    paths = {name: starts[name][:, few] for name in ("actions", "path", "root_path")}
    return {**paths, "steps": starts["steps"][few]}


def comparison(played: Played, here: list[Episode], physics: str, period_s: float) -> SecondSimulator:
    """Return what was played there beside the episodes here, in pairs."""
    ours = [episode.total for episode in here]
    drop = None
    if played.returns is not None:
        gap = paired_returns(ours, list(played.returns))
        low, high = gap["interval_95"] or (gap["mean"], gap["mean"])
        drop = (-high, -low)
    first = sorted(float("inf") if step is None else step * period_s for step in played.diverged)
    middle = first[len(first) // 2] if first else None
    return SecondSimulator(
        reference_physics=physics,
        physics=played.engine,
        episodes=len(ours),
        reference_return=sum(ours) / len(ours),
        mean_return=sum(played.returns) / len(ours) if played.returns is not None else None,
        drop_interval=drop,
        reference_survived=sum(episode.ended == "truncated" for episode in here) / len(here),
        survived=sum(played.survived) / len(here),
        diverged_s=None if middle is None or middle == float("inf") else middle,
        open_loop_s=played.open_steps * period_s,
        unpaid=played.unpaid or None,
    )
