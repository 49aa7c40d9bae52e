"""Evaluates the checkpoints of a training while it goes on, one after another, in a second simulator.

Each evaluation is a job like any other, which an idempotency key ties to its training and its checkpoint: an attempt
that goes on after a crash finds those that were made, and makes those that were begun. Where the attempt before was not
dead but silent, one of both makes each evaluation, by a claim on it, and the earlier one begins no other. Nothing that
happens to one reaches the training: it is said in the record.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from simyard.core.errors import SimyardError, WorkloadError
from simyard.core.evaluations import EvaluatedCheckpoint, Evaluations, Figure, RewardAudit, Unlearned
from simyard.core.files import AttemptPaths, write_json
from simyard.core.records import CheckpointRecord, JobResult
from simyard.core.specs import ACTIONS, ONE_JOB, AttemptSpec, Bounds, Evaluation, JobSpec
from simyard.core.wire import now
from simyard.requests.jobs import (
    ComputeConfig,
    EvaluateEvery,
    EvaluateRequest,
    EvaluationConfig,
    FromJob,
    ShortTimeouts,
)
from simyard.requests.settings import MachineSettings
from simyard.runner.messages import SessionFingerprint
from simyard.runner.workload import ChildWorkload, Workload
from simyard.store import keys
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import Observer
from simyard.tasks.collect import collect
from simyard.tasks.kinds.base import Resolved
from simyard.tasks.launch import is_done, launch_inline, worth_another
from simyard.tasks.persist import persist
from simyard.tasks.resolve import resolve
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.shared import history, idempotency
from simyard.tasks.shared.claims import Claim, take
from simyard.tasks.shared.evaluations import evaluations_of
from simyard.tasks.stage import stage

LOOK_S = 0.5
CLAIM_S = 2.0
"""Between two looks at an evaluation that another process makes."""
PUBLISH_S = 60.0
"""Seconds after the end of training in which its last checkpoint must have reached the store."""
GRACE_S = 5.0
"""From asking an evaluation to end to killing it: it loses nothing."""
NICENESS = 5
"""Of a second simulator's process: where both want the processor, the training gets it."""
_AUDIT = EvaluateEvery(iterations=1)
"""The measurement of a reward audit where no evaluations are asked for: their defaults."""


class _QuietSessions(Sessions):
    """Sessions whose own processes leave the processor to others."""

    newest: Workload | None = None
    """The process that was found last."""

    def find(
        self, job: JobSpec, wanted: SessionFingerprint, log: Callable[[str], None], *, embedded_assets: bool
    ) -> Workload:
        """Return a process with a fingerprint."""
        self.newest = workload = super().find(job, wanted, log, embedded_assets=embedded_assets)
        if isinstance(workload, ChildWorkload) and not workload.jobs:
            os.setpriority(os.PRIO_PROCESS, workload.pid, NICENESS)
        return workload


