"""A job's run in MLflow: https://mlflow.org. The server is that of `MLFLOW_TRACKING_URI`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from simyard.core.records import ArtifactEntry, JobResult
from simyard.tasks.trackers.mirror import Mirrored, Row, figures, plain_name

# One that is away is noticed soon: the library itself would try for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")

EXPERIMENT = "simyard"
"""Experiment of the runs where `MLFLOW_EXPERIMENT_NAME` names none."""
MOST_METRICS = 1000
"""Of one request, by MLflow's rule."""
ARTIFACTS = "artifacts.json"
"""File that names the job's artifacts, each with its address and digest; the bytes stay in the store."""
_ENDS = {"succeeded": "FINISHED", "failed": "FAILED", "canceled": "KILLED"}


class Run:
    """One run."""

    def __init__(self) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        self._run_id = ""

    def begin(self, job: Mirrored, run_id: str | None) -> tuple[str, str | None]:
        """Begin the job's run, or go on with it; return its id and address."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        if run_id is None:
            run_id = self._find(experiment, {"simyard.job_id": job.spec.job_id})
        if run_id is None:
            tags = {"simyard.job_id": job.spec.job_id, "simyard.store": job.url, "simyard.kind": job.spec.kind}
            if job.sweep:
                tags |= {"simyard.sweep_id": job.sweep, "mlflow.parentRunId": self._sweep(experiment, job.sweep)}
            run_id = self._create(experiment, job.spec.name, tags)
            for key, value in job.settings().items():
                self._client.log_param(run_id, plain_name(key), str(value)[:500])
        else:
            self._client.update_run(run_id, status="RUNNING")
        self._run_id = run_id
        address = os.environ.get("MLFLOW_TRACKING_URI", "")
        is_web = address.startswith(("http://", "https://"))
        return run_id, f"{address.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}" if is_web else None

    def log(self, rows: Sequence[Row]) -> None:
        """Send rows of metrics; one that MLflow has already stays one."""
        from mlflow.entities import Metric

        points = [
            Metric(plain_name(name), value, round(row.wall_time * 1000), row.step)
            for row in rows
            for name, value in row.values.items()
        ]
        for begin in range(0, len(points), MOST_METRICS):
            self._client.log_batch(self._run_id, metrics=points[begin : begin + MOST_METRICS])

    def end(self, result: JobResult, artifacts: dict[str, ArtifactEntry]) -> None:
        """Send figures and addresses of the artifacts, and end the run."""
        for name, value in figures(result).items():
            self._client.log_metric(self._run_id, plain_name(name), value)
        listed = [{"uri": uri, **entry.to_json()} for uri, entry in artifacts.items()]
        self._client.log_dict(self._run_id, {"artifacts": listed}, ARTIFACTS)
        if result.error:
            self._client.set_tag(self._run_id, "simyard.error", f"{result.error.code}: {result.error.message}"[:5000])
        self._client.set_terminated(self._run_id, _ENDS[result.status])

    def close(self) -> None:
        """Let go of the run, which has not ended."""

    def _sweep(self, experiment: str, sweep_id: str) -> str:
        """Return the run below which those of a sweep stand."""
        tags = {"simyard.sweep": sweep_id}
        return self._find(experiment, tags) or self._create(experiment, sweep_id, tags)

    def _create(self, experiment: str, name: str, tags: dict[str, str]) -> str:
        return str(self._client.create_run(experiment, tags=tags, run_name=name).info.run_id)

    def _find(self, experiment: str, tags: dict[str, str]) -> str | None:
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found: Any = self._client.search_runs([experiment], wanted, max_results=1)
        return str(found[0].info.run_id) if found else None
