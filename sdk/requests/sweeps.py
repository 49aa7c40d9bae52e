"""The body of `POST /v1/sweeps`: a training, its parameters and seeds, how to choose among them, and when to stop."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, JsonValue, StringConstraints, ValidationError, model_validator
from pydantic import Tag as PydanticTag

from simyard.core.errors import RequestError, unknown
from simyard.requests.base import Name, _Model
from simyard.requests.jobs import Resume, Term, TrainRequest
from simyard.requests.stages import Tag
from simyard.runner.isaaclab.overrides import owned_keys
from simyard.runner.rl import get_library

DEFAULT_SEED = 42
MOST_SETTINGS = 1000
"""Settings of one sweep; a grid that has more is refused before anything of it is made."""
FIELDS = (
    "trainingConfig.task", "trainingConfig.rlLibrary", "trainingConfig.agent", "trainingConfig.numEnvs",
    "trainingConfig.maxIterations", "physics",
)  # fmt: skip
"""Fields of the config that a parameter may name; of those that name files none may."""
MEASURED = ("success_rate", "mean_return")
"""Metrics that an evaluation measures; any other is one of the training."""
_OVERRIDE = re.compile(r"(env|agent)(\.[A-Za-z_0-9]+)+|presets|renderer")

ParameterPath = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00-\x20\x7f=]+$")]
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Number = Annotated[int, Field(strict=True)] | Finite
Seed = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
Count = Annotated[int, Field(strict=True, ge=1, le=10_000_000)]


class Parameter(_Model):
    """Values of a parameter: a list of them, or a range from which a sampler draws."""

    values: tuple[JsonValue, ...] | None = Field(None, min_length=1, max_length=MOST_SETTINGS)
    """The values, each of any type that an override has."""
    low: Number | None = None
    """The lowest value of a range; whole numbers make it a range of whole numbers."""
    high: Number | None = None
    """The highest value of a range."""
    log: bool = Field(False, strict=True)
    """Whether orders of magnitude are drawn alike: for learning rates, say."""
    step: Number | None = None
    """Distance of the values of a range; a range of whole numbers has 1, any other none."""

    @property
    def is_whole(self) -> bool:
        """Whether a range has whole numbers alone."""
        return all(isinstance(one, int) for one in (self.low, self.high, self.step if self.step is not None else 1))

    @property
    def points(self) -> tuple[JsonValue, ...] | None:
        """Every value, as a grid has them; None of a range that has no end of them."""
        if self.values is not None:
            return self.values
        assert self.low is not None and self.high is not None
        step = self.step if self.step is not None else 1 if self.is_whole and not self.log else None
        if step is None:
            return None
        count = math.floor((self.high - self.low) / step * (1 + 1e-12)) + 1
        if count > MOST_SETTINGS:
            return None
        return tuple(_rounded(self.low + index * step) for index in range(count))

    @property
    def corners(self) -> tuple[JsonValue, ...]:
        """The values that are looked at before anything starts: all of a list, both ends of a range."""
        return self.values if self.values is not None else (self.low, self.high)

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if self.values is not None:
            if self.model_fields_set & {"low", "high", "log", "step"}:
                raise ValueError("give values, or a range {low, high}, not both")
            if len({json.dumps(value, sort_keys=True) for value in self.values}) < len(self.values):
                raise ValueError(f"values has one twice: {_short(list(self.values))}")
            return self
        if self.low is None or self.high is None:
            raise ValueError('give values, [0.001, 0.01] say, or a range, {"low": 0.0001, "high": 0.01, "log": true}')
        if self.low >= self.high:
            raise ValueError(f"the range from {self.low!r} to {self.high!r} is empty: low must be less than high")
        if self.log and self.low <= 0:
            raise ValueError(f"log with low {self.low!r}: a logarithm needs a range above 0")
        if self.log and self.step is not None:
            raise ValueError(f"log and step {self.step!r} exclude each other; leave step out, or list the values")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(f"step {self.step!r}: allowed is more than 0, and at most {self.high - self.low!r}")
        return self


def _rounded(value: float) -> float:
    """Return a multiple of a step as people would write it: 0.3, not 0.30000000000000004."""
    return value if isinstance(value, int) else float(f"{value:.12g}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}…"


class Scheduler(_Model):
    """Rule by which settings that do badly end early; in iterations of the training."""

    kind: Literal["none", "asha", "hyperband", "pbt"] = "none"
    """`none` trains every setting to its end; `asha` and `hyperband` go on with the best of each rung; `pbt` has the
    worst of a population take up weights and values of the best."""
    min_iterations: Count | None = None
    """Of `asha` and `hyperband`: iterations of the first rung; left out, such that there are three rungs."""
    reduction_factor: int = Field(3, strict=True, ge=2, le=100)
    """Of `asha` and `hyperband`: one of so many settings goes on from a rung to the next, which is so much longer."""
    interval: Count | None = None
    """Of `pbt`: iterations from one comparison of the population to the next; left out a tenth of all."""
    quantile: float = Field(0.25, gt=0, le=0.5, allow_inf_nan=False)
    """Of `pbt`: share of the population that takes up the state of the best, which are as many."""
    resample_probability: float = Field(0.25, ge=0, le=1, allow_inf_nan=False)
    """Of `pbt`: how often a value is drawn anew, in place of one near that of the best."""
    factors: tuple[Finite, Finite] = (0.8, 1.25)
    """Of `pbt`: by one of both a number of the best is multiplied."""

    @model_validator(mode="after")
    def _has_its_own_fields(self) -> Self:
        rungs, population = {"min_iterations", "reduction_factor"}, {"interval", "quantile", "resample_probability"}
        own = {"none": set[str](), "asha": rungs, "hyperband": rungs, "pbt": population | {"factors"}}[self.kind]
        if strange := sorted(self.model_fields_set - own - {"kind"}):
            raise ValueError(f"{strange[0]} is nothing to kind {self.kind!r}; it has {sorted(own) or 'none'}")
        if any(factor <= 0 for factor in self.factors):
            raise ValueError(f"factors {list(self.factors)}: allowed are numbers above 0")
        return self


class Measurement(_Model):
    """Evaluation of each trained policy: the same for all."""

    num_episodes: int = Field(100, strict=True, ge=1, le=1_000_000)
    """Completed episodes: four times as many halve the noise."""
    num_envs: int | None = Field(None, strict=True, ge=1, le=1_000_000)
    """Environments side by side; left out 100, or as many as episodes if these are fewer."""
    seed: Seed = DEFAULT_SEED
    """Of every evaluation, so that all policies meet the same starts."""
    steps_per_episode: int = Field(1000, strict=True, ge=1, le=10_000_000)
    """Longer episodes are cut off here, and counted as truncated."""
    success_termination: Term | None = None
    """The termination that means success; left out the task's own success metric says."""


