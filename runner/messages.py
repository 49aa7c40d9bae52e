"""Messages between a supervisor, its workload and the server of a kept session: one JSON object a line of a socket."""

from __future__ import annotations

import json
import selectors
import socket
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from simyard.core.errors import Failure
from simyard.core.specs import Facts, JobSpec
from simyard.core.task_facts import TaskFacts
from simyard.core.wire import ABSENT, Wire, WireError


@dataclass(frozen=True, kw_only=True)
class SessionFingerprint(Wire):
    """Properties that a process must share with a job to serve it: two jobs with the same may meet in one."""

    project: str
    """Whose jobs it serves: the URL of their store."""
    simulator: str
    """The adapter's name."""
    python: str
    """The simulator's Python."""
    device: str
    """`cpu` or `gpu`: for a job that takes a GPU if there is one, what this machine has."""
    packages: tuple[str, ...]
    """Digests of the user's packages."""
    callback: str | None
    """Function of theirs that is called first."""
    environment: dict[str, str]
    """Digests of the environment's variables, by name."""


@dataclass(frozen=True, kw_only=True)
class Message(Wire):
    """A line of the socket: a request has an `op`, a reply an `event`."""

    request: str | None = field(default=None, metadata=ABSENT)
    """Id of the request, which its reply repeats; one to another request comes too late."""


# --- requests ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ImportAll(Message):
    """Import all that jobs need."""

    op: Literal["ready"] = "ready"


@dataclass(frozen=True, kw_only=True)
class Check(Message):
    """Check a job."""

    op: Literal["check"] = "check"
    job: JobSpec
    overlay: str | None
    """Folder of the job's own packages; None where it has none."""
    files: dict[str, str]
    """Paths of those of its inputs that are on this machine, by digest."""


@dataclass(frozen=True, kw_only=True)
class TellFindings(Message):
    """Tell the findings of the checks so far."""

    op: Literal["findings"] = "findings"


@dataclass(frozen=True, kw_only=True)
class TellTasks(Message):
    """Tell the registered tasks, and the facts about some of them."""

    op: Literal["tasks"] = "tasks"
    names: tuple[str, ...] | None
    """Ids; None for all, or for all of the user's package where there is one."""
    overlay: str | None = None
    """Folder of the user's package."""
    import_callback: str | None = None
    """As in a job."""
    measure: bool = False
    """Whether to make their environments for what only those tell."""


@dataclass(frozen=True, kw_only=True)
class RunAttempt(Message):
    """Run the attempt that is prepared in a folder."""

    op: Literal["run"] = "run"
    root: str


@dataclass(frozen=True, kw_only=True)
class Borrow(Message):
    """Lend the workload of a kept session."""

    op: Literal["borrow"] = "borrow"
    fingerprint: SessionFingerprint


@dataclass(frozen=True, kw_only=True)
class EndWorkload(Message):
    """End the workload of a kept session, and all that it started."""

    op: Literal["end"] = "end"
    grace_s: float


@dataclass(frozen=True, kw_only=True)
class StopSession(Message):
    """End a kept session, after the job that it runs."""

    op: Literal["stop"] = "stop"


# --- replies ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Imported(Message):
    """All is imported."""

    event: Literal["ready"] = "ready"
    only_one_job: str | None
    """Reason that the process takes one job only; None if it takes one after another."""


@dataclass(frozen=True, kw_only=True)
class Checked(Message):
    """The job is good."""

    event: Literal["checked"] = "checked"
    facts: Facts


@dataclass(frozen=True, kw_only=True)
class Refused(Message):
    """The job is bad."""

    event: Literal["refused"] = "refused"
    failure: Failure


@dataclass(frozen=True, kw_only=True)
class Stale(Message):
    """The process takes no job any more, and ends."""

    event: Literal["stale"] = "stale"
    leaving: str
    """Reason, in words."""


@dataclass(frozen=True, kw_only=True)
class Found(Message):
    """Findings of the checks so far."""

    event: Literal["findings"] = "findings"
    findings: dict[str, Any]
    """Of the adapter, for its `refuse_known`."""
    evidence: dict[str, Any]
    """Status of each file that they came from, as `runner/imported.py` has it."""


@dataclass(frozen=True, kw_only=True)
class ToldTasks(Message):
    """The registered tasks."""

    event: Literal["tasks"] = "tasks"
    registered: tuple[str, ...]
    """Ids of all."""
    tasks: tuple[TaskFacts, ...]
    """The facts that were asked for."""
    evidence: dict[str, Any]
    """Status of each file that they came from."""


@dataclass(frozen=True, kw_only=True)
class Done(Message):
    """The job has ended."""

    event: Literal["done"] = "done"
    code: int
    """Exit code: 0 when the simulator came back without an error."""
    leaving: str | None
    """Reason for taking no other job, in words; None where the process waits for one."""
    memory_bytes: int
    """Resident memory of the process."""
    gpu_memory_bytes: int | None = field(default=None, metadata=ABSENT)
    """Its memory on GPUs; None where it uses none."""
    failure: Failure | None = field(default=None, metadata=ABSENT)
    """Failure of a job whose account could not be written; None where there is one."""


@dataclass(frozen=True, kw_only=True)
class Exited(Message):
    """The workload has ended."""

    event: Literal["exited"] = "exited"
    code: int
    """The exit code, or minus the signal that ended it."""


@dataclass(frozen=True, kw_only=True)
class Lent(Message):
    """The workload is the caller's."""

    event: Literal["yours"] = "yours"
    token: str
    pid: int
    jobs: int
    """Jobs that its session has served so far."""
    session_id: str


@dataclass(frozen=True, kw_only=True)
class NotLent(Message):
    """The session is busy, or for other jobs."""

    event: Literal["busy"] = "busy"


_KINDS: dict[tuple[str, Any], type[Message]] = {
    (place, getattr(kind, place)): kind
    for place, kinds in (
        ("op", (ImportAll, Check, TellFindings, TellTasks, RunAttempt, Borrow, EndWorkload, StopSession)),
        ("event", (Imported, Checked, Refused, Stale, Found, ToldTasks, Done, Exited, Lent, NotLent)),
    )
    for kind in kinds
}


def encode(message: Message) -> bytes:
    """Return a message as a line."""
    return json.dumps(message.to_json()).encode() + b"\n"


def parse(line: str | bytes) -> Message:
    """Read a line.

    Raises:
        ValueError: If it is no message.
    """
    data = json.loads(line)
    for place in ("op", "event"):
        if isinstance(data, dict) and (place, data.get(place)) in _KINDS:
            return _KINDS[place, data[place]].from_json(data)
    raise WireError(f"{str(data)[:60]!r} is no message.")


class LineSocket:
    """A stream socket that carries messages."""

    def __init__(self, stream: socket.socket) -> None:
        self._socket = stream
        self._unread = b""

    def fileno(self) -> int:
        """Return the descriptor, to wait for."""
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            OSError: If nobody is there any more.
        """
        self._socket.sendall(encode(message))

    def receive(self, timeout_s: float) -> Message | None:
        """Wait for a message; None when none has come in time.

        Raises:
            EOFError: If the other side has closed.
            ValueError: If a line is no message.
        """
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                try:
                    data = self._socket.recv(65536)
                except ConnectionResetError:  # it died with the request unread
                    data = b""
                if not data:
                    raise EOFError
                self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return parse(line)

    def close(self) -> None:
        """Close it; the other side sees the end."""
        self._socket.close()
