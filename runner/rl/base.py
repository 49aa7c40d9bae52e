"""What simyard must know of a reinforcement-learning library: one small file for each beside this one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The sizes that turn a library's own counters into iterations."""

    num_envs: int
    rollout: int
    """Steps each environment takes in one iteration."""

    @property
    def transitions(self) -> int:
        """Environment steps of all environments in one iteration."""
        return self.num_envs * self.rollout


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One line's worth of progress."""

    done: int | None = None
    """Units of work finished; while training these are iterations, in the library's own count (see
    `Library.prints_absolute`)."""
    step: int | None = None
    """Steps taken so far: a sign of life between units."""
    reward: float | None = None
    """Mean return of recent episodes."""


class Library:
    """A library's names, files and habits. An *iteration* is one policy update everywhere in simyard."""

    name: ClassVar[str]
    module: ClassVar[str]
    """What must be importable."""
    install: ClassVar[str]
    """The command that makes it so."""
    reward_tag: ClassVar[str]
    """TensorBoard tag of the mean episode return."""
    checkpoint_glob: ClassVar[str]
    """Checkpoints, relative to the workload's folder."""
    absolute_iterations: ClassVar[bool] = False
    """True where the library's own limit counts the iterations of the checkpoint too."""
    needs_rollout: ClassVar[bool] = False
    """True where checkpoints are named by environment steps: a rollout's length turns those into iterations."""
    prints_absolute: ClassVar[bool] = False
    """True where the printed iteration counts those of the checkpoint too."""
    multi_gpu: ClassVar[bool] = True
    """Whether Isaac Lab's multi-GPU launcher can drive it."""

    @property
    def agent_key(self) -> str:
        """The task registry's key for this library's agent configuration."""
        return f"{self.name}_cfg_entry_point"

    # --- before the run -------------------------------------------------------------------------------------------

    def device_overrides(self, device: str) -> list[str]:
        """Return the Hydra arguments that move the agent to a device (`--device` moves the simulation alone)."""
        return [f"agent.device={device}"]

    def rollout(self, agent_cfg: dict[str, Any]) -> int:
        """Return the steps each environment takes in one iteration."""
        raise NotImplementedError

    def fit(self, agent_cfg: dict[str, Any], scale: Scale, given: set[str]) -> tuple[list[str], list[str]]:
        """Return (overrides, notes) that make the agent's configuration fit the job.

        Args:
            agent_cfg: The resolved configuration.
            scale: The job's sizes.
            given: Keys the user set; those are never changed.

        Raises:
            RequestError: If what the user set cannot work.
        """
        return [], []

    def arguments(self, scale: Scale) -> list[str]:
        """Return command-line arguments of this library's own."""
        return []

    def not_resumable(self, agent_cfg: dict[str, Any]) -> str | None:
        """Return why a checkpoint of this library cannot be taken up, or None when it can."""
        return None

    def prepare_resume(self, checkpoint: Path, folder: Path, start_iteration: int) -> Path:
        """Return a checkpoint file that makes the library go on with iteration `start_iteration`."""
        return checkpoint

    def scripts_resume(self, checkpoint: Path) -> list[str]:
        """Return the arguments that resume on Isaac Lab 2.3."""
        return ["--checkpoint", str(checkpoint)]

    def iteration_in_name(self, name: str) -> int | None:
        """Return the iterations that a checkpoint from elsewhere had seen, or None when its name does not say."""
        return None

    # --- during and after the run ---------------------------------------------------------------------------------

    def progress(self, line: str, scale: Scale) -> Progress | None:
        """Read one line of output."""
        raise NotImplementedError

    def iteration_of(self, file: Path, start_iteration: int, scale: Scale) -> int | None:
        """Return the iterations the policy had seen when `file` was saved, or None for a file without a number."""
        raise NotImplementedError

    def artifact_name(self, file: Path, start_iteration: int, scale: Scale) -> str:
        """Return the checkpoint's name in the job, unique over all attempts."""
        return file.name

    def step_offset(self, start_iteration: int, scale: Scale) -> int:
        """Return what to add to the logged steps of an attempt that starts at this iteration."""
        return 0

    def first_step(self, tag: str, start_iteration: int, scale: Scale) -> int:
        """Return the first step such an attempt logs for a tag, on the job's axis."""
        raise NotImplementedError


def to_int(match: re.Match[str] | None) -> int | None:
    """Return the first group as a number."""
    return int(match.group(1)) if match else None
