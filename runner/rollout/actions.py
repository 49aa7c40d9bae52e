"""Actions for a registered task that no policy drives: zero, or random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simyard.core.errors import RequestError

if TYPE_CHECKING:
    import torch


class ZeroActions:
    """Takes the action that is 0 everywhere; of choices, the first."""

    def __init__(self, env: Any) -> None:
        """Look at the task's actions.

        Raises:
            RequestError: If they are neither a vector nor choices.
        """
        import gymnasium

        base = env.unwrapped
        space = base.single_action_space
        if not isinstance(space, gymnasium.spaces.Box | gymnasium.spaces.Discrete | gymnasium.spaces.MultiDiscrete):
            raise RequestError(
                f"The task's actions are a {type(space).__name__}; only vectors and choices are made here.",
                code="unsupported_actions",
                advice="Drive it by a policy, or write a class that drives it.",
            )
        self._env = env
        self._space = space
        self._device = base.device
        self._shape = (base.num_envs, *(space.shape or (1,)))  # Isaac Lab has a column for a single choice too

    def begin(self) -> None:
        """Reset the environment."""
        import torch

        with torch.inference_mode():
            self._env.reset()

    def step(self) -> None:
        """Take one step."""
        import torch

        with torch.inference_mode():
            self._env.step(self._draw())

    def _draw(self) -> torch.Tensor:
        import torch

        if hasattr(self._space, "low"):
            return torch.zeros(self._shape, device=self._device)
        first = torch.as_tensor(self._space.start, device=self._device)
        return torch.zeros(self._shape, dtype=torch.long, device=self._device) + first


class RandomActions(ZeroActions):
    """Takes actions uniform within the task's bounds; where it has none, within [-1, 1].

    They come from a generator of their own: what the task draws is the same whatever drives it.
    """

    def __init__(self, env: Any, seed: int) -> None:
        super().__init__(env)
        import torch

        self._generator = torch.Generator(device=self._device).manual_seed(seed)
        if hasattr(self._space, "low"):
            low, high = (torch.as_tensor(side, device=self._device) for side in (self._space.low, self._space.high))
            # A side without a bound is 2 from the other.
            self._low = torch.where(low.isfinite(), low, torch.where(high.isfinite(), high - 2, -1.0))
            self._range = torch.where(high.isfinite(), high, self._low + 2) - self._low
        else:
            counts = self._space.nvec if hasattr(self._space, "nvec") else self._space.n
            self._low = torch.as_tensor(self._space.start, device=self._device)
            self._range = torch.as_tensor(counts, device=self._device)

    def _draw(self) -> torch.Tensor:
        import torch

        chance = torch.rand(self._shape, generator=self._generator, device=self._device)
        if hasattr(self._space, "low"):
            return self._low + chance * self._range
        return self._low + torch.minimum((chance * self._range).long(), self._range - 1)  # 0.99999 may round up
