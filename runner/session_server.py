"""A session that a machine keeps: one warm workload process, lent to one supervisor after another.

It is a process of its own, so that it can end a workload that hangs, also for a supervisor in another container. Who
wants the workload connects to a socket in the session's folder, says what the job needs, and from then on talks to the
workload itself; a supervisor that goes away in the middle of its job takes the workload with it. A workload that failed
or has served enough is replaced by a new one, warmed up in the same way.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from simyard.core.errors import Category, Failure, SimyardError, WorkloadError
from simyard.core.files import AttemptPaths, open_inside, read_json, write_json
from simyard.core.process import keep_private
from simyard.core.records import WorkloadAccount
from simyard.core.specs import AttemptSpec, Bounds, JobSpec
from simyard.core.wire import Wire
from simyard.runner import messages
from simyard.runner.messages import LineSocket, SessionFingerprint
from simyard.runner.workload import ChildWorkload, Workload, has_token

PREPARE_S = 1800.0
"""Importing the simulator, and warming up with an empty kernel cache."""
GREETING_S = 5.0
"""Seconds in which a new connection has to send its request."""
POLL_S = 1.0


@dataclass(frozen=True, kw_only=True)
class SessionSpec(Wire):
    """Specification of a kept session, in its folder before it starts."""

    session_id: str
    python: str
    """The simulator's Python."""
    simulator: str
    """The adapter's name."""
    library: str | None
    """Library to import ahead."""
    fingerprint: SessionFingerprint
    """Fingerprint of the jobs it may serve; equal or refused."""
    bounds: Bounds
    warm_up: tuple[JobSpec, ...] = ()
    """Jobs that are run first, so that their kernels are loaded; their files are in the folder `warm-up`."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Names of those jobs' inputs, by digest."""


@dataclass(frozen=True, kw_only=True)
class SessionState(Wire):
    """State of a session, for people and for commands that look for one."""

    session_id: str
    fingerprint: SessionFingerprint
    """Fingerprint of the jobs it may serve."""
    state: Literal["starting", "warming up", "ready", "busy", "failed"] = "starting"
    server_pid: int = field(default_factory=os.getpid)
    """Process of its server."""
    pid: int | None = None
    """Process of its workload."""
    jobs: int = 0
    """Jobs served, by all its processes."""
    processes: int = 0
    """Workload processes so far: one is replaced when it has failed or has served enough."""
    memory_bytes: int | None = None
    """Resident memory after the last job."""
    gpu_memory_bytes: int | None = None
    """Memory on GPUs after it; None where it uses none."""
    started_at: float = field(default_factory=time.time)
    used_at: float | None = None
    """End of the last job; both in seconds since the epoch."""
    replaced: str | None = None
    """Reason the last process was replaced."""
    failure: Failure | None = None
    """Failure of its start; None if there was none."""


