"""The client's methods about jobs: looking, waiting, logs and artifacts; and the records of their answers."""

from __future__ import annotations

import fnmatch
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NotRequired, TextIO, TypedDict
from urllib.parse import quote

import httpx

from simyard.client.async_http import AsyncHttp, one, segment, text_of
from simyard.client.concurrency import async_sleep, async_together
from simyard.client.errors import (
    ApiError,
    ConfigurationError,
    JobCanceledError,
    JobFailedError,
    NotFoundError,
    SimyardClientError,
)
from simyard.client.files import Download, safe_parts
from simyard.client.settings import OVER, Outage, is_passing, within

LOG = "command.stdout.log"
"""Log of the workload's output."""
CATCH_UP_LINES = 1000
"""Lines of a log that are read again after a break."""
MAX_AT_ONCE = 32
_OVERLAP = 50
_TENTHS = 10

JobStatus = Literal["queued", "running", "succeeded", "failed", "canceled"]


class FailureRecord(TypedDict):
    """Failure of a job or a run."""

    code: str
    """Stable name, such as `gpu_out_of_memory`."""
    category: str
    """Category, by those who can mend it: `user`, `resource`, `infra` or `canceled`."""
    message: str
    """Description of the failure."""
    advice: str
    """Advice on the next step."""


class ArtifactRecord(TypedDict):
    """One file of a job."""

    name: str
    """Its name; may hold `/`."""
    kind: str
    """Kind of artifact, such as `checkpoint`."""
    size_bytes: int
    """Its size."""
    sha256: str
    """Its digest."""


class EstimateRecord(TypedDict):
    """Estimate of a job or a managed run, made from measurements; None for what nothing measured tells."""

    seconds: float | None
    """The whole work, the simulator's start included."""
    gpu_seconds: float | None
    """Those of them that GPUs are held for, times the GPUs; 0 on a CPU."""
    usd: float | None
    """Price of them; None also where the site names no price."""
    usd_per_gpu_hour: float | None
    """Price of an hour of one GPU."""
    iteration_s: NotRequired[float]
    """Seconds of an iteration of a training."""
    train_s: NotRequired[float]
    """Seconds of all its iterations."""
    gpu_memory_bytes: NotRequired[int]
    """Memory of each GPU."""
    how: str
    """The reckoning, in words."""


class CostRecord(TypedDict):
    """GPU time that something has taken, and its price."""

    gpu_seconds: float
    """Of every GPU of every attempt; 0 on a CPU."""
    usd: float | None
    """Price of them; None where the site names no price."""


class JobRecord(TypedDict):
    """One job, as the service gives it; it may add keys."""

    job_id: str
    """The job's id."""
    kind: str
    """`train`, `evaluate`, `export` or `rollout`."""
    name: str
    """Display name."""
    task: str | None
    """Task that is simulated."""
    status: JobStatus
    """Current status."""
    stage: str | None
    """Current stage."""
    done: float | None
    """Units done so far, of `total`."""
    total: float | None
    """Units to do in all."""
    unit: str | None
    """Unit of the two: `iterations`, `episodes`, `steps`."""
    reward: float | None
    """The last mean reward; None where nothing measured it."""
    attempt_count: int
    """Attempts so far."""
    error: str | None
    """The first failure, then what to do."""
    failure: FailureRecord | None
    """The same for programs."""
    artifacts: list[ArtifactRecord]
    """Files to download."""
    summary: dict[str, Any] | None
    """The result in figures."""
    timings: dict[str, float | None] | None
    """Durations of the job's parts, in seconds."""
    created_at: str
    """ISO 8601, UTC."""
    project_id: str
    """Project that it belongs to."""
    page_url: str
    """The job's page, for people."""
    cost: NotRequired[CostRecord | None]
    """What it has cost; None before it has ended."""
    estimate: NotRequired[EstimateRecord | None]
    """Estimate of its submission; of a training that runs and was never measured before, by its own iterations."""
    estimated_seconds: NotRequired[float | None]
    """Seconds of the estimate."""
    estimated_usd: NotRequired[float | None]
    """Price of the estimate, in USD."""
    estimated_credits: NotRequired[float | None]
    """The same in credits."""
    billing_model: NotRequired[str]
    """Billing model, such as `gpu_seconds`."""
    billing_price_id: NotRequired[str]
    """Id of the price."""
    gpu_hourly_rate_usd: NotRequired[float | None]
    """That price, USD for an hour of one GPU."""


