"""Child processes that are kept running: started in order, watched, started again when they die, ended in reverse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from simyard.core.errors import StoreError
from simyard.core.files import write_atomic

PAUSES_S = (1.0, 2.0, 5.0, 15.0, 30.0)
"""Before a child that died is started again; the last one counts from then on."""
CALM_S = 120.0
"""A child that has lived so long begins with the first pause again."""
TAIL_BYTES = 2000


@dataclass
class Child:
    """One process to keep running."""

    name: str
    """For people, and of its log."""
    command: Sequence[str]
    env: Mapping[str, str]
    """Its whole environment."""
    is_healthy: Callable[[], bool]
    """Whether it does its work now."""
    patience_s: float = 180.0
    """Seconds from its start within which it must be healthy."""
    grace_s: float = 30.0
    """Seconds from asking it to end to killing it."""
    ends_its_children: bool = True
    """Whether it ends its own children in good order when it is asked to end; otherwise that is done here."""
    deaths: int = 0
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0


class Died(StoreError):  # noqa: N818 - named as what happened
    """Raised for a child that ends, or does not come up, before it was healthy."""


@dataclass
class Children:
    """All of them, in the order of their start."""

    folder: Path
    """For their logs, and for the list of those that run."""
    say: Callable[[str], None]
    started: list[Child] = field(default_factory=list)

    def end_leftovers(self) -> None:
        """End the processes of an earlier start that was killed."""
        known = self.folder / "processes.json"
        if not known.exists():
            return
        for pid, began in reversed(json.loads(known.read_text())):
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if abs(process.create_time() - began) < 1.0:
                    self.say(f"ending process {pid}, which an earlier start left behind")
                    process.terminate()
                    try:
                        process.wait(30.0)
                    except psutil.TimeoutExpired:
                        process.kill()
                        process.wait(30.0)
        known.unlink()

    def start(self, child: Child) -> None:
        """Start a child; it is watched from now on."""
        self._spawn(child)
        self.started.append(child)
        self._note()

    def wait_until_healthy(self, child: Child, show: Callable[[], None]) -> None:
        """Wait for a child that was started.

        Raises:
            Died: It ended, or took too long; its last words are in the message.
        """
        deadline = time.monotonic() + child.patience_s
        while not child.is_healthy():
            assert child.process is not None
            if (code := child.process.poll()) is not None or time.monotonic() > deadline:
                late = f"is not up after {child.patience_s:.0f} s"
                what, path = late if code is None else f"ended with exit code {code}", self._log(child)
                with path.open("rb") as log:
                    log.seek(max(0, path.stat().st_size - TAIL_BYTES))
                    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
                last = lines[-1] if lines else "it printed nothing"
                raise Died(f"{child.name} {what}: {last}", code="process_died", advice=f"Its whole log: {path}")
            show()
            time.sleep(0.2)

    def restart_dead(self) -> None:
        """Start again what died and has waited for long enough."""
        now = time.monotonic()
        for child in self.started:
            if child.process is not None and child.process.poll() is not None:
                child.deaths = 0 if now - child.began > CALM_S else child.deaths
                pause = PAUSES_S[min(child.deaths, len(PAUSES_S) - 1)]
                self.say(f"{child.name} ended with exit code {child.process.returncode}; again in {pause:.0f} s")
                child.process, child.began, child.deaths = None, now + pause, child.deaths + 1
            elif child.process is None and now >= child.began:
                self._spawn(child)
                self._note()

    def end(self) -> None:
        """End all, the last one first, each in good order."""
        for child in reversed(self.started):
            if child.process is not None and child.process.poll() is None:
                self.say(f"stopping {child.name}")
                if not child.ends_its_children:
                    _end_children_of(child.process.pid, child.grace_s)
                child.process.send_signal(signal.SIGTERM)
                try:
                    child.process.wait(child.grace_s)
                except subprocess.TimeoutExpired:
                    os.killpg(child.process.pid, signal.SIGKILL)
                    child.process.wait()
        self.started.clear()
        (self.folder / "processes.json").unlink(missing_ok=True)

    def _spawn(self, child: Child) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._log(child).open("ab") as log:
            # A session of its own: Ctrl-C on the terminal reaches this process alone, which ends them in order.
            child.process = subprocess.Popen(
                child.command, env=dict(child.env), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        child.began = time.monotonic()

    def _note(self) -> None:
        running = [child.process.pid for child in self.started if child.process is not None]
        found = []
        for pid in running:
            with suppress(psutil.NoSuchProcess):
                found.append([pid, psutil.Process(pid).create_time()])
        write_atomic(self.folder / "processes.json", json.dumps(found).encode())

    def _log(self, child: Child) -> Path:
        return self.folder / f"{child.name.replace(' ', '-').lower()}.log"


def _end_children_of(pid: int, grace_s: float) -> None:
    """End a process's children while it stands still: it would start others in their place."""

    def lives(process: psutil.Process) -> bool:
        try:
            return process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    parent = psutil.Process(pid)
    parent.suspend()
    try:
        children = parent.children()
        for child in children:
            child.terminate()
        deadline = time.monotonic() + grace_s
        while any(map(lives, children)) and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        parent.resume()
