"""One attempt, on the machine that has the simulator: fetch, check, supervise, carry everything to the store, judge."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from simyard.core.errors import Category, Failure, RequestError, SimyardError, StoreError, WorkloadError
from simyard.core.files import AttemptPaths, read_json, write_json
from simyard.core.records import Outcome, WorkloadAccount, ended
from simyard.core.specs import AttemptSpec, Facts, InputFile
from simyard.runner.session_server import LentWorkload
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.attempt.judge import diagnostics, judge, judge_part, last_traceback
from simyard.tasks.attempt.supervise import Ending, Telemetry, Watched, gpu_and_driver, supervise
from simyard.tasks.attempt.transfer import Mirror, NodeCache
from simyard.tasks.cluster.rendezvous import Machines, a_world
from simyard.tasks.kinds import kind_of
from simyard.tasks.packages.install import InstalledPackage, install
from simyard.tasks.sessions.pool import Lease, Sessions

OPEN_TIMEOUT_S = 120.0
"""Opening one checkpoint, torch's import included."""
CANCELED = Failure(
    code="canceled", category=Category.CANCELED, message="The job was canceled.", advice="What was saved is kept."
)


@dataclass(kw_only=True)
class Observer:
    """Callbacks of a running attempt; every call comes from the supervising thread, save `lines`."""

    progress: Callable[[dict[str, Any]], None] = lambda status: None
    lines: Callable[[list[str]], None] = lambda lines: None
    canceled: Callable[[], bool] = lambda: False
    why_stopped: Callable[[BaseException], Failure] = lambda error: CANCELED
    """Failure of an attempt that a signal interrupted: a cancel, or a machine that goes away."""


@dataclass(kw_only=True)
class Timings:
    """Seconds on this machine's clock."""

    work: str
    """Name of the job's work: `train`."""
    began: float = field(default_factory=time.monotonic)
    startup_s: float | None = None
    """From here to the first sign of progress: a finished iteration."""
    work_s: float | None = None
    """From there to the last."""

    def to_json(self) -> dict[str, float | None]:
        """Return rounded seconds; null for what was not reached."""
        total = time.monotonic() - self.began
        return {
            key: None if value is None else round(value, 3)
            for key, value in (("startup_s", self.startup_s), (f"{self.work}_s", self.work_s), ("total_s", total))
        }


def run_attempt(attempt: AttemptSpec, store: Store, sessions: Sessions, observer: Observer) -> Outcome:
    """Run one attempt to its end and write its outcome, whatever that end is.

    Args:
        attempt: The job and where to take it up.
        store: The job's store.
        sessions: Where its process comes from, and this machine.
        observer: Who hears of it.

    Returns:
        The outcome as stored.

    Raises:
        BaseException: What interrupted it (a signal, say), after the workload was ended and the outcome written.
    """
    running = _Attempt(attempt, store, sessions, observer)
    ending, failure, refused = None, None, False
    try:
        running.prepare()
        ending = running.supervise()
        if attempt.node:
            failure = judge_part(ending, running.account())
        else:
            if ending.watched.end_marker and not running.gave_account():
                running.open_afterwards()
            failure = judge(ending, running.account(), running.log, runs_user_code=bool(attempt.job.rollout))
        if failure is not None and running.machines is not None:
            failure = running.machines.first_cause(failure)
    except SimyardError as error:
        failure, refused = error.failure, isinstance(error, RequestError)
    except BaseException as error:
        running.finish(None, observer.why_stopped(error))
        raise
    return running.finish(ending, failure, refused=refused)


