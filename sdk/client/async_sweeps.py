"""The client's methods about sweeps, and the records of their answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
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
from simyard.client.async_training_runs import EventRecord
from simyard.client.errors import SweepCanceledError, SweepFailedError

SweepStatus = Literal["queued", "running", "paused", "succeeded", "failed", "canceled"]


class SweepRecord(TypedDict):
    """One sweep."""

    sweep_id: str
    """The sweep's id."""
    project_id: str
    """Project that it belongs to."""
    name: str
    """Display name."""
    status: SweepStatus
    """Current status."""
    stage: str | None
    """Current stage; None once it has ended."""
    settings: int
    """Settings suggested so far."""
    most_settings: int | None
    """Settings at most; None once it has ended."""
    running: int | None
    """Jobs in progress; None once it has ended."""
    pruned: int | None
    """Settings that the scheduler ended early; None once it has ended."""
    best: float | None
    """The best setting's mean so far, of several objectives by the first; None where nothing was measured."""
    best_setting: int | None
    """Its number."""
    seconds_left: float | None
    """Estimate of the time to the end."""
    cost: CostRecord | None
    """GPU time of all jobs so far, and its price; None before any process drives it."""
    estimate: NotRequired[EstimateRecord | None]
    """Estimate of its submission."""
    estimated_seconds: NotRequired[float | None]
    """Seconds of the estimate."""
    estimated_usd: NotRequired[float | None]
    """Price of the estimate, in USD."""
    verdict: dict[str, Any] | None
    """The ranking so far, the comparison of the best two or the Pareto front, and a sentence."""
    ended_by: str | None
    """Reason of the end: `done`, `target`, a budget's name, `canceled` or `failed`."""
    error: str | None
    """The first failure, then what to do."""
    failure: FailureRecord | None
    """The same for programs."""
    page_url: str
    """Address of its page, which needs no key for a while."""
    created_at: str
    """ISO 8601, UTC."""


class SettingRecord(TypedDict):
    """One setting of a sweep."""

    number: int
    """Counted from 0."""
    values: dict[str, Any]
    """Value of each parameter by its path."""
    runs: list[dict[str, Any]]
    """Its training with each seed: `seed`, `jobs`, `iterations`, `status`, `value` and more."""
    state: Literal["running", "complete", "pruned", "failed"]
    """Current state."""
    rung: int
    """The newest rung that it has reached, counted from 0."""


class BestRecord(TypedDict):
    """The best setting of a sweep."""

    number: int
    """The setting's."""
    values: dict[str, Any]
    """Value of each parameter by its path."""
    value: dict[str, Any]
    """The objective over its seeds, of several the first: `mean`, `low`, `high` and `n`."""
    others: NotRequired[list[dict[str, Any]]]
    """Of several objectives all but the first, in order."""
    metrics: NotRequired[list[str]]
    """Metrics of several objectives, in order."""
    seed: int
    """Of the training of it that did best."""
    job_id: str
    """The job with that training's last checkpoint."""
    iterations: int
    """Iterations of it."""
    sentence: str
    """Whether the setting is better than the others, in words."""
    config: dict[str, Any]
    """The config to train it again: `create_job` takes it."""


