"""A retraining: train again, measure against what is promoted, and say what is better."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from simyard.requests.jobs import Body, Term, TrainRequest, _Model

PromotionName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Metric = Literal["return", "success_rate"]
Start = Literal["incumbent", "newest", "scratch"]


class Comparison(_Model):
    """Measurement of the new policy and the promoted one: the same for both."""

    metric: Metric = "return"
    """Metric to compare; more is better for both."""
    num_episodes: int = Field(200, strict=True, ge=10, le=1_000_000)
    """Completed episodes of each policy: four times as many halve the noise."""
    num_envs: int = Field(100, strict=True, ge=1, le=1_000_000)
    """Environments side by side; never more than there are episodes."""
    steps_per_episode: int = Field(1000, strict=True, ge=1, le=10_000_000)
    """Longer episodes are cut off here, and counted as truncated."""
    seed: int = Field(42, strict=True, ge=0, le=2**31 - 1)
    """Of both evaluations, so that both policies meet the same starts."""
    success_termination: Term | None = None
    """The termination that means success; left out the task's own success metric says, or nothing does."""
    min_delta: float = Field(0.0, ge=0, allow_inf_nan=False)
    """The whole 95 % interval of the difference must lie above this; in the metric's own unit."""


class RetrainRequest(Body):
    """A training, whose policy is promoted only where it is better beyond noise than the one promoted before."""

    SECTION: ClassVar[str] = "evaluation"

    promotion: PromotionName
    """Name below which the store keeps the promoted policy."""
    training: TrainRequest
    """The training, as `simyard train` takes it."""
    start: Start = "incumbent"
    """The checkpoint to begin from: of the promoted policy, of the newest training of the same task, or none."""
    evaluation: Comparison = Comparison()
    """Measurement of both policies."""

    @property
    def library(self) -> str | None:
        """The library that the training names."""
        return self.training.library

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if self.training.resume is not None and self.start != "scratch":
            raise ValueError(
                f"training.resume and start {self.start!r} both name a beginning; leave resume out, or set start to "
                "'scratch'"
            )
        return self
