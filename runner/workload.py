"""The supervisor's hold on a workload process: start it, hand it jobs, end it, and leave nothing running."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import BufferedRandom
from pathlib import Path

from simyard.core.errors import Category, Failure, RequestError, SimyardError, WorkloadError, known_failure
from simyard.core.files import AttemptPaths, full_disk, lines_inside
from simyard.core.specs import Bounds, Facts, JobSpec
from simyard.runner import messages
from simyard.runner.messages import LineSocket, Message

TOKEN = "SIMYARD_WORKLOAD"
_LOOKS = 1000
"""At the environment of a process that seems to have none."""


class StaleWorkloadError(WorkloadError):
    """A process takes no job any more: its code was changed since, or it has waited too long."""


class Workload:
    """A process that does jobs, one after another, seen from its supervisor."""

    def __init__(self, lines: LineSocket, token: str, log: Path) -> None:
        self.token = token
        """What it and everything it starts have in their environment."""
        self.log = log
        self.started = time.monotonic()
        self.code = 0
        """How its last job ended: the exit code, or minus the signal that ended it."""
        self.leaving: str | None = None
        """Why it takes no other job, in words."""
        self.untold: Failure | None = None
        """Failure of its last job, where that could not write its account."""
        self.jobs = 0
        """Jobs it was handed so far."""
        self._lines = lines
        self._checked: tuple[object, Facts] | None = None
        self._busy = False
        self._request = ""
        """Id of the last request; a reply to another one comes too late, or was for a borrower before."""
        self._exited = False
        self._ended = False

    @property
    def pid(self) -> int | None:
        """The process's number, where it means something here."""
        raise NotImplementedError

    @property
    def is_waiting(self) -> bool:
        """Whether it lives and would take a job."""
        raise NotImplementedError

    @property
    def is_warm(self) -> bool:
        """Whether a job was in it before, so that nothing is left to import."""
        return self.jobs > 0

    def end(self, grace_s: float) -> None:
        """End the process and everything it started: SIGTERM, a grace, SIGKILL, and whoever left the group."""
        raise NotImplementedError

    def let_go(self) -> None:
        """Have no more to do with it: whoever started it decides what becomes of it."""
        raise NotImplementedError

    def ready(self, timeout_s: float) -> str | None:
        """Wait until it has imported the simulator; return the reason that it takes one job only, or None.

        Raises:
            WorkloadError: If it ends or does not answer in time.
        """
        reply = self._ask(messages.ImportAll(), timeout_s)
        assert isinstance(reply, messages.Imported)
        return reply.only_one_job

    def check(self, job: JobSpec, overlay: Path | None, files: Mapping[str, Path], timeout_s: float) -> Facts:
        """Have the simulator's environment check the job; `files` are those of its inputs that are here, by digest.

        What was just checked is not checked again.

        Raises:
            RequestError: If it refuses the job.
            StaleWorkloadError: If it refuses every job from now on.
            WorkloadError: If the process ends or does not answer in time.
        """
        asked = (job, overlay, sorted(files))
        if self._checked is not None and self._checked[0] == asked and self.is_waiting:
            return self._checked[1]
        here = {digest: str(path) for digest, path in files.items()}
        reply = self._ask(messages.Check(job=job, overlay=str(overlay) if overlay else None, files=here), timeout_s)
        if isinstance(reply, messages.Refused):
            raise _refusal(reply)
        assert isinstance(reply, messages.Checked)
        self._checked = (asked, reply.facts)
        return reply.facts

    def findings(self, timeout_s: float) -> messages.Found:
        """Return the findings of its checks about the environment, and the files they came from.

        Raises:
            WorkloadError: If the process ends or does not answer in time.
        """
        reply = self._ask(messages.TellFindings(), timeout_s)
        assert isinstance(reply, messages.Found)
        return reply

    def tasks(self, wanted: messages.TellTasks, timeout_s: float) -> messages.ToldTasks:
        """Return the registered tasks, and the facts about those that are wanted.

        Raises:
            RequestError: If there are none here, or the user's package does not import.
            WorkloadError: If the process ends or does not answer in time.
        """
        reply = self._ask(wanted, timeout_s)
        if isinstance(reply, messages.Refused):
            raise _refusal(reply)
        assert isinstance(reply, messages.ToldTasks)
        return reply

    def run(self, paths: AttemptPaths) -> None:
        """Hand the prepared attempt over; returns at once."""
        self.jobs += 1
        self._checked = None
        self._busy = True
        try:
            self._send(messages.RunAttempt(root=str(paths.root)))
        except OSError as error:
            raise self._died() from error

    def job_ended(self, timeout_s: float) -> bool:
        """Wait for the end of its job, or of the process, for some time; return whether it has come."""
        try:
            message = self._receive(timeout_s)
        except EOFError:
            message = messages.Exited(code=self._exit_code())
        if message is None:
            return False
        self._note_end(message)
        return True

    def _note_end(self, message: Message) -> None:
        """Record the end of a job or of the process."""
        self._busy = False
        match message:
            case messages.Done():
                self.code, self.leaving, self.untold = message.code, message.leaving, message.failure
            case messages.Stale():  # it went before it had the job
                self.code, self.leaving = 0, message.leaving
            case messages.Exited():
                self.code, self._exited = message.code, True
                self.leaving = self.leaving or f"it ended with {describe_exit(self.code)}"

    def _exit_code(self) -> int:
        """Return the exit code of the process: it has closed its side."""
        raise NotImplementedError

    def _receive(self, timeout_s: float) -> Message | None:
        """Return the next message, replies to other requests passed over; None where none comes in time."""
        deadline = time.monotonic() + timeout_s
        message = self._lines.receive(timeout_s)
        while message is not None and message.request not in (None, self._request):
            message = self._lines.receive(max(0.0, deadline - time.monotonic()))
        return message

    def _send(self, message: Message) -> None:
        """Send a request under an id of its own, which its reply repeats.

        Raises:
            OSError: If nobody is there any more.
        """
        self._request = uuid.uuid4().hex
        self._lines.send(replace(message, request=self._request))

    def _ask(self, message: Message, timeout_s: float) -> Message:
        with contextlib.suppress(OSError):  # that it is gone shows when it is listened to, and perhaps why
            self._send(message)
        try:
            reply = self._receive(timeout_s)
        except (OSError, EOFError) as error:
            raise self._died() from error
        match reply:
            case None:
                self._request = ""  # nobody waits for its reply any more
                raise WorkloadError(
                    Failure(
                        code="workload_silent",
                        category=Category.INFRA,
                        message=f"The workload did not answer within {timeout_s:.0f} s.",
                        advice="The machine may be overloaded; its output so far is in workload.log.",
                    )
                )
            case messages.Exited():
                self._note_end(reply)
                raise self._died()
            case messages.Stale():
                self.leaving = reply.leaving
                raise StaleWorkloadError(
                    Failure(
                        code="code_changed",
                        category=Category.INFRA,
                        message=f"The waiting simulator takes no job any more: {self.leaving}.",
                        advice="Run again.",
                    )
                )
        return reply

    def _died(self) -> WorkloadError:
        code = self.code if self._exited else self._exit_code()
        self.leaving = self.leaving or f"it ended with {describe_exit(code)}"
        lines = lines_inside(self.log)
        known = next((found for line in lines if (found := known_failure(line))), None)
        known = known or full_disk(self.log.parent, f"The workload ended with {describe_exit(code)}, no job begun.")
        return WorkloadError(
            known
            or Failure(
                code="workload_died",
                category=Category.INFRA if code < 0 else Category.USER,
                message=f"The workload ended with {describe_exit(code)}, no job begun: {(lines or ['no output'])[-1]}",
                advice="Its output is in workload.log.",
            )
        )