@dataclass(frozen=True, kw_only=True)
class SessionFolder:
    """Every file of a kept session."""

    root: Path

    @property
    def spec(self) -> Path:
        """The `SessionSpec`."""
        return self.root / "spec.json"

    @property
    def state(self) -> Path:
        """State of the session."""
        return self.root / "state.json"

    @property
    def log(self) -> Path:
        """Output of server and workload."""
        return self.root / "workload.log"

    @property
    def warm_up(self) -> AttemptPaths:
        """The jobs that warm it up, one after another."""
        return AttemptPaths(self.root / "warm-up")

    def read_state(self) -> SessionState | None:
        """Return the state of the session; None if it has ended, is just beginning, or is of another version."""
        try:
            with open_inside(self.root, self.state.name) as file:  # its workload can write beside it
                return SessionState.from_json(json.loads(file.read()))
        except (OSError, ValueError, RecursionError):
            return None

    @contextmanager
    def address(self) -> Iterator[str]:
        """The address of its socket, short however deep the folder is: a path may have 107 bytes."""
        descriptor = os.open(self.root, os.O_PATH | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{descriptor}/socket"
        finally:
            os.close(descriptor)

    def connect(self) -> LineSocket:
        """Connect to its server.

        Raises:
            OSError: If nobody listens.
        """
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(GREETING_S)
        try:
            with self.address() as address:
                stream.connect(address)
        except OSError:
            stream.close()
            raise
        return LineSocket(stream)


def kept_sessions(folder: Path) -> list[tuple[SessionFolder, SessionState]]:
    """Return the sessions that are kept below a folder, oldest first, each with its state."""
    found = [SessionFolder(root=path) for path in sorted(folder.glob("session-*"))]
    return [(session, state) for session in found if (state := session.read_state()) is not None]


class LentWorkload(Workload):
    """A kept session's workload, seen from a supervisor that has it for now."""

    def __init__(self, folder: SessionFolder, lines: LineSocket, lent: messages.Lent) -> None:
        super().__init__(lines, lent.token, folder.log)
        self.session_id = lent.session_id
        self.jobs = lent.jobs
        self._pid = lent.pid if has_token(lent.pid, lent.token) else None

    @classmethod
    def borrow(cls, folder: SessionFolder, fingerprint: SessionFingerprint) -> LentWorkload | None:
        """Borrow the workload of a session; None where it is busy, gone or not for this job."""
        try:
            lines = folder.connect()
        except OSError:
            return None
        try:
            lines.send(messages.Borrow(fingerprint=fingerprint))
            reply = lines.receive(GREETING_S)
        except (OSError, EOFError, ValueError):  # a server of another version says it in its own words
            reply = None
        if not isinstance(reply, messages.Lent):
            lines.close()
            return None
        return cls(folder, lines, reply)

    @property
    def pid(self) -> int | None:
        """The process's number; None where it is in another container."""
        return self._pid

    @property
    def is_waiting(self) -> bool:
        """Whether it would take a job."""
        return not self._ended and not self._busy and self.leaving is None

    @property
    def is_warm(self) -> bool:
        """It is: it was kept when all was imported."""
        return True

    def let_go(self) -> None:
        """Let somebody else have it, or have it ended where it takes no other job."""
        if not self.is_waiting:
            self.end(0.0)
            return
        self._lines.close()
        self._ended = True

    def end(self, grace_s: float) -> None:
        """Have its server end it."""
        if self._ended:
            return
        with suppress(OSError):
            self._lines.send(messages.EndWorkload(grace_s=grace_s))
        ended = False
        deadline = time.monotonic() + grace_s + GREETING_S
        while not ended and time.monotonic() < deadline:
            ended = self.job_ended(POLL_S) and self._exited
        self.leaving = self.leaving or "it was ended"
        self._lines.close()
        self._ended = True

    def _exit_code(self) -> int:
        return self.code if self._exited else -signal.SIGKILL  # a server that dies takes the workload with it


def keep(root: Path) -> int:
    """Keep a session until it has been idle too long or is stopped; return an exit code."""
    keep_private()
    folder = SessionFolder(root=root)
    server = _SessionServer(folder, SessionSpec.from_json(read_json(folder.spec)))
    signal.signal(signal.SIGTERM, server.on_sigterm)
    try:
        return server.run()
    finally:
        shutil.rmtree(root, ignore_errors=True)


class _StopError(Exception):
    """Raised in the main loop when the session is to end."""


class _SessionServer:
    """The session: one workload, at most one borrower, and the socket where others ask."""

    def __init__(self, folder: SessionFolder, spec: SessionSpec) -> None:
        self.folder = folder
        self.spec = spec
        self.state = SessionState(session_id=spec.session_id, fingerprint=spec.fingerprint)
        self.stopping = False
        self.workload: ChildWorkload | None = None
        self.borrower: LineSocket | None = None
        self.running = False
        """Whether the borrower has handed a job over that has not ended."""

    def on_sigterm(self, number: int, frame: FrameType | None) -> None:
        """End the session."""
        raise _StopError

    def run(self) -> int:
        """Keep a workload ready until the session ends."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with self.folder.address() as address:
                listener.bind(address)
            listener.listen(16)
            self._note(state="starting")
            while not self.stopping:
                self.workload = self._start()
                try:
                    self._serve(listener, self.workload)
                finally:
                    self.workload.end(0.0)
            return 0
        except _StopError:
            return 0
        except SimyardError as error:
            self._note(state="failed", failure=error.failure)
            time.sleep(GREETING_S)  # for who waits for it to be ready
            return 1
        finally:
            if self.workload is not None:
                self.workload.end(0.0)
            listener.close()

    def _note(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)
        write_json(self.folder.state, self.state.to_json())

    def _start(self) -> ChildWorkload:
        spec = self.spec
        # How long it may idle is decided here: a workload that ended by itself would be replaced.
        # And the jobs that warm it up are none of those that it may serve.
        jobs = spec.bounds.jobs + len(spec.warm_up)
        bounds = replace(spec.bounds, jobs=jobs, idle_s=10 * 365 * 86400.0)
        workload = ChildWorkload.start(
            spec.python, self.folder.root, simulator=spec.simulator, library=spec.library,
            env=dict(os.environ), bounds=bounds,
        )  # fmt: skip
        self.workload = workload
        self._note(state="starting", pid=workload.pid, processes=self.state.processes + 1)
        if (only_one_job := workload.ready(PREPARE_S)) is not None:
            raise WorkloadError(
                Failure(
                    code="one_job_a_process",
                    category=Category.USER,
                    message=f"This simulator cannot be kept warm: {only_one_job}.",
                    advice="Its jobs start cold; nothing needs to be set for that.",
                )
            )
        for job in spec.warm_up:
            self._note(state="warming up")
            self._warm_up(workload, job)
        self._note(state="ready")
        return workload

    def _warm_up(self, workload: Workload, job: JobSpec) -> None:
        """Run a job that nobody asked for, by the path that all jobs take."""
        paths = self.folder.warm_up
        for leftover in (paths.work, paths.output, paths.recording):
            shutil.rmtree(leftover, ignore_errors=True)
        paths.outcome.unlink(missing_ok=True)
        paths.make()
        overlay = paths.overlay if job.packages else None
        files = {digest: paths.inputs / name for digest, name in self.spec.inputs.items()}
        facts = workload.check(job, overlay, files, PREPARE_S)
        write_json(paths.facts, facts.to_json())
        write_json(paths.spec, AttemptSpec(job=job, number=1).to_json())
        workload.run(paths)
        if not workload.job_ended(PREPARE_S) or workload.leaving:
            account = WorkloadAccount.from_json(read_json(paths.outcome)) if paths.outcome.exists() else None
            if account is not None and account.failure is not None:
                raise WorkloadError(account.failure)
            raise WorkloadError(
                Failure(
                    code="warm_up_failed",
                    category=Category.INFRA,
                    message=f"The job that warms the session up did not end well: {workload.leaving or 'it hangs'}.",
                    advice="Run the same config as a job to see why.",
                )
            )

    def _serve(self, listener: socket.socket, workload: ChildWorkload) -> None:
        """Lend the workload until it leaves."""
        self.running = False
        idle_since = time.monotonic()
        while workload.leaving is None and (self.borrower or not self.stopping):
            # Wait for a word of the workload, of the borrower, or of somebody new.
            with selectors.DefaultSelector() as selector:
                selector.register(listener, selectors.EVENT_READ)
                selector.register(workload, selectors.EVENT_READ)
                if self.borrower is not None:
                    selector.register(self.borrower, selectors.EVENT_READ)
                ready = {key.fileobj for key, _ in selector.select(POLL_S)}
            if workload in ready and (message := workload.next_message()) is not None:
                if isinstance(message, messages.Done):
                    self.running = False
                    self._note(
                        jobs=self.state.jobs + 1, memory_bytes=message.memory_bytes,
                        gpu_memory_bytes=message.gpu_memory_bytes, used_at=time.time(),
                    )  # fmt: skip
                if self.borrower is not None:  # it knows the replies to its requests by their ids
                    with suppress(OSError):  # that it is gone shows when it is listened to
                        self.borrower.send(message)
            if self.borrower is not None and self.borrower in ready:
                self._hear_borrower(self.borrower, workload)
            if listener in ready:
                self._greet(listener, workload)

            # A session that nobody wants ends.
            if self.borrower is not None:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > self.spec.bounds.idle_s:
                self.stopping = True

        # The workload is replaced; who has it is told of its end.
        if workload.leaving is not None:
            self._note(state="starting", replaced=workload.leaving)
        if self.borrower is not None:
            workload.end(0.0)
            with suppress(OSError):
                self.borrower.send(messages.Exited(code=workload.code))
            self._part(self.borrower)

    def _hear_borrower(self, borrower: LineSocket, workload: ChildWorkload) -> None:
        """Serve a message of the borrower: most are for the workload."""
        try:
            message = borrower.receive(0.0)
        except EOFError:
            self._part(borrower)
            if self.running:  # nobody would collect what the job goes on to do
                workload.end(0.0)
            elif workload.leaving is None:
                self._note(state="ready")
            return
        if isinstance(message, messages.EndWorkload):
            workload.end(message.grace_s)
        elif message is not None:
            self.running = self.running or isinstance(message, messages.RunAttempt)
            with suppress(OSError):  # that it is gone shows when it is listened to
                workload.forward(message)

    def _greet(self, listener: socket.socket, workload: ChildWorkload) -> None:
        """Serve the request of a new connection."""
        stream, _ = listener.accept()
        caller = LineSocket(stream)
        try:
            message = caller.receive(GREETING_S)
            if isinstance(message, messages.StopSession):
                self.stopping = True
            elif isinstance(message, messages.Borrow):
                if not (self.borrower or self.stopping) and message.fingerprint == self.spec.fingerprint:
                    # Noted before it is told: a borrower that is quick to let go must not find it ready in between.
                    self._note(state="busy")
                    self.borrower = caller
                    with suppress(OSError):  # that it is gone shows when it is listened to
                        caller.send(
                            messages.Lent(
                                token=workload.token, pid=workload.pid, jobs=self.state.jobs,
                                session_id=self.spec.session_id,
                            )
                        )  # fmt: skip
                    return
                caller.send(messages.NotLent())
        except (OSError, EOFError, ValueError):  # whoever it was, it is gone
            pass
        caller.close()

    def _part(self, borrower: LineSocket) -> None:
        """Let the borrower go."""
        borrower.close()
        self.borrower = None