class Objective(_Model):
    """Number by which settings are compared."""

    metric: Tag | None = None
    """A column of `metrics.csv`, or by an evaluation `success_rate` or `mean_return`; left out the library's mean
    reward."""
    evaluation: Measurement | None = None
    """Evaluation that measures `success_rate` or `mean_return`; left out one with the values that it has."""
    which: Literal["last", "best"] = "last"
    """Of a training's column the last value or the best; of an evaluation the checkpoint that is played."""
    mode: Literal["max", "min"] = "max"
    """Whether more or less is better."""
    target: float | None = Field(None, allow_inf_nan=False)
    """The sweep ends once the mean of a setting over its seeds has reached this."""

    @property
    def measurement(self) -> Measurement | None:
        """The evaluation that measures it; None where the training does."""
        return (self.evaluation or Measurement()) if self.metric in MEASURED else None

    def reached(self, value: float | None) -> bool:
        """Return whether a value is the target or better."""
        if value is None or self.target is None:
            return False
        return value >= self.target if self.mode == "max" else value <= self.target

    @model_validator(mode="after")
    def _evaluation_measures(self) -> Self:
        if self.evaluation is not None and self.metric not in MEASURED:
            raise ValueError(f"evaluation measures {' or '.join(MEASURED)}, and metric is {self.metric!r}")
        return self