class Evaluator:
    """The evaluations of one attempt at a training, on a thread of its own."""

    def __init__(
        self, attempt: AttemptSpec, store: Store, machine: MachineSettings, paths: AttemptPaths,
        published: Callable[[], tuple[CheckpointRecord, ...]],
    ) -> None:  # fmt: skip
        """Take up what earlier attempts have left.

        Args:
            attempt: The attempt.
            store: Its store.
            machine: Settings of this machine.
            paths: The attempt's folder, which the uploader sends the record from.
            published: Returns the attempt's own checkpoints, as far as the store has them.
        """
        self._job, self._store, self._machine, self._paths = attempt.job, store, machine, paths
        self._published, self._number = published, attempt.number
        self._sessions = _QuietSessions(machine, Bounds() if attempt.job.session else ONE_JOB)
        every, job_id = attempt.job.evaluate_every, attempt.job.job_id
        known = evaluations_of(store, job_id) or Evaluations(asked=every.metric if every else None)
        if attempt.job.reward_audit and known.audit is None:
            known = replace(known, audit=RewardAudit())
        # Of two checkpoints of an iteration the later attempt's counts: it is the one that was gone on from.
        past = [record for one in history.attempts(store, job_id) for record in one.checkpoints]
        self._earlier = {one.iteration: one for one in past if (one.iteration or 0) <= attempt.start_iteration}
        digests = {record.sha256 for record in self._earlier.values()}
        self.record = replace(known, checkpoints=tuple(one for one in known.checkpoints if one.sha256 in digests))
        """Everything that was measured, and what waits for it."""
        self._due_at = time.monotonic()
        self._abort = threading.Event()
        self._ended_at: tuple[int, float] | None = None
        self._thread = threading.Thread(target=self._loop, name="evaluator", daemon=True)

    # --- as the attempt sees it ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin."""
        self._judge()
        self._write()
        self._thread.start()

    def training_ended(self, done: int) -> None:
        """Note the end of training at an iteration, whose checkpoint is evaluated whatever the interval."""
        self._ended_at = done, time.monotonic()

    @property
    def left(self) -> str | None:
        """What is still to be done once training has ended, in words; None where that is all."""
        if not self._thread.is_alive():
            return None
        audit = self.record.audit
        if audit is not None and audit.is_waiting:
            return "measuring unlearned actions"
        count = sum(one.is_waiting for one in self.record.checkpoints)
        return f"evaluating: {count} to do" if count else "storing the last checkpoint"

    def end(self, within_s: float = 1.5 * GRACE_S) -> None:
        """End what still runs, without its result: a later attempt goes on with it."""
        self._abort.set()
        if self._thread.is_alive():
            self._thread.join(within_s)
        # A process that still imports, or looks at a job, hears of nothing.
        if self._thread.is_alive() and self._sessions.newest is not None:
            self._sessions.newest.end(0.0)
            self._thread.join(within_s)

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        with self._sessions as sessions:
            if self.record.audit is not None and self.record.audit.is_waiting:
                self._audit(sessions)
            while not self._abort.is_set():
                is_last = self._plan()
                waiting = [one for one in self.record.checkpoints if one.is_waiting]
                if waiting:
                    if self._is_succeeded():
                        return
                    self._evaluate(waiting[0], sessions)
                elif is_last:
                    return
                else:
                    self._abort.wait(LOOK_S)

    def _is_succeeded(self) -> bool:
        """Return whether a later attempt at the training is made, since this one was taken for dead."""
        try:
            numbers = self._store.list_dirs(JobKeys(self._job.job_id).attempts)
            return any(name.isdigit() and int(name) > self._number for name in numbers)
        except SimyardError:  # the store is away: what is begun now has the same to say
            return False

    def _plan(self) -> bool:
        """Add the checkpoints that are due by now; return whether no other can come."""
        every, ended = self._job.evaluate_every, self._ended_at
        if every is None:
            return ended is not None
        is_late = ended is not None and time.monotonic() - ended[1] > PUBLISH_S
        known = {one.iteration for one in self.record.checkpoints}
        there = self._earlier | {one.iteration: one for one in self._published()}
        records = [(at, there[at]) for at in sorted(at for at in there if at is not None)]
        has_last = False
        for iteration, record in records:
            is_last = ended is not None and iteration == (records[-1][0] if is_late else ended[0])
            has_last |= is_last
            is_due = self._is_due(iteration, max(known, default=None), newest=records[-1][0])
            if iteration in known or not (is_last or is_due):
                continue
            known.add(iteration)
            self._due_at = time.monotonic()
            self._keep(EvaluatedCheckpoint(iteration=iteration, checkpoint=record.name, sha256=record.sha256))
        return has_last or is_late

    def _is_due(self, iteration: int, before: int | None, *, newest: int) -> bool:
        """Return whether a checkpoint is the first in its iterations, or the newest when the minutes are over."""
        every, first = self._job.evaluate_every, self._job.first_iteration
        assert every is not None
        if every.minutes is not None:
            return iteration == newest and time.monotonic() - self._due_at >= 60 * every.minutes
        assert every.iterations is not None
        last = 0 if before is None else before - first
        return (iteration - first) // every.iterations > last // every.iterations

    def _evaluate(self, entry: EvaluatedCheckpoint, sessions: Sessions) -> None:
        every = self._job.evaluate_every
        assert every is not None
        section = EvaluationConfig(
            from_job=FromJob(job_id=self._job.job_id, which="iteration", iteration=entry.iteration),
            num_envs=every.num_envs,
            num_episodes=every.num_episodes,
            steps_per_episode=every.steps_per_episode,
            success_termination=every.success_termination,
            record_video=every.video,
            video_episodes=("first",),
            seed=self._job.seed,
        )
        request = EvaluateRequest(
            name=f"{self._job.name[:170]}, iteration {entry.iteration}",
            training_config=section,
            timeouts=ShortTimeouts(grace_seconds=GRACE_S),
            retries=self._job.retries,
            **({"compute_config": ComputeConfig(gpus_per_node=0)} if every.on_cpu else {}),
        )

        def begun(job_id: str) -> None:
            self._keep(replace(entry, job_id=job_id))

        found = self._made(
            f"iteration {entry.iteration} {entry.sha256}", lambda job_id: resolve(request, self._store, job_id), begun,
            sessions,
        )  # fmt: skip
        if isinstance(found, str):
            self._keep(replace(self._newest(entry), problem=found))
        elif found is not None:
            summary = found.summary or {}
            self._keep(
                replace(
                    self._newest(entry),
                    episodes=summary["episodes"],
                    returns=_figure(summary["return"]["mean"], summary["return"]["interval_95"]),
                    success_rate=_figure(summary["success"]["rate"], summary["success"]["interval_95"]),
                )
            )
            self._judge()

    def _audit(self, sessions: Sessions) -> None:
        """Measure what unlearned actions earn."""
        every, job = self._job.evaluate_every, self._job.in_stage(0) if self._job.stages else self._job
        evaluation = Evaluation(
            num_episodes=every.num_episodes if every else _AUDIT.num_episodes,
            steps_per_episode=every.steps_per_episode if every else _AUDIT.steps_per_episode,
            success_termination=every.success_termination if every else None,
            actions=ACTIONS,
        )
        limits = replace(job.limits, term_grace_s=GRACE_S)
        spec = replace(
            job, kind="evaluate", name=f"{job.name[:180]}, reward audit", evaluation=evaluation, limits=limits,
            num_envs=every.num_envs if every else evaluation.num_episodes, resume=None, max_iterations=0, exact=None,
            evaluate_every=None, stop_when=None, reward_audit=None, nodes=1,
            gpus=0 if every and every.on_cpu else job.gpus and 1, from_job=job.job_id,
            request={"rewardAudit": job.job_id}, created_at=now(),
        )  # fmt: skip

        def keep(**changes: Any) -> None:
            assert self.record.audit is not None
            self.record = replace(self.record, audit=replace(self.record.audit, **changes))
            self._write()

        found = self._made(
            "reward audit", lambda job_id: Resolved(replace(spec, job_id=job_id)), lambda job_id: keep(job_id=job_id),
            sessions,
        )  # fmt: skip
        if isinstance(found, str):
            keep(problem=found)
        elif found is not None:
            keep(earned=tuple(map(_unlearned, (found.summary or {})["sweep"])))

    def _made(
        self, what: str, resolved: Callable[[str], Resolved], begun: Callable[[str], None], sessions: Sessions
    ) -> JobResult | str | None:
        """Bring an evaluation to its end, unless it has one; return its result, or why it failed.

        Args:
            what: Name of the evaluation within the training.
            resolved: Returns the job for an id.
            begun: Called with its id.
            sessions: Where its process comes from.

        Returns:
            None where it was asked to end.
        """
        store, training = self._store, self._job.job_id
        error: WorkloadError | None = None
        claim: Claim | None = None
        try:
            job_id = idempotency.claim(
                store, f"evaluation of {training}: {what}", keys.new_job_id(), {"training": training, "of": what}
            )
            begun(job_id)
            if (claim := self._claimed(job_id)) is None:
                return None
            if store.exists(JobKeys(job_id).manifest) and (done := history.result_of(store, job_id)) is not None:
                return done
            if not store.exists(JobKeys(job_id).job):
                stage(resolved(job_id), store)
            spec = history.load_spec(store, job_id)
            for _ in range(spec.retries + 1):
                if is_done(spec, store):
                    break
                if not claim.counts:  # another process has taken it up
                    return None
                try:
                    error = None
                    launch_inline(spec, store, sessions, Observer(canceled=self._abort.is_set))
                    break
                except WorkloadError as failed:
                    error = failed
                    if self._abort.is_set():
                        return None
                    if not worth_another(failed):
                        break
            if not claim.counts:
                return None
            result = persist(spec, collect(spec, store, error.failure if error else None), store)
        except SimyardError as failed:
            return None if self._abort.is_set() else failed.failure.message
        except Exception as failed:  # whatever it is, the training goes on
            return f"{type(failed).__name__}: {failed}"
        finally:
            if claim is not None:
                with suppress(SimyardError):  # it counts for nothing once this process has ended
                    claim.give_up()
        return result.error.message if result.error else result

    def _claimed(self, job_id: str) -> Claim | None:
        """Return the claim on an evaluation, once no other process makes it; None where it is not to be made here."""
        while (claim := take(self._store, job_id)) is None:
            if self._abort.wait(CLAIM_S) or self._is_succeeded():
                return None
        return claim

    # --- the record ---------------------------------------------------------------------------------------------------

    def _newest(self, entry: EvaluatedCheckpoint) -> EvaluatedCheckpoint:
        return next(one for one in self.record.checkpoints if one.iteration == entry.iteration)

    def _keep(self, entry: EvaluatedCheckpoint) -> None:
        """Put a checkpoint in its place in the record, and write that."""
        others = [one for one in self.record.checkpoints if one.iteration != entry.iteration]
        ordered = sorted([*others, entry], key=lambda one: one.iteration)
        self.record = replace(self.record, checkpoints=tuple(ordered))
        self._write()

    def _write(self) -> None:
        write_json(self._paths.evaluations, self.record.to_json())

    def _judge(self) -> None:
        """Ask the training to end, where the evaluations say so."""
        wanted = self._job.stop_when
        if wanted is not None and (why := self.record.why_stop(wanted)) is not None:
            write_json(self._paths.stop, {"why": why})


def _figure(value: float | None, interval: list[float] | None) -> Figure | None:
    if value is None:
        return None
    return Figure(value=float(value), interval_95=(interval[0], interval[1]) if interval else None)


def _unlearned(summary: dict[str, Any]) -> Unlearned:
    """Return the earnings of actions as their part of `summary.json` has them."""
    returns = _figure(summary["return"]["mean"], summary["return"]["interval_95"])
    assert returns is not None
    return Unlearned(
        actions=summary["checkpoint"]["name"],
        episodes=summary["episodes"],
        returns=returns,
        success_rate=_figure(summary["success"]["rate"], summary["success"]["interval_95"]),
        reward_terms=summary["reward_terms"],
    )
