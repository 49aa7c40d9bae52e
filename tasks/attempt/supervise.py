"""Watches a workload on a job: its progress, which it must make, and its costs."""

from __future__ import annotations

import contextlib
import csv
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from simyard.core.errors import END_MARKER, SURVIVABLE, Category, Failure, known_failure
from simyard.core.files import AttemptPaths
from simyard.core.specs import Limits
from simyard.runner.gpu_memory import visible_gpus
from simyard.runner.progress import Reader, activity_of, note_of, viewer_of
from simyard.runner.workload import Workload
from simyard.tasks.shared.logs import GrowingLog, shorten

_LINE_END = re.compile(r"[\r\n]")  # progress bars end their lines with a carriage return
POLL_S = 0.2
MAX_LINE = 65_536
"""Characters at the end of a line in which something may be said."""
MOST_NOTES = 20
"""Notes of one workload that are kept for the report."""
HURRIED_GRACE_S = 10.0
"""SIGTERM to SIGKILL when this process is itself asked to end: half a minute later it is killed."""


@dataclass(kw_only=True)
class Watched:
    """Observations of the supervisor so far; times are `time.monotonic()`."""

    started: float
    unit: str
    """Name of one unit of work, in the singular."""
    done: int
    """Units of work done, earlier attempts included: iterations, episodes or checks."""
    step: int = 0
    """Steps taken, where the workload counts them between units."""
    reward: float | None = None
    activity: str | None = None
    """Activity that the workload reports; None once it has finished a unit since."""
    first_progress: float | None = None
    last_progress: float | None = None
    end_marker: bool = False
    ended_early: str | None = None
    """Reason for which the workload ends before its limit, by a rule of its own."""
    notes: tuple[str, ...] = ()
    """Notes of the workload for the report."""
    viewer: str | None = None
    """Address at which the simulation can be looked at."""
    failure: Failure | None = None
    """The first line that names a known cause."""
    hint: Failure | None = None
    """The first line that names a cause which a run can live with."""
    stopped_because: Failure | None = None
    """The supervisor's reason for ending the workload itself."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """End of a workload."""

    exit_code: int | None
    """Exit code of the process; None when it was killed by `signal`."""
    signal: str | None
    watched: Watched
    leaving: str | None
    """Reason for taking no other job, in words; None where the process waits for one."""
    untold: Failure | None = None
    """Failure that the workload knows of and could not write down."""


def supervise(
    workload: Workload,
    paths: AttemptPaths,
    *,
    limits: Limits,
    reader: Reader,
    watch: Callable[[Watched], Failure | None],
) -> Ending:
    """Watch a running attempt until it has ended, and leave none of its processes behind.

    A process that came through its job well stays, for another one.

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
    tails = [_Tail(paths, paths.stdout), _Tail(paths, paths.stderr)]
    try:
        while not workload.job_ended(POLL_S):
            # What it has printed is all that it says of its progress.
            _read(tails, seen, reader)
            shorten(paths.root, paths.user_log.name)
            # A cancel, a dead machine, or no progress for too long ends it.
            seen.stopped_because = watch(seen) or _impatience(seen, limits, time.monotonic())
            if seen.stopped_because:
                break
    except BaseException:
        # This process must end, and soon: it leaves nothing running.
        workload.end(min(limits.term_grace_s, HURRIED_GRACE_S))
        raise

    # After the end marker the work is done, and what still runs is known to hang in its own clean-up.
    if seen.stopped_because or workload.leaving:
        workload.end(0.0 if seen.end_marker else limits.term_grace_s)

    # Its last lines: most failures are explained there.
    _read(tails, seen, reader)
    code = workload.code
    return Ending(
        exit_code=code if code >= 0 else None,
        signal=signal.Signals(-code).name if code < 0 else None,
        watched=seen,
        leaving=workload.leaving,
        untold=workload.untold,
    )


def _read(tails: list[_Tail], seen: Watched, reader: Reader) -> None:
    """Take note of what was printed since the last look: the end marker, known causes of failures, progress."""
    now = time.monotonic()
    for tail in tails:
        for line in tail.lines():
            if END_MARKER.match(line):
                seen.end_marker = True
                seen.last_progress = now
            if found := known_failure(line):
                if found.code in SURVIVABLE:
                    seen.hint = seen.hint or found
                else:
                    seen.failure = seen.failure or found
            if (note := note_of(line)) is not None and len(seen.notes) < MOST_NOTES:
                seen.notes = (*seen.notes, note)
            seen.viewer = viewer_of(line) or seen.viewer
            if (activity := activity_of(line)) is not None:
                seen.activity = activity
            if (progress := reader.read(line)) is None:
                continue
            seen.ended_early = progress.ended_early or seen.ended_early
            seen.reward = progress.reward if progress.reward is not None else seen.reward
            done, step = progress.done or 0, progress.step or 0
            if done > seen.done:
                seen.activity = None
            if done > seen.done or step > seen.step:
                seen.done, seen.step = max(seen.done, done), max(seen.step, step)
                seen.first_progress = seen.first_progress or now
                seen.last_progress = now


