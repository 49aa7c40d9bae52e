"""Evidence for the checklist: measured numbers, what takes them in the environment's `step`, and thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simyard.core.specs import JointLimits, Robot
from simyard.core.stages import Stages
from simyard.core.wire import Wire
from simyard.runner.exporting.contract import Contract, Statistics
from simyard.runner.exporting.parity import FEWEST_ROWS, Parity

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from simyard.runner.exporting.describe import EventTerm, RewardTerm
    from simyard.runner.rl.networks import Network

MOST_STEPS = 200
"""Steps of a rollout that are kept; every environment's are, so these are thousands of pairs."""
MOST_BYTES = 256 * 2**20
"""Room for what is kept; images are large."""
AFTER_RESET = 20
"""Steps behind the end of an episode in which a memory that was not set back shows."""
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
class HistorySample(Wire):
    """Histories of a rollout against what was seen a step before, by observation term."""

    rows: dict[str, int]
    """Steps that were compared, of all environments: those that begin no episode."""
    wrong: dict[str, int]
    """Those where an older sample is not the one of the step before."""


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
    """The same checkpoint in another physics engine, from the same starts."""

    reference_physics: str
    """The engine of training, such as `newton`."""
    physics: str
    """The other one, such as `physx`, or a preset of the task."""
    episodes: int
    """Pairs of episodes."""
    reference_return: float
    """Mean return under training's physics."""
    mean_return: float
    """Mean return under the other."""
    drop_interval: tuple[float, float]
    """95 % interval of the mean of what is lost, pair by pair."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything the checklist looks at; None is not measured."""

    contract: Contract
    parity: Parity | None = None
    reward_contributions: Mapping[str, float] | None = None
    """For each reward term the sum of its absolute contributions (weighted, times the step) over an evaluation; None
    also for a task that does not say, as direct tasks do not."""
    reward_terms: Mapping[str, RewardTerm] | None = None
    """As `describe.rewards` returns it; None for a task that does not say."""
    terminations: tuple[str, ...] = ()
    """Names of the termination terms."""
    critic_groups: tuple[str, ...] = ("critic",)
    """Observation groups of the critic, as far as the environment has them."""
    normalized: NormalizedSample | None = None
    """From `measure_normalizer`; not needed for a network that does not normalise."""
    actions: ActionSample | None = None
    """From `measure_actions`."""
    history: HistorySample | None = None
    """From `measure_history`."""
    actuator_delays: Mapping[str, tuple[float, float]] | None = None
    """Least and most seconds by which training delayed each group of actuators; None where that is not known."""
    robot: Robot = field(default_factory=Robot)
    """The real robot, as far as the user tells of it."""
    action_limits: Mapping[str, JointLimits] | None = None
    """Limits the user gave for the robot, by joint."""
    long_run: LongRun | None = None
    second_simulator: SecondSimulator | None = None
    curriculum: Mapping[str, float | None] | None = None
    """The stage of each curriculum term at the end of training; empty for a task that has no curriculum, None also
    for one that does not say."""
    stages: Stages | None = None
    """The stages of the training when the policy was saved; None for a training without."""
    randomization: Mapping[str, EventTerm] | None = None
    """As `describe.events` returns it."""


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


def measure_history(
    observations: NDArray[np.float32], first_steps: NDArray[np.bool_], contract: Contract
) -> HistorySample | None:
    """Return whether histories hold what was seen before, oldest first; None for a policy that sees none.

    Args:
        observations: (steps, environments, observations), as the environment gave them.
        first_steps: (steps, environments), true where an episode has begun: its history begins anew.
        contract: Of the policy.
    """
    rows: dict[str, int] = {}
    wrong: dict[str, int] = {}
    for term in contract.input_terms:
        if term.history_length < 2 or term.slices is None or term.name is None:
            continue
        columns = [n for start, stop in term.slices for n in range(start, stop)]
        samples = observations[..., columns].reshape(*observations.shape[:2], term.history_length, -1)
        goes_on = ~first_steps[1:]
        differs = (samples[1:, :, :-1] != samples[:-1, :, 1:]).any(axis=(2, 3))
        rows[term.name], wrong[term.name] = int(goes_on.sum()), int((differs & goes_on).sum())
    return HistorySample(rows=rows, wrong=wrong) if rows else None