class AsyncSweeps:
    """The methods about sweeps."""

    _http: AsyncHttp

    async def create_sweep(self, config: Mapping[str, Any], *, idempotency_key: str | None = None) -> SweepRecord:
        """Submit a sweep.

        Args:
            config: A training's config with `sweep`: parameters, seeds, and how to choose.
            idempotency_key: The same key and request are the same sweep; left out it is a new one.
        """
        return await self._http.send(
            "POST",
            "/v1/sweeps",
            _SWEEP,
            body=dict(config),
            key=checked_key(idempotency_key),
            least_timeout_s=FILES_READ_S,
        )

    async def list_sweeps(self, limit: int = 100) -> list[SweepRecord]:
        """Return the newest sweeps, newest first."""
        return await self._http.pages("/v1/sweeps", SweepRecord, "sweeps", limit)

    async def get_sweep(self, sweep_id: str) -> SweepRecord:
        """Return a sweep as it is now, with the verdict so far."""
        return await self._http.send("GET", f"/v1/sweeps/{_id(sweep_id)}", _SWEEP)

    async def wait_sweep(
        self,
        sweep_id: str,
        *,
        poll_interval_s: float = 5.0,
        timeout_s: float = 24 * 3600.0,
        raise_on_error: bool = True,
        stream: TextIO | None = None,
    ) -> SweepRecord:
        """Wait until a sweep is over; a paused one is not.

        Args:
            sweep_id: The sweep.
            poll_interval_s: How often to ask, in seconds.
            timeout_s: How long to wait, in seconds.
            raise_on_error: Whether a sweep that failed or was canceled is an error.
            stream: Where to print how it stands whenever that changes; left out nowhere.

        Raises:
            SweepFailedError: If it failed.
            SweepCanceledError: If it was canceled.
            JobTimeoutError: If it is not over in time; it goes on.
        """
        shown: list[str] = []

        async def look() -> SweepRecord:
            sweep = await self.get_sweep(sweep_id)
            if stream and shown != [line := _line(sweep)]:
                shown[:] = [line]
                print(line, file=stream, flush=True)
            return sweep

        sweep = await self._http.wait_until_over(f"Sweep {sweep_id}", look, poll_interval_s, timeout_s)
        kind = {"failed": SweepFailedError, "canceled": SweepCanceledError}.get(sweep["status"])
        if raise_on_error and kind:
            raise kind(sweep["sweep_id"], sweep["status"], sweep)
        return sweep

    async def watch_sweep(
        self, sweep_id: str, *, poll_interval_s: float = 5.0, timeout_s: float = 24 * 3600.0
    ) -> SweepRecord:
        """Wait as `wait_sweep` does, and print how the sweep stands to the standard output."""
        return await self.wait_sweep(sweep_id, poll_interval_s=poll_interval_s, timeout_s=timeout_s, stream=sys.stdout)

    async def pause_sweep(self, sweep_id: str) -> SweepRecord:
        """Ask a sweep to begin nothing new."""
        return await self._http.send("POST", f"/v1/sweeps/{_id(sweep_id)}/pause", _SWEEP)

    async def resume_sweep(self, sweep_id: str) -> SweepRecord:
        """Ask a paused sweep to go on. Without an answer it is not repeated: `get_sweep` tells."""
        return await self._http.send("POST", f"/v1/sweeps/{_id(sweep_id)}/resume", _SWEEP, again=False)

    async def cancel_sweep(self, sweep_id: str) -> SweepRecord:
        """Ask a sweep to end; what was trained and measured is kept."""
        return await self._http.send("POST", f"/v1/sweeps/{_id(sweep_id)}/cancel", _SWEEP)

    async def list_sweep_settings(self, sweep_id: str) -> list[SettingRecord]:
        """Return a sweep's settings in the order of suggestion, each with its trainings."""
        return await self._http.send("GET", f"/v1/sweeps/{_id(sweep_id)}/settings", many(SettingRecord, "settings"))

    async def list_sweep_events(self, sweep_id: str, *, limit: int = 500) -> list[EventRecord]:
        """Return the newest events of a sweep, the oldest of them first."""
        path = f"/v1/sweeps/{_id(sweep_id)}/events"
        return await self._http.send("GET", path, many(EventRecord, "events"), query=checked_limit(limit))

    async def get_best_of_sweep(self, sweep_id: str) -> BestRecord:
        """Return the best setting so far, its best training, and the config to train it again."""
        return await self._http.send("GET", f"/v1/sweeps/{_id(sweep_id)}/best", one(BestRecord, "job_id", "sentence"))

    async def download_sweep_artifact(self, sweep_id: str, name: str, path: str | os.PathLike[str]) -> str:
        """Fetch the report or a picture of a sweep into a file, which appears when it is whole; return its path.

        Args:
            sweep_id: The sweep.
            name: `report.md`, `curves.png`, `parallel.png`, `front.png` or `importance.png`.
            path: The file; its folder is made if need be.

        Raises:
            OSError: If the file cannot be written.
        """
        where = f"/v1/sweeps/{_id(sweep_id)}/artifacts/{segment('name', name)}/download-url"
        return await self._http.fetch_file(where, Path(path).expanduser())


_SWEEP = one(SweepRecord, "sweep_id", "status")


def _id(sweep_id: str) -> str:
    return segment("sweep_id", sweep_id)


def _line(sweep: SweepRecord) -> str:
    """Return how a sweep stands, in one line."""
    parts = [f"{sweep['sweep_id']}  {sweep['status']}", f"{sweep['settings']} settings"]
    if (best := sweep.get("best")) is not None:
        parts.append(f"best {best:.4g}")
    verdict = sweep.get("verdict")
    said = f": {verdict['sentence']}" if verdict and sweep["status"] not in ("queued", "running", "paused") else ""
    reason = f": {sweep['error']}" if sweep.get("error") else ""
    return ", ".join(parts) + said + reason
