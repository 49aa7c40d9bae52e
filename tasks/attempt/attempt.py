"""One attempt, on the machine that has the simulator: fetch, check, supervise, carry everything to the store, judge."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from simyard.core.errors import Category, Failure, RequestError, SimyardError, StoreError, WorkloadError
from simyard.core.files import HELD, AttemptPaths, full_disk, own, sweep, write_json
from simyard.core.records import Estimate, Outcome, WorkloadAccount, ended
from simyard.core.specs import AttemptSpec, Facts, InputFile
from simyard.runner.gpu_memory import explained
from simyard.runner.progress import JobProgress
from simyard.runner.session_server import LentWorkload
from simyard.store.backend import on_disk
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.attempt.judge import judge, judge_part, last_traceback, write_diagnostics
from simyard.tasks.attempt.room import require_room
from simyard.tasks.attempt.supervise import POLL_S, Ending, Telemetry, Watched, gpu_and_driver, supervise
from simyard.tasks.attempt.transfer import AttemptUploader, NodeCache, append_pairs
from simyard.tasks.attempt.view import VIEWED, refuse_without_viewer
from simyard.tasks.cluster.rendezvous import NodeGroup, new_world
from simyard.tasks.kinds import kind_of
from simyard.tasks.kinds.train import TrainingUploader
from simyard.tasks.packages.install import install, registering_module
from simyard.tasks.packages.source import listed
from simyard.tasks.sessions.pool import Lease, Sessions
from simyard.tasks.shared import history, usage
from simyard.tasks.shared.estimates import guess

if TYPE_CHECKING:
    from simyard.tasks.attempt.evaluator import Evaluator

OPEN_TIMEOUT_S = 120.0
"""Opening one checkpoint, torch's import included."""
MAX_ACCOUNT_BYTES = 64_000_000
_KEPT = ".kept."
"""Part of the names of folders with what an attempt could not send."""
CANCELED = Failure(
    code="canceled", category=Category.CANCELED, message="The job was canceled.", advice="What was saved is kept."
)


@dataclass(kw_only=True)
class Observer:
    """Callbacks of a running attempt; every call comes from the supervising thread, save `lines`."""

    progress: Callable[[JobProgress], None] = lambda progress: None
    lines: Callable[[list[str]], None] = lambda lines: None
    viewer: Callable[[str], None] | None = None
    """Takes the address at which the simulation can be looked at; None has none shown."""
    canceled: Callable[[], bool] = lambda: False
    why_stopped: Callable[[BaseException], Failure] = lambda error: CANCELED
    """Failure of an attempt that a signal interrupted: a cancel, or a machine that goes away."""


def run_attempt(attempt: AttemptSpec, store: Store, sessions: Sessions, observer: Observer) -> Outcome:
    """Run one attempt to its end and write its outcome, whatever that end is.

    Args:
        attempt: The job, and the checkpoint it resumes from.
        store: The job's store.
        sessions: Where its process comes from, and this machine.
        observer: Callbacks.

    Returns:
        The outcome as stored.

    Raises:
        BaseException: What interrupted it (a signal, say), after the workload was ended and the outcome written.
    """
    # What the disk refuses is a failure of the machine like any other.
    with on_disk("use", sessions.machine.home):
        running = _Attempt(attempt, store, sessions, observer)
    ending, failure, refused = None, None, False
    try:
        with on_disk("use", running.paths.root):
            running.prepare()
            ending = running.supervise()
            failure = running.judge(ending)
            if failure is None:
                running.await_evaluations(ending)
    except SimyardError as error:
        failure, refused = explained(error.failure), isinstance(error, RequestError)
        if refused and (full := full_disk(running.paths.root, failure.message)):  # a package's build finds none, say
            failure, refused = full, False
    except BaseException as error:
        running.finish(None, observer.why_stopped(error))
        raise
    return running.finish(ending, failure, refused=refused)


