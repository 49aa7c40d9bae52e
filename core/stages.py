"""Stages of a training: the conditions that end them, and how they ran."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from simyard.core.wire import ABSENT, Wire

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
"""What a metric may be held to."""


MAX_BYTES = 1_000_000
"""Of a document of stages; a larger one was not written by simyard."""


MOST_RUNS = 200
"""Runs of stages in a job; one that goes to and fro for longer has failed."""
MOST_STEPS = 200
"""Steps of its ranges that are kept of a run."""


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


Range = tuple[float, float]
"""The lowest and the highest value that a parameter is drawn from."""


@dataclass(frozen=True, kw_only=True)
class Growth(Wire):
    """Range of a parameter at both ends of its growth."""

    start: Range
    end: Range

    def at(self, share: float) -> Range:
        """Return the range after a share of the growth, from 0 to 1."""
        low, high = (a + share * (b - a) for a, b in zip(self.start, self.end, strict=True))
        return (low, high)


@dataclass(frozen=True, kw_only=True)
class Widen(Wire):
    """Ranges that grow in steps, each taken when a metric holds, and taken back when it falls too low."""

    parameters: dict[str, Growth]
    """By their path, as in an override."""
    steps: int
    gate: Gate
    floor: float
    """Value beyond which, on the other side of the gate's, the last step is taken back."""

    def at(self, level: int) -> dict[str, Range]:
        """Return the ranges after so many steps."""
        return {path: growth.at(level / self.steps) for path, growth in self.parameters.items()}

    def fell(self, value: float) -> bool:
        """Return whether a value of the metric is beyond the floor; NaN is."""
        return not (value >= self.floor if self.gate.op in (">", ">=") else value <= self.floor)


@dataclass(frozen=True, kw_only=True)
class WidenStep(Wire):
    """A step of ranges that grow, or the beginning."""

    iteration: int
    """Iterations of the job before it."""
    level: int
    """Steps that are taken with it."""
    value: float | None
    """Value of the metric that it was taken for, or taken back for; None at the beginning."""
    ranges: dict[str, Range]


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
    of: int
    """Stages in the list."""
    name: str
    kind: str
    """`train` or `distill`."""
    start: str | None
    """Name of the checkpoint that it began with; None from scratch."""
    order: str | None = field(default=None, metadata=ABSENT)
    """The engine whose order of joints and bodies its policy has; None where only the simulation knows."""
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
    last: str | None = field(default=None, metadata=ABSENT)
    """Name of its last checkpoint; None where it has saved none."""
    widened: tuple[WidenStep, ...] | None = field(default=None, metadata=ABSENT)
    """Steps of its ranges, in order; None where none grow."""
    widen_steps: int | None = field(default=None, metadata=ABSENT)
    """Steps that its ranges may grow by."""

    @property
    def level(self) -> int:
        """Steps that its ranges have grown by."""
        return self.widened[-1].level if self.widened else 0

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
class Compared(Wire):
    """Figures of a policy over the episodes that others of its training played too."""

    role: str
    """`teacher`, `student`, or `final` for the policy that the last stage made of the student."""
    stage: str | None
    """Name of the stage that made it; None for one from outside."""
    checkpoint: str
    iteration: int | None
    """None for one from outside."""
    episodes: int
    mean_return: float
    interval_95: tuple[float, float] | None
    success_rate: float | None
    """None where the task does not say."""


@dataclass(frozen=True, kw_only=True)
class Stages(Wire):
    """The stages of a job so far, `stages.json`; every checkpoint's record has those of its moment."""

    runs: tuple[StageRun, ...] = ()
    """In order; the last one may be running."""
    held: int = 0
    """Iterations in a row for which the condition of the last run has held."""
    leaning: int = 0
    """Iterations in a row for which the ranges of the last run might have grown; less than 0: have been too wide."""
    steps: int = 0
    """Steps that its environment has counted."""
    seconds: float = 0.0
    """Seconds of training that the library has counted."""

    compared: tuple[Compared, ...] | None = field(default=None, metadata=ABSENT)
    """Teacher and student over the same episodes; None until a training with a distillation is over."""

    @classmethod
    def read(cls, data: bytes | None) -> Stages | None:
        """Read a document that a workload wrote; None where there is none, or it is something else."""
        try:
            return cls.from_json(json.loads(data)) if data and len(data) <= MAX_BYTES else None
        except (ValueError, RecursionError):
            return None

    @property
    def running(self) -> StageRun | None:
        """The run that has begun and not ended."""
        return self.runs[-1] if self.runs and self.runs[-1].ended is None else None

    def widen(self, step: WidenStep) -> Stages:
        """Return the stages with a step of the last run's ranges: of very many the first and the newest are kept."""
        taken = (*(self.runs[-1].widened or ()), step)
        return self.change(widened=(*taken[:1], *taken[1:][-MOST_STEPS:]))

    def begin(self, run: StageRun) -> Stages:
        """Return the stages with a run that begins now."""
        return replace(self, runs=(*self.runs, run), held=0, leaning=0)

    def change(self, **fields: object) -> Stages:
        """Return the stages with changes to the last run."""
        return replace(self, runs=(*self.runs[:-1], replace(self.runs[-1], **fields)))  # type: ignore[arg-type]


def stages_beside(checkpoint: Path) -> Path:
    """Return the file beside a checkpoint that says how the stages stood."""
    return checkpoint.with_name(f"{checkpoint.stem}.stages.json")
