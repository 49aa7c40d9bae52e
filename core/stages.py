"""Stages of a training: the conditions that end them, and how they ran."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from simyard.core.wire import ABSENT, Wire

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
"""What a metric may be held to."""


@dataclass(frozen=True, kw_only=True)
class Gate(Wire):
    """Condition on a logged metric."""

    metric: str
    """Its tag, as in `metrics.csv`."""
    op: str
    """One of `OPERATORS`."""
    value: float
    for_iterations: int = 1
    """Iterations that log it in a row for which it must hold."""

    def holds(self, value: float) -> bool:
        """Return whether a value of the metric meets the condition; NaN meets none."""
        return math.isfinite(value) and OPERATORS[self.op](value, self.value)

    def in_words(self) -> str:
        """Return the condition for people."""
        times = f" for {self.for_iterations} iterations" if self.for_iterations > 1 else ""
        return f"{self.metric} {self.op} {self.value:g}{times}"


@dataclass(frozen=True, kw_only=True)
class BestCheckpoint(Wire):
    """The checkpoint of a stage with the highest mean return."""

    name: str
    iteration: int
    reward: float


@dataclass(frozen=True, kw_only=True)
class StageRun(Wire):
    """A stage as it ran; one that was gone back to ran more than once."""

    stage: int
    """Its place in the list of stages, counted from 0."""
    name: str
    kind: str
    """`train` or `distill`."""
    start: str | None
    """Name of the checkpoint that it began with; None from scratch."""
    began: int
    """Iterations of the job before it."""
    began_at: str
    goal: str | None = field(default=None, metadata=ABSENT)
    """Its condition in words; None where it has none."""
    ended: int | None = field(default=None, metadata=ABSENT)
    """Iterations of the job at its end; None while it runs."""
    ended_at: str | None = field(default=None, metadata=ABSENT)
    why: str | None = field(default=None, metadata=ABSENT)
    """`reached` where its condition held, `over` where its iterations were done, `not_reached` where they were and its
    condition did not hold."""
    value: float | None = field(default=None, metadata=ABSENT)
    """The newest value of its condition's metric; None where it was not logged."""
    best: BestCheckpoint | None = field(default=None, metadata=ABSENT)

    def in_words(self) -> str:
        """Return why it ended, for people."""
        last = "it was never logged" if self.value is None else f"it was {self.value:.4g}"
        match self.why:
            case "reached":
                return f"{self.goal}: {last}"
            case "over":
                return "its iterations were done"
            case "not_reached":
                return f"{self.goal} was not reached: {last}"
        return "it has not ended"


@dataclass(frozen=True, kw_only=True)
class Stages(Wire):
    """The stages of a job so far, `stages.json`; every checkpoint's record has those of its moment."""

    runs: tuple[StageRun, ...] = ()
    """In order; the last one may be running."""
    held: int = 0
    """Iterations in a row for which the condition of the last run has held."""
    steps: int = 0
    """Steps that its environment has counted."""
    seconds: float = 0.0
    """Seconds of training that the library has counted."""

    @property
    def running(self) -> StageRun | None:
        """The run that has begun and not ended."""
        return self.runs[-1] if self.runs and self.runs[-1].ended is None else None

    def at(self, iteration: int) -> StageRun | None:
        """Return the run that an iteration belongs to, counted from 0."""
        return next((run for run in reversed(self.runs) if run.began <= iteration), None)

    def begin(self, run: StageRun) -> Stages:
        """Return the stages with a run that begins now."""
        return replace(self, runs=(*self.runs, run), held=0)

    def change(self, **fields: object) -> Stages:
        """Return the stages with changes to the last run."""
        return replace(self, runs=(*self.runs[:-1], replace(self.runs[-1], **fields)))  # type: ignore[arg-type]


def stages_beside(checkpoint: Path) -> Path:
    """Return the file beside a checkpoint that says how the stages stood."""
    return checkpoint.with_name(f"{checkpoint.stem}.stages.json")


def now() -> str:
    """Return the time, as documents have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