class Budget(_Model):
    """Budget of a sweep, checked before each job; what is in progress comes to its end."""

    max_trials: int | None = Field(None, strict=True, ge=1, le=MOST_SETTINGS)
    """Settings at most."""
    max_gpu_hours: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Hours of GPUs, failed attempts included."""
    max_wallclock_hours: float | None = Field(None, gt=0, le=100_000, allow_inf_nan=False)
    """From the sweep's beginning, pauses included."""
    max_credits: float | None = Field(None, gt=0, allow_inf_nan=False)
    """One credit is one USD of GPU time at the site's price."""


class SweepConfig(_Model):
    """Parameters, seeds, and the way to the best setting."""

    parameters: dict[ParameterPath, Parameter] = Field({}, max_length=50)
    """Values by the parameter's path: an override's (`agent.algorithm.learning_rate`), or a field of the config."""
    paired: tuple[dict[ParameterPath, JsonValue], ...] = Field((), max_length=MOST_SETTINGS)
    """Values that go together, one set after another: all of them are one parameter."""
    seeds: Annotated[int, Field(strict=True, ge=1, le=100)] | Annotated[tuple[Seed, ...], Field(min_length=1)] = 1
    """How many seeds each setting is trained with, from the config's own on; or the seeds."""
    sampler: Literal["grid", "random", "tpe", "cmaes"] = "grid"
    """`grid` takes every combination; `random`, `tpe` and `cmaes` are Optuna's."""
    trials: int | None = Field(None, strict=True, ge=1, le=MOST_SETTINGS)
    """Settings that a sampler suggests; a grid has as many as there are combinations."""
    seed: Seed = DEFAULT_SEED
    """Of the sampler: the same suggests the same."""
    scheduler: Scheduler = Scheduler()
    """Rule by which settings that do badly end early."""
    objective: Annotated[
        Annotated[Objective, PydanticTag("one")]
        | Annotated[tuple[Objective, ...], Field(min_length=2, max_length=4), PydanticTag("several")],
        Discriminator(lambda given: "several" if isinstance(given, list | tuple) else "one"),
    ] = Objective()
    """Number by which settings are compared; or a list of them, by whose Pareto front they are ranked."""
    parallel: Annotated[int, Field(strict=True, ge=1, le=256)] | Literal["auto"] = "auto"
    """Trainings side by side; `auto` measures with the first how many its machine has room for."""
    budget: Budget = Budget()
    """Budget of the sweep."""

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives, one or several."""
        return self.objective if isinstance(self.objective, tuple) else (self.objective,)

    @property
    def main(self) -> Objective:
        """The objective, of several the first: curves and importance are of it."""
        return self.objectives[0]

    @property
    def evaluated(self) -> Objective | None:
        """The objective that an evaluation measures, of several the first; None where trainings log all of them."""
        return next((one for one in self.objectives if one.measurement is not None), None)

    @property
    def axes(self) -> Iterator[tuple[str, tuple[JsonValue, ...] | None]]:
        """The parameters with their values, None for a range without an end of them; `paired` is one of them."""
        yield from ((path, parameter.points) for path, parameter in self.parameters.items())
        if self.paired:
            yield "paired", tuple(self.paired)

    @property
    def settings(self) -> int:
        """Settings at most; the budget may end it earlier."""
        count = self.trials or math.prod(len(points or ()) for _, points in self.axes)
        return min(count, self.budget.max_trials or count)

    @model_validator(mode="after")
    def _parameters_are_there(self) -> Self:
        together = [*self.paired[0]] if self.paired else []
        for index, values in enumerate(self.paired):
            if not values:
                raise ValueError(f"paired[{index}] is empty; give the value of each parameter")
            if set(values) != set(together):
                raise ValueError(f"paired[{index}] has {sorted(values)}, and paired[0] {sorted(together)}")
        for path in (*self.parameters, *together):
            _check_path(path)
        if both := sorted(set(self.parameters).intersection(together)):
            raise ValueError(f"{both[0]!r} stands in parameters and in paired; give it once")
        if isinstance(self.seeds, tuple) and len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds has one twice: {_short(list(self.seeds))}")
        return self

    @model_validator(mode="after")
    def _sampler_can(self) -> Self:
        endless = [path for path, points in self.axes if points is None]
        if self.sampler == "grid":
            if endless:
                raise ValueError(
                    f"sampler 'grid' with the range of {endless[0]!r}, which has too many values, or no end of them: "
                    "list values, give it a step, or take sampler 'random', 'tpe' or 'cmaes' with trials"
                )
            combinations = math.prod(len(points or ()) for _, points in self.axes)
            if combinations > MOST_SETTINGS:
                raise ValueError(
                    f"the grid has {combinations:,} settings; allowed are {MOST_SETTINGS:,}: give fewer values, or "
                    "take sampler 'random' or 'tpe' with trials"
                )
            if self.trials is not None:
                raise ValueError(
                    f"trials {self.trials} with sampler 'grid', which takes all {combinations} settings; leave it out, "
                    "or take another sampler"
                )
            return self
        if not self.parameters and not self.paired:
            raise ValueError(f"sampler {self.sampler!r} without parameters has nothing to draw")
        if self.trials is None:
            raise ValueError(f"sampler {self.sampler!r} needs trials: how many settings it suggests")
        if self.sampler == "cmaes":
            listed = [path for path, parameter in self.parameters.items() if parameter.values is not None]
            if listed or self.paired or len(self.parameters) < 2:
                raise ValueError(
                    f"sampler 'cmaes' draws from two ranges or more, {{low, high}}, and from nothing else, not "
                    f"{listed or ('paired' if self.paired else list(self.parameters))}; take 'tpe'"
                )
        return self

    @model_validator(mode="after")
    def _objectives_go_together(self) -> Self:
        if len(self.objectives) < 2:
            return self
        names = [one.metric for one in self.objectives]
        if None in names or len(set(names)) < len(names):
            raise ValueError(f"objective has the metrics {names}: name each of several, and none twice")
        if self.scheduler.kind != "none" or self.sampler == "cmaes":
            other = f"scheduler {self.scheduler.kind!r}" if self.scheduler.kind != "none" else "sampler 'cmaes'"
            raise ValueError(f"{other} with {len(names)} objectives: it compares by one; leave it out, or name one")
        if any(one.target is not None for one in self.objectives):
            raise ValueError("objective.target with several objectives: no one of them ends the sweep; leave it out")
        measured = [one for one in self.objectives if one.measurement is not None]
        if any((one.measurement, one.which) != (measured[0].measurement, measured[0].which) for one in measured):
            raise ValueError("objective: success_rate and mean_return are of one evaluation; give both the same")
        return self

    @model_validator(mode="after")
    def _scheduler_can(self) -> Self:
        kind = self.scheduler.kind
        if kind == "none":
            return self
        if self.settings < 2:
            raise ValueError(f"scheduler {kind!r} chooses among settings, and this sweep has one")
        if kind == "pbt" and self.sampler in ("tpe", "cmaes"):
            raise ValueError(f"scheduler 'pbt' begins with a whole population, and sampler {self.sampler!r} learns one "
                             "setting after another; take 'random' or 'grid'")  # fmt: skip
        paths = {*self.parameters, *(self.paired[0] if self.paired else ())}
        if "trainingConfig.maxIterations" in paths:
            raise ValueError(f"scheduler {kind!r} decides on iterations; trainingConfig.maxIterations is no parameter")
        fixed = sorted(paths.intersection(FIELDS) - {"trainingConfig.numEnvs"})
        if kind == "pbt" and fixed:
            raise ValueError(f"scheduler 'pbt' changes values while it trains, and {fixed[0]!r} cannot be changed then")
        return self


def as_override(path: str, value: object) -> str:
    """Return the override that gives a parameter a value."""
    return f"{path}={value if isinstance(value, str) else json.dumps(value)}"


def _check_path(path: str) -> None:
    """Raise `ValueError` for what is no parameter, or one that simyard sets itself."""
    if path in owned_keys():
        instead = owned_keys()[path]
        raise ValueError(f"parameter {path!r} would do nothing: simyard sets it. "
                         + (f"Name {instead} instead" if instead in FIELDS else "Leave it out"))  # fmt: skip
    if path not in FIELDS and not _OVERRIDE.fullmatch(path):
        said = "Give seeds in sweep.seeds" if path.endswith("seed") else ""
        failure = unknown("parameter", path, FIELDS).failure
        raise ValueError(f"{failure.message} Allowed: an override's path, env.… or agent.…, or "
                         f"{', '.join(map(repr, FIELDS))}. {said}".rstrip(". "))  # fmt: skip


class SweepRequest(TrainRequest):
    """A training with several settings and seeds, and a verdict on them."""

    name: Name = "sweep"
    """Display name."""
    project_id: Name = "default"
    """Project of the sweep."""
    sweep: SweepConfig
    """Parameters, seeds, and the way to the best setting."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of every setting, in order."""
        if isinstance(self.sweep.seeds, tuple):
            return self.sweep.seeds
        first = self.training_config.seed if self.training_config.seed is not None else DEFAULT_SEED
        return tuple((first + index) % 2**31 for index in range(self.sweep.seeds))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of all objectives, in order; the library's mean reward where none is named."""
        reward = get_library(self.training_config.rl_library).reward_tag
        return tuple(one.metric or reward for one in self.sweep.objectives)

    @property
    def metric(self) -> str:
        """The metric of the objective, of several the first."""
        return self.metrics[0]

    def training(
        self, values: Mapping[str, Any], seed: int, *, iterations: int | None = None, resume: Resume | None = None
    ) -> TrainRequest:
        """Return the training of a setting: the config to train it again.

        Args:
            values: Of the parameters, by path.
            seed: Of the training.
            iterations: That it makes, if others than the config's.
            resume: What it goes on from, if anything else than the config's.
        """
        config = self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"sweep", "project_id"})
        section = config["trainingConfig"]
        section["seed"] = seed
        overrides = []
        for path, value in sorted(values.items()):  # the same setting is the same job, however it is written
            head, _, name = path.partition(".")
            if head == "trainingConfig":
                section[name] = value
            elif path in FIELDS:
                config[path] = value
            else:
                overrides.append(as_override(path, value))
        if overrides:
            config["overrides"] = [*config.get("overrides", ()), *overrides]
        if iterations is not None:
            section["maxIterations"] = iterations
        if resume is not None:
            config["resume"] = resume.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return TrainRequest.model_validate(config)

    @property
    def probes(self) -> Iterator[dict[str, Any]]:
        """Settings that have every value that a parameter may take, or both ends of its range, at least once."""
        axes: list[list[dict[str, Any]]] = [
            [{path: value} for value in parameter.corners] for path, parameter in self.sweep.parameters.items()
        ]
        if self.sweep.paired:
            axes.append([dict(values) for values in self.sweep.paired])
        for index in range(max(map(len, axes), default=1)):
            yield {path: value for axis in axes for path, value in axis[min(index, len(axis) - 1)].items()}

    @model_validator(mode="after")
    def _settings_can_be_trained(self) -> Self:
        kind, budget = self.sweep.scheduler.kind, self.training_config.max_iterations
        if self.stages and kind != "none":
            raise ValueError(f"stages and scheduler {kind!r} both decide on iterations; leave one out")
        if self.training_config.stop_when and kind != "none":
            raise ValueError(f"stopWhen and scheduler {kind!r} both end trainings; leave one out")
        for name in ("min_iterations", "interval"):
            if (given := getattr(self.sweep.scheduler, name)) is not None and given >= budget:
                raise ValueError(f"scheduler.{name} is {given}, and maxIterations {budget}; allowed are fewer")
        library = get_library(self.training_config.rl_library)
        for metric in (one.metric for one in self.sweep.objectives):
            if metric is not None and metric not in MEASURED and library.never_logs(metric):
                known = {*library.own_tags, *MEASURED}
                failure = unknown("sweep.objective.metric", metric, known).failure
                raise ValueError(f"{failure.message} {failure.advice} Or a tag of the task's, as metrics.csv has it.")
        for values in self.probes:
            if self.stages and "trainingConfig.maxIterations" in values:
                raise ValueError("stages have iterations of their own; trainingConfig.maxIterations is no parameter")
            try:
                self.training(values, DEFAULT_SEED)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                where, said = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
                at = f"sweep.parameters: {where} {first['input']!r}: " if where else "sweep.parameters: "
                raise ValueError(f"{at}{said}") from error
            except RequestError as error:
                raise ValueError(f"sweep.parameters: {error}") from error
        return self
