"""Documents of sweeps in the store, as those of jobs in `core/records.py`.

A *setting* is one choice of the parameters, and a trial of the study; a *run* is its training with one seed: one or
more jobs, each of which goes on from the checkpoint of the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from simyard.core.errors import Failure
from simyard.core.records import Ended, Heartbeat
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
    evaluation: str | None = field(default=None, metadata=ABSENT)
    """The job that measured it; None where the training's own metric does, or nothing has."""
    failure: Failure | None = field(default=None, metadata=ABSENT)
    """Failure of its last job; None otherwise."""
    gpu_seconds: float
    """Of all its jobs, failed attempts included."""


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
    """None where fewer than two settings were measured."""
    sentence: str
    """The same for people, in one or two sentences."""


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
    gpu_seconds: float
    """Of all jobs so far."""
    usd: float | None
    """Their price; None where the site names none."""
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
    gpu_seconds: float
    usd: float | None
    error: Failure | None
    store: str
    """URL of the sweep's folder."""
    created_at: str
    updated_at: str
    """Time of the end."""
