"""The supervisor's side of the workload: start it, watch it make progress, end it, and leave nothing running."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simyard.runner import failures
from simyard.runner.errors import Category, Failure, RequestError, WorkloadError
from simyard.runner.paths import AttemptPaths
from simyard.runner.progress import Reader
from simyard.runner.spec import Facts, JobSpec, Limits

TOKEN = "SIMYARD_WORKLOAD"
_LINE_END = re.compile(r"[\r\n]")  # progress bars end their lines with a carriage return
POLL_S = 0.2
HURRIED_GRACE_S = 10.0
"""SIGTERM to SIGKILL when this process is itself asked to end: half a minute later it is killed."""


@dataclass(kw_only=True)
class Watched:
    """What the supervisor has seen so far; times are `time.monotonic()`."""

    started: float
    unit: str
    """What is counted, in the singular."""
    done: int
    """Units of work done, earlier attempts included: iterations, episodes or checks."""
    step: int = 0
    """Steps taken, where the workload counts them between units."""
    reward: float | None = None
    first_progress: float | None = None
    last_progress: float | None = None
    end_marker: bool = False
    failure: Failure | None = None
    """The first line that names a known cause."""
    hint: Failure | None = None
    """The first line that names a cause which a run can live with."""
    stopped_because: Failure | None = None
    """Why the supervisor ended the workload itself."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a workload ended."""

    exit_code: int | None
    """None when it was killed by `signal`."""
    signal: str | None
    watched: Watched
    ended: float


class Workload:
    """A workload process, its control socket and everything it starts."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, token: str, log: Path) -> None:
        self.process = process
        self.token = token
        self.log = log
        self.started = time.monotonic()
        self._control = control
        self._unread = b""
        self._ended = False

    @classmethod
    def start(
        cls, python: str, folder: Path, *, simulator: str, library: str | None, env: Mapping[str, str]
    ) -> Workload:
        """Start the process in a group of its own; it imports the simulator and waits for a job.

        Args:
            python: The simulator's Python.
            folder: Where its output goes until it has a job.
            simulator: The adapter's name.
            library: The library to import ahead, if it is known.
            env: The whole environment of the process.
        """
        folder.mkdir(parents=True, exist_ok=True)
        token = uuid.uuid4().hex
        ours, theirs = socket.socketpair()
        command = [python, "-m", "simyard.runner", "--control", str(theirs.fileno()), "--simulator", simulator]
        command += ["--library", library] if library else []
        log = folder / "workload.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**env, TOKEN: token},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        theirs.close()
        return cls(process, ours, token, log)

    def check(self, job: JobSpec, overlay: Path | None, files: Mapping[str, Path], timeout_s: float) -> Facts:
        """Have the simulator's environment check the job; `files` are those of its inputs that are here, by digest.

        Raises:
            RequestError: If it refuses the job.
            WorkloadError: If the process ends or does not answer in time.
        """
        here = {digest: str(path) for digest, path in files.items()}
        self._send({"op": "check", "job": job.to_json(), "overlay": str(overlay) if overlay else None, "files": here})
        reply = self._wait(timeout_s)
        if reply["event"] == "refused":
            failure = Failure.from_json(reply["failure"])
            raise RequestError(failure.message, code=failure.code, advice=failure.advice)
        return Facts.from_json(reply["facts"])

    def run(self, paths: AttemptPaths) -> None:
        """Hand the prepared attempt over; returns at once."""
        self._send({"op": "run", "root": str(paths.root)})

    def end(self, grace_s: float) -> None:
        """End the process and everything it started: SIGTERM, a grace, SIGKILL, and whoever left the group."""
        if self._ended:
            return  # its number may belong to another process by now
        if self.process.poll() is None and grace_s > 0:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace_s)
        self._signal(signal.SIGKILL)
        self.process.wait()
        kill_family(self.token)
        self._control.close()
        self._ended = True

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._control.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise self._died() from error

    def _wait(self, timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                if selector.select(min(left, 1.0)):
                    try:
                        data = self._control.recv(65536)
                    except ConnectionResetError:  # it died with the request unread
                        data = b""
                    if not data:
                        raise self._died()
                    self._unread += data
                    line, newline, rest = self._unread.partition(b"\n")
                    if newline:
                        self._unread = rest
                        return dict(json.loads(line))
        raise WorkloadError(
            Failure(
                code="workload_silent",
                category=Category.INFRA,
                message=f"The workload did not answer within {timeout_s:.0f} s.",
                advice="The machine may be overloaded; its output so far is in workload.log.",
            )
        )

    def _died(self) -> WorkloadError:
        code = self.process.wait()
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        known = next((found for line in lines if (found := failures.match(line))), None)
        return WorkloadError(
            known
            or Failure(
                code="workload_died",
                category=Category.INFRA if code < 0 else Category.USER,
                message=f"The workload ended with {describe_exit(code)}, no job begun: {(lines or ['no output'])[-1]}",
                advice="Its output is in workload.log.",
            )
        )


def supervise(
    workload: Workload,
    paths: AttemptPaths,
    *,
    limits: Limits,
    reader: Reader,
    watch: Callable[[Watched], Failure | None],
) -> Ending:
    """Watch a running attempt until it has ended, and leave none of its processes behind.

    Args:
        workload: The process, already told to run.
        paths: The attempt's folder.
        limits: When to lose patience.
        reader: How to read its output.
        watch: Called several times a second; a `Failure` it returns (a cancel, say) ends the workload.

    Returns:
        How it ended. Any exception raised meanwhile, a KeyboardInterrupt say, ends the workload first.
    """
    seen = Watched(started=time.monotonic(), unit=reader.unit, done=reader.start)
    tails = [_Tail(paths.stdout), _Tail(paths.stderr)]
    try:
        while workload.process.poll() is None:
            time.sleep(POLL_S)
            _read(tails, seen, reader)
            seen.stopped_because = watch(seen) or _impatience(seen, limits, time.monotonic())
            if seen.stopped_because:
                break
    except BaseException:
        workload.end(min(limits.term_grace_s, HURRIED_GRACE_S))
        raise
    # After the end marker the work is done, and what still runs is known to hang in its own clean-up.
    workload.end(0.0 if seen.end_marker else limits.term_grace_s)
    _read(tails, seen, reader)
    code = workload.process.returncode
    return Ending(
        exit_code=code if code >= 0 else None,
        signal=signal.Signals(-code).name if code < 0 else None,
        watched=seen,
        ended=time.monotonic(),
    )


def describe_exit(code: int) -> str:
    """Return an exit code in words."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _read(tails: list[_Tail], seen: Watched, reader: Reader) -> None:
    now = time.monotonic()
    for tail in tails:
        for line in tail.lines():
            if failures.END_MARKER.match(line):
                seen.end_marker = True
                seen.last_progress = now
            if found := failures.match(line):
                if found.code in failures.SURVIVABLE:
                    seen.hint = seen.hint or found
                else:
                    seen.failure = seen.failure or found
            if (progress := reader.read(line)) is None:
                continue
            seen.reward = progress.reward if progress.reward is not None else seen.reward
            if (progress.done or 0) > seen.done or (progress.step or 0) > seen.step:
                seen.done = max(seen.done, progress.done or 0)
                seen.step = max(seen.step, progress.step or 0)
                seen.first_progress = seen.first_progress or now
                seen.last_progress = now