def _impatience(seen: Watched, limits: Limits, now: float) -> Failure | None:
    """Return the reason to end the workload now, or None; the watchdog asks for progress, not for life."""
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
    """Reader of the whole lines that were added to a log since the last look; it keeps the log within its limit."""

    def __init__(self, paths: AttemptPaths, path: Path) -> None:
        self._log = GrowingLog(paths.root, path.name)
        self._rest = ""

    def lines(self) -> Iterator[str]:
        for data in self._log.pieces():
            *whole, self._rest = _LINE_END.split(self._rest + data.decode("utf-8", errors="replace"))
            self._rest = self._rest[-MAX_LINE:]
            yield from whole
        self._log.shorten()


INTERVAL_S = 2.0
FIRST_S = 0.3
"""Until the first row: a job in a warm simulator may be over in a second."""
COLUMNS = (
    "time_s", "cpu_percent", "memory_bytes", "processes",
    "gpu_percent", "gpu_memory_bytes", "gpu_power_watts", "gpu_temperature_c",
)  # fmt: skip


class Telemetry:
    """Writes a row every two seconds until closed; a GPU's columns stay empty where there is none."""

    def __init__(self, path: Path, pid: int | None) -> None:
        self._path = path
        self._pid = pid
        self._began = time.monotonic()
        self._known: dict[int, psutil.Process] = {}
        self._gpu = _gpu()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="telemetry", daemon=True)

    def __enter__(self) -> Telemetry:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        with contextlib.suppress(OSError):  # of a full disk: what was measured until then is there
            self._write()

    def _write(self) -> None:
        with self._path.open("x", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(COLUMNS)
            self._processes()  # the first look at a process has no CPU load: it counts from here
            wait_s = FIRST_S
            while not self._stop.wait(wait_s):
                wait_s = INTERVAL_S
                processes = self._processes()
                if processes[-1]:  # none is left once it has ended, and nothing was measured then
                    rows.writerow([round(time.monotonic() - self._began, 1), *processes, *self._gpu_sample()])
                    file.flush()

    def _processes(self) -> tuple[float, int, int]:
        cpu, memory, measured, alive = 0.0, 0, 0, {}
        if self._pid is None:  # it runs in another container
            return 0.0, 0, 0
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(self._pid)
            for process in [root, *root.children(recursive=True)]:
                # cpu_percent counts since its last call on the same object, so the objects are kept.
                known = alive[process.pid] = self._known.get(process.pid, process)
                with contextlib.suppress(psutil.Error):
                    cpu += known.cpu_percent()
                    resident = known.memory_info().rss
                    memory += resident
                    measured += resident > 0  # one that has ended and is still listed has none
        self._known = alive
        return round(cpu, 1), memory, measured

    def _gpu_sample(self) -> tuple[Any, ...]:
        if self._gpu is None:
            return ("", "", "", "")
        import pynvml

        try:
            return (
                pynvml.nvmlDeviceGetUtilizationRates(self._gpu).gpu,
                pynvml.nvmlDeviceGetMemoryInfo(self._gpu).used,
                round(pynvml.nvmlDeviceGetPowerUsage(self._gpu) / 1000, 1),
                pynvml.nvmlDeviceGetTemperature(self._gpu, pynvml.NVML_TEMPERATURE_GPU),
            )
        except pynvml.NVMLError:
            return ("", "", "", "")


def gpu_and_driver() -> dict[str, str] | None:
    """Return the first GPU's name and its driver's version, or None where there is no GPU."""
    import pynvml

    handle = _gpu()
    if handle is None:
        return None
    return {"name": str(pynvml.nvmlDeviceGetName(handle)), "driver": str(pynvml.nvmlSystemGetDriverVersion())}


def gpu_memory() -> int | None:
    """Return the memory of the first GPU in bytes, or None where there is no GPU."""
    import pynvml

    handle = _gpu()
    return None if handle is None else int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)


def gpu_count() -> int:
    """Return the number of GPUs that processes here may use; 0 too where their driver does not answer."""
    import pynvml

    if _gpu() is None:
        return 0
    visible = visible_gpus()
    return int(pynvml.nvmlDeviceGetCount()) if visible is None else len(visible)


def _gpu() -> Any:
    """Return the handle of the first GPU that processes here may use, or None."""
    import pynvml

    visible = visible_gpus()
    if visible == []:
        return None
    first = visible[0] if visible else "0"
    try:
        pynvml.nvmlInit()
        by_index = first.isdecimal()
        return pynvml.nvmlDeviceGetHandleByIndex(int(first)) if by_index else pynvml.nvmlDeviceGetHandleByUUID(first)
    except pynvml.NVMLError:
        return None
