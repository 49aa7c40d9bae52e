"""Pairs of observation and action of a policy, taken at the border of the environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_STEPS = 200
"""Steps that are kept; every environment's are, so these are thousands of pairs."""


class PairRecorder:
    """Stands in an environment's `step`, like `EpisodeMeter`, and keeps what passes."""

    def __init__(self, env: Any, groups: tuple[str, ...]) -> None:
        """Take the place.

        Args:
            env: The gymnasium environment.
            groups: Observation groups that the network sees, in its order.
        """
        self._base = env.unwrapped
        self._groups = groups
        self._step = self._base.step
        self._base.step = self._record
        self._seen: Any = None
        self._observations: list[Any] = []
        self._actions: list[Any] = []
        self._first: list[Any] = []
        self._contributions: Any = None
        # By name now: the environment forgets its managers when it closes.
        manager = getattr(self._base, "reward_manager", None)
        self._terms: list[str] = [] if manager is None else list(manager.active_terms)

    def _look(self, observations: Any) -> Any:
        import torch

        seen = torch.cat([observations[group] for group in self._groups], dim=-1)
        return seen.detach().to("cpu", copy=True)

    def _record(self, action: Any) -> Any:
        kept = len(self._actions) < MOST_STEPS
        if kept:
            self._observations.append(self._look(self._base.obs_buf) if self._seen is None else self._seen)
            self._actions.append(action.detach().to("cpu", copy=True))
            self._first.append((self._base.episode_length_buf == 0).to("cpu", copy=True))
        answer = self._step(action)
        if kept:
            self._seen = self._look(answer[0])  # now: rl_games clips what it is given in its place
        if (manager := getattr(self._base, "reward_manager", None)) is not None:
            part = (manager._step_reward * self._base.step_dt).abs().sum(dim=0)
            self._contributions = part if self._contributions is None else self._contributions + part
        return answer

    @property
    def observations(self) -> NDArray[np.float32]:
        """`(steps, environments, observations)`, as the environment gave them."""
        return self._stack(self._observations)

    @property
    def actions(self) -> NDArray[np.float32]:
        """`(steps, environments, actions)`, as they reached the environment."""
        return self._stack(self._actions)

    @property
    def first_steps(self) -> NDArray[np.bool_]:
        """`(steps, environments)`, true where an episode has begun."""
        import torch

        first: NDArray[np.bool_] = torch.stack(self._first).numpy()
        return first

    @property
    def contributions(self) -> dict[str, float] | None:
        """Each reward term's summed absolute part; None where the task does not name them."""
        if self._contributions is None:
            return None
        return dict(zip(self._terms, self._contributions.tolist(), strict=True))

    def _stack(self, parts: list[Any]) -> NDArray[np.float32]:
        import torch

        stacked: NDArray[np.float32] = torch.stack(parts).to(torch.float32).numpy()
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
