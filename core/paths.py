"""Every file an attempt leaves on the machine it runs on; nothing else names one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROLLOUT = "rollout.zarr"
"""Of a rollout's output: the arrays, as one file."""
RENDER = "render.mp4"
"""Of a rollout's output: the film."""


@dataclass(frozen=True)
class AttemptPaths:
    """The folder of one attempt."""

    root: Path

    @property
    def spec(self) -> Path:
        """The `AttemptSpec`."""
        return self.root / "attempt.json"

    @property
    def facts(self) -> Path:
        """Report of the simulator's check, before the start."""
        return self.root / "facts.json"

    @property
    def outcome(self) -> Path:
        """The workload's own account of its end."""
        return self.root / "workload.json"

    @property
    def inputs(self) -> Path:
        """Staged inputs, read only by convention."""
        return self.root / "inputs"

    @property
    def overlay(self) -> Path:
        """Folder of the job's own packages."""
        return self.root / "overlay"

    @property
    def work(self) -> Path:
        """The workload's current folder; the library writes its log tree below."""
        return self.root / "work"

    @property
    def output(self) -> Path:
        """Finished files of an evaluation or an export, under their artifact names."""
        return self.root / "output"

    @property
    def recording(self) -> Path:
        """The rollout's arrays while they are written; in the end they become one file of the output."""
        return self.root / "recording.zarr"

    @property
    def user_log(self) -> Path:
        """Log of the task's own code."""
        return self.root / "user_job.log"

    @property
    def staging_log(self) -> Path:
        """Log of the inputs' transfer, `key=value` lines."""
        return self.root / "asset_staging.log"

    @property
    def stdout(self) -> Path:
        """Standard output of the workload."""
        return self.root / "command.stdout.log"

    @property
    def stderr(self) -> Path:
        """Standard error of the workload."""
        return self.root / "command.stderr.log"

    @property
    def runner_log(self) -> Path:
        """The supervisor's account, `key=value` lines."""
        return self.root / "runner.log"

    @property
    def metrics(self) -> Path:
        """One row a step."""
        return self.root / "metrics.csv"

    @property
    def metrics_time(self) -> Path:
        """The tags logged against wall seconds."""
        return self.root / "metrics_time.csv"

    @property
    def telemetry(self) -> Path:
        """Load and memory, sampled."""
        return self.root / "telemetry.csv"

    @property
    def diagnostics(self) -> Path:
        """Diagnostics of a failure."""
        return self.root / "diagnostics.json"

    @property
    def world(self) -> Path:
        """Ranks that trained, and the proof that all were connected; it becomes an artifact."""
        return self.output / "world.json"

    @property
    def versions(self) -> Path:
        """Packages, GPU, driver, image."""
        return self.root / "versions.json"

    def make(self) -> None:
        """Create the folders."""
        for folder in (self.inputs, self.work, self.output):
            folder.mkdir(parents=True, exist_ok=True)