class AsyncJobs:
    """The methods about jobs."""

    _http: AsyncHttp

    async def list_jobs(self, *, limit: int = 100) -> list[JobRecord]:
        """Return the newest jobs, newest first; many come in pages."""
        return await self._http.pages("/v0/jobs", JobRecord, "jobs", limit)

    async def status(self, job_id: str) -> JobRecord:
        """Return a job as it is now."""
        return await self._http.send("GET", f"/v0/jobs/{_id(job_id)}", _read_job)

    async def wait(
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
        return await self._wait_job(job_id, poll_interval_s, timeout_s, raise_on_error)

    async def watch_job(
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
        return await self._wait_job(job_id, poll_interval_s, timeout_s, raise_on_error, watch)

    async def _wait_job(
        self,
        job_id: str,
        poll_interval_s: float,
        timeout_s: float,
        raise_on_error: bool,
        watch: JobWatch | None = None,
    ) -> JobRecord:
        async def look() -> JobRecord:
            job = await self.status(job_id)
            if watch:
                watch.show(job)
            return job

        job = await self._http.wait_until_over(f"Job {job_id}", look, poll_interval_s, timeout_s)
        return judged(job, raise_on_error)

    async def cancel(self, job_id: str) -> JobRecord:
        """Ask a job to end; what it saved is kept. Return it as it is now."""
        return await self._http.send("POST", f"/v0/jobs/{_id(job_id)}/cancel", _read_job)

    # Logs

    async def logs(self, job_id: str, name: str = LOG, tail: int = 200) -> str:
        """Return the last lines of a log, such as `runner.log` or `command.stderr.log`."""
        return await self._http.send("GET", f"/v0/jobs/{_id(job_id)}/logs", text_of, query=_log_query(name, tail))

    def follow_logs(self, job_id: str, name: str = LOG, tail: int = 200) -> AsyncIterator[str]:
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

    async def _follow(self, job_id: str, name: str, path: str, query: dict[str, str | int]) -> AsyncIterator[str]:
        log = LogTail()
        break_s = max(self._http.settings.retry_backoff_s, 0.1)
        while True:
            try:
                async with self._http.stream(path, {**query, "follow": "true"}) as response:
                    async for line in response.aiter_lines():
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
                    is_over = (await self.status(job_id))["status"] in OVER
                    try:
                        text = await self.logs(job_id, name, CATCH_UP_LINES)
                    except NotFoundError:
                        if is_over and log.is_empty:
                            raise
                        text = ""  # the job has not begun to write it
                    break
                except SimyardClientError as error:
                    outage.tolerate(error)
                await async_sleep(break_s)
            for line in log.catch_up(text, is_whole=is_over):
                yield line
            if is_over:
                return
            await async_sleep(break_s)
            query = _log_query(name, CATCH_UP_LINES)

    # Artifacts

    async def get_download_url(self, job_id: str, artifact_name: str) -> str:
        """Return a signed address, good for a while, from which anybody may fetch an artifact."""
        return await self._http.file_url(_artifact(job_id, artifact_name))

    async def download_artifact(self, job_id: str, artifact_name: str, timeout_s: float = 120.0) -> bytes:
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
            return await self._http.fetch(_artifact(job_id, artifact_name), into, timeout_s)

    async def download(
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
        job = await self.status(job_id)
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
        return await async_together(fetches, at_once, stop)


def judged(job: JobRecord, raise_on_error: bool) -> JobRecord:
    """Return a job that is over; raise the error of one that did not succeed, if it is to be one."""
    kind = {"failed": JobFailedError, "canceled": JobCanceledError}.get(job["status"])
    if raise_on_error and kind:
        raise kind(job["job_id"], job["status"], job)
    return job


def _id(job_id: str) -> str:
    return segment("job_id", job_id)


def _artifact(job_id: str, name: str) -> str:
    """Return the path of the endpoint that tells an artifact's address."""
    return f"/v0/jobs/{_id(job_id)}/artifacts/{quote('/'.join(safe_parts(name)), safe='/')}/download-url"


def _log_query(name: str, tail: int) -> dict[str, str | int]:
    if not isinstance(tail, int) or isinstance(tail, bool) or tail < 0:
        raise ConfigurationError(f"tail is {tail!r}: give a whole number of lines.")
    return {"name": name, "tail": tail}


def _read_job(response: httpx.Response) -> JobRecord:
    job = one(JobRecord, "job_id", "status")(response)
    for artifact in job.setdefault("artifacts", []):
        if not isinstance(artifact["name"], str):
            raise TypeError(f"an artifact's name is {artifact['name']!r}")
    return job


class JobWatch:
    """Prints a job whenever its state, its attempt or another tenth of its work is new."""

    def __init__(self, job_id: str, stream: TextIO) -> None:
        self._job_id = job_id
        self._stream = stream
        self._shown: tuple[Any, ...] | None = None

    def show(self, job: JobRecord) -> None:
        """Print the job if it is another than last time."""
        done, total = job.get("done"), job.get("total")
        tenth = int(done * _TENTHS / total) if done is not None and total else None
        state = (job["status"], job.get("stage"), job.get("attempt_count"), job.get("error"), tenth)
        if state == self._shown:
            return
        self._shown = state
        parts: list[str] = [job["status"]]
        if (job.get("attempt_count") or 0) > 1:
            parts.append(f"attempt {job['attempt_count']}")
        if job["status"] == "running" and job.get("stage"):
            parts.append(str(job["stage"]))
        if done is not None and total:
            parts.append(f"{done:g} of {total:g} {job.get('unit') or ''}".rstrip())
        if job.get("reward") is not None:
            parts.append(f"reward {job['reward']:.4g}")
        reason = f": {job['error']}" if job.get("error") else ""
        print(f"{self._job_id}  {', '.join(parts)}{reason}", file=self._stream, flush=True)


class LogTail:
    """Filter for the new lines of a log, also after a break."""

    def __init__(self) -> None:
        self._last: deque[str] = deque(maxlen=_OVERLAP)
        self._to_skip = 0

    def is_new(self, line: str) -> bool:
        """Take the next line of a stream; return whether it was not seen before."""
        if self._to_skip:
            self._to_skip -= 1
            return False
        self._last.append(line)
        return True

    def catch_up(self, text: str, *, is_whole: bool) -> list[str]:
        """Take the end of the log, read again after a break; return its new lines.

        The next stream is expected to begin with the same lines.

        Args:
            text: The end of the log.
            is_whole: Whether nothing more is written, so that the last line counts without its line break too.
        """
        lines = text.splitlines(keepends=True)
        if lines and not is_whole and not lines[-1].endswith("\n"):
            lines.pop()
        lines = [line.splitlines()[0] for line in lines]
        seen = list(self._last)
        ends = range(len(lines), len(seen) - 1, -1) if seen else ()
        # No overlap: another log, or much was written meanwhile. Better twice than not at all.
        start = next((end for end in ends if lines[end - len(seen) : end] == seen), 0)
        self._last.extend(lines[start:])
        self._to_skip = len(lines)
        return lines[start:]

    @property
    def is_empty(self) -> bool:
        """Whether there was no line yet."""
        return not self._last
