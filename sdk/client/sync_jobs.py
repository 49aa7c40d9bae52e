# Generated from async_jobs.py by `make client`: change that one.
"""The client's methods about jobs: looking, waiting, logs and artifacts; and the records of their answers."""

from __future__ import annotations

import fnmatch
import sys
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TextIO

import httpx

from simyard.client.async_http import text_of
from simyard.client.async_jobs import (
    CATCH_UP_LINES,
    LOG,
    MAX_AT_ONCE,
    JobRecord,
    JobWatch,
    LogTail,
    _artifact,
    _id,
    _log_query,
    _read_job,
    judged,
)
from simyard.client.concurrency import sync_sleep, sync_together
from simyard.client.errors import (
    ApiError,
    ConfigurationError,
    NotFoundError,
    SimyardClientError,
)
from simyard.client.files import Download, safe_parts
from simyard.client.settings import OVER, Outage, is_passing, within
from simyard.client.sync_http import Http


class Jobs:
    """The methods about jobs."""

    _http: Http

    def list_jobs(self, *, limit: int = 100) -> list[JobRecord]:
        """Return the newest jobs, newest first; many come in pages."""
        return self._http.pages("/v0/jobs", JobRecord, "jobs", limit)

    def status(self, job_id: str) -> JobRecord:
        """Return a job as it is now."""
        return self._http.send("GET", f"/v0/jobs/{_id(job_id)}", _read_job)

    def wait(
        self, job_id: str, poll_interval_s: float = 2.0, timeout_s: float = 1800.0, raise_on_error: bool = True
    ) -> JobRecord:
        """Wait until a job is over; a service that is away for a while, up to five minutes, does not end the wait.

        Args:
            job_id: The job.
            poll_interval_s: How often to ask, in seconds.
            timeout_s: How long to wait, in seconds.
            raise_on_error: Whether a job that failed or was canceled is an error.

        Raises:
            JobFailedError: If it failed.
            JobCanceledError: If it was canceled.
            JobTimeoutError: If it is not over in time; it goes on.
        """
        return self._wait_job(job_id, poll_interval_s, timeout_s, raise_on_error)

    def watch_job(
        self,
        job_id: str,
        *,
        poll_interval_s: float = 2.0,
        timeout_s: float = 1800.0,
        raise_on_error: bool = True,
        stream: TextIO | None = None,
    ) -> JobRecord:
        """Wait as `wait` does, and print a line whenever something is new.

        Args:
            job_id: The job.
            poll_interval_s: How often to ask, in seconds.
            timeout_s: How long to wait, in seconds.
            raise_on_error: Whether a job that failed or was canceled is an error.
            stream: Where to print; left out it is the standard output.
        """
        watch = JobWatch(job_id, stream or sys.stdout)
        return self._wait_job(job_id, poll_interval_s, timeout_s, raise_on_error, watch)

    def _wait_job(
        self,
        job_id: str,
        poll_interval_s: float,
        timeout_s: float,
        raise_on_error: bool,
        watch: JobWatch | None = None,
    ) -> JobRecord:
        def look() -> JobRecord:
            job = self.status(job_id)
            if watch:
                watch.show(job)
            return job

        job = self._http.wait_until_over(f"Job {job_id}", look, poll_interval_s, timeout_s)
        return judged(job, raise_on_error)

    def cancel(self, job_id: str) -> JobRecord:
        """Ask a job to end; what it saved is kept. Return it as it is now."""
        return self._http.send("POST", f"/v0/jobs/{_id(job_id)}/cancel", _read_job)

    # Logs

    def logs(self, job_id: str, name: str = LOG, tail: int = 200) -> str:
        """Return the last lines of a log, such as `runner.log` or `command.stderr.log`."""
        return self._http.send("GET", f"/v0/jobs/{_id(job_id)}/logs", text_of, query=_log_query(name, tail))

    def follow_logs(self, job_id: str, name: str = LOG, tail: int = 200) -> Iterator[str]:
        """Give the lines of a log, without their ends, as they are written, until the job is over.

        After a break it goes on where it was; lines are given twice only if more than 1000 came meanwhile, or the log
        is another one.

        Args:
            job_id: The job.
            name: The log.
            tail: How many lines of those that are there already.
        """
        # Arguments are looked at now, not when the first line is asked for.
        return self._follow(job_id, name, f"/v0/jobs/{_id(job_id)}/logs", _log_query(name, tail))

    def _follow(self, job_id: str, name: str, path: str, query: dict[str, str | int]) -> Iterator[str]:
        log = LogTail()
        break_s = max(self._http.settings.retry_backoff_s, 0.1)
        while True:
            try:
                with self._http.stream(path, {**query, "follow": "true"}) as response:
                    for line in response.iter_lines():
                        if log.is_new(line):
                            yield line
            except (httpx.RequestError, NotFoundError):
                pass  # a break, or a log that the job has not begun
            except ApiError as error:
                if not is_passing(error):
                    raise

            # The stream has ended, maybe too early: take the rest from the log, and see whether the job is over.
            outage = Outage(self._http.settings, answered=True)
            while True:
                try:
                    # In this order: what was written before the job was over is in the log.
                    is_over = (self.status(job_id))["status"] in OVER
                    try:
                        text = self.logs(job_id, name, CATCH_UP_LINES)
                    except NotFoundError:
                        if is_over and log.is_empty:
                            raise
                        text = ""  # the job has not begun to write it
                    break
                except SimyardClientError as error:
                    outage.tolerate(error)
                sync_sleep(break_s)
            for line in log.catch_up(text, is_whole=is_over):
                yield line
            if is_over:
                return
            sync_sleep(break_s)
            query = _log_query(name, CATCH_UP_LINES)

    # Artifacts

    def get_download_url(self, job_id: str, artifact_name: str) -> str:
        """Return a signed address, good for a while, from which anybody may fetch an artifact."""
        return self._http.file_url(_artifact(job_id, artifact_name))

    def download_artifact(self, job_id: str, artifact_name: str, timeout_s: float = 120.0) -> bytes:
        """Return an artifact's bytes; `download` is for those that are too large for memory.

        Args:
            job_id: The job.
            artifact_name: Its name, such as `checkpoints/model_10.pt`.
            timeout_s: How long to wait for its next bytes, in seconds.

        Raises:
            IntegrityError: If other bytes came than the service says.
        """
        within("timeout_s", timeout_s, 0, 86_400, "seconds", above=True)
        with Download(None) as into:
            return self._http.fetch(_artifact(job_id, artifact_name), into, timeout_s)

    def download(
        self,
        job_id: str,
        output_dir: str,
        *,
        only: Iterable[str] = (),
        raise_on_error: bool = True,
        at_once: int = 4,
    ) -> list[str]:
        """Fetch a job's artifacts; each appears under its name when it is whole and its SHA-256 is right.

        Args:
            job_id: The job.
            output_dir: The folder; made if need be. A `/` in a name is a folder in it.
            only: Patterns such as `checkpoints/*`; left out it is everything.
            raise_on_error: Whether a job that failed or was canceled is an error; otherwise what it left is fetched.
            at_once: How many files at a time, 32 at most.

        Returns:
            The paths.

        Raises:
            JobFailedError: If the job failed.
            JobCanceledError: If it was canceled.
            IntegrityError: If other bytes came than the service says.
            UnsafeNameError: If an artifact's name would lead out of the folder; nothing is fetched then.
            OSError: If a file cannot be written.
        """
        within("at_once", at_once, 1, MAX_AT_ONCE, "files")
        patterns = [only] if isinstance(only, str) else list(only)
        job = self.status(job_id)
        if job["status"] in OVER:
            judged(job, raise_on_error)
        chosen = [
            artifact
            for artifact in job["artifacts"]
            if not patterns or any(fnmatch.fnmatchcase(artifact["name"], pattern) for pattern in patterns)
        ]
        if patterns and not chosen:
            names = [artifact["name"] for artifact in job["artifacts"]]
            raise ConfigurationError(f"No artifact of job {job_id} matches {patterns}; it has {names}.")

        # Every name is looked at before the first file comes.
        folder, stop = Path(output_dir).expanduser(), threading.Event()
        targets = [folder.joinpath(*safe_parts(artifact["name"])) for artifact in chosen]
        folder.mkdir(parents=True, exist_ok=True)
        fetches = [
            partial(
                self._http.fetch_file,
                _artifact(job_id, artifact["name"]),
                target,
                stop,
                artifact.get("sha256"),
                artifact.get("size_bytes"),
            )
            for artifact, target in zip(chosen, targets, strict=True)
        ]
        return sync_together(fetches, at_once, stop)
