"""Progress of a workload, read line by line: each kind of job in its own way."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from simyard.core.records import AttemptStatus
from simyard.runner.rl import Library, Progress, Scale

_ACTIVITY = re.compile(r"^doing: (.+)$|^\[\d/\d\] (Launching simulation|Creating environment|Preparing agent)$")
_ISAAC_LABS = {
    "Launching simulation": "launching the simulation",
    "Creating environment": "making the environment",
    "Preparing agent": "preparing the agent",
}
"""Isaac Lab's steps of its start, in our words."""
_STAGES = re.compile(r"^all stages are over after \d+ iterations$")
_STOPPED = re.compile(r"^the training ends after \d+ iterations: (.+)$")
_NOTE = "note for the report: "
_MOST_OF_A_NOTE = 1000
_VIEWER = re.compile(r"^viewer: (http://127\.0\.0\.1:\d{1,5})$")
_COUNT = re.compile(r"^(?:episodes|checks|steps) (\d+) of \d+(?:, step (\d+))?(?:, mean return (\S+))?$")


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """Progress of a job, as people are shown it."""

    stage: str
    """Current activity, in words; behind a colon may stand a count."""
    done: int = 0
    """Units of work done, those of earlier attempts included."""
    total: int = 0
    """Units that the job does; 0 where that is not known yet."""
    unit: str = ""
    """Name of one unit, in the singular."""
    reward: float | None = None
    """The newest mean return; None where none was seen."""

    @classmethod
    def of(cls, status: AttemptStatus) -> JobProgress:
        """Return the progress that an attempt's heartbeat tells."""
        return cls(stage=status.stage, done=status.done, total=status.total, unit=status.unit, reward=status.reward)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reader of the output of one kind of job."""

    unit: str
    """Unit that is counted, in the singular: `iteration`, `episode`, `check` or `step`."""
    start: int
    """Units done before this attempt."""
    read: Callable[[str], Progress | None]
    """Reads one line; None for a line that says nothing of progress."""


def training_reader(library: Library, scale: Scale, start_iteration: int) -> Reader:
    """Read the output of a library in training."""
    before = 0 if library.prints_absolute else start_iteration

    def read(line: str) -> Progress | None:
        if _STAGES.match(line):
            return Progress(ended_early="all stages are over")
        if match := _STOPPED.match(line):
            return Progress(ended_early=match.group(1))
        found = library.progress(line, scale)
        if found is None or found.done is None:
            return found
        return Progress(done=before + found.done, reward=found.reward)

    return Reader(unit="iteration", start=start_iteration, read=read)


def counting_reader(unit: str) -> Reader:
    """Read the lines of `say_count`."""
    return Reader(unit=unit, start=0, read=_read_count)


def _read_count(line: str) -> Progress | None:
    if not (match := _COUNT.match(line)):
        return None
    done, step, reward = match.groups()
    return Progress(
        done=int(done), step=None if step is None else int(step), reward=None if reward is None else float(reward)
    )


def activity_of(line: str) -> str | None:
    """Return the activity that a line announces, or None for any other line."""
    if not (match := _ACTIVITY.match(line)):
        return None
    ours, isaac_labs = match.groups()
    return ours or _ISAAC_LABS[isaac_labs]


def say_activity(what: str) -> None:
    """Print an activity that begins now and takes a while: `doing: making the environment`."""
    print(f"doing: {what}")


def say_all_stages(iterations: int) -> None:
    """Print that a training's stages have ended before the iterations that they were given."""
    print(f"all stages are over after {iterations} iterations")


def say_stopped(iterations: int, why: str) -> None:
    """Print that a training ends before its last iteration, and why."""
    print(f"the training ends after {iterations} iterations: {why}")


def note_of(line: str) -> str | None:
    """Return the note that a line has for the report, or None for any other line."""
    return line.removeprefix(_NOTE).strip()[:_MOST_OF_A_NOTE] if line.startswith(_NOTE) else None


def say_note(note: str) -> None:
    """Print a line for the report, where the job's notes stand."""
    print(f"{_NOTE}{note}", flush=True)


def say_viewer(url: str) -> None:
    """Print the address at which the simulation can be looked at, while it is there."""
    print(f"viewer: {url}", flush=True)


def viewer_of(line: str) -> str | None:
    """Return the address of a viewer that a line announces, or None for any other line."""
    return match.group(1) if (match := _VIEWER.match(line)) else None


def say_count(unit: str, done: int, total: int, *, step: int | None = None, reward: float | None = None) -> None:
    """Print a line of progress: `episodes 12 of 50, step 300, mean return 4.93`."""
    at = "" if step is None else f", step {step}"
    so_far = "" if reward is None else f", mean return {reward:.4g}"
    print(f"{unit}s {done} of {total}{at}{so_far}")
