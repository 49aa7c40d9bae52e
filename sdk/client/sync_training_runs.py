# Generated from async_training_runs.py by `make client`: change that one.
"""The client's methods about managed training runs, and the records of their answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from simyard.client.async_http import FILES_READ_S, checked_key, checked_limit, many, one
from simyard.client.async_training_runs import (
    _RUN,
    CheckpointRecord,
    EventRecord,
    IterationRecord,
    RunWatch,
    TrainingRunRecord,
    _checkpoint,
    _id,
)
from simyard.client.errors import TrainingRunCanceledError, TrainingRunFailedError
from simyard.client.settings import within
from simyard.client.sync_http import Http


class TrainingRuns:
    """The methods about managed training runs."""

    _http: Http

    def create_training_run(
        self,
        *,
        project_id: str,
        name: str,
        rollout_template: Mapping[str, Any],
        trainer_spec: Mapping[str, Any],
        checkpoint_init_uri: str | None = None,
        checkpoint_init_asset_id: str | None = None,
        loop_policy: Mapping[str, Any] | None = None,
        success_criteria: Mapping[str, Any] | None = None,
        budget_policy: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> TrainingRunRecord:
        """Submit a managed training run.

        Args:
            project_id: Whose it is.
            name: Display name.
            rollout_template: The rollouts of every iteration.
            trainer_spec: What turns them into the next checkpoint.
            checkpoint_init_uri: The checkpoint to begin from.
            checkpoint_init_asset_id: The same, uploaded.
            loop_policy: How long the loop goes on.
            success_criteria: When the run has done what it is for.
            budget_policy: What it may cost.
            idempotency_key: The same key and request are the same run; left out it is a new one.
        """
        begin = {"checkpoint_init_uri": checkpoint_init_uri, "checkpoint_init_asset_id": checkpoint_init_asset_id}
        body = {
            "project_id": project_id,
            "name": name,
            "rollout_template": dict(rollout_template),
            "trainer_spec": dict(trainer_spec),
            "loop_policy": dict(loop_policy or {}),
            "success_criteria": dict(success_criteria or {}),
            "budget_policy": dict(budget_policy or {}),
            **{key: value for key, value in begin.items() if value is not None},
        }
        return self._http.send(
            "POST",
            "/v1/training-runs",
            one(TrainingRunRecord, "run_id"),
            body=body,
            key=checked_key(idempotency_key),
            least_timeout_s=FILES_READ_S,
        )

    def list_training_runs(self, limit: int = 100) -> list[TrainingRunRecord]:
        """Return the newest runs, newest first."""
        return self._http.pages("/v1/training-runs", TrainingRunRecord, "runs", limit)

    def get_training_run(self, run_id: str) -> TrainingRunRecord:
        """Return a run as it is now."""
        return self._http.send("GET", f"/v1/training-runs/{_id(run_id)}", _RUN)

    def wait_training_run(
        self, run_id: str, *, poll_interval_s: float = 5.0, timeout_s: float = 24 * 3600.0, raise_on_error: bool = True
    ) -> TrainingRunRecord:
        """Wait until a run is over; a paused one is not.

        Args:
            run_id: The run.
            poll_interval_s: How often to ask, in seconds.
            timeout_s: How long to wait, in seconds.
            raise_on_error: Whether a run that failed or was canceled is an error.

        Raises:
            TrainingRunFailedError: If it failed.
            TrainingRunCanceledError: If it was canceled.
            JobTimeoutError: If it is not over in time; it goes on.
        """
        return self._wait_run(run_id, poll_interval_s, timeout_s, raise_on_error)

    def watch_training_run(
        self,
        run_id: str,
        *,
        poll_interval_s: float = 5.0,
        timeout_s: float = 24 * 3600.0,
        raise_on_error: bool = True,
        stream: TextIO | None = None,
        event_limit: int = 200,
    ) -> TrainingRunRecord:
        """Wait as `wait_training_run` does, and print changes and events.

        Args:
            run_id: The run.
            poll_interval_s: How often to ask, in seconds.
            timeout_s: How long to wait, in seconds.
            raise_on_error: Whether a run that failed or was canceled is an error.
            stream: Where to print; left out it is the standard output.
            event_limit: How many events to read each time; between two times no more may happen.
        """
        within("event_limit", event_limit, 1, 100_000, "events")
        watch = RunWatch(run_id, stream or sys.stdout)
        return self._wait_run(run_id, poll_interval_s, timeout_s, raise_on_error, watch, event_limit)

    def _wait_run(
        self,
        run_id: str,
        poll_interval_s: float,
        timeout_s: float,
        raise_on_error: bool,
        watch: RunWatch | None = None,
        event_limit: int = 0,
    ) -> TrainingRunRecord:
        def look() -> TrainingRunRecord:
            run = self.get_training_run(run_id)
            if watch:
                watch.show(run)
                watch.show_events(self.list_training_events(run_id, limit=event_limit))
            return run

        run = self._http.wait_until_over(f"Training run {run_id}", look, poll_interval_s, timeout_s)
        kind = {"failed": TrainingRunFailedError, "canceled": TrainingRunCanceledError}.get(run["status"])
        if raise_on_error and kind:
            raise kind(run["run_id"], run["status"], run)
        return run

    def pause_training_run(self, run_id: str) -> TrainingRunRecord:
        """Ask a run to begin nothing new."""
        return self._http.send("POST", f"/v1/training-runs/{_id(run_id)}/pause", _RUN)

    def resume_training_run(self, run_id: str) -> TrainingRunRecord:
        """Ask a paused run to go on. Without an answer it is not repeated: `get_training_run` tells."""
        return self._http.send("POST", f"/v1/training-runs/{_id(run_id)}/resume", _RUN, again=False)

    def cancel_training_run(self, run_id: str) -> TrainingRunRecord:
        """Ask a run to end; what it saved is kept."""
        return self._http.send("POST", f"/v1/training-runs/{_id(run_id)}/cancel", _RUN)

    def list_training_iterations(self, run_id: str, *, limit: int = 200) -> list[IterationRecord]:
        """Return a run's iterations, oldest first."""
        path = f"/v1/training-runs/{_id(run_id)}/iterations"
        return self._http.send("GET", path, many(IterationRecord, "iterations"), query=checked_limit(limit))

    def list_run_checkpoints(self, run_id: str, *, limit: int = 200) -> list[CheckpointRecord]:
        """Return a run's checkpoints, newest first."""
        path = f"/v1/training-runs/{_id(run_id)}/checkpoints"
        return self._http.send("GET", path, many(CheckpointRecord, "checkpoints"), query=checked_limit(limit))

    def get_latest_checkpoint(self, run_id: str) -> CheckpointRecord | None:
        """Return a run's newest checkpoint; None before there is one."""
        return next(iter(self.list_run_checkpoints(run_id, limit=1)), None)

    def list_training_events(self, run_id: str, *, limit: int = 500) -> list[EventRecord]:
        """Return the newest events of a run, the oldest of them first."""
        path = f"/v1/training-runs/{_id(run_id)}/events"
        return self._http.send("GET", path, many(EventRecord, "events"), query=checked_limit(limit))

    def get_checkpoint_download_url(self, run_id: str, checkpoint_id: str) -> str:
        """Return a signed address, good for a while, from which anybody may fetch a checkpoint."""
        return self._http.file_url(_checkpoint(run_id, checkpoint_id))

    def download_checkpoint(self, run_id: str, checkpoint_id: str, path: str | os.PathLike[str]) -> str:
        """Fetch a checkpoint into a file, which appears when it is whole; return its path.

        Args:
            run_id: The run.
            checkpoint_id: The checkpoint.
            path: The file; its folder is made if need be.

        Raises:
            IntegrityError: If other bytes came than the service says.
            OSError: If the file cannot be written.
        """
        return self._http.fetch_file(_checkpoint(run_id, checkpoint_id), Path(path).expanduser())
