"""Stable-Baselines3: `logs/sb3/<task>/<time>/model.zip`, `model_<n>_steps.zip`; counts start anew on resume."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from simyard.runner.rl.base import Library, Progress, Scale, to_int

_TIMESTEPS = re.compile(r"\|\s+total_timesteps\s+\|\s+(\d+)\s+\|")
_REWARD = re.compile(r"\|\s+ep_rew_mean\s+\|\s+(\S+)\s+\|")
_FILE = re.compile(r"model_(\d+)_steps\.zip")


class Sb3(Library):
    """A timestep of this library is one step of one environment."""

    name = "sb3"
    module = "stable_baselines3"
    install = "uv pip install 'isaaclab[sb3]==3.0.0'"
    needs_rollout = True
    multi_gpu = False
    reward_tag = "rollout/ep_rew_mean"
    checkpoint_glob = "logs/sb3/*/*/model*.zip"

    def rollout(self, agent_cfg: dict[str, Any]) -> int:
        """Return `n_steps`."""
        return int(agent_cfg["n_steps"])

    def arguments(self, scale: Scale) -> list[str]:
        """Log every iteration: the default of 100,000 transitions hides a short run altogether."""
        return ["--log_interval", str(scale.transitions)]

    def not_resumable(self, agent_cfg: dict[str, Any]) -> str | None:
        """A checkpoint does not hold the observation normaliser's statistics, and Isaac Lab does not load them."""
        if agent_cfg.get("normalize_input"):
            return "sb3 checkpoints of a task with `normalize_input` lack the normaliser's statistics"
        return None

    def prepare_resume(self, checkpoint: Path, folder: Path, start_iteration: int) -> Path:
        """Return a copy that logs into this attempt: the file remembers its first attempt's log folder.

        The folder has as many levels as the library's own, so that the metrics of all attempts are one table.
        """
        target = folder / checkpoint.name
        with zipfile.ZipFile(checkpoint) as source, zipfile.ZipFile(target, "w") as copy:
            for member in source.infolist():
                data = source.read(member)
                if member.filename == "data":
                    state = json.loads(data)
                    state["tensorboard_log"] = str(Path.cwd() / "logs" / "sb3" / "resumed" / "run")
                    data = json.dumps(state).encode()
                copy.writestr(member, data)
        return target

    def progress(self, line: str, scale: Scale) -> Progress | None:
        """Read a row of the printed table."""
        if match := _TIMESTEPS.search(line):
            return Progress(done=int(match.group(1)) // scale.transitions)
        if match := _REWARD.search(line):
            return Progress(reward=float(match.group(1)))
        return None

    def iteration_of(self, file: Path, start_iteration: int, scale: Scale) -> int | None:
        """The final `model.zip` has its count inside; the others are saved in a rollout, before its update."""
        timesteps = to_int(_FILE.fullmatch(file.name))
        if timesteps is not None:
            return start_iteration + (timesteps - 1) // scale.transitions
        with zipfile.ZipFile(file) as archive:
            timesteps = int(json.loads(archive.read("data"))["num_timesteps"])
        return start_iteration + timesteps // scale.transitions

    def artifact_name(self, file: Path, start_iteration: int, scale: Scale) -> str:
        """Count the transitions of earlier attempts too."""
        timesteps = to_int(_FILE.fullmatch(file.name))
        if timesteps is None:
            return file.name
        return f"model_{timesteps + self.step_offset(start_iteration, scale)}_steps.zip"

    def step_offset(self, start_iteration: int, scale: Scale) -> int:
        """Every attempt logs from its own first transition."""
        return start_iteration * scale.transitions

    def first_step(self, tag: str, start_iteration: int, scale: Scale) -> int:
        """The step is the number of transitions seen."""
        return self.step_offset(start_iteration, scale) + 1
