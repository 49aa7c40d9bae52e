"""Every file an attempt leaves on the machine it runs on; the artifacts among them by their rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simyard.core import artifacts


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
        return self.root / artifacts.USER_LOG.name

    @property
    def staging_log(self) -> Path:
        """Log of the inputs' transfer, `key=value` lines."""
        return self.root / artifacts.STAGING_LOG.name

    @property
    def stdout(self) -> Path:
        """Standard output of the workload."""
        return self.root / artifacts.STDOUT.name

    @property
    def stderr(self) -> Path:
        """Standard error of the workload."""
        return self.root / artifacts.STDERR.name

    @property
    def runner_log(self) -> Path:
        """The supervisor's account, `key=value` lines."""
        return self.root / artifacts.RUNNER_LOG.name

    @property
    def metrics(self) -> Path:
        """One row a step."""
        return self.root / artifacts.METRICS.name

    @property
    def metrics_time(self) -> Path:
        """The tags logged against wall seconds."""
        return self.root / artifacts.METRICS_TIME.name

    @property
    def telemetry(self) -> Path:
        """Load and memory, sampled."""
        return self.root / artifacts.TELEMETRY.name

    @property
    def diagnostics(self) -> Path:
        """Diagnostics of a failure."""
        return self.root / artifacts.DIAGNOSTICS.name

    @property
    def world(self) -> Path:
        """Ranks that trained, and the proof that all were connected; it becomes an artifact."""
        return self.output / artifacts.WORLD.name

    @property
    def versions(self) -> Path:
        """Packages, GPU, driver, image."""
        return self.root / artifacts.VERSIONS.name

    def make(self) -> None:
        """Create the folders."""
        for folder in (self.inputs, self.work, self.output):
            folder.mkdir(parents=True, exist_ok=True)