class PairRecorder:
    """Stands in an environment's `step`, like `EpisodeMeter`, and keeps what passes.

    Of a policy with a memory it keeps a whole episode, of as many environments as there is room for.
    """

    def __init__(self, env: Any, network: Network) -> None:
        """Take the place.

        Args:
            env: The gymnasium environment.
            network: The policy's.
        """
        self._base = env.unwrapped
        self._inputs = network.inputs
        self._step = self._base.step
        self._base.step = self._record
        self._next: list[torch.Tensor] | None = None
        self._observations: list[list[torch.Tensor]] = [[] for _ in network.inputs]
        self._actions: list[torch.Tensor] = []
        self._first: list[torch.Tensor] = []
        self._contributions: Any = None
        # By name now: the environment forgets its managers when it closes.
        manager = getattr(self._base, "reward_manager", None)
        self._terms: list[str] = [] if manager is None else list(manager.active_terms)
        # As much as there is room for.
        row = 4 * sum(math.prod(each.shape) for each in network.inputs)
        self._envs, self._most = int(self._base.num_envs), MOST_STEPS
        if network.states:
            self._most = int(self._base.max_episode_length) + AFTER_RESET
            self._envs = max(1, min(self._envs, MOST_BYTES // (row * self._most)))
        fewest = -(-FEWEST_ROWS // self._envs)
        self._most = max(fewest, 2, min(self._most, MOST_BYTES // (row * self._envs)))

    def _seen(self, observations: Any) -> list[torch.Tensor]:
        return [self._kept(each.take(observations).float()) for each in self._inputs]

    def _kept(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor[: self._envs].detach().to("cpu", copy=True)

    def _record(self, action: Any) -> Any:
        kept = len(self._actions) < self._most
        if kept:
            seen = self._seen(self._base.obs_buf) if self._next is None else self._next
            for steps, one in zip(self._observations, seen, strict=True):
                steps.append(one)
            self._actions.append(self._kept(action.float()))
            self._first.append(self._kept(self._base.episode_length_buf == 0))
        answer = self._step(action)
        if kept:
            self._next = self._seen(answer[0])  # now: rl_games clips what it is given in its place
        if (manager := getattr(self._base, "reward_manager", None)) is not None:
            part = (manager._step_reward * self._base.step_dt).abs().sum(dim=0)
            self._contributions = part if self._contributions is None else self._contributions + part
        return answer

    @property
    def observations(self) -> dict[str, NDArray[np.float32]]:
        """Of each input `(steps, environments, *its shape)`, as the environment gave them."""
        return {each.name: _stacked(steps) for each, steps in zip(self._inputs, self._observations, strict=True)}

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest number of each input."""
        return {
            each.name: (min(float(one.min()) for one in steps), max(float(one.max()) for one in steps))
            for each, steps in zip(self._inputs, self._observations, strict=True)
        }

    @property
    def actions(self) -> NDArray[np.float32]:
        """`(steps, environments, actions)`, as they reached the environment."""
        return _stacked(self._actions)

    @property
    def first_steps(self) -> NDArray[np.bool_]:
        """`(steps, environments)`, true where an episode has begun."""
        return _stacked(self._first)

    @property
    def contributions(self) -> dict[str, float] | None:
        """Each reward term's summed absolute part; None where the task does not name them."""
        if self._contributions is None:
            return None
        return dict(zip(self._terms, self._contributions.tolist(), strict=True))


def _stacked(steps: list[torch.Tensor]) -> NDArray[Any]:
    import torch

    stacked: NDArray[Any] = torch.stack(steps).numpy()
    return stacked


class FiniteWatch:
    """Stands in an environment's `step` and counts what is not a number, and episodes that end."""

    def __init__(self, env: Any) -> None:
        self._base = env.unwrapped
        self._step = self._base.step
        self._base.step = self._watch
        self.non_finite = 0
        """Observations, actions and rewards."""
        self.terminations = 0
        self.steps = 0

    def _watch(self, action: Any) -> Any:
        answer = self._step(action)
        observations, reward, terminated, _, _ = answer
        for values in (*observations.values(), reward, action):
            self.non_finite += int((~values.isfinite()).sum())
        self.terminations += int(terminated.sum())
        self.steps += 1
        return answer
