"""Trainers as child processes of this machine, with the contract of a container."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from simyard.core.errors import RequestError
from simyard.requests.settings import MachineSettings
from simyard.runner.gpu_memory import visible_gpus
from simyard.runner.workload import TOKEN, kill_family, with_token
from simyard.tasks.attempt.supervise import gpu_count
from simyard.tasks.managed.engines.base import INPUT, OUTPUT, STDERR, STDOUT, Exit, TrainerCall
from simyard.tasks.shared.guard import Guarded
from simyard.tasks.shared.logs import begin_log

_PYTHONS = ("python", "python3")
_LOOK_S = 0.5
"""Seconds between two looks at its memory: each goes through all processes of the machine."""


class LocalEngine:
    """Runs a trainer as a child, under a guard: nothing of it outlives it, or this process."""

    def __init__(self, machine: MachineSettings) -> None:
        self._machine = machine

    def require(self, image: str, gpus: int) -> None:
        """Check that the GPUs are here."""
        if gpus > (have := gpu_count()):
            raise RequestError(
                f"trainer_spec.resources.gpu is {gpus}, and this machine has {have or 'no'} GPU{'s' * (have > 1)}.",
                code="no_gpu",
                advice=f"Ask for {have} or fewer, or name a --pool that has them.",
            )

    def seen(self, folder: Path) -> tuple[str, str]:
        """Return the folders themselves."""
        return str(folder / INPUT), str(folder / OUTPUT)

    def start(self, call: TrainerCall) -> _Child:
        """Start it; what is left of a call of this name is ended first: nobody could say any more how that ends."""
        self.sweep(call.name)
        program = find_program(call.argv, call.work, self._machine.python)
        here = visible_gpus() or [str(number) for number in range(call.gpus)]
        limits = call.threads | {"CUDA_VISIBLE_DEVICES": ",".join(here[: call.gpus])}
        env = self._machine.workload_env(embedded_assets=False) | limits | dict(call.env) | {TOKEN: call.name}
        with begin_log(call.folder / STDOUT) as stdout, begin_log(call.folder / STDERR) as stderr:
            child = Guarded(
                [program, *call.argv[1:]], env=env, cwd=call.work, cores=math.ceil(call.cpus),
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            )  # fmt: skip
        return _Child(child, call)

    def sweep(self, name: str) -> None:
        """Kill the remaining processes of the call of this name."""
        kill_family(name)


class _Child:
    """A trainer that runs as a child process."""

    def __init__(self, guarded: Guarded, call: TrainerCall) -> None:
        self._guarded = guarded
        self._call = call
        self._looked = time.monotonic()
        self._exit: Exit | None = None

    def poll(self) -> Exit | None:
        """Return its exit, after killing the processes that it left running; None while it runs."""
        if self._exit is None:
            code = self._guarded.process.poll()
            if code is None:
                self._watch_memory()
            else:
                self.end(0.0)
                self._exit = Exit(code=code) if code >= 0 else Exit(code=None, signal=signal.Signals(-code).name)
        return self._exit

    def end(self, grace_s: float) -> None:
        """End the whole family, also what is left of one whose guard was killed."""
        self._guarded.end(grace_s)
        kill_family(self._call.name)

    def _watch_memory(self) -> None:
        """End it when all its processes together have more memory than they may."""
        if time.monotonic() - self._looked < _LOOK_S:
            return
        self._looked = time.monotonic()
        used = 0
        for pid in with_token(self._call.name):
            with suppress(psutil.Error):
                used += psutil.Process(pid).memory_info().rss
        if used > self._call.memory_bytes:
            self.end(0.0)
            self._exit = Exit(code=None, signal="SIGKILL", out_of_memory=True)


def find_program(argv: Sequence[str], folder: Path, python: str) -> str:
    """Return the program's path; `python` is the one that has the simulator.

    Args:
        argv: The entrypoint.
        folder: Where a relative path starts from.
        python: The site's Python.

    Raises:
        RequestError: If there is no such program, or no such script for Python.
    """
    program = argv[0]
    if program in _PYTHONS:
        script = argv[1] if len(argv) > 1 else ""
        if script.endswith(".py") and not (folder / script).is_file():
            raise RequestError(
                f"trainer_spec.entrypoint: there is no file {script!r} in {str(folder)!r}.",
                code="no_program",
                advice="Name a script relative to the request's folder, or by its whole path.",
            )
        return python
    here = folder / program
    found = str(here) if "/" in program and os.access(here, os.X_OK) else shutil.which(program)
    if found is None:
        raise RequestError(
            f"trainer_spec.entrypoint: there is no program {program!r}.",
            code="no_program",
            advice=f"Name one on PATH, a path relative to {str(folder)!r}, or python.",
        )
    return found