class _Attempt:
    """The attempt in progress: its folder, its process, its way to the store."""

    def __init__(self, spec: AttemptSpec, store: Store, sessions: Sessions, observer: Observer) -> None:
        self.spec = spec
        self.store = store
        self.sessions = sessions
        self.site = site = sessions.site
        self.observer = observer
        self.keys = JobKeys(spec.job.job_id).attempt(spec.number).node(spec.node)
        self.machines = Machines(store, spec.job, spec.number, spec.node) if spec.job.nodes > 1 else None
        self.paths = AttemptPaths(site.attempt_folder(spec.job.job_id, spec.number, spec.node))
        _sweep(self.paths.root.parent)
        self.paths.make()
        self.kind = kind_of(spec.job)
        self.cache = NodeCache(site.cache, site.cache_bytes)
        if spec.job.kind == "rollout":
            for log in (self.paths.user_log, self.paths.stdout, self.paths.stderr):
                log.touch()  # promised whatever the end, also one before the task begins
        self.timings = Timings(work=self.kind.name)
        self._activity: str | None = None
        self.lease: Lease | None = None
        self.facts: Facts | None = None
        self.mirror = self._new_mirror()

    def log(self, stage: str, status: str, message: str, **more: object) -> None:
        """Append one line of `key=value` pairs to runner.log."""
        _append(self.paths.runner_log, {"time": _now(), "stage": stage, "status": status, "message": message, **more})

    def prepare(self) -> None:
        """Fetch inputs, install packages and have the simulator's environment check the job."""
        job = self.spec.job
        self._stage("staging")
        if job.ranks > 1 and self.spec.world is None:
            self.spec = replace(self.spec, world=a_world())
            if self.machines is not None:
                self.machines.invite(self.spec)
        # Before anything is fetched: what takes longest when it starts cold is importing the simulator.
        self.lease = self.sessions.take(job, self.store.url(), lambda note: self.log("staging", "note", note))
        workload = self.lease.workload
        if isinstance(workload, LentWorkload):
            self.log("staging", "note", f"in {workload.session_id}, which this machine keeps")
        elif not workload.is_warm:  # what it imported while it waited belongs to the start-up
            self.timings.began = min(self.timings.began, workload.started)
        inputs = self.kind.inputs(job, self.spec.resume)
        for file in (*job.packages, *inputs):
            self._fetch(file)
        files = {file.sha256: self.paths.inputs / file.name for file in inputs}
        for file in job.packages:
            package = install(
                self.paths.inputs / file.name,
                self.paths.overlay,
                python=self.site.python,
                scratch=self.paths.root,
                module=job.rollout.task_module if job.rollout else None,
            )
            self.log("staging", "ok", f"installed {package.name} {package.version}", sha256=package.sha256)
            # A rollout names the module itself.
            if job.kind != "rollout" and not package.task_entry_points and job.import_callback is None:
                job = replace(job, import_callback=_registering_module(package))
        self._stage("checking" if workload.is_warm else "importing")
        self.facts = self.lease.check(job, self.paths.overlay if job.packages else None, files)
        self.spec = replace(self.spec, job=job)
        for note in self.facts.notes:
            self.log("checking", "note", note)
        if self.spec.resume and self.facts.not_resumable:
            # An earlier attempt's: a request to resume such a job is refused.
            self.spec = replace(self.spec, start_iteration=0, resume=None)
            self.log("checking", "note", f"starting from scratch: {self.facts.not_resumable}")
        write_json(self.paths.facts, self.facts.to_json())
        write_json(self.paths.spec, self.spec.to_json())
        write_json(self.paths.versions, _versions(self.facts))
        if self.machines is not None:
            self.machines.gather(self._wait)

    def _fetch(self, file: InputFile) -> None:
        """Bring one input here, out of the node's cache if it has it, and write down how that went."""
        began = time.monotonic()
        source, problem = "store", None
        try:
            source = self.cache.fetch(self.store, file, self.paths.inputs / file.name)
        except SimyardError as error:
            problem = error
            raise
        finally:
            pairs = {
                "asset": file.name, "sha256": file.sha256, "size_bytes": file.size_bytes, "source": source,
                "seconds": f"{time.monotonic() - began:.3f}", "error": problem or "",
            }  # fmt: skip
            _append(self.paths.staging_log, {"time": _now(), "status": "failed" if problem else "ok", **pairs})

    def supervise(self) -> Ending:
        """Run the workload to its end, everything it writes going to the store meanwhile."""
        assert self.lease is not None and self.facts is not None
        workload = self.lease.workload
        self.mirror = self._new_mirror()
        self.mirror.note(facts=self.facts)  # a later attempt reads this one's events by them
        self._stage("launching")
        self.mirror.start()
        earlier = workload.jobs
        if not workload.is_warm:
            self.mirror.note(stage="importing environments and physics")
            self.observer.progress(self.mirror.status.to_json())
        limits = self.spec.job.limits
        if self.spec.node:  # the first machine alone sees iterations, and ends the others
            limits = replace(limits, first_iteration_s=limits.wall_s, iteration_s=limits.wall_s)
        with Telemetry(self.paths.telemetry, workload.pid):
            workload.run(self.paths)
            ending = supervise(
                workload,
                self.paths,
                limits=limits,
                reader=self.kind.reader(self.spec, self.facts),
                watch=self._watch,
            )
        self._show(ending.watched)  # what it did since the last look
        self.log("session", "note", ending.leaving or "it waits for another job", jobs_before=earlier)
        return ending

    def account(self) -> WorkloadAccount | None:
        """The workload's own account of its end, or None when it wrote none."""
        return WorkloadAccount.from_json(read_json(self.paths.outcome)) if self.paths.outcome.exists() else None

    def gave_account(self) -> bool:
        """Whether the workload came through its own clean-up."""
        account = self.account()
        return account is not None and account.failure is None

    def open_afterwards(self) -> None:
        """Have another process open what it left: the workload hung or failed after its work was done."""
        self.log("judge", "note", "failed after the end marker: opening what it left")
        command = [self.site.python, "-m", "simyard.runner", "--open", str(self.paths.root)]
        try:
            done = subprocess.run(
                command, env=self.site.workload_env(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=OPEN_TIMEOUT_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            self.log("judge", "error", str(error))
            return
        if done.returncode:
            self.log("judge", "error", done.stderr[-2000:])

    def finish(self, ending: Ending | None, failure: Failure | None, *, refused: bool = False) -> Outcome:
        """Carry the rest to the store and write the outcome, last; `refused` marks a bad request, not a failed job."""
        if self.lease is not None:
            self.lease.give_back()
        status = ended(failure)
        self.log("done", status, failure.message if failure else "done", **self._ending_fields(failure))
        seen = ending.watched if ending else None
        account = self.account()
        outcome = Outcome(
            number=self.spec.number,
            status=status,
            failure=failure,
            refused=refused,
            start_iteration=self.spec.start_iteration,
            done=seen.done if seen else self.mirror.status.done,
            total=self.kind.total(self.spec.job),
            unit=self.kind.unit,
            reward=self.mirror.status.reward,
            exit_code=ending.exit_code if ending else None,
            signal=ending.signal if ending else None,
            end_marker=seen.end_marker if seen else False,
            stopped_because=seen.stopped_because if seen else None,
            opened=account.opened if account else (),
            facts=self.facts,
            timings=self.timings.to_json(),
        )
        if failure is not None and status == "failed":
            write_json(self.paths.diagnostics, diagnostics(outcome, failure, self.paths))
        self.mirror.note(status=status, stage="done", done=outcome.done)
        try:
            self.mirror.finish()
            self.store.put_record(self.keys.outcome, outcome)
        except StoreError as error:
            kept = f"Everything is kept in {str(self.paths.root)!r} on {platform.node()}."
            raise StoreError(
                error.failure.message, code=error.failure.code, advice=f"{error.failure.advice} {kept}"
            ) from error
        self._clean_up()
        return outcome

    def _ending_fields(self, failure: Failure | None) -> dict[str, object]:
        """Return further fields of the last line of runner.log: `traceback` is the last one the workload printed."""
        fields: dict[str, object] = {"duration_s": f"{time.monotonic() - self.timings.began:.3f}"}
        if failure is not None:
            fields |= {
                "error_code": failure.code,
                "error_category": failure.category,
                "retryable": str(failure.category is Category.INFRA).lower(),
                "traceback": last_traceback(self.paths.stderr),
            }
        return fields

    def _clean_up(self) -> None:
        """Remove the attempt's local folder, which is in the store by now."""
        shutil.rmtree(self.paths.root, ignore_errors=True)
        with suppress(OSError):  # another attempt's folder is beside it
            self.paths.root.parent.rmdir()

    def _new_mirror(self) -> Mirror:
        return self.kind.mirror(self.store, self.spec, self.paths, self.facts, self.observer.lines)

    def _stage(self, stage: str) -> None:
        self.log(stage, "start", f"attempt {self.spec.number}")
        self.mirror.note(stage=stage)
        self.mirror.beat()
        self.observer.progress(self.mirror.status.to_json())
        if self.mirror.cancel_requested.is_set():
            raise WorkloadError(CANCELED)

    def _wait(self, what: str) -> None:
        """Show the reason for waiting as the stage, and write a heartbeat."""
        if self.mirror.status.stage != what:
            self.log("gathering", "note", what)
        self.mirror.note(stage=what)
        self.mirror.beat()
        self.observer.progress(self.mirror.status.to_json())
        if self.mirror.cancel_requested.is_set() or self.observer.canceled():
            raise WorkloadError(CANCELED)

    def _watch(self, seen: Watched) -> Failure | None:
        self._show(seen)
        if self.mirror.cancel_requested.is_set() or self.observer.canceled():
            return CANCELED
        return self.machines.lost() if self.machines is not None else None

    def _show(self, seen: Watched) -> None:
        status = self.mirror.status
        if seen.done != status.done or seen.reward != status.reward:
            self.mirror.note(done=seen.done, stage="working")
            if seen.reward is not None:
                self.mirror.note(reward=seen.reward)
            self._note_times(seen)
        if seen.activity is not None:
            self.mirror.note(stage=seen.activity)
            kind = seen.activity.partition(":")[0]
            if kind != self._activity:  # a count that moves on is no news for a log
                self.log("working", "note", kind)
                self._activity = kind
        self.observer.progress(self.mirror.status.to_json())

    def _note_times(self, seen: Watched) -> None:
        if seen.first_progress is not None and seen.last_progress is not None:
            self.timings.startup_s = seen.first_progress - self.timings.began
            self.timings.work_s = seen.last_progress - seen.first_progress


def _sweep(scratch: Path) -> None:
    """Remove folders of killed attempts of this job from this machine; a new one starts from the store."""
    for folder in scratch.glob("*-*"):
        if not psutil.pid_exists(int(folder.name.rpartition("-")[2])):
            shutil.rmtree(folder, ignore_errors=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _append(log: Path, pairs: dict[str, object]) -> None:
    """Add one line of `key=value` pairs; a value with anything but plain characters stands as a JSON string."""
    line = " ".join(f"{key}={_quote(str(value))}" for key, value in pairs.items())
    with log.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _quote(text: str) -> str:
    return text if re.fullmatch(r"[^\s\"=\\]+", text) else json.dumps(text, ensure_ascii=False)


def _versions(facts: Facts) -> dict[str, Any]:
    return {
        "simyard": importlib.metadata.version("simyard"),
        "simulator": {facts.simulator: facts.version, "flavor": facts.flavor, "device": facts.device},
        "packages": facts.versions,
        "gpu": gpu_and_driver(),
        "image": os.environ.get("SIMYARD_IMAGE"),
        "machine": platform.platform(),
    }


def _registering_module(package: InstalledPackage) -> str:
    """Return the module whose import registers the tasks of a package without an `isaaclab.tasks` entry point."""
    if len(package.modules) == 1:
        return package.modules[0]
    raise RequestError(
        f"Package {package.name!r} does not say which of its modules registers the task.",
        code="package_entry_point",
        advice="Add an `isaaclab.tasks` entry point, or set customEnvironmentCallback to one of: "
        + ", ".join(package.modules),
    )
