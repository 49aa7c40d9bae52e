"""A job's run in Weights & Biases: https://wandb.ai, or a server of one's own; `WANDB_MODE=offline` needs none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from simyard.core.records import ArtifactEntry, JobResult
from simyard.tasks.trackers.mirror import Mirrored, Row, figures

PROJECT = "simyard"
"""Project of the runs where `WANDB_PROJECT` names none."""
PATIENCE_S = 20
"""Seconds that a server may take to answer."""


class Run:
    """One run; its id is the job's, so every later process goes on with it."""

    def __init__(self) -> None:
        self._run: Any = None

    def begin(self, job: Mirrored, run_id: str | None) -> tuple[str, str | None]:
        """Begin the job's run, or go on with it; return its id and address."""
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=job.spec.job_id,
            name=job.spec.name,
            group=job.sweep,
            job_type=job.spec.kind,
            config=job.settings() | {"store": job.url},
            dir=os.environ.get("WANDB_DIR") or str(job.folder),
            resume=None if os.environ.get("WANDB_MODE") == "offline" else "allow",
            settings=wandb.Settings(
                init_timeout=PATIENCE_S, console="off", silent=True, disable_git=True, disable_code=True,
                x_disable_stats=True,
            ),
        )  # fmt: skip
        return job.spec.job_id, self._run.url

    def log(self, rows: Sequence[Row]) -> None:
        """Send rows of metrics."""
        for row in rows:
            self._run.log({**row.values, "wall_time": row.wall_time}, step=row.step)

    def end(self, result: JobResult, artifacts: dict[str, ArtifactEntry]) -> None:
        """Send figures and addresses of the artifacts, and end the run."""
        import wandb

        self._run.summary.update(figures(result) | {"status": result.status})
        kept = wandb.Artifact(result.job_id, type=result.kind, metadata={"store": result.store})
        for uri, entry in artifacts.items():
            # By reference: the bytes stay in the store, and their digests are in the job's manifest.
            kept.add_reference(uri, name=entry.name, checksum=False)
        self._run.log_artifact(kept)
        self._run.finish(exit_code=0 if result.status == "succeeded" else 1)

    def close(self) -> None:
        """Let go of the run, which has not ended."""
        self._run.finish(exit_code=0)
