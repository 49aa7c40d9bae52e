"""The part of an evaluation's request about evidence: conditions to vary, and how many episodes are enough."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from simyard.core.errors import RequestError
from simyard.requests.base import _Model
from simyard.runner.evaluation import factors

UNKNOWN = "unknown_name"
"""Type of the validation errors that say in full what was given and what is allowed."""
MOST_FACTORS, MOST_LEVELS = 20, 50

FactorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.-]{0,199}$")]
Levels = Annotated[tuple[JsonValue, ...], Field(min_length=1, max_length=MOST_LEVELS)]
Design = Literal["one_at_a_time", "grid", "latin_hypercube"]


def _known(given: dict[str, Levels]) -> dict[str, Levels]:
    """Return variations with each factor under its one name.

    Raises:
        PydanticCustomError: A factor or a level is unknown, or a factor stands there twice.
    """
    found: dict[str, Levels] = {}
    try:
        for name, levels in given.items():
            known = factors.canonical(name)
            if known in found:
                raise RequestError(f"Factor {known!r} stands there twice.", advice="Give all its levels in one list.")
            for level in levels:
                factors.check_level(known, level)
            found[known] = levels
    except RequestError as error:
        # Braces would be taken for places to fill in.
        raise PydanticCustomError(UNKNOWN, "{message}", {"message": str(error)}) from None
    return found


Variations = Annotated[dict[FactorName, Levels], Field(max_length=MOST_FACTORS), AfterValidator(_known)]


class Plan(_Model):
    """Number of episodes by what they are to tell: `difference` plans it beforehand, `halfWidth` stops on the way."""

    model_config = ConfigDict(allow_inf_nan=False)

    metric: Literal["success_rate", "return"] = "success_rate"
    """Figure in question; `difference` is one of success rates."""
    difference: float | None = Field(None, strict=True, gt=0, lt=1)
    """Difference of success rates that is to be found: of an arm from the control arm, or of two policies where nothing
    is varied. `numEpisodes` follows from it."""
    power: float = Field(0.8, strict=True, ge=0.5, le=0.999)
    """Probability to find that difference, where there is one; by custom 0.8."""
    rate: float = Field(0.9, strict=True, gt=0, le=1)
    """Success rate that is expected of the control arm, or of the better policy."""
    half_width: float | None = Field(None, strict=True, gt=0)
    """Half of the width at which an interval is narrow enough: the evaluation stops then, after `numEpisodes` at the
    latest. The interval is one that may be looked at at any time."""

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if (self.difference is None) == (self.half_width is None):
            raise ValueError("give either difference or halfWidth")
        if self.difference is not None and self.metric != "success_rate":
            raise ValueError("difference is one of success rates; of returns give halfWidth")
        if self.difference is not None and self.difference > self.rate:
            raise ValueError(
                f"difference {self.difference:g} is more than the rate {self.rate:g} that it is taken from"
            )
        return self
