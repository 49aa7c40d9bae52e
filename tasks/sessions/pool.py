"""Warm simulators: a process for each job, found in this process, borrowed from this machine, or started."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from simyard.core.errors import RequestError
from simyard.core.files import own, sweep
from simyard.core.specs import ONE_JOB, Bounds, Facts, JobSpec
from simyard.requests.settings import MachineSettings
from simyard.runner.messages import SessionFingerprint
from simyard.runner.session_server import LentWorkload, kept_sessions
from simyard.runner.workload import ChildWorkload, StaleWorkloadError, Workload
from simyard.store.keys import project_of
from simyard.tasks.sessions.fingerprint import difference, fingerprint
from simyard.tasks.shared.kernels import prepare_caches

CHECK_TIMEOUT_S = 600.0


class Sessions:
    """The warm processes that this one has, and its way to those that the machine keeps.

    Any number of threads may use it. Closing it ends all that wait.
    """

    def __init__(self, machine: MachineSettings, bounds: Bounds = ONE_JOB) -> None:
        """Begin with none.

        Args:
            machine: Settings of this machine.
            bounds: Of the processes that are started; by default each serves one job, and none waits for another.
        """
        self.machine = machine
        self.bounds = bounds
        self._lock = threading.Lock()
        self._idle: list[tuple[SessionFingerprint, Workload]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start_ahead(self, job: JobSpec, project: str, count: int = 1) -> bool:
        """Have processes ready for so many jobs like this one: those that wait, and new ones that import.

        Returns:
            Whether none of them still imports.
        """
        leases = [self.take(job, project) for _ in range(count)]
        for lease in leases:
            lease.keep()
        return all(lease.workload.is_warm for lease in leases)

    def take(self, job: JobSpec, project: str, log: Callable[[str], None] = lambda note: None) -> Lease:
        """Take a process for a job: one that waits, or a new one.

        Args:
            job: The job.
            project: Whose job it is: the URL of its store.
            log: Called with a message about the origin of the process.
        """
        return Lease(self, job, project, log)

    def close(self) -> None:
        """End all that wait, and let go of those that the machine keeps."""
        while self._idle:
            _, workload = self._idle.pop()
            workload.let_go()

    def find(
        self, job: JobSpec, wanted: SessionFingerprint, log: Callable[[str], None], *, embedded_assets: bool
    ) -> Workload:
        """Return a process with a fingerprint; it is the caller's until it is put back."""
        # One of our own that waits. A job that shares with nobody takes one that has served none.
        shares = self.shares(job)
        with self._lock:
            for entry in list(self._idle):
                has, workload = entry
                if not workload.is_waiting:
                    self._idle.remove(entry)
                    workload.let_go()
                elif has == wanted and (shares or not workload.jobs):
                    self._idle.remove(entry)
                    return workload

        # One that the machine keeps, where one is free.
        for folder, state in kept_sessions(self.machine.sessions_folder) if shares else ():
            if state.state != "ready":
                continue
            if state.fingerprint != wanted:
                log(f"session {state.session_id} is for other jobs: {difference(wanted, state.fingerprint)}")
            elif lent := LentWorkload.borrow(folder, wanted):
                return lent

        # A new one; what those of killed processes had printed goes.
        project = project_of(wanted.project)
        prepare_caches(self.machine, project, log)
        work = self.machine.home / "work"
        sweep(work, "workload-*")
        own_folder = work / f"workload-{time.time_ns()}"
        mark = own(own_folder)
        workload = ChildWorkload.start(
            self.machine.python,
            own_folder,
            simulator=job.simulator,
            library=job.library,
            env=self.machine.workload_env(
                embedded_assets=embedded_assets, accepts_eula=job.accepts_eula, project=project
            ),
            bounds=self.bounds if shares else replace(self.bounds, jobs=1),
        )
        workload.mark = mark
        return workload

    def shares(self, job: JobSpec) -> bool:
        """Return whether the job may have a process that serves others too."""
        return job.session and self.machine.sessions

    def put(self, fingerprint: SessionFingerprint, workload: Workload) -> None:
        """Have a process wait here for the next job."""
        with self._lock:
            self._idle.append((fingerprint, workload))


class Lease:
    """A process that has been taken for a job."""

    def __init__(self, sessions: Sessions, job: JobSpec, project: str, log: Callable[[str], None]) -> None:
        self._sessions = sessions
        self._job = job
        self._project = project
        self._log = log
        self._over = False
        self._take(embedded_assets=True)

    def check(self, job: JobSpec, overlay: Path | None, files: Mapping[str, Path]) -> Facts:
        """Have the simulator's environment check the job; the process may be another one after that.

        One whose code has changed since it was imported gives way to a new one. And Isaac Lab fixes its asset root
        while it is imported: a task whose assets are not among those of installed packages gets a process that looks
        for them in NVIDIA's store, unless the site set a root of its own.

        Args:
            job: The job.
            overlay: Folder of the job's own packages.
            files: Where the job's inputs lie here, by digest.

        Raises:
            RequestError: If the simulator's environment refuses the job.
            WorkloadError: If the process ends or does not answer.
        """
        timeout_s = min(CHECK_TIMEOUT_S, job.limits.wall_s)
        embedded_assets = True
        while True:
            try:
                return self.workload.check(job, overlay, files, timeout_s)
            except StaleWorkloadError as error:
                self._log(error.failure.message)
            except RequestError as error:
                if (
                    error.failure.code != "assets_missing"
                    or self._sessions.machine.has_own_assets
                    or not embedded_assets
                ):
                    raise
                embedded_assets = False
            self.give_back()
            self._take(embedded_assets=embedded_assets)

    def keep(self) -> None:
        """Keep the process for this very job, which comes soon."""
        if not self._over and self.workload.is_waiting:
            self._over = True
            self._sessions.put(self._fingerprint, self.workload)
        else:
            self.give_back()

    def give_back(self) -> None:
        """Let the process serve another job if it can, else end it."""
        if self._over:
            return
        self._over = True
        workload, sessions = self.workload, self._sessions
        may_serve = sessions.shares(self._job) and workload.jobs < sessions.bounds.jobs
        if isinstance(workload, ChildWorkload) and workload.is_waiting and may_serve:
            sessions.put(self._fingerprint, workload)
        else:
            workload.let_go()

    def _take(self, *, embedded_assets: bool) -> None:
        self._over = False
        machine = self._sessions.machine
        self._fingerprint = fingerprint(machine, self._job, self._project, embedded_assets=embedded_assets)
        self.workload = self._sessions.find(self._job, self._fingerprint, self._log, embedded_assets=embedded_assets)
