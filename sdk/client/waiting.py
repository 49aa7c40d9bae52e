"""Waiting for a job or a managed run: for how long, through which outages, and how its end is judged."""

from __future__ import annotations

import time

from simyard.client.errors import (
    JobCanceledError,
    JobFailedError,
    JobTimeoutError,
    SimyardClientError,
    TrainingRunCanceledError,
    TrainingRunFailedError,
)
from simyard.client.records import JobRecord, TrainingRunRecord
from simyard.client.settings import Settings, is_passing, within

OUTAGE_S = 300.0
"""Seconds that a service may be away before those who wait for a job give up."""
OVER = ("succeeded", "failed", "canceled")
_YEAR_S = 366 * 86_400.0


class Outage:
    """Tolerates a service that is away for a while."""

    def __init__(self, settings: Settings, *, answered: bool = False) -> None:
        """Take the client's settings.

        Args:
            settings: Without retries no outage is tolerated.
            answered: Whether the service answered before; one that never did is not waited for.
        """
        self._settings = settings
        self._answered = answered
        self._since: float | None = None

    def end(self) -> None:
        """Note that the service answered."""
        self._answered, self._since = True, None

    def bear(self, error: SimyardClientError) -> None:
        """Note a failure; raise it if it is lasting or the service has been away for too long."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        is_known = self._answered and self._settings.max_retries > 0
        if not is_known or not is_passing(error) or now - self._since > OUTAGE_S:
            raise error


class Deadline:
    """Pauses between requests, until time is up."""

    def __init__(self, about: str, poll_interval_s: float, timeout_s: float) -> None:
        """Begin to count.

        Raises:
            ConfigurationError: If a number is out of bounds.
        """
        within("poll_interval_s", poll_interval_s, 0, 86_400, "seconds", above=True)
        within("timeout_s", timeout_s, 0, _YEAR_S, "seconds", above=True)
        self._about = about
        self._poll_interval_s = poll_interval_s
        self._timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s

    def pause_s(self) -> float:
        """Return the pause before the next request, in seconds.

        Raises:
            JobTimeoutError: If time is up.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise JobTimeoutError(
                f"{self._about} was not over after {self._timeout_s:g} s. It goes on; cancel it if it should not."
            )
        return min(self._poll_interval_s, left)


def judged_job(job: JobRecord, raise_on_error: bool) -> JobRecord:
    """Return a job that is over; raise the error of one that did not succeed, if it is to be one."""
    kind = {"failed": JobFailedError, "canceled": JobCanceledError}.get(job["status"])
    if raise_on_error and kind:
        raise kind(job["job_id"], job["status"], job)
    return job


def judged_run(run: TrainingRunRecord, raise_on_error: bool) -> TrainingRunRecord:
    """Return a managed run that is over; raise the error of one that did not succeed, if it is to be one."""
    kind = {"failed": TrainingRunFailedError, "canceled": TrainingRunCanceledError}.get(run["status"])
    if raise_on_error and kind:
        raise kind(run["run_id"], run["status"], run)
    return run