def _impatience(seen: Watched, limits: Limits, now: float) -> Failure | None:
    """Return why the workload must end now; the watchdog asks for progress, not for life."""
    if seen.end_marker and seen.last_progress is not None and now - seen.last_progress > limits.close_grace_s:
        return Failure(
            code="hang_in_close",
            category=Category.INFRA,
            message=f"Still running {limits.close_grace_s:.0f} s after its last {seen.unit}.",
            advice="A known hang of Isaac Lab's clean-up; the work itself was done.",
        )
    if now - seen.started > limits.wall_s:
        return Failure(
            code="wall_clock_limit",
            category=Category.USER,
            message=f"Not done after {limits.wall_s:.0f} s, the job's wall-clock limit; {seen.unit} {seen.done}.",
            advice="Raise timeouts.wallSeconds, or resume from the last checkpoint with resume.from_job.",
        )
    waiting_since, limit = (
        (seen.started, limits.first_iteration_s)
        if seen.last_progress is None
        else (seen.last_progress, limits.iteration_s)
    )
    if not seen.end_marker and now - waiting_since > limit:
        return Failure(
            code="no_progress",
            category=Category.INFRA,
            message=f"No new {seen.unit} for {limit:.0f} s ({seen.unit} {seen.done}).",
            advice="The simulator hangs; raise timeouts.iterationSeconds if iterations are that slow.",
        )
    return None


class _Tail:
    """Reads what was added to a file since the last look, in whole lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = ""

    def lines(self) -> Iterator[str]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        self._offset += len(data)
        *whole, self._rest = _LINE_END.split(self._rest + data.decode("utf-8", errors="replace"))
        yield from whole


def kill_family(token: str) -> None:
    """Kill every process that inherited a workload's token, also those that left its group, but not this one."""
    for _ in range(100):  # one may fork meanwhile; and one may be stuck in a driver for good
        family = set(_with_token(token)) - {os.getpid()}
        if not family:
            return
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _with_token(token: str) -> Iterator[int]:
    """Yield every process that inherited this workload's token, also those that left its group."""
    wanted = f"{TOKEN}={token}".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    yield int(folder.name)
