"""The stages of a training request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from simyard.requests.base import OF_OUTSIDE, AgentName, Override, Physics, Reference, _Model

MOST_STAGES = 20
StageName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")]
Path = Annotated[str, StringConstraints(pattern=r"^env(\.[A-Za-z_0-9]+)+$", max_length=300)]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Operator = Literal[">", ">=", "<", "<="]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Until(_Model):
    """Condition that ends a stage."""

    metric: Tag
    """Tag of a metric as `metrics.csv` has it, such as `Train/mean_reward`."""
    op: Operator = ">="
    """Comparison with `value`."""
    value: Finite
    """Value that the metric is compared with."""
    for_iterations: int = Field(1, strict=True, ge=1, le=1_000_000)
    """Iterations in a row for which it must hold; those that do not log the metric do not count."""


class GrowingRange(_Model):
    """Range of a parameter: the lowest and the highest value that it is drawn from."""

    start: tuple[Finite, Finite]
    """Range at the beginning of the stage."""
    end: tuple[Finite, Finite]
    """Range after the last step."""

    @model_validator(mode="after")
    def _low_before_high(self) -> Self:
        for name, (low, high) in (("start", self.start), ("end", self.end)):
            if low > high:
                raise ValueError(f"{name} is [{low:g}, {high:g}]: give the lowest value first")
        return self


class Widen(_Model):
    """Ranges that grow in steps while the stage trains."""

    parameters: dict[Path, GrowingRange] = Field(min_length=1, max_length=20)
    """Ranges by their path, as in an override: `env.events.push.params.velocity_range`."""
    steps: int = Field(strict=True, ge=1, le=100)
    """Steps from the first range to the last."""
    metric: Tag
    """Tag of the metric that decides."""
    op: Operator = ">="
    """Comparison with `value`."""
    value: Finite
    """Value that the metric is compared with: where it holds, the next step is taken."""
    for_iterations: int = Field(1, strict=True, ge=1, le=1_000_000)
    """Iterations in a row for which it must hold, or be beyond the floor."""
    floor: Finite
    """Value beyond which the last step is taken back."""

    @model_validator(mode="after")
    def _floor_is_apart(self) -> Self:
        is_above = self.op in (">", ">=")
        if (self.floor >= self.value) if is_above else (self.floor <= self.value):
            side = "below" if is_above else "above"
            raise ValueError(f"floor is {self.floor:g} and value {self.value:g}: the floor must be {side} the value")
        return self


class StageStart(_Model):
    """Checkpoint from outside that a stage starts from: a job's, or a file."""

    job: str | None = None
    """Id of a job of the same store; its newest valid checkpoint is taken."""
    checkpoint: Reference | None = None
    """Path (relative to the config) or URI of a checkpoint file."""
    trained_under: Physics | None = None
    """With `checkpoint`: the engine that it was trained under, whose order of joints it keeps; left out it is taken to
    be the stage's, and the report says so."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.job is None) == (self.checkpoint is None):
            raise ValueError("give either job or checkpoint")
        if self.trained_under is not None and self.checkpoint is None:
            raise ValueError(OF_OUTSIDE)
        return self


class TrainingStage(_Model):
    """A stage of a training."""

    name: StageName
    """Name in records, curves and reports."""
    kind: Literal["train", "distill"] = "train"
    """`train` by reinforcement learning, or `distill`: a student imitates the policy it starts from, its teacher."""
    agent: AgentName | None = None
    """Agent of this stage, as `trainingConfig.agent`; left out it is the job's, of a distillation `distillation`."""
    overrides: tuple[Override, ...] = Field((), max_length=200)
    """Hydra overrides of this stage, after those of the job."""
    start: Literal["previous", "best", "last", "scratch"] | StageStart = "previous"
    """Policy that it begins with: of the stage before the last checkpoint (`previous` or `last`) or the `best` by its
    mean return, `scratch`, or one from outside. The first stage has none before it, and begins from scratch."""
    until: Until | None = None
    """Condition that ends it; without one it ends after `maxIterations`."""
    max_iterations: int = Field(strict=True, ge=1, le=10_000_000)
    """Policy updates after which it ends, whether its condition holds or not."""
    on_not_reached: Literal["fail", "go_on", "go_back"] = "fail"
    """Where the condition does not hold by then: `fail` the job, `go_on` to the next stage, or `go_back` to the one
    before, which then trains on from the policy that this one began with."""
    widen: Widen | None = None
    """Ranges that grow; the condition counts once they are at their end."""


def check_stages(stages: Sequence[TrainingStage], budget: int | None) -> int:
    """Return the iterations of a job of stages, or refuse stages that cannot be.

    Args:
        stages: In order.
        budget: The iterations that the request gives to all of them together; None where it leaves that open.

    Raises:
        ValueError: Two have one name, one goes back from the first or by a way that has no limit, a condition cannot
            hold within its stage, or one cannot be reached.
    """
    names = Counter(stage.name for stage in stages)
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise ValueError(f"two stages are called {twice!r}; give each a name of its own")
    first, least = stages[0], 0
    if first.start == "best":
        raise ValueError(f"stage {first.name!r} is the first, and has no stage before it to take the best policy of")
    for index, stage in enumerate(stages):
        if stage.kind == "distill" and (stage.start == "scratch" or (index == 0 and isinstance(stage.start, str))):
            raise ValueError(
                f"stage {stage.name!r} distils, and has no teacher: start it from a stage, a job or a checkpoint"
            )
        where = f"stage {stage.name!r}"
        if stage.on_not_reached != "fail" and stage.until is None:
            raise ValueError(f"{where} has no until, so {stage.on_not_reached!r} would never happen; leave it out")
        if stage.on_not_reached == "go_back" and index == 0:
            raise ValueError(f"{where} is the first, and cannot go back; allowed: 'fail', 'go_on'")
        if stage.on_not_reached == "go_back" and stage.start == "scratch":
            raise ValueError(f"{where} goes back, and starts from scratch: what the stage before learns is not used")
        if stage.on_not_reached == "go_back" and budget is None:
            raise ValueError(f"{where} goes back, so maxIterations must say how many iterations all may take together")
        if stage.until is not None and stage.until.for_iterations > stage.max_iterations:
            raise ValueError(
                f"{where} ends after {stage.max_iterations} iterations, and its condition must hold for "
                f"{stage.until.for_iterations}"
            )
        if budget is not None and least >= budget:
            raise ValueError(
                f"{where} cannot be reached: those before it take {least} iterations or more, and maxIterations is "
                f"{budget} for all of them"
            )
        least += stage.until.for_iterations if stage.until else stage.max_iterations
    return sum(stage.max_iterations for stage in stages) if budget is None else budget
