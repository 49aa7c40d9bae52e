"""Actions that nobody has learned: a reward that pays them well does not pay for the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from simyard.core.errors import RequestError
from simyard.core.specs import ACTIONS
from simyard.runner.evaluation.episode_statistics import simulated, together
from simyard.runner.rl.base import Policy


class Unlearned(Policy):
    """Drives an environment by zeros, by uniform random actions, or by those of each episode's first step held.

    Random ones are from -1 to 1, as Isaac Lab's own random agent draws them, or within the bounds of an action that
    has some.
    """

    def __init__(self, env: Any, actions: str, seed: int) -> None:
        """Begin.

        Args:
            env: A gymnasium environment of Isaac Lab, of one agent or of several.
            actions: One of `ACTIONS`.
            seed: Of the random ones, which have a generator of their own.

        Raises:
            RequestError: If an action is something else than numbers.
        """
        import torch

        assert actions in ACTIONS
        self._env, self._actions, self._base = env, actions, simulated(env)
        device = self._base.device
        self._random = torch.Generator(device=device).manual_seed(seed)
        spaces = getattr(self._base, "action_spaces", None) or {"": self._base.single_action_space}
        self._draws = {name: self._drawing(space) for name, space in spaces.items()}
        self._held: dict[str, torch.Tensor] = {}
        self._begins = torch.ones(self._base.num_envs, dtype=torch.bool, device=device)

    def _drawing(self, space: Any) -> Callable[[], Any]:
        """Return what draws an action of a space for every environment."""
        import numpy as np
        import torch

        if not hasattr(space, "low"):
            raise RequestError(
                f"rewardAudit draws actions of numbers, and this task's are {space}.",
                code="no_audit",
                advice="Leave rewardAudit out.",
            )
        shape, device = (self._base.num_envs, *space.shape), self._base.device
        low, high = (
            torch.as_tensor(np.where(np.isfinite(bound), bound, instead), dtype=torch.float32, device=device)
            for bound, instead in ((space.low, -1.0), (space.high, 1.0))
        )

        def draw() -> torch.Tensor:
            return low + (high - low) * torch.rand(shape, generator=self._random, device=device)

        return draw

    def begin(self) -> None:
        """Reset the environment."""
        self._env.reset()
        self._begins[:] = True

    def step(self) -> None:
        """Take one step."""
        import torch

        drawn = {name: draw() for name, draw in self._draws.items()}
        if self._actions == "zero":
            drawn = {name: torch.zeros_like(action) for name, action in drawn.items()}
        if self._actions == "held":
            for name, action in drawn.items():
                begins = self._begins.reshape(-1, *[1] * (action.dim() - 1))
                drawn[name] = torch.where(begins, action, self._held.get(name, action))
            self._held = drawn
        several = isinstance(getattr(self._base, "action_spaces", None), Mapping)
        _, _, terminated, truncated, _ = self._base.step(drawn if several else drawn[""])
        self._begins = together(terminated) | together(truncated)
