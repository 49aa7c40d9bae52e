"""The loop of a sweep: what is trained next, what was measured, and when nothing more may be begun.

Everything that counts is in the store: decisions, and the jobs that they lead to. A process that goes on after this one
was killed reads the decisions, finds the jobs by their content, and goes on behind the last one. `flows/sweep.py` shows
the loop itself; `state.py` has what follows from the decisions.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from simyard.core.errors import GPU_OUT_OF_MEMORY, Failure, RequestError, SimyardError, StoreError
from simyard.core.files import scratch
from simyard.core.records import Ended, Estimate, this_process
from simyard.core.sweep_records import Decision, SeedRun, SweepResult, SweepStatus, SweepVerdict
from simyard.core.wire import now_ms
from simyard.store.keys import SweepKeys
from simyard.store.store import Store
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.shared import usage
from simyard.tasks.shared.control import Driver, LoopObserver, refuse_second_driver
from simyard.tasks.sweeps import measure, record
from simyard.tasks.sweeps.check import check_values
from simyard.tasks.sweeps.plan import UNKNOWN_METRIC, ResolvedSweep, SweepSpec, load_sweep
from simyard.tasks.sweeps.report import LivePictures
from simyard.tasks.sweeps.state import Piece, State
from simyard.tasks.sweeps.trials import Run, Trials
from simyard.tasks.sweeps.verdict import judge, values_in_words


class Loop(Driver):
    """One process's hold on a sweep; `with` begins and ends its heartbeat."""

    NOUN = "sweep"

    def __init__(self, spec: SweepSpec, store: Store, observer: LoopObserver, *, in_pool: bool = False) -> None:
        """Read the sweep's progress.

        Raises:
            RequestError: If it has ended, or another process drives it.
        """
        _refuse_second_driver(spec.sweep_id, store)
        self.spec = spec
        self.asked = spec.asked
        self.keys = SweepKeys(spec.sweep_id)
        super().__init__(store, self.keys, record.EVENT_TYPES, observer)
        self.state = State(self.asked, spec.template.max_iterations)
        self._in_pool = in_pool
        self._refused: Failure | None = None
        self._broken: BaseException | None = None
        self._pictures = LivePictures(spec, store)
        self.trials = Trials(spec, store, self.control, in_pool=in_pool)
        self._begun: set[Piece] = set()
        """The trainings in progress."""
        self._spent = 0.0
        """GPU seconds of what was measured."""
        self._iterations = 0
        self._began = time.monotonic()
        self._decisions: list[Decision] = []
        for decision in record.decisions(store, spec.sweep_id):
            self._apply(decision)
        self._iterations = 0  # what this process did tells how long the rest takes

        counts = ("setting", self.asked.sweep.settings), ("seed", len(self.asked.seeds))
        most, seeds = (f"{count} {noun}{'s' * (count > 1)}" for noun, count in counts)
        self._started = self.take_up(f"The sweep begins: {most} at most, {seeds}.")
        if self._decisions:  # whoever wrote the last one may have died before it was told
            self._tell(self._decisions[-1])

    # What may be begun

    def check(self, sessions: Sessions | None) -> None:
        """Have the simulator check every value before the first training; a new sweep that is refused ends there.

        Args:
            sessions: The simulators here; None where they are elsewhere, and each training is checked by itself.
        """
        if sessions is None or self.spec.versions is not None or self.state.decisions:
            return
        self.show("checking the values")
        try:
            versions = check_values(ResolvedSweep(self.spec, ()), self.store, sessions)
        except RequestError as error:
            self._refuse(error.failure)
        else:
            self.spec = self.trials.spec = replace(self.spec, versions=versions)
            self.store.put_json(self.keys.sweep, self.spec.to_json())

    def pieces(self) -> list[Piece]:
        """Return the trainings to begin now; a decision that leads to one is in the store before it is returned."""
        found: list[Piece] = []
        while self._may_begin() and len(self._begun) < self.state.parallel:
            waiting = (piece for piece in self.state.pieces() if piece not in self._begun)
            if (piece := next(waiting, None)) is not None:
                self._begun.add(piece)
                found.append(piece)
            elif (move := self.state.next_move()) is not None:
                self._decide(**move)
            else:
                break
        count = len(self._begun)
        self.show(f"{count} in progress, {len(self.state.members)} of {self.asked.sweep.settings} settings")
        return found

    @property
    def is_over(self) -> bool:
        """Whether nothing is in progress and nothing more will be."""
        if self._begun:
            return False
        if self.state.ended_by is None and self._broken is None and not self.control.is_leaving:
            if self._is_paused:
                return False
            self._decide(kind="ended", why="done")
        return True

    def _may_begin(self) -> bool:
        """Return whether anything may be begun now; what ends the sweep is decided here."""
        if self._broken is not None or self.control.is_leaving or self.state.ended_by is not None:
            return False
        if self.control.is_canceled:
            self._decide(kind="ended", why="canceled")
            return False
        if reason := self._over_budget():
            self._decide(kind="ended", why=reason)
            return False
        return not self.is_paused()

    def _over_budget(self) -> str | None:
        """Return the name of the budget that is spent; None where there is more of all."""
        budget = self.asked.sweep.budget
        hours = (datetime.now(UTC) - self._started).total_seconds() / 3600
        if budget.max_wallclock_hours is not None and hours >= budget.max_wallclock_hours:
            return "max_wallclock_hours"
        if budget.max_gpu_hours is not None or budget.max_credits is not None:
            seconds = self.gpu_seconds
            if budget.max_gpu_hours is not None and seconds / 3600 >= budget.max_gpu_hours:
                return "max_gpu_hours"
            usd = usage.in_usd(seconds, self.spec.usd_per_gpu_hour) or 0.0
            if budget.max_credits is not None and usd >= budget.max_credits:
                return "max_credits"
        return "target" if self.state.has_reached_target else None

    # A training, and what it measured

    def train(self, piece: Piece, run: Run) -> SeedRun | None:
        """Train a setting with one seed up to its rung, and measure it, as `Trials.train` does."""
        about = f"{piece.setting}/{piece.rung}/{piece.seed}"
        self.events.record(
            "training.started",
            about,
            f"{_named(piece)} trains to iteration {piece.iterations:,}.",
            setting=piece.setting,
        )
        return self.trials.train(piece, self.state.members[piece.setting].values, run)

    def take(self, piece: Piece, found: SeedRun | BaseException | None) -> None:
        """Take into account how a training ended; what was measured is written before anything follows from it.

        Args:
            piece: The training.
            found: What `train` returned, or the error that it raised.

        Raises:
            BaseException: The error, where it is none of the store's or the machine's.
        """
        self._begun.remove(piece)
        if isinstance(found, RequestError):
            found = _not_begun(piece, found.failure)
        if isinstance(found, BaseException):
            if isinstance(found, SimyardError):  # it is done again once the others have ended
                away = found.failure
                found = StoreError(away.message, code=away.code, advice=away.advice)
            self._broken = self._broken or found
            return
        if found is None:
            return
        failure = found.failure
        if failure and failure.code == GPU_OUT_OF_MEMORY and self.state.parallel > 1 and piece not in self.trials.again:
            self.trials.again.add(piece)
            less = max(1, min(self.state.parallel - 1, len(self._begun)))
            self._decide(kind="parallel", parallel=less, why=f"{_named(piece)} found no memory on the GPU")
            return
        values = zip(self.asked.metrics, found.measured, strict=True) if found.measured else ()
        said = ", ".join(f"{metric} {value:.6g}" for metric, value in values)
        why = said or (failure.message if failure else "no value")
        self._decide(kind="measured", setting=piece.setting, rung=piece.rung, run=found, why=why)
        if failure and failure.code == UNKNOWN_METRIC and self.state.best is None:
            self._refuse(failure)
        elif not self.state.is_measured_out:
            self._measure_out(found)

    def _measure_out(self, first: SeedRun) -> None:
        """Decide how many trainings go side by side."""
        if self._in_pool:
            many, why = measure.IN_POOL, f"{measure.IN_POOL} side by side in a pool; those without a worker wait"
        elif first.failure is not None:
            return
        else:
            many, why = measure.room_for(first.jobs[-1], self.store)
        self._decide(kind="parallel", parallel=many, why=why)

    def raise_if_broken(self) -> None:
        """Raise the error that keeps the sweep from going on, once nothing is in progress."""
        if self._broken is not None:
            raise self._broken

    # Decisions

    def _decide(self, **fields: Any) -> None:
        """Write a decision, then act on it.

        Raises:
            RequestError: If another process has made this one: it took this one for lost, and drives the sweep.
        """
        decision = Decision(number=self.state.decisions + 1, at=now_ms(), **fields)
        document = json.dumps(decision.to_json()).encode()
        if not self.store.put_new(self.keys.decision(decision.number), document):
            raise RequestError(
                f"{self.spec.sweep_id} is driven by another process.",
                code="already_driven",
                advice="Follow it: simyard sweep watch.",
            )
        self._apply(decision)
        self._tell(decision)

    def _apply(self, decision: Decision) -> None:
        self.state.apply(decision)
        self._decisions.append(decision)
        if decision.run is not None:
            member = self.state.members[decision.setting or 0]
            before = member.runs.get((decision.rung or 0) - 1, {}).get(decision.run.seed)
            self._spent += decision.run.gpu_seconds - (before.gpu_seconds if before else 0.0)
            self._iterations += decision.run.iterations - (before.iterations if before else 0)

    def _tell(self, decision: Decision) -> None:
        """Write the setting that a decision is about, for those who read, and an event."""
        if decision.setting is not None:
            setting = self.state.setting(self.state.members[decision.setting])
            self.store.put_record(self.keys.setting(setting.number), setting)
        kind = decision.kind
        about = f"{decision.number}"
        if kind == "parallel":
            self.events.record("sweep.parallel", about, f"{decision.why}.", parallel=decision.parallel)
        elif kind == "measured":
            assert decision.run is not None
            name = "failed" if decision.run.failure else "measured"
            done = f"{decision.run.iterations:,} iterations"
            message = f"Setting {decision.setting}, seed {decision.run.seed}, {done}: {decision.why}"
            data = {"setting": decision.setting, "seed": decision.run.seed, "value": decision.run.value}
            self.events.record(f"training.{name}", about, message, **data)
            self._write_verdict()
        elif kind != "ended":
            words = {"promoted": "goes on", "pruned": "goes no further"}
            said = words.get(kind, f"takes up the state of setting {decision.source}")
            message = f"Setting {decision.setting} {said}: {decision.why}."
            if kind == "suggested":
                message = f"Setting {decision.setting}: {values_in_words(decision.values or {})} ({decision.why})."
            self.events.record(f"setting.{kind}", about, message, setting=decision.setting, values=decision.values)

    def _refuse(self, failure: Failure) -> None:
        self._refused = failure
        self._decide(kind="ended", why="refused")

    # How the sweep ends

    def verdict(self) -> SweepVerdict:
        """Return the verdict on what was measured so far."""
        return judge(self.state.settings, self.asked.sweep.objectives, self.asked.seeds, self._decisions)

    def _write_verdict(self) -> None:
        verdict = self.verdict()
        self.store.put_record(self.keys.verdict, verdict)
        self._pictures.redraw(self.state.settings, verdict)

    def conclude(self) -> SweepResult:
        """Write the verdict, the report and the result of the sweep, and return the last."""
        from simyard.tasks.sweeps import report

        assert self.state.ended_by is not None
        self.show("writing the report")
        verdict = self.verdict()
        self.store.put_record(self.keys.verdict, verdict)
        settings = self.state.settings
        measured = [one for one in verdict.table if one.value is not None]
        is_canceled = self.state.ended_by == "canceled"
        status: Ended = "canceled" if is_canceled else "succeeded" if measured else "failed"
        jobs = set[str]()
        failures = [run.failure for one in settings for run in one.runs if run.failure]
        for decision in self._decisions:
            if decision.run is not None:
                jobs |= set(decision.run.jobs) - set(decision.run.found or ())
        result = SweepResult(
            sweep_id=self.spec.sweep_id,
            name=self.asked.name,
            project_id=self.asked.project_id,
            status=status,
            ended_by="failed" if status == "failed" and self.state.ended_by == "done" else self.state.ended_by,
            settings=len(settings),
            jobs=len(jobs),
            best=measured[0].number if measured else None,
            verdict=verdict if settings else None,
            cost=usage.cost_of(self._spent, self.spec.usd_per_gpu_hour),
            estimate=self.store.get_record_or_none(self.keys.estimate, Estimate),
            error=self._refused or (failures[0] if status == "failed" and failures else None),
            store=self.store.url(self.keys.prefix),
            created_at=self.spec.created_at,
            updated_at=now_ms(),
        )
        with scratch("sweep") as folder:
            report.report(self.spec, result, settings, self.store, folder)
        message = f"The sweep has {status}; what ended it: {result.ended_by}."
        self.events.record("sweep.ended", "", message, status=status)
        self.store.put_record(self.keys.result, result)
        return result

    def cancel_now(self) -> SweepResult:
        """Write that the sweep is canceled, where nobody drives it."""
        if self.state.ended_by is None:
            self._decide(kind="ended", why="canceled")
        return self.conclude()

    def stop(self, *, canceled: bool, within_s: float) -> None:
        """End the work in progress of a process that must end; of a canceled sweep also write the result.

        Args:
            canceled: Whether the sweep was canceled. Otherwise another process may go on with it.
            within_s: How long to wait for what is in progress, in seconds.
        """
        if canceled:
            self.control.cancel()
        else:
            self.control.leave()
        self.trials.await_end(within_s)
        if canceled:
            self.cancel_now()

    # Inside

    @property
    def gpu_seconds(self) -> float:
        """GPU seconds of all jobs so far, those in progress too."""
        return self._spent + self.trials.gpu_seconds

    def _seconds_left(self) -> float | None:
        """Return an estimate of the time to the end: by the iterations that this process has seen."""
        if not self._iterations:
            return None
        settings, seeds = self.asked.sweep.settings, len(self.asked.seeds)
        factor = self.asked.sweep.scheduler.reduction_factor
        total = 0.0
        for rungs in self.state.brackets:
            steps = [rung - before for rung, before in zip(rungs, (0, *rungs), strict=False)]
            share = 1.0 if self.asked.sweep.scheduler.kind == "pbt" else 1 / factor
            total += sum(step * share**place for place, step in enumerate(steps))
        total *= settings * seeds / len(self.state.brackets)
        done = sum(run.iterations for one in self.state.settings for run in one.runs)
        per_iteration = (time.monotonic() - self._began) / self._iterations
        return round(max(total - done, 0.0) * per_iteration, 1)

    def _status(self) -> SweepStatus:
        best = self.state.best
        return SweepStatus(
            **this_process(),
            stage=self._stage,
            wanted=self.control.desired,
            settings=len(self.state.members),
            running=len(self._begun),
            pruned=sum(one.state == "pruned" for one in self.state.members),
            best=best.value if best else None,
            cost=usage.cost_of(self.gpu_seconds, self.spec.usd_per_gpu_hour),
            seconds_left=self._seconds_left(),
        )


