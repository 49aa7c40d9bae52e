"""staged job -> one attempt after another, until one succeeds or its failure is not worth another.

One call makes one attempt; the flow's task retries it. What to do next is read from the store, so a control flow that
died and came back goes on where the job stands.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

from simyard.core.errors import Category, Failure, RequestError, SimyardError, WorkloadError
from simyard.core.records import CancelMark
from simyard.core.specs import AttemptSpec, JobSpec, ResumePoint
from simyard.core.wire import now
from simyard.runner.progress import JobProgress
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import Observer, run_attempt
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.shared import history

AUTO_RESUME = "simyard-service"
"""The tag of flow runs that are scheduled again when their process is lost."""


def next_attempt(spec: JobSpec, store: Store) -> AttemptSpec:
    """Return the attempt to make now: numbered after the last, from the newest valid checkpoint.

    A checkpoint of the very last iteration, or of the last stage's end, is passed over: something remains to be
    trained, so that the library reaches its own end.
    """
    past = history.attempts(store, spec.job_id)
    number = past[-1].number + 1 if past else 1
    for attempt in past:  # one of them has found out
        spec = spec.counted_from(attempt.facts.first_iteration if attempt.facts else None)
    points = history.resume_points(store, spec.job_id, before=spec.last_iteration)
    points = [point for point in points if not _is_over(spec, point)]
    resume = points[-1] if points else spec.resume
    return AttemptSpec(job=spec, number=number, start_iteration=resume.iteration if resume else 0, resume=resume)


def _is_over(spec: JobSpec, point: ResumePoint) -> bool:
    """Return whether the stages were over when a checkpoint was saved."""
    last = point.stages.runs[-1] if point.stages and point.stages.runs else None
    return last is not None and last.ended is not None and spec.stages is not None and spec.stage_after(last) is None


def is_done(spec: JobSpec, store: Store) -> bool:
    """Return True when the last attempt succeeded and nobody has committed that: the control flow died before it."""
    past = history.attempts(store, spec.job_id)
    if not past or past[-1].outcome is None or past[-1].failure is not None:
        return False
    result = history.result_of(store, spec.job_id)
    if result is None or result.attempts < len(past):
        return True
    return result.status == "succeeded" and not store.exists(JobKeys(spec.job_id).manifest)


def await_outcome(spec: JobSpec, store: Store, timeout_s: float) -> bool:
    """Return True once the last attempt has written its outcome."""
    deadline = time.monotonic() + timeout_s
    while not ((past := history.attempts(store, spec.job_id)) and past[-1].outcome):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def launch_inline(spec: JobSpec, store: Store, sessions: Sessions, observer: Observer) -> None:
    """Make one attempt in this process.

    Raises:
        WorkloadError: If it failed; its failure says whether another is worth it.
    """
    raise_failure(run_attempt(next_attempt(spec, store), store, sessions, observer).failure)


class HeadStart:
    """An attempt that begins before the flow that records it: Prefect's import takes longer than a warm start.

    It runs in a thread. The flow joins it where it would have launched it, and from then on follows it.

    Args:
        spec: A new job, which is in the store.
        store: The job's store.
        sessions: Where its process comes from.
        on_progress: Takes the job's progress until the flow joins.
        canceled: Whether the job is to stop.
    """

    def __init__(
        self, spec: JobSpec, store: Store, sessions: Sessions, on_progress: Callable[[JobProgress], None],
        canceled: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._job_id = spec.job_id
        self._observer = Observer(progress=on_progress, canceled=canceled)
        self._early: list[str] | None = []
        """Lines that were not passed on yet; None once the flow gets them itself."""
        self._lock = threading.Lock()
        self._interruption: BaseException | None = None
        own = Observer(
            progress=self._progress,
            lines=self._lines,
            canceled=lambda: self._observer.canceled(),
            why_stopped=lambda error: self._observer.why_stopped(error),
        )
        executor = ThreadPoolExecutor(1, "attempt")
        self.ending = executor.submit(launch_inline, spec, store, sessions, own)
        executor.shutdown(wait=False)

    def is_first_of(self, job_id: str) -> bool:
        """Return whether this is the job's attempt that a flow is about to make: it joins one once."""
        return job_id == self._job_id and self._early is not None

    def join(self, observer: Observer) -> None:
        """Pass the attempt's progress to this observer, and wait for its end.

        Raises:
            WorkloadError: If it failed, as `launch_inline` does.
            BaseException: What interrupted this thread, after the attempt was ended by it.
        """
        try:
            with self._lock:
                early, self._early, self._observer = self._early, None, observer
                if early:
                    observer.lines(early)
            self.ending.result()
        except BaseException as error:
            self.interrupt(error)
            raise

    def interrupt(self, error: BaseException) -> None:
        """End the attempt, if it runs, as if a signal had reached its own thread; return when it has ended."""
        self._interruption = error
        wait([self.ending])

    def _progress(self, progress: JobProgress) -> None:
        """Pass progress on; called several times a second, it is where an interruption takes effect."""
        if self._interruption is not None:
            raise self._interruption
        self._observer.progress(progress)

    def _lines(self, lines: list[str]) -> None:
        with self._lock:
            if self._early is not None:
                self._early += lines
            else:
                self._observer.lines(lines)


def raise_failure(failure: Failure | None) -> None:
    """Raise `WorkloadError` for an attempt that failed."""
    if failure is not None:
        raise WorkloadError(failure)


def ask_to_cancel(store: Store, job_id: str) -> None:
    """Ask a job to stop, wherever it runs: its supervisor looks for this every few seconds."""
    mark = CancelMark(requested_at=now())
    store.put_record(JobKeys(job_id).cancel, mark)


def forget_cancel(store: Store, job_id: str) -> None:
    """Forget that somebody canceled a job: it is to go on.

    Raises:
        RequestError: If there is no such job.
    """
    history.load_spec(store, job_id)
    store.delete(JobKeys(job_id).cancel)


def refuse_succeeded(store: Store, job_id: str) -> None:
    """Raise `RequestError` for a job that is done: there is nothing to go on with."""
    if store.exists(JobKeys(job_id).manifest):
        raise RequestError(
            f"{job_id} has succeeded.", code="already_succeeded", advice=f"Run it anew with --from-job {job_id}."
        )


def refuse_without_pool(spec: JobSpec, pool: str | None) -> None:
    """Raise `RequestError` for a job of several machines that is to run in this process."""
    if spec.nodes > 1 and pool is None:
        raise RequestError(
            f"computeConfig.numNodes is {spec.nodes}, and no pool was named.",
            code="no_pool",
            advice="Name one with --pool NAME, or SIMYARD_POOL: each machine is a flow run of it.",
        )


def worth_another(error: BaseException, *, unknown: bool = False) -> bool:
    """Return True for a failure of the machine, not of the request.

    Args:
        error: What ended the attempt or the step.
        unknown: The answer for an error that names no category, since it is none of simyard's own.
    """
    return error.failure.category is Category.INFRA if isinstance(error, SimyardError) else unknown
