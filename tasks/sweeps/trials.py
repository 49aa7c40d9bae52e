"""The trainings of a sweep and their measurements: jobs like any other, each of which is run once."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

from simyard.core.errors import Category, Failure, RequestError
from simyard.core.records import JobResult
from simyard.core.specs import JobSpec
from simyard.core.sweep_records import SeedRun
from simyard.requests.jobs import Resume
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.kinds.base import Resolved
from simyard.tasks.shared import history, usage
from simyard.tasks.shared.claims import Claim, take
from simyard.tasks.shared.control import PULSE_S, Control
from simyard.tasks.stage import stage
from simyard.tasks.sweeps import measure
from simyard.tasks.sweeps.plan import SweepSpec, by_content, evaluation, training
from simyard.tasks.sweeps.state import Piece

Run = Callable[[str], JobResult]
"""Takes a staged job to its end, and returns its result."""


class Trials:
    """Trains and measures the pieces of one sweep, in any number of threads."""

    def __init__(self, spec: SweepSpec, store: Store, control: Control, *, in_pool: bool) -> None:
        """Begin with none in progress.

        Args:
            spec: The sweep.
            store: Its store.
            control: Says when nothing may be begun any more.
            in_pool: Whether attempts are made in a work pool.
        """
        self.spec = spec
        self.again: set[Piece] = set()
        """Those that failed for want of the memory that others had, and are trained again."""
        self._store = store
        self._control = control
        self._in_pool = in_pool
        self._created = datetime.fromisoformat(spec.created_at)
        self._jobs: defaultdict[Piece, list[JobSpec]] = defaultdict(list)
        """Of those in progress."""
        self._of_job: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()

    def train(self, piece: Piece, values: Mapping[str, Any], run: Run) -> SeedRun | None:
        """Train a setting with one seed up to its rung, and measure it.

        Args:
            piece: Which, from where, how far.
            values: Of the setting.
            run: Takes a job to its end.

        Returns:
            What was measured, or how it failed; None where nothing may be begun any more.

        Raises:
            SimyardError: The store, or what the work needs, cannot be reached: it is done again later.
        """
        try:
            return self._train(piece, values, run)
        finally:
            with self._lock:
                self._jobs.pop(piece, None)

    def _train(self, piece: Piece, values: Mapping[str, Any], run: Run) -> SeedRun | None:
        # The training: from scratch, or from the last checkpoint of the rung before.
        trained, result = self._run_once(piece, self._training(piece, values), run)
        earlier = piece.earlier.jobs if piece.earlier else ()
        jobs, ran = (*earlier, trained.job_id), [trained]
        found: tuple[float, ...] = ()

        # What it is worth: by its own metrics, or by an evaluation.
        config = self.spec.asked.sweep
        failure = result.error if result else None
        try:
            if result is not None and failure is None and config.evaluated is not None:
                measured, result = self._run_once(piece, evaluation(self.spec, trained, self._store), run)
                ran.append(measured)
                failure = result.error if result else None
            if result is not None and failure is None:
                found = tuple(
                    measure.logged(one, trained.library, jobs, self._store)
                    if one.measurement is None
                    else measure.evaluated(one, trained.task, result)
                    for one in config.objectives
                )
        except RequestError as error:
            failure = error.failure
        if result is None or (failure and failure.category is Category.CANCELED and self._control.why_stopped()):
            return None
        return self._account(piece, jobs, ran, found, failure)

    def _account(
        self, piece: Piece, jobs: tuple[str, ...], ran: list[JobSpec], values: tuple[float, ...],
        failure: Failure | None,
    ) -> SeedRun:  # fmt: skip
        """Return what was measured; jobs that were there before the sweep cost it nothing."""
        own = [spec for spec in ran if not self._was_there(spec)]
        earlier, is_copy = piece.earlier, piece.earlier is not piece.own
        found = (earlier.jobs if is_copy else earlier.found or ()) if earlier else ()
        found += tuple(spec.job_id for spec in ran[:1] if spec not in own)
        status: Any = "succeeded" if piece.is_last else "waiting"
        if failure is not None:
            status = "canceled" if failure.category is Category.CANCELED else "failed"
        before = piece.own.gpu_seconds if piece.own else 0.0
        return SeedRun(
            seed=piece.seed,
            jobs=jobs,
            iterations=ran[0].last_iteration - self.spec.template.first_iteration,
            status=status,
            value=values[0] if values else None,
            others=values[1:] or None,
            evaluation=ran[1].job_id if len(ran) > 1 else None,
            failure=failure,
            gpu_seconds=round(before + sum(usage.gpu_seconds(spec, self._store) for spec in own), 3),
            found=found or None,
        )

    @property
    def gpu_seconds(self) -> float:
        """GPU seconds of the jobs in progress."""
        with self._lock:
            running = [spec for jobs in self._jobs.values() for spec in jobs if not self._was_there(spec)]
        return sum(usage.gpu_seconds(spec, self._store) for spec in running)

    def await_end(self, within_s: float) -> None:
        """Wait until no attempt is in progress any more, at most so many seconds."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with self._lock:
                running = [spec for jobs in self._jobs.values() for spec in jobs]
            newest = (usage.last_attempt(self._store, spec.job_id) for spec in running)
            if not any(attempt is not None and attempt.outcome is None for attempt in newest):
                return
            time.sleep(0.1)

    # Inside

    def _training(self, piece: Piece, values: Mapping[str, Any]) -> JobSpec:
        if piece.earlier is None:
            iterations = None if self.spec.asked.sweep.scheduler.kind == "none" else piece.iterations
            start = self.spec.template.resume
            return training(self.spec, values, piece.seed, iterations=iterations, resume=start, number=piece.setting)
        source = history.load_spec(self._store, piece.earlier.jobs[-1])
        points = history.resume_points(self._store, source.job_id)
        last = [point for point in points if point.iteration == source.last_iteration]
        if not last:
            raise RequestError(
                f"{source.job_id} has no checkpoint of iteration {source.last_iteration} any more.",
                code="no_checkpoint",
                advice="Restore it; a setting goes on from where it was.",
            )
        left = piece.iterations - piece.earlier.iterations
        spec = training(self.spec, values, piece.seed, iterations=left, resume=last[-1], number=piece.setting)
        resume = Resume(from_job=source.job_id, iteration=last[-1].iteration)
        said = resume.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return replace(spec, request=spec.request | {"resume": said})

    def _run_once(self, piece: Piece, spec: JobSpec, run: Run) -> tuple[JobSpec, JobResult | None]:
        """Run a job, unless it is there already or another process runs it; None where nothing may be begun."""
        spec = by_content(spec, self.spec.versions, self._store)
        with self._of_job[spec.job_id]:  # two settings may be the same job
            stage(Resolved(spec), self._store)
            spec = history.load_spec(self._store, spec.job_id)
            with self._lock:
                self._jobs[piece].append(spec)
            with self._alone(spec.job_id):
                if (done := self._ending(spec, piece)) is not None:
                    return spec, done
                if self._control.why_stopped():
                    return spec, None
                self._store.delete(JobKeys(spec.job_id).cancel)
                return spec, run(spec.job_id)

    @contextmanager
    def _alone(self, job_id: str) -> Iterator[None]:
        """Have no other process run a job while the body runs, unless nothing may be begun any more.

        In a pool an attempt is launched once whoever wants it, by its number.
        """
        claim: Claim | None = None
        while claim is None and not self._in_pool and not self._control.why_stopped():
            claim = take(self._store, job_id)
            if claim is None:
                time.sleep(PULSE_S)
        try:
            yield
        finally:
            if claim is not None:
                claim.give_up()

    def _ending(self, spec: JobSpec, piece: Piece) -> JobResult | None:
        """Return the result of a job that needs no further attempt."""
        result = history.result_of(self._store, spec.job_id)
        if result is not None and result.status == "succeeded":
            return result if self._store.exists(JobKeys(spec.job_id).manifest) else None
        # A failure of this sweep's own is final; one of an earlier sweep is tried again, and so is what was canceled.
        if result is None or result.status != "failed" or piece in self.again:
            return None
        is_own = datetime.fromisoformat(result.updated_at) >= self._created.replace(microsecond=0)
        return result if is_own else None

    def _was_there(self, spec: JobSpec) -> bool:
        return datetime.fromisoformat(spec.created_at) < self._created
