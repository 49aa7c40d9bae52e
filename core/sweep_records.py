"""Documents of sweeps in the store, as those of jobs in `core/records.py`.

A *setting* is one choice of the parameters, and a trial of the study; a *run* is its training with one seed: one or
more jobs, each of which goes on from the checkpoint of the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from simyard.core.errors import Failure
from simyard.core.records import Cost, Ended, Estimate, Heartbeat
from simyard.core.wire import ABSENT, Wire


@dataclass(frozen=True, kw_only=True)
class SeedRun(Wire):
    """The training of a setting with one seed, as far as it has come."""

    seed: int
    jobs: tuple[str, ...]
    """Its training jobs in order: each goes on from the last checkpoint of the one before."""
    iterations: int
    """Iterations that are done and in the store."""
    status: Ended | Literal["running", "waiting"]
    """`waiting` where a scheduler may let it go on, or has ended it."""
    value: float | None
    """The objective, as measured at `iterations`; None where it was not measured."""
    others: tuple[float, ...] | None = field(default=None, metadata=ABSENT)
    """Of several objectives the values of all but the first, in order; None of one, and where nothing was measured."""
    evaluation: str | None = field(default=None, metadata=ABSENT)
    """The job that measured it; None where the training's own metric does, or nothing has."""
    failure: Failure | None = field(default=None, metadata=ABSENT)
    """Failure of its last job; None otherwise."""
    gpu_seconds: float
    """Of the jobs that this setting had run for it, evaluations and failed attempts included."""
    found: tuple[str, ...] | None = field(default=None, metadata=ABSENT)
    """Those of its jobs that were there before the sweep, or belong to the setting that it copied; None for none."""

    @property
    def measured(self) -> tuple[float, ...]:
        """The values of all objectives, in order; empty where nothing was measured."""
        return () if self.value is None else (self.value, *(self.others or ()))


@dataclass(frozen=True, kw_only=True)
class Copied(Wire):
    """A moment at which a setting of a population took up the state of another, and values near its own."""

    rung: int
    """The rung that it began with that."""
    source: int
    """Number of the other setting."""
    values: dict[str, Any]
    """Values that it had before."""


@dataclass(frozen=True, kw_only=True)
class Setting(Wire):
    """A choice of the parameters and what became of it."""

    number: int
    """Counted from 0, in the order of suggestion; the number of Optuna's trial."""
    values: dict[str, Any]
    """Value of each parameter by its path, as in an override."""
    runs: tuple[SeedRun, ...]
    """One a seed, in the order of the seeds."""
    state: Literal["running", "complete", "pruned", "failed"]
    """`pruned` where the scheduler let it go no further; `failed` where no seed could be measured."""
    rung: int
    """The newest rung that it has reached, counted from 0; 0 without a scheduler."""
    bracket: int = field(default=0, metadata=ABSENT)
    """Of `hyperband`: which of its brackets it is in, counted from 0, the one with the shortest first rung first."""
    copies: tuple[Copied, ...] | None = field(default=None, metadata=ABSENT)
    """Of a population: when it took up the state of others; None where it never did."""

    def outcome(self, run: SeedRun) -> str:
        """Return the status of a training of it for people: of a pruned setting nothing waits any more."""
        return "pruned" if self.state == "pruned" and run.status == "waiting" else run.status

    @property
    def value(self) -> float | None:
        """The mean of the objective over the seeds that were measured; None where none was."""
        measured = [run.value for run in self.runs if run.value is not None]
        return sum(measured) / len(measured) if measured else None


@dataclass(frozen=True, kw_only=True)
class Decision(Wire):
    """A decision of a sweep, below `decisions/`: written before it is acted on, and all of a sweep follows from them.

    A training that was measured is one too: what it says is not asked of the job again.
    """

    number: int
    """Counted from 1."""
    kind: Literal["parallel", "suggested", "measured", "promoted", "pruned", "copied", "ended"]
    setting: int | None = field(default=None, metadata=ABSENT)
    """Number of the setting; None for `parallel` and `ended`."""
    rung: int | None = field(default=None, metadata=ABSENT)
    """The rung that was measured, or that the setting goes on to; of `pruned` the last one."""
    bracket: int | None = field(default=None, metadata=ABSENT)
    """Of `suggested`: the bracket of the setting, where there are several."""
    values: dict[str, Any] | None = field(default=None, metadata=ABSENT)
    """Of `suggested` and `copied`: the values that the setting has from here on."""
    source: int | None = field(default=None, metadata=ABSENT)
    """Of `copied`: number of the setting whose state is taken up."""
    run: SeedRun | None = field(default=None, metadata=ABSENT)
    """Of `measured`: the training with one seed, as far as it has come."""
    parallel: int | None = field(default=None, metadata=ABSENT)
    """Of `parallel`: trainings side by side from here on."""
    why: str
    """Reason in words; of `ended` what ended the sweep, in one word."""
    at: str
    """Time, ISO 8601."""


