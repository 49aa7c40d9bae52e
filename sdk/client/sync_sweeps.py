# Generated from async_sweeps.py by `make client`: change that one.
"""The client's methods about sweeps, and the records of their answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from simyard.client.async_http import FILES_READ_S, checked_key, checked_limit, many, one, segment
from simyard.client.async_sweeps import _SWEEP, BestRecord, SettingRecord, SweepRecord, _id, _line
from simyard.client.async_training_runs import EventRecord
from simyard.client.errors import SweepCanceledError, SweepFailedError
from simyard.client.sync_http import Http


class Sweeps:
    """The methods about sweeps."""

    _http: Http

    def create_sweep(self, config: Mapping[str, Any], *, idempotency_key: str | None = None) -> SweepRecord:
        """Submit a sweep.

        Args:
            config: A training's config with `sweep`: parameters, seeds, and how to choose.
            idempotency_key: The same key and request are the same sweep; left out it is a new one.
        """
        return self._http.send(
            "POST",
            "/v1/sweeps",
            _SWEEP,
            body=dict(config),
            key=checked_key(idempotency_key),
            least_timeout_s=FILES_READ_S,
        )

    def list_sweeps(self, limit: int = 100) -> list[SweepRecord]:
        """Return the newest sweeps, newest first."""
        return self._http.pages("/v1/sweeps", SweepRecord, "sweeps", limit)

    def get_sweep(self, sweep_id: str) -> SweepRecord:
        """Return a sweep as it is now, with the verdict so far."""
        return self._http.send("GET", f"/v1/sweeps/{_id(sweep_id)}", _SWEEP)

    def wait_sweep(
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

        def look() -> SweepRecord:
            sweep = self.get_sweep(sweep_id)
            if stream and shown != [line := _line(sweep)]:
                shown[:] = [line]
                print(line, file=stream, flush=True)
            return sweep

        sweep = self._http.wait_until_over(f"Sweep {sweep_id}", look, poll_interval_s, timeout_s)
        kind = {"failed": SweepFailedError, "canceled": SweepCanceledError}.get(sweep["status"])
        if raise_on_error and kind:
            raise kind(sweep["sweep_id"], sweep["status"], sweep)
        return sweep

    def watch_sweep(
        self, sweep_id: str, *, poll_interval_s: float = 5.0, timeout_s: float = 24 * 3600.0
    ) -> SweepRecord:
        """Wait as `wait_sweep` does, and print how the sweep stands to the standard output."""
        return self.wait_sweep(sweep_id, poll_interval_s=poll_interval_s, timeout_s=timeout_s, stream=sys.stdout)

    def pause_sweep(self, sweep_id: str) -> SweepRecord:
        """Ask a sweep to begin nothing new."""
        return self._http.send("POST", f"/v1/sweeps/{_id(sweep_id)}/pause", _SWEEP)

    def resume_sweep(self, sweep_id: str) -> SweepRecord:
        """Ask a paused sweep to go on. Without an answer it is not repeated: `get_sweep` tells."""
        return self._http.send("POST", f"/v1/sweeps/{_id(sweep_id)}/resume", _SWEEP, again=False)

    def cancel_sweep(self, sweep_id: str) -> SweepRecord:
        """Ask a sweep to end; what was trained and measured is kept."""
        return self._http.send("POST", f"/v1/sweeps/{_id(sweep_id)}/cancel", _SWEEP)

    def list_sweep_settings(self, sweep_id: str) -> list[SettingRecord]:
        """Return a sweep's settings in the order of suggestion, each with its trainings."""
        return self._http.send("GET", f"/v1/sweeps/{_id(sweep_id)}/settings", many(SettingRecord, "settings"))

    def list_sweep_events(self, sweep_id: str, *, limit: int = 500) -> list[EventRecord]:
        """Return the newest events of a sweep, the oldest of them first."""
        path = f"/v1/sweeps/{_id(sweep_id)}/events"
        return self._http.send("GET", path, many(EventRecord, "events"), query=checked_limit(limit))

    def get_best_of_sweep(self, sweep_id: str) -> BestRecord:
        """Return the best setting so far, its best training, and the config to train it again."""
        return self._http.send("GET", f"/v1/sweeps/{_id(sweep_id)}/best", one(BestRecord, "job_id", "sentence"))

    def download_sweep_artifact(self, sweep_id: str, name: str, path: str | os.PathLike[str]) -> str:
        """Fetch the report or a picture of a sweep into a file, which appears when it is whole; return its path.

        Args:
            sweep_id: The sweep.
            name: `report.md`, `curves.png`, `parallel.png`, `front.png` or `importance.png`.
            path: The file; its folder is made if need be.

        Raises:
            OSError: If the file cannot be written.
        """
        where = f"/v1/sweeps/{_id(sweep_id)}/artifacts/{segment('name', name)}/download-url"
        return self._http.fetch_file(where, Path(path).expanduser())