class ChildWorkload(Workload):
    """A workload process that this one started, with everything that it starts."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, token: str, log: Path) -> None:
        super().__init__(LineSocket(control), token, log)
        self._process = process
        self.mark: BufferedRandom | None = None
        """Of `own`, where the folder of its log is this process's own; closed when that is gone."""

    @classmethod
    def start(
        cls, python: str, folder: Path, *, simulator: str, library: str | None, env: Mapping[str, str], bounds: Bounds
    ) -> ChildWorkload:
        """Start the process in a group of its own; it imports the simulator and waits for a job.

        Args:
            python: The simulator's Python.
            folder: Where its output goes while it has no job.
            simulator: The adapter's name.
            library: The library to import ahead, if it is known.
            env: The whole environment of the process.
            bounds: When it ends by itself.
        """
        folder.mkdir(parents=True, exist_ok=True)
        token = uuid.uuid4().hex
        ours, theirs = socket.socketpair()
        command = [python, "-m", "simyard.runner", "--control", str(theirs.fileno()), "--simulator", simulator]
        command += ["--bounds", json.dumps(bounds.to_json())]
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

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def is_waiting(self) -> bool:
        """Whether it lives and would take a job."""
        return not (self._ended or self._busy) and self.leaving is None and self._process.poll() is None

    def fileno(self) -> int:
        """The descriptor on which it speaks."""
        return self._lines.fileno()

    def forward(self, message: Message) -> None:
        """Pass a request of another process on.

        Raises:
            OSError: If it has ended.
        """
        self._lines.send(message)

    def next_message(self) -> Message | None:
        """Return its next message, for another process; None if there is none, or it ended."""
        try:
            message = self._lines.receive(0.0)
        except EOFError:
            self._note_end(messages.Exited(code=self._exit_code()))
            return None
        if isinstance(message, messages.Done | messages.Stale) and message.leaving:
            self._note_end(message)
        return message

    def end(self, grace_s: float) -> None:
        """End the process and everything it started: SIGTERM, a grace, SIGKILL, and whoever left the group."""
        if self._ended:
            return  # its number may belong to another process by now
        if self._process.poll() is None and grace_s > 0:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        self._signal(signal.SIGKILL)
        code = self._process.wait()
        if self.leaving is None:
            self.code, self.leaving = code, "it was ended"
        kill_family(self.token)
        self._lines.close()
        self._ended = True

    def let_go(self) -> None:
        """End it, and remove what it printed while it had no job."""
        self.end(0.0)
        shutil.rmtree(self.log.parent, ignore_errors=True)
        if self.mark is not None:
            self.mark.close()

    def _exit_code(self) -> int:
        return self._process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _refusal(reply: messages.Refused) -> SimyardError:
    failure = reply.failure
    if failure.category is Category.INFRA:  # the machine could not check it
        return WorkloadError(failure)
    return RequestError(failure.message, code=failure.code, advice=failure.advice)


def describe_exit(code: int) -> str:
    """Return an exit code in words."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def kill_family(token: str) -> None:
    """Kill every process that inherited a workload's token, also those that left its group, but not this one."""
    for _ in range(100):  # one may fork meanwhile; and one may be stuck in a driver for good
        family = set(with_token(token)) - {os.getpid()}
        if not family:
            return
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def with_token(token: str) -> Iterator[int]:
    """Yield every process that inherited this workload's token, also those that left its group."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and has_token(int(folder.name), token):
            yield int(folder.name)


def has_token(pid: int, token: str) -> bool:
    """Return whether a process is there and has inherited this workload's token."""
    with contextlib.suppress(OSError):
        for _ in range(_LOOKS):
            if environ := Path(f"/proc/{pid}/environ").read_bytes():
                return f"{TOKEN}={token}".encode() in environ.split(b"\0")
            # In the middle of execve(2) it has none for a moment; a thread of the kernel, which has no file, has none
            # ever.
            os.readlink(f"/proc/{pid}/exe")
            time.sleep(0.001)
    return False
