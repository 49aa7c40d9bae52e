"""RSL-RL: `logs/rsl_rl/<experiment>/<time>/model_<index>.pt`, one TensorBoard step an iteration."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from simyard.runner.rl.base import Library, Progress, Scale, to_int

_ITERATION = re.compile(r"Learning iteration (\d+)/(\d+)")
_REWARD = re.compile(r"Mean reward:\s*([-+\d.einfa]+)")
_FILE = re.compile(r"model_(\d+)\.pt")


class RslRl(Library):
    """The library of Isaac Lab's locomotion tasks, and its default."""

    name = "rsl_rl"
    module = "rsl_rl"
    install = "uv pip install rsl-rl-lib==5.5.1"
    prints_absolute = True
    reward_tag = "Train/mean_reward"
    checkpoint_glob = "logs/rsl_rl/*/*/model_*.pt"

    def rollout(self, agent_cfg: dict[str, Any]) -> int:
        """Return `num_steps_per_env`."""
        return int(agent_cfg["num_steps_per_env"])

    def prepare_resume(self, checkpoint: Path, folder: Path, start_iteration: int) -> Path:
        """Return a copy whose counter names the *next* iteration.

        The library saves the index of the iteration it has just finished and, on loading, runs that index again:
        the last iteration would be trained twice and the job would end one short.
        """
        import torch

        state = torch.load(checkpoint, map_location="cpu", weights_only=False)
        state["iter"] = start_iteration
        target = folder / checkpoint.name
        torch.save(state, target)
        return target

    def scripts_resume(self, checkpoint: Path) -> list[str]:
        """Put the file where 2.3 looks, `logs/rsl_rl/<experiment>/<run>`, and name it by regular expressions."""
        run = Path("logs/rsl_rl/simyard/resumed")
        run.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint, run / checkpoint.name)
        names = ["--load_run", "resumed", "--checkpoint", re.escape(checkpoint.name)]
        return ["--resume", *names, "agent.experiment_name=simyard"]

    def iteration_in_name(self, name: str) -> int | None:
        """Count from 1: the name counts from 0."""
        index = to_int(_FILE.fullmatch(name))
        return None if index is None else index + 1

    def progress(self, line: str, scale: Scale) -> Progress | None:
        """Read the iteration's headline (printed when it is done) or its mean reward."""
        if match := _ITERATION.search(line):
            return Progress(done=int(match.group(1)) + 1)
        if match := _REWARD.search(line):
            return Progress(reward=float(match.group(1)))
        return None

    def iteration_of(self, file: Path, start_iteration: int, scale: Scale) -> int | None:
        """`model_59.pt` was saved after iteration index 59, the sixtieth."""
        return self.iteration_in_name(file.name)

    def first_step(self, tag: str, start_iteration: int, scale: Scale) -> int:
        """The step is the iteration's index."""
        return start_iteration
