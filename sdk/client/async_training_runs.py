"""The client's methods about managed training runs, and the records of their answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired, TextIO, TypedDict

from simyard.client.async_http import (
    FILES_READ_S,
    AsyncHttp,
    checked_key,
    checked_limit,
    many,
    one,
    segment,
)
from simyard.client.async_jobs import CostRecord, EstimateRecord, FailureRecord
from simyard.client.errors import TrainingRunCanceledError, TrainingRunFailedError
from simyard.client.settings import within

RunStatus = Literal["queued", "running", "paused", "succeeded", "failed", "canceled"]


class TrainingRunRecord(TypedDict):
    """One managed training run."""

    run_id: str
    """The run's id."""
    project_id: str
    """Project that it belongs to."""
    name: str
    """Display name."""
    status: RunStatus
    """Current status."""
    stage: str | None
    """Current stage."""
    current_iteration: int | None
    """The iteration it is in."""
    max_iterations: int
    """Iterations that it may have at most."""
    credits: float | None
    """Cost so far, in credits."""
    cost: NotRequired[CostRecord | None]
    """What it has cost; None before it has ended."""
    estimate: NotRequired[EstimateRecord | None]
    """Estimate of its submission; while it runs, by its own iterations."""
    estimated_seconds: NotRequired[float | None]
    """Seconds of the estimate."""
    estimated_usd: NotRequired[float | None]
    """Price of the estimate, in USD."""
    ended_by: str | None
    """The policy that ended it."""
    error: str | None
    """The first failure, then what to do."""
    failure: FailureRecord | None
    """The same for programs."""
    created_at: str
    """ISO 8601, UTC."""


class IterationRecord(TypedDict):
    """One iteration of a managed training run that has ended."""

    iteration: int
    """Its number, counted from 1."""
    iteration_id: str
    """Its id within the run."""
    status: Literal["succeeded", "failed"]
    """Its end."""
    failure: FailureRecord | None
    """The failure of one that left no checkpoint."""
    checkpoint_id: str | None
    """The checkpoint that it made."""
    rollouts: list[str]
    """Ids of its jobs."""
    mean_return: float | None
    """Mean return of its rollouts; None where it was not measured."""
    success_rate: float | None
    """Share of episodes that succeeded, from 0 to 1."""
    metrics: dict[str, Any]
    """Metrics of the trainer."""
    metric: float | None
    """The one that the run's success criteria name."""
    gpu_seconds: float
    """GPU seconds of its rollouts and of its calls of the trainer."""
    seconds: float
    """Its duration, in seconds."""


class CheckpointRecord(TypedDict):
    """One checkpoint of a managed training run."""

    checkpoint_id: str
    """Its id within the run."""
    iteration: int
    """The iteration that made it."""
    sha256: NotRequired[str]
    """Its digest."""
    size_bytes: NotRequired[int]
    """Its size."""


class EventRecord(TypedDict):
    """Something that happened in a managed training run."""

    event_id: str
    """Its id; ids grow."""
    event_type: str
    """Such as `checkpoint.created`."""
    created_at: str
    """ISO 8601, UTC."""
    message: str
    """For people."""
    data: dict[str, Any]
    """For programs."""


