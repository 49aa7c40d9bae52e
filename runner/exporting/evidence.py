"""Evidence for the checklist: measured numbers, and functions that take some of them from a rollout."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from simyard.core.errors import RequestError, unknown
from simyard.core.specs import JointLimits
from simyard.core.wire import Wire
from simyard.runner.exporting.contract import Contract, Statistics
from simyard.runner.exporting.parity import Parity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_PARTS = 8
"""Fewest parts of a rollout that a standard error is taken from."""


@dataclass(frozen=True, kw_only=True)
class Thresholds(Wire):
    """Thresholds of the checklist."""

    reward_share: float = 0.8
    """Of the summed absolute rewards, for the largest term."""
    normalized_mean: float = 2.0
    """Largest magnitude of a normalised observation's mean, in training's standard deviations; `normalized_errors`
    standard errors are added. Not 0: the statistics are of all of training, its clumsy beginning too. Where a share s
    of training was like the rollout, the right normaliser's mean is within sqrt((1 - s) / s), whatever the rest was:
    within 2 for a fifth. Seen: cartpoles 0.1 to 0.5, an ant 0.8; the ant with its observations turned round 250."""
    normalized_mean_wrong: float = 3.0
    """Beyond it the normaliser is wrong: not a tenth of training was like this. Between the two a person decides."""
    normalized_errors: float = 3.0
    """Standard errors of the sample's mean that are added to both."""
    long_run_factor: float = 10.0
    """Times the episode length that a run must last."""
    return_drop: float = 0.2
    """Of the mean return, under other physics."""


@dataclass(frozen=True, kw_only=True)
class NormalizedSample(Wire):
    """The policy's own observations after the exported normaliser, before its clip."""

    mean: tuple[float, ...]
    """One for each observation, over all steps and environments."""
    standard_error: tuple[float, ...]
    """Of `mean`; from the means of parts that are hardly alike, as steps that follow each other are."""
    steps: int
    """Of each environment."""
    environments: int


@dataclass(frozen=True, kw_only=True)
class ActionSample(Wire):
    """Actions of the policy in a rollout, before the action scale."""

    lowest: tuple[float, ...]
    """One for each action."""
    highest: tuple[float, ...]
    """One for each action."""
    largest_step: tuple[float, ...]
    """Largest change from one action to the next of the same episode, one for each action."""


@dataclass(frozen=True, kw_only=True)
class LongRun(Wire):
    """A rollout far beyond the episode length, with the time limit moved and nothing else changed."""

    steps: int
    """Control steps of each environment."""
    episode_steps: int
    """The task's own episode length."""
    environments: int
    non_finite: int
    """Observations, actions and rewards that were not finite."""
    early_terminations: int
    """Episodes that ended before the moved time limit."""


@dataclass(frozen=True, kw_only=True)
class SecondSimulator(Wire):
    """The same checkpoint under another physics preset."""

    physics: str
    """The other preset, such as `newton_kamino`."""
    episodes: int
    """Of each of the two."""
    reference_return: float
    """Mean return under training's physics."""
    mean_return: float
    """Mean return under the other."""
    drop_interval: tuple[float, float]
    """95 % interval of `reference_return - mean_return`."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything the checklist looks at; None is not measured."""

    contract: Contract
    parity: Parity | None = None
    reward_contributions: Mapping[str, float] | None = None
    """For each reward term the sum of its absolute contributions (weighted, times the step) over an evaluation; None
    also for a task that does not say, as direct tasks do not."""
    critic_groups: tuple[str, ...] = ("critic",)
    """Observation groups of the critic, as far as the environment has them."""
    normalized: NormalizedSample | None = None
    """From `measure_normalizer`; not needed for a network that does not normalise."""
    actions: ActionSample | None = None
    """From `measure_actions`."""
    action_limits: Mapping[str, JointLimits] | None = None
    """Limits the user gave for the robot, by joint."""
    long_run: LongRun | None = None
    second_simulator: SecondSimulator | None = None
    curriculum: Mapping[str, float | None] | None = None
    """The stage of each curriculum term at the end of training; empty for a task that has no curriculum, None also
    for one that does not say."""
    randomization: Mapping[str, Any] | None = None
    """As `describe.events` returns it."""