@dataclass(frozen=True, kw_only=True)
class Interval(Wire):
    """A mean with its 95 % interval."""

    mean: float
    low: float | None
    """None where one value alone was measured, as `high`."""
    high: float | None
    n: int
    """Values that it was made of."""


@dataclass(frozen=True, kw_only=True)
class RankedSetting(Wire):
    """A row of the verdict's table."""

    rank: int
    """Counted from 1, the best first."""
    number: int
    values: dict[str, Any]
    value: Interval | None
    """The objective over the seeds; None where no seed was measured."""
    seeds: int
    """Seeds that were asked for."""
    failed: int
    """Seeds whose training or evaluation failed."""
    iterations: int
    """Iterations that the measured policies were trained for."""
    state: Literal["running", "complete", "pruned", "failed"]
    others: tuple[Interval, ...] | None = field(default=None, metadata=ABSENT)
    """Of several objectives all but the first, in order; None where there is one, or no seed was measured."""
    on_front: bool | None = field(default=None, metadata=ABSENT)
    """Of several objectives whether it is on the Pareto front; None where there is one."""

    @property
    def measured(self) -> tuple[Interval, ...]:
        """The means of all objectives, in order; empty where no seed was measured."""
        return () if self.value is None else (self.value, *(self.others or ()))


@dataclass(frozen=True, kw_only=True)
class SettingComparison(Wire):
    """The winner against the runner-up."""

    winner: int
    runner_up: int
    test: str
    """Name of the test in words, `paired bootstrap over 5 seeds`, with the correction for the number of settings."""
    difference: Interval | None
    """Winner less runner-up, in the objective's unit; positive is better whatever the mode."""
    p: float | None
    """Corrected; None where too few seeds were measured for any test."""
    is_better: bool
    """Whether the winner is better beyond noise."""
    more_seeds: int | None
    """Further seeds of both that would probably tell; None where it is told already, or cannot be said."""


@dataclass(frozen=True, kw_only=True)
class SweepVerdict(Wire):
    """What a sweep found, `verdict.json`."""

    table: tuple[RankedSetting, ...]
    comparison: SettingComparison | None
    """None where fewer than two settings were measured, or there are several objectives."""
    sentence: str
    """The same for people, in one or two sentences."""
    metrics: tuple[str, ...] | None = field(default=None, metadata=ABSENT)
    """Metrics of several objectives, in order; None where there is one."""


@dataclass(frozen=True, kw_only=True)
class SweepStatus(Heartbeat):
    """The heartbeat of the process that drives a sweep, `status.json`: written every few seconds."""

    stage: str
    """Current activity, in words."""
    wanted: Literal["run", "pause", "cancel"]
    """Desired state, wherever it was asked for."""
    settings: int
    """Settings suggested so far."""
    running: int
    """Jobs in progress."""
    pruned: int
    best: float | None
    """Best value so far; None where none was measured."""
    cost: Cost
    """Of all jobs so far."""
    seconds_left: float | None
    """Estimate of the time to the end; None where nothing is known."""


@dataclass(frozen=True, kw_only=True)
class SweepResult(Wire):
    """How a sweep ended, `result.json`."""

    sweep_id: str
    name: str
    project_id: str
    status: Ended
    ended_by: str
    """Reason of the end: `done`, `target`, a budget's name, `canceled`, or `failed`."""
    settings: int
    jobs: int
    """Training jobs that ran; those that were there already are not among them."""
    best: int | None
    """Number of the winner; None where nothing was measured."""
    verdict: SweepVerdict | None
    cost: Cost
    """Of the jobs that ran for it, failed attempts included."""
    error: Failure | None
    store: str
    """URL of the sweep's folder."""
    created_at: str
    updated_at: str
    """Time of the end."""
    estimate: Estimate | None = field(default=None, metadata=ABSENT)
    """The estimate that was made when it was submitted."""


@dataclass(frozen=True, kw_only=True)
class SweepProgress(Wire):
    """Progress of a sweep that has not ended: made of its heartbeat, and shown; no file of the store."""

    sweep_id: str
    name: str
    project_id: str
    status: Literal["queued", "running", "paused", "interrupted"]
    """`queued` before any process drives it, `interrupted` where none does any more."""
    stage: str | None
    """Current activity; None before there is one, as with all that follows."""
    settings: int
    """Settings suggested so far."""
    most_settings: int
    """Settings at most."""
    running: int
    """Jobs in progress."""
    pruned: int
    best: float | None
    verdict: SweepVerdict | None
    """On what was measured so far; None before there is one."""
    cost: Cost | None
    """Of all jobs so far."""
    seconds_left: float | None
    store: str
    """URL of the sweep's folder."""
    created_at: str
    updated_at: str | None
    estimate: Estimate | None = field(default=None, metadata=ABSENT)
    """The estimate that was made when it was submitted."""


SweepState = SweepProgress | SweepResult
"""How a sweep stands, as lists and commands show it."""