def cancel_undriven(store: Store, sweep_id: str) -> None:
    """Write that a sweep whose desired state is to end is canceled, unless a process drives it."""
    if record.sweep_status(store, sweep_id).status in ("queued", "interrupted"):
        with suppress(RequestError):  # a process has just taken it up, and reads the desired state
            Loop(load_sweep(store, sweep_id), store, LoopObserver()).cancel_now()


def _refuse_second_driver(sweep_id: str, store: Store) -> None:
    """Raise `RequestError` for a sweep that has ended, or that another process drives."""
    sweep = SweepKeys(sweep_id)
    if (ended := store.get_record_or_none(sweep.result, SweepResult)) is not None:
        raise RequestError(f"{sweep_id} has {ended.status}.", code="sweep_ended", advice="Begin another.")
    refuse_second_driver(sweep_id, store.get_record_or_none(sweep.status, SweepStatus), "sweep")


def _not_begun(piece: Piece, failure: Failure) -> SeedRun:
    """Return the account of a training that was refused before it was a job."""
    earlier, own = piece.earlier, piece.own
    return SeedRun(
        seed=piece.seed,
        jobs=earlier.jobs if earlier else (),
        iterations=earlier.iterations if earlier else 0,
        status="failed",
        value=None,
        failure=failure,
        gpu_seconds=own.gpu_seconds if own else 0.0,
    )


def _named(piece: Piece) -> str:
    return f"Setting {piece.setting}, seed {piece.seed}"