def parse_limits(limits: Mapping[str, Any]) -> dict[str, JointLimits]:
    """Return a robot's limits by joint from JSON, as a request has them.

    Raises:
        RequestError: If one is unknown, or no positive number or interval.
    """
    return {joint: _joint_limits(joint, given) for joint, given in limits.items()}


def _joint_limits(joint: str, given: Any) -> JointLimits:
    if isinstance(given, JointLimits):
        return given
    kinds = [field.name for field in fields(JointLimits)]
    if not isinstance(given, Mapping):
        raise _bad_limit(joint, given)
    for kind, value in given.items():
        if kind not in kinds:
            raise unknown(f"limit of joint {joint!r}", kind, kinds, code="bad_limits")
        if not (_is_interval(value) if kind == "position" else _is_number(value) and value >= 0):
            raise _bad_limit(joint, {kind: value})
    values: dict[str, Any] = {kind: tuple(value) if kind == "position" else value for kind, value in given.items()}
    return JointLimits(**values)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_interval(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value)) and value[0] <= value[1]


def _bad_limit(joint: str, given: Any) -> RequestError:
    return RequestError(
        f"The limits of joint {joint!r} are {given!r}.",
        code="bad_limits",
        advice='Expected {"max_velocity": 2.0, "position": [-1.5, 1.5], "max_effort": 40.0}, or some of these.',
    )


def measure_normalizer(observations: NDArray[np.float32], statistics: Statistics) -> NormalizedSample:
    """Return a policy's own observations as its normaliser gives them.

    Args:
        observations: (steps, environments, observations), as the environment gave them; two steps or more.
        statistics: Of the contract.

    Raises:
        ValueError: If the shape is another.
    """
    import numpy as np

    if observations.ndim != 3 or observations.shape[2] != len(statistics.mean) or len(observations) < 2:
        raise ValueError(
            f"Observations of the shape {observations.shape}, expected (two or more steps, environments, "
            f"{len(statistics.mean)})."
        )
    given = observations.astype(np.float64)
    if statistics.clip_before is not None:
        given = np.clip(given, -statistics.clip_before, statistics.clip_before)
    normalized = (given - np.array(statistics.mean)) / np.array(statistics.divisor)
    # Environments are independent; a few long ones are cut into pieces, which nearly are.
    pieces = 1 if observations.shape[1] >= _PARTS else min(_PARTS, len(observations))
    means = np.concatenate([piece.mean(axis=0) for piece in np.array_split(normalized, pieces)])
    return NormalizedSample(
        mean=tuple(normalized.mean(axis=(0, 1)).tolist()),
        standard_error=tuple((means.std(axis=0, ddof=1) / len(means) ** 0.5).tolist()),
        steps=observations.shape[0],
        environments=observations.shape[1],
    )


def measure_actions(actions: NDArray[np.float32], first_steps: NDArray[np.bool_]) -> ActionSample:
    """Return the range of a policy's actions and the largest change between two that follow each other.

    Args:
        actions: (steps, environments, actions), as they were sent to the base environment; two steps or more.
        first_steps: (steps, environments), true where an episode has begun: its change is not counted.

    Raises:
        ValueError: If the shapes are others.
    """
    import numpy as np

    if actions.ndim != 3 or len(actions) < 2 or first_steps.shape != actions.shape[:2]:
        raise ValueError(
            f"Actions of the shape {actions.shape} and first steps of {first_steps.shape}, expected (two or more "
            "steps, environments, actions) and (steps, environments)."
        )
    changes = np.abs(np.diff(actions.astype(np.float64), axis=0))
    changes[first_steps[1:]] = 0.0
    return ActionSample(
        lowest=tuple(actions.min(axis=(0, 1)).tolist()),
        highest=tuple(actions.max(axis=(0, 1)).tolist()),
        largest_step=tuple(changes.max(axis=(0, 1)).tolist()),
    )
