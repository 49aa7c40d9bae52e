"""skrl: `logs/skrl/<directory>/<time>_…/checkpoints/agent_<timestep>.pt`; counts start anew on resume."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from simyard.runner.rl.base import Library, Progress, Scale, to_int

_BAR = re.compile(r"(\d+)/\d+ \[")
_WRITE_INTERVAL = "agent.agent.experiment.write_interval"
_FILE = re.compile(r"agent_(\d+)\.pt")


class Skrl(Library):
    """A timestep of this library is one step of every environment."""

    name = "skrl"
    module = "skrl"
    install = "uv pip install 'isaaclab[skrl]==3.0.0'"
    needs_rollout = True
    reward_tag = "Reward / Total reward (mean)"
    checkpoint_glob = "logs/skrl/*/*/checkpoints/*.pt"

    def device_overrides(self, device: str) -> list[str]:
        """Return nothing: the agent follows the environment's device."""
        return []

    def rollout(self, agent_cfg: dict[str, Any]) -> int:
        """Return `agent.rollouts`."""
        return int(agent_cfg["agent"]["rollouts"])

    def fit(self, agent_cfg: dict[str, Any], scale: Scale, given: set[str]) -> tuple[list[str], list[str]]:
        """Log once an iteration: `auto` is a hundredth of the run, and writes nothing at all in a short one."""
        interval = agent_cfg["agent"].get("experiment", {}).get("write_interval")
        if interval != "auto" or _WRITE_INTERVAL in given:
            return [], []
        return [f"{_WRITE_INTERVAL}={scale.rollout}"], []

    def progress(self, line: str, scale: Scale) -> Progress | None:
        """Read the progress bar."""
        timestep = to_int(_BAR.search(line))
        return None if timestep is None else Progress(done=timestep // scale.rollout)

    def iteration_of(self, file: Path, start_iteration: int, scale: Scale) -> int | None:
        """`agent_320.pt` was saved after timestep 320 of its attempt."""
        timestep = to_int(_FILE.fullmatch(file.name))
        return None if timestep is None else start_iteration + timestep // scale.rollout

    def artifact_name(self, file: Path, start_iteration: int, scale: Scale) -> str:
        """Count the timesteps of earlier attempts too."""
        timestep = to_int(_FILE.fullmatch(file.name))
        return file.name if timestep is None else f"agent_{timestep + self.step_offset(start_iteration, scale)}.pt"

    def step_offset(self, start_iteration: int, scale: Scale) -> int:
        """Every attempt logs from timestep 1."""
        return start_iteration * scale.rollout

    def first_step(self, tag: str, start_iteration: int, scale: Scale) -> int:
        """The step is the timestep, counted from 1."""
        return self.step_offset(start_iteration, scale) + 1
