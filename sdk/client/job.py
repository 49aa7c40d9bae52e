"""One job, as a handle."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from simyard.client.records import JobRecord

if TYPE_CHECKING:
    from simyard.client.asynchronous import AsyncClient
    from simyard.client.sync import Client

LOG = "command.stdout.log"
"""What the workload printed."""


@dataclass(frozen=True)
class Job:
    """A job that a `Client` submitted."""

    client: Client = field(repr=False, compare=False)
    """What talks to the service."""
    job_id: str
    """The job's id."""
    record: JobRecord | None = field(default=None, repr=False, compare=False)
    """The answer to the submission, with `estimated_usd` and its like; None for a handle made by hand."""

    def status(self) -> JobRecord:
        """Return the job as it is now; see `Client.status`."""
        return self.client.status(self.job_id)

    def wait(self, poll_interval_s: float = 2.0, timeout_s: float = 1800.0, raise_on_error: bool = True) -> JobRecord:
        """Wait until the job is over; see `Client.wait`."""
        return self.client.wait(self.job_id, poll_interval_s, timeout_s, raise_on_error)

    def watch(
        self,
        poll_interval_s: float = 2.0,
        timeout_s: float = 1800.0,
        raise_on_error: bool = True,
        stream: TextIO | None = None,
    ) -> JobRecord:
        """Wait, and print what changes; see `Client.watch_job`."""
        return self.client.watch_job(
            self.job_id,
            poll_interval_s=poll_interval_s,
            timeout_s=timeout_s,
            raise_on_error=raise_on_error,
            stream=stream,
        )

    def cancel(self) -> JobRecord:
        """Ask the job to end; see `Client.cancel`."""
        return self.client.cancel(self.job_id)

    def download(
        self, output_dir: str, *, only: Iterable[str] = (), raise_on_error: bool = True, at_once: int = 4
    ) -> list[str]:
        """Fetch the artifacts; see `Client.download`."""
        return self.client.download(self.job_id, output_dir, only=only, raise_on_error=raise_on_error, at_once=at_once)

    def logs(self, name: str = LOG, tail: int = 200) -> str:
        """Return the end of a log; see `Client.logs`."""
        return self.client.logs(self.job_id, name=name, tail=tail)

    def follow_logs(self, name: str = LOG, tail: int = 200) -> Iterator[str]:
        """Give the lines of a log until the job is over; see `Client.follow_logs`."""
        return self.client.follow_logs(self.job_id, name=name, tail=tail)


@dataclass(frozen=True)
class AsyncJob:
    """A job that an `AsyncClient` submitted."""

    client: AsyncClient = field(repr=False, compare=False)
    """What talks to the service."""
    job_id: str
    """The job's id."""
    record: JobRecord | None = field(default=None, repr=False, compare=False)
    """The answer to the submission, with `estimated_usd` and its like; None for a handle made by hand."""

    async def status(self) -> JobRecord:
        """As `Job.status`."""
        return await self.client.status(self.job_id)

    async def wait(
        self, poll_interval_s: float = 2.0, timeout_s: float = 1800.0, raise_on_error: bool = True
    ) -> JobRecord:
        """As `Job.wait`."""
        return await self.client.wait(self.job_id, poll_interval_s, timeout_s, raise_on_error)

    async def watch(
        self,
        poll_interval_s: float = 2.0,
        timeout_s: float = 1800.0,
        raise_on_error: bool = True,
        stream: TextIO | None = None,
    ) -> JobRecord:
        """As `Job.watch`."""
        return await self.client.watch_job(
            self.job_id,
            poll_interval_s=poll_interval_s,
            timeout_s=timeout_s,
            raise_on_error=raise_on_error,
            stream=stream,
        )

    async def cancel(self) -> JobRecord:
        """As `Job.cancel`."""
        return await self.client.cancel(self.job_id)

    async def download(
        self, output_dir: str, *, only: Iterable[str] = (), raise_on_error: bool = True, at_once: int = 4
    ) -> list[str]:
        """As `Job.download`."""
        return await self.client.download(
            self.job_id, output_dir, only=only, raise_on_error=raise_on_error, at_once=at_once
        )

    async def logs(self, name: str = LOG, tail: int = 200) -> str:
        """As `Job.logs`."""
        return await self.client.logs(self.job_id, name=name, tail=tail)

    def follow_logs(self, name: str = LOG, tail: int = 200) -> AsyncIterator[str]:
        """As `Job.follow_logs`, for `async for`."""
        return self.client.follow_logs(self.job_id, name=name, tail=tail)