class _Attempt:
    """The attempt in progress: its folder, its process, its way to the store."""

    def __init__(self, spec: AttemptSpec, store: Store, sessions: Sessions, observer: Observer) -> None:
        self.spec = replace(spec, view=observer.viewer is not None and spec.job.kind in VIEWED)
        self.store = store
        self.sessions = sessions
        self.machine = machine = sessions.machine
        self.observer = observer
        self.keys = JobKeys(spec.job.job_id).attempt(spec.number).node(spec.node)
        self.machines = NodeGroup(store, spec.job, spec.number, spec.node) if spec.job.nodes > 1 else None
        self.paths = AttemptPaths(machine.attempt_folder(spec.job.job_id, spec.number, spec.node))
        for folder in self.paths.root.parent.glob("*-*"):  # of killed attempts of this job
            if not psutil.pid_exists(int(folder.name.rpartition("-")[2])):
                shutil.rmtree(folder, ignore_errors=True)
        sweep(machine.home / "work", "*/*")  # of other jobs, whose next attempt may be made anywhere
        sweep_kept(machine.home / "work", store)
        self._own = own(self.paths.root)
        self.paths.make()
        self.kind = kind_of(spec.job)
        self.cache = NodeCache(machine.cache, machine.cache_bytes)
        if spec.job.kind == "rollout":
            for log in (self.paths.user_log, self.paths.stdout, self.paths.stderr):
                log.touch()  # promised whatever the end, also one before the task begins
        self.began = time.monotonic()
        self.startup_s: float | None = None
        """From there to the first sign of progress: a finished iteration."""
        self.work_s: float | None = None
        """From the first sign of progress to the last."""
        self.earlier_s = 0.0
        """Seconds of the attempts before this one."""
        self.told: Estimate | None = None
        """The estimate of the job's submission."""
        self.lease: Lease | None = None
        self.facts: Facts | None = None
        self.uploader = self._new_uploader()
        self.evaluator: Evaluator | None = None
        """Of a training whose checkpoints are evaluated while it goes on."""
        self._activity: str | None = None
        self._viewer: str | None = None

    def log(self, stage: str, status: str, message: str, **more: object) -> None:
        """Append one line of `key=value` pairs to runner.log."""
        append_pairs(self.paths.runner_log, stage=stage, status=status, message=message, **more)

    def prepare(self) -> None:
        """Fetch inputs, install packages and have the simulator's environment check the job."""
        job = self.spec.job
        self._begin_stage("staging")
        self.told = self.store.get_record_or_none(JobKeys(job.job_id).estimate, Estimate)
        if self.spec.number > 1:
            past = history.attempts(self.store, job.job_id)
            self.earlier_s = sum(usage.seconds(one) for one in past if one.number < self.spec.number)

        # Ranks meet at a port of this machine; the attempt's further machines are waiting to hear of it.
        if job.ranks > 1 and self.spec.world is None:
            self.spec = replace(self.spec, world=new_world())
            if self.machines is not None:
                self.machines.announce(self.spec)

        # The process first: what takes longest when it starts cold is importing the simulator.
        self.lease = self.sessions.take(job, self.store.url(), lambda note: self.log("staging", "note", note))
        workload = self.lease.workload
        if isinstance(workload, LentWorkload):
            self.log("staging", "note", f"in {workload.session_id}, which this machine keeps")
        elif not workload.is_warm:  # what it imported while it waited belongs to the start-up
            self.began = min(self.began, workload.started)

        # Inputs, out of the machine's cache or the store; and the user's packages, which the workload alone imports.
        self._fetch_state()
        job = self.spec.job
        inputs = self.kind.inputs(job, self.spec.resume)
        for file in (*job.packages, *inputs):
            self._fetch(file)
        module = job.rollout.task_module if job.rollout else None
        for file in job.packages:
            package = install(
                self.paths.inputs / file.name, self.paths.overlay, python=self.machine.python, scratch=self.paths.root,
                module=module,
            )  # fmt: skip
            self.log("staging", "ok", f"installed {package.name} {package.version}", sha256=package.sha256)
            if package.left_out:
                said = f"its build leaves out files in {listed(package.left_out)}, which are taken from its sources"
                self.log("staging", "note", f"{said}; packages=find_packages() and package_data would name them")
            # A rollout names the module itself.
            if job.kind != "rollout" and not package.task_entry_points and job.import_callback is None:
                job = replace(job, import_callback=registering_module(package))

        # The check knows what only the simulator can: tasks, overrides, whether checkpoints fit.
        self._begin_stage("checking" if workload.is_warm else "importing")
        files = {file.sha256: self.paths.inputs / file.name for file in inputs}
        self.facts = self.lease.check(job, self.paths.overlay if job.packages else None, files)
        if self.spec.view:
            refuse_without_viewer(self.facts)
        if self.facts.first_iteration is not None and self.spec.resume == job.resume:
            job = job.counted_from(self.facts.first_iteration)
            self.spec = replace(self.spec, resume=job.resume, start_iteration=job.first_iteration)
        self.spec = replace(self.spec, job=job)
        for note in (*(job.notes or ()), *self.facts.notes):
            self.log("checking", "note", note)
        if self.spec.resume and self.facts.not_resumable and self.spec.resume.state is None:
            # An earlier attempt's: a request to resume such a job is refused.
            self.spec = replace(self.spec, start_iteration=0, resume=None)
            self.log("checking", "note", f"starting from scratch: {self.facts.not_resumable}")
        is_part = self.spec.resume is not None and self.spec.resume != job.resume
        left = (job.last_iteration - self.spec.start_iteration) / job.max_iterations if is_part else 1.0
        require_room(self.facts.room, self.machine.home, self.store, left)

        # The workload reads the rest from its folder. All machines of the attempt begin together.
        write_json(self.paths.facts, self.facts.to_json())
        write_json(self.paths.spec, self.spec.to_json())
        _write_versions(self.facts, self.paths.versions)
        if self.machines is not None:
            self.machines.barrier(self._wait)

    def supervise(self) -> Ending:
        """Run the workload to its end, everything it writes going to the store meanwhile."""
        assert self.lease is not None and self.facts is not None
        workload, earlier = self.lease.workload, self.lease.workload.jobs

        # From here on a thread sends what the job writes; a later attempt reads this one's events by the facts.
        self.uploader = self._new_uploader()
        self._begin_stage("launching")
        self.uploader.start()
        self.evaluator = self._start_evaluator()
        if not workload.is_warm:
            self._show(stage="importing environments and physics")

        # The first machine alone sees iterations, and ends the others.
        limits = self.spec.job.limits
        if self.spec.node:
            limits = replace(limits, first_iteration_s=limits.wall_s, iteration_s=limits.wall_s)
        with Telemetry(self.paths.telemetry, workload.pid):
            workload.run(self.paths)
            ending = supervise(
                workload, self.paths, limits=limits, reader=self.kind.reader(self.spec, self.facts), watch=self._watch
            )
        self._show_work(ending.watched)  # what it did since the last look
        for note in ending.watched.notes:
            self.log("working", "note", note)
        self.log("session", "note", ending.leaving or "it waits for another job", jobs_before=earlier)
        return ending

    def judge(self, ending: Ending) -> Failure | None:
        """Return the failure of the attempt; None when its work was done and can be opened."""
        account = self.account()
        if self.spec.node:
            failure = judge_part(ending, account, self.paths.root)
        else:
            if ending.watched.end_marker and (account is None or account.failure is not None):
                self._open_outputs()  # the workload hung or failed after its work was done
                account = self.account()
            failure = judge(
                ending, account, self.log, folder=self.paths.root, runs_user_code=bool(self.spec.job.rollout),
                traceback=last_traceback(self.paths),
            )  # fmt: skip
        if failure is not None and self.machines is not None:
            return self.machines.root_failure(failure)
        return failure

    def await_evaluations(self, ending: Ending) -> None:
        """Wait until the checkpoints of a training that has ended are evaluated."""
        if self.evaluator is None:
            return
        self.evaluator.training_ended(ending.watched.done)
        while (left := self.evaluator.left) is not None:
            self._show(left)  # the uploader's thread writes the heartbeats
            if self.uploader.cancel_requested.is_set() or self.observer.canceled():
                raise WorkloadError(CANCELED)
            time.sleep(POLL_S)

    def finish(self, ending: Ending | None, failure: Failure | None, *, refused: bool = False) -> Outcome:
        """Send the rest to the store and write the outcome, last; `refused` marks a bad request, not a failed job."""
        if self.evaluator is not None:
            self.evaluator.end()
        if self.lease is not None:
            self.lease.give_back()

        # The last line of runner.log; `traceback` is the last one that the workload printed.
        status, total_s = ended(failure), time.monotonic() - self.began
        fields: dict[str, object] = {"duration_s": f"{total_s:.3f}"}
        if failure is not None:
            fields |= {
                "error_code": failure.code,
                "error_category": failure.category,
                "retryable": str(failure.category is Category.INFRA).lower(),
                "traceback": last_traceback(self.paths),
            }
        with suppress(OSError):  # of a full disk: then the outcome says it alone
            self.log("done", status, failure.message if failure else "done", **fields)

        seen, account = ending.watched if ending else None, self.account()
        timings = {"startup_s": self.startup_s, f"{self.kind.name}_s": self.work_s, "total_s": total_s}
        outcome = Outcome(
            number=self.spec.number,
            status=status,
            failure=failure,
            refused=refused,
            start_iteration=self.spec.start_iteration,
            done=seen.done if seen else self.uploader.status.done,
            total=self.kind.total(self.spec.job),
            unit=self.kind.unit,
            reward=self.uploader.status.reward,
            exit_code=ending.exit_code if ending else None,
            signal=ending.signal if ending else None,
            end_marker=seen.end_marker if seen else False,
            notes=(seen.notes or None) if seen else None,
            ended_early=seen.ended_early if seen else None,
            stopped_because=seen.stopped_because if seen else None,
            opened=account.opened if account else (),
            facts=self.facts,
            timings={name: None if value is None else round(value, 3) for name, value in timings.items()},
        )
        if failure is not None and status == "failed":
            with suppress(OSError):
                write_diagnostics(outcome, failure, self.paths)

        # Everything it left is in the store before the outcome says that there is no more to come.
        self.uploader.note(status=status, stage="done", done=outcome.done)
        try:
            self.uploader.finish()
            self.store.put_record(self.keys.outcome, outcome)
        except StoreError as error:
            # Kept until the job has succeeded, under a name that no later attempt takes: its own number is free, since
            # the store has none.
            (self.paths.root / HELD).unlink()
            folder = tempfile.mkdtemp(prefix=f"{self.spec.number:03d}{_KEPT}", dir=self.paths.root.parent)
            self.paths.root.rename(folder)
            kept = f"Everything is kept in {folder!r} on {platform.node()}, until the job has succeeded."
            raise StoreError(
                error.failure.message, code=error.failure.code, advice=f"{error.failure.advice} {kept}"
            ) from error
        shutil.rmtree(self.paths.root, ignore_errors=True)
        self._own.close()
        if failure is None:  # what earlier ones could not send was done again, and is in the store
            for kept_folder in self.paths.root.parent.glob(f"*{_KEPT}*"):
                shutil.rmtree(kept_folder, ignore_errors=True)
        with suppress(OSError):  # another attempt's folder is beside it
            self.paths.root.parent.rmdir()
        return outcome

    def account(self) -> WorkloadAccount | None:
        """Return the workload's own account of its end, or None when it wrote none."""
        try:
            with self.paths.open(self.paths.outcome) as file:
                return WorkloadAccount.from_json(json.loads(file.read(MAX_ACCOUNT_BYTES)))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            self.log("judge", "warning", f"the workload's account cannot be read: {error}")
            return None

    def _fetch_state(self) -> None:
        """Bring the state beside the checkpoint here; where it is gone or damaged, the checkpoint does without."""
        resume = self.spec.resume
        if resume is None or resume.state is None:
            return
        try:
            self._fetch(resume.state)
        except StoreError as error:
            if error.failure.code not in ("key_not_found", "digest_mismatch"):
                raise
            self.log("staging", "note", f"the state beside the checkpoint is lost: {error}")
            bare = replace(resume, state=None)
            job = replace(self.spec.job, resume=bare) if self.spec.job.resume == resume else self.spec.job
            self.spec = replace(self.spec, job=job, resume=bare)

    def _fetch(self, file: InputFile) -> None:
        """Bring one input here, out of the machine's cache if it has it, and write down how that went."""
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
            append_pairs(self.paths.staging_log, status="failed" if problem else "ok", **pairs)

    def _open_outputs(self) -> None:
        """Have another process open the outputs and write the account."""
        self.log("judge", "note", "failed after the end marker: opening what it left")
        command = [self.machine.python, "-m", "simyard.runner", "--open", str(self.paths.root)]
        try:
            done = subprocess.run(
                command, env=self.machine.workload_env(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=OPEN_TIMEOUT_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            self.log("judge", "error", str(error))
            return
        if done.returncode:
            self.log("judge", "error", done.stderr[-2000:])

    def _new_uploader(self) -> AttemptUploader:
        return self.kind.uploader(self.store, self.spec, self.paths, self.facts, self.observer.lines)

    def _start_evaluator(self) -> Evaluator | None:
        """Have a second simulator evaluate what the first one saves, where the job asks for that."""
        job = self.spec.job
        if self.spec.node or (job.evaluate_every is None and not job.reward_audit):
            return None
        from simyard.tasks.attempt.evaluator import Evaluator  # its evaluations are attempts too

        uploader = self.uploader
        assert isinstance(uploader, TrainingUploader)
        evaluator = Evaluator(self.spec, self.store, self.machine, self.paths, lambda: uploader.published)
        uploader.evaluations = lambda: evaluator.record
        evaluator.start()
        return evaluator

    def _begin_stage(self, stage: str) -> None:
        self.log(stage, "start", f"attempt {self.spec.number}")
        self._beat(stage)
        if self.uploader.cancel_requested.is_set():
            raise WorkloadError(CANCELED)

    def _wait(self, reason: str) -> None:
        """Show the reason for waiting as the stage, and write a heartbeat."""
        if self.uploader.status.stage != reason:
            self.log("gathering", "note", reason)
        self._beat(reason)
        if self.uploader.cancel_requested.is_set() or self.observer.canceled():
            raise WorkloadError(CANCELED)

    def _beat(self, stage: str) -> None:
        self.uploader.note(stage=stage)
        self.uploader.beat()
        self._show()

    def _watch(self, seen: Watched) -> Failure | None:
        """Show what the workload has done; return the reason to end it, if there is one."""
        self._show_work(seen)
        if self.uploader.cancel_requested.is_set() or self.observer.canceled():
            return CANCELED
        return self.machines.failure() if self.machines is not None else None

    def _show_work(self, seen: Watched) -> None:
        """Note the work done so far, and show it."""
        status = self.uploader.status
        if seen.done != status.done or seen.reward != status.reward:
            self.uploader.note(done=seen.done, stage="working")
            if seen.reward is not None:  # of some libraries the uploader alone knows it, from their logs
                self.uploader.note(reward=seen.reward)
            if seen.first_progress is not None and seen.last_progress is not None:
                self.startup_s = seen.first_progress - self.began
                self.work_s = seen.last_progress - seen.first_progress
                self._guess(seen)
        if seen.activity is not None:
            self.uploader.note(stage=seen.activity)
            activity = seen.activity.partition(":")[0]
            if activity != self._activity:  # a count that moves on is no news for a log
                self.log("working", "note", activity)
                self._activity = activity
        if self.spec.view and self.observer.viewer is not None and seen.viewer not in (None, self._viewer):
            assert seen.viewer is not None
            self._viewer = seen.viewer
            self.log("working", "note", f"the simulation is shown at {seen.viewer}")
            self.observer.viewer(seen.viewer)
        self._show()

    def _guess(self, seen: Watched) -> None:
        """Note the estimate that the work done so far makes, once it is enough."""
        if self.work_s is None or self.facts is None or self.spec.node:
            return
        made = guess(
            self.told, self.spec.job, on_cpu=self.facts.device == "cpu", work_s=self.work_s,
            spent_s=self.earlier_s + time.monotonic() - self.began, seen=seen.done - self.spec.start_iteration,
            left=self.uploader.status.total - seen.done,
        )  # fmt: skip
        if made is not None:
            self.uploader.note(estimate=made)

    def _show(self, stage: str | None = None) -> None:
        """Tell the observer of the progress, with another stage if one is given."""
        if stage is not None:
            self.uploader.note(stage=stage)
        self.observer.progress(JobProgress.of(self.uploader.status))


def sweep_kept(work: Path, store: Store) -> None:
    """Remove from this machine what attempts could not send, once their jobs have succeeded, wherever that was.

    Args:
        work: Folder of all attempts of this machine.
        store: Jobs of other stores are not known here, and theirs stays.
    """
    for folder in work.glob(f"job-*/*{_KEPT}*"):
        with suppress(SimyardError):  # the store is away: another time
            if store.exists(JobKeys(folder.parent.name.partition(".")[0]).manifest):
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(OSError):  # there are others
                    folder.parent.rmdir()


def _write_versions(facts: Facts, path: Path) -> None:
    """Write down what decided the result: packages, GPU, driver, image."""
    write_json(
        path,
        {
            "simyard": importlib.metadata.version("simyard"),
            "simulator": {
                facts.simulator: facts.version,
                "flavor": facts.flavor,
                "device": facts.device,
                **({"physics": facts.physics} if facts.physics else {}),
                **({"agent": facts.agent} if facts.agent else {}),
                **({"classes": [one.to_json() for one in facts.classes]} if facts.classes else {}),
            },
            "packages": facts.versions,
            "gpu": gpu_and_driver(),
            "image": os.environ.get("SIMYARD_IMAGE"),
            "machine": platform.platform(),
        },
    )
