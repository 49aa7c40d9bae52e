"""A program of somebody else's, with everything that it starts: all of it ends with it, and with this process.

    python -I -S guard.py DESCRIPTOR CORES CAPABILITIES PROGRAM ARGUMENTS…

This file is also the guard itself, which stands between this process and the program, and loads nothing but the
standard library. What the program starts becomes the guard's child when its own parent has ended, in whatever session
and with whatever environment, and is killed before the guard ends as the program did. A pipe tells the guard that this
process is gone, however it went.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_PR_SET_CHILD_SUBREAPER, _PR_CAPBSET_DROP = 36, 24
_END_S = 10.0
"""Seconds in which what was started is killed; one that is stuck in a driver may take for good."""


class Guarded:
    """A program under a guard, seen from the process that started it."""

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, cores: int | None = None, **streams: Any
    ) -> None:
        """Start it, in a session of its own.

        Args:
            command: The program and its arguments.
            env: Its whole environment.
            cwd: Where it starts.
            cores: Processor cores that it may use; all of them by default.
            streams: Standard streams, as `subprocess.Popen` takes them.

        Raises:
            OSError: The guard cannot be started. A program that is not there ends it with exit code 127.
        """
        from simyard.core.process import CAPABILITIES_TO_LOOK  # the guard itself has nothing of simyard

        self._held: int | None
        lives, self._held = os.pipe()
        capabilities = ",".join(map(str, CAPABILITIES_TO_LOOK))
        guard = [sys.executable, "-I", "-S", __file__, str(lives), str(cores or 0), capabilities, *command]
        try:
            self.process = subprocess.Popen(
                guard, env=dict(env), cwd=cwd, pass_fds=[lives], start_new_session=True, **streams
            )
        except BaseException:
            os.close(self._held)
            raise
        finally:
            os.close(lives)

    def end(self, grace_s: float = 0.0) -> None:
        """End it with everything that it started: SIGTERM, a grace, SIGKILL."""
        if self.process.poll() is None and grace_s > 0:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(grace_s)
        if self._held is not None:
            with suppress(BrokenPipeError):
                os.write(self._held, b"\n")
            os.close(self._held)
            self._held = None
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_S)
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def main(lives: int, cores: int, capabilities: list[int], command: list[str]) -> None:
    """Run the program, and end as it did, after everything that it started."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for capability in capabilities:  # a program of root's sees no other process's environment
        prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    try:
        child = subprocess.Popen(command)
    except OSError as error:
        print(error, file=sys.stderr)
        os._exit(127)
    signal.signal(signal.SIGTERM, lambda *_: None)  # it is for the program, and goes to the whole group

    def gone() -> None:
        os.read(lives, 1)
        _kill_all()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=gone, daemon=True).start()
    code = child.wait()
    _kill_all()
    if code < 0:
        with suppress(OSError, ValueError):  # SIGKILL and SIGSTOP have no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _kill_all() -> None:
    """Kill every process that descends from this one, until there is none."""
    deadline = time.monotonic() + _END_S
    while (family := list(_below(os.getpid()))) and time.monotonic() < deadline:
        for pid in family:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.005)


def _below(pid: int) -> Iterator[int]:
    """Yield the processes that descend from one; those that have ended and nobody has waited for count too."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text(encoding="ascii").split()):
                yield child
                yield from _below(child)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), [*map(int, sys.argv[3].split(","))], sys.argv[4:])