class AsyncTrainingRuns:
    """The methods about managed training runs."""

    _http: AsyncHttp

    async def create_training_run(
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
        return await self._http.send(
            "POST",
            "/v1/training-runs",
            one(TrainingRunRecord, "run_id"),
            body=body,
            key=checked_key(idempotency_key),
            least_timeout_s=FILES_READ_S,
        )

    async def list_training_runs(self, limit: int = 100) -> list[TrainingRunRecord]:
        """Return the newest runs, newest first."""
        return await self._http.pages("/v1/training-runs", TrainingRunRecord, "runs", limit)

    async def get_training_run(self, run_id: str) -> TrainingRunRecord:
        """Return a run as it is now."""
        return await self._http.send("GET", f"/v1/training-runs/{_id(run_id)}", _RUN)

    async def wait_training_run(
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
        return await self._wait_run(run_id, poll_interval_s, timeout_s, raise_on_error)

    async def watch_training_run(
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
        return await self._wait_run(run_id, poll_interval_s, timeout_s, raise_on_error, watch, event_limit)

    async def _wait_run(
        self,
        run_id: str,
        poll_interval_s: float,
        timeout_s: float,
        raise_on_error: bool,
        watch: RunWatch | None = None,
        event_limit: int = 0,
    ) -> TrainingRunRecord:
        async def look() -> TrainingRunRecord:
            run = await self.get_training_run(run_id)
            if watch:
                watch.show(run)
                watch.show_events(await self.list_training_events(run_id, limit=event_limit))
            return run

        run = await self._http.wait_until_over(f"Training run {run_id}", look, poll_interval_s, timeout_s)
        kind = {"failed": TrainingRunFailedError, "canceled": TrainingRunCanceledError}.get(run["status"])
        if raise_on_error and kind:
            raise kind(run["run_id"], run["status"], run)
        return run

    async def pause_training_run(self, run_id: str) -> TrainingRunRecord:
        """Ask a run to begin nothing new."""
        return await self._http.send("POST", f"/v1/training-runs/{_id(run_id)}/pause", _RUN)

    async def resume_training_run(self, run_id: str) -> TrainingRunRecord:
        """Ask a paused run to go on. Without an answer it is not repeated: `get_training_run` tells."""
        return await self._http.send("POST", f"/v1/training-runs/{_id(run_id)}/resume", _RUN, again=False)

    async def cancel_training_run(self, run_id: str) -> TrainingRunRecord:
        """Ask a run to end; what it saved is kept."""
        return await self._http.send("POST", f"/v1/training-runs/{_id(run_id)}/cancel", _RUN)

    async def list_training_iterations(self, run_id: str, *, limit: int = 200) -> list[IterationRecord]:
        """Return a run's iterations, oldest first."""
        path = f"/v1/training-runs/{_id(run_id)}/iterations"
        return await self._http.send("GET", path, many(IterationRecord, "iterations"), query=checked_limit(limit))

    async def list_run_checkpoints(self, run_id: str, *, limit: int = 200) -> list[CheckpointRecord]:
        """Return a run's checkpoints, newest first."""
        path = f"/v1/training-runs/{_id(run_id)}/checkpoints"
        return await self._http.send("GET", path, many(CheckpointRecord, "checkpoints"), query=checked_limit(limit))

    async def get_latest_checkpoint(self, run_id: str) -> CheckpointRecord | None:
        """Return a run's newest checkpoint; None before there is one."""
        return next(iter(await self.list_run_checkpoints(run_id, limit=1)), None)

    async def list_training_events(self, run_id: str, *, limit: int = 500) -> list[EventRecord]:
        """Return the newest events of a run, the oldest of them first."""
        path = f"/v1/training-runs/{_id(run_id)}/events"
        return await self._http.send("GET", path, many(EventRecord, "events"), query=checked_limit(limit))

    async def get_checkpoint_download_url(self, run_id: str, checkpoint_id: str) -> str:
        """Return a signed address, good for a while, from which anybody may fetch a checkpoint."""
        return await self._http.file_url(_checkpoint(run_id, checkpoint_id))

    async def download_checkpoint(self, run_id: str, checkpoint_id: str, path: str | os.PathLike[str]) -> str:
        """Fetch a checkpoint into a file, which appears when it is whole; return its path.

        Args:
            run_id: The run.
            checkpoint_id: The checkpoint.
            path: The file; its folder is made if need be.

        Raises:
            IntegrityError: If other bytes came than the service says.
            OSError: If the file cannot be written.
        """
        return await self._http.fetch_file(_checkpoint(run_id, checkpoint_id), Path(path).expanduser())


_RUN = one(TrainingRunRecord, "run_id", "status")


def _id(run_id: str) -> str:
    return segment("run_id", run_id)


def _checkpoint(run_id: str, checkpoint_id: str) -> str:
    """Return the path of the endpoint that tells a checkpoint's address."""
    return f"/v1/training-runs/{_id(run_id)}/checkpoints/{segment('checkpoint_id', checkpoint_id)}/download-url"


class RunWatch:
    """Prints a managed run whenever its state or its iteration is new, and each event once."""

    def __init__(self, run_id: str, stream: TextIO) -> None:
        self._run_id = run_id
        self._stream = stream
        self._shown: tuple[Any, ...] | None = None
        self._events: set[tuple[str, ...]] = set()

    def show(self, run: TrainingRunRecord) -> None:
        """Print the run if it is another than last time."""
        state = (run["status"], run.get("stage"), run.get("current_iteration"), run.get("error"))
        if state == self._shown:
            return
        self._shown = state
        parts: list[str] = [run["status"]]
        if run["status"] == "running" and run.get("stage"):
            parts.append(str(run["stage"]).removeprefix(f"iteration {run.get('current_iteration')}: "))
        if run.get("current_iteration") is not None:
            most = f" of {run['max_iterations']}" if run.get("max_iterations") else ""
            parts.append(f"iteration {run['current_iteration']}{most}")
        if run.get("credits") is not None:
            parts.append(f"{run['credits']:.2f} credits")
        reason = f": {run['error']}" if run.get("error") else ""
        print(f"{self._run_id}  {', '.join(parts)}{reason}", file=self._stream, flush=True)

    def show_events(self, events: Iterable[EventRecord]) -> None:
        """Print those that were not printed yet, oldest first."""
        for event in sorted(events, key=lambda event: (event.get("created_at") or "", event.get("event_id") or "")):
            whole = tuple(str(event.get(key) or "") for key in ("event_id", "created_at", "event_type", "message"))
            known = whole[:1] if whole[0] else whole
            if known not in self._events:
                self._events.add(known)
                print("  ".join(whole[1:]), file=self._stream, flush=True)
