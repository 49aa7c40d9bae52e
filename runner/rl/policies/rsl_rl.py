"""RSL-RL: the runner's inference policy; the wrapper clips actions, the model normalises."""

from __future__ import annotations

import copy
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.errors import RequestError
from simyard.runner.rl.policies.base import Normalizer, Policy, as_network, recurrent, require_flat

if TYPE_CHECKING:
    import torch


class RslRlPolicy(Policy):
    """The actor, or the student of a distillation."""

    library = "rsl_rl"
    can_sample = True

    def __init__(self, env: Any, agent_cfg: Any, checkpoint: Path, normalizer: Path | None = None) -> None:
        from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper, create_rsl_rl_runner, handle_deprecated_rsl_rl_cfg

        device = env.unwrapped.device
        cfg = handle_deprecated_rsl_rl_cfg(copy.deepcopy(agent_cfg), importlib.metadata.version("rsl-rl-lib"))
        cfg.device = device
        self._env = RslRlVecEnvWrapper(env, clip_actions=cfg.clip_actions)
        runner = create_rsl_rl_runner(self._env, cfg)
        runner.load(str(checkpoint), map_location=device)
        self._actor = runner.get_inference_policy(device=device)
        self._samples = False
        # A model for images keeps those of its groups apart that are not flat.
        self.observation_groups = (*self._actor.obs_groups, *getattr(self._actor, "obs_groups_2d", ()))

    def begin(self) -> None:
        """Reset the environment and the actor's memory."""
        import torch

        with torch.inference_mode():
            self._observations, _ = self._env.reset()
            self._actor.reset()

    def step(self) -> None:
        """Act, and forget what belongs to ended episodes."""
        import torch

        with torch.inference_mode():
            actions = self._actor(self._observations, stochastic_output=self._samples)
            if self._samples:
                self.log_prob = self._actor.get_output_log_prob(actions)
            self._observations, _, dones, _ = self._env.step(actions)
            self._actor.reset(dones)

    def sample(self) -> None:
        """Draw actions as training does: from the actor's distribution, before the wrapper clips."""
        if self._actor.distribution is None:
            raise RequestError(
                "control.sample is true, and this policy is deterministic: it has no distribution.",
                code="bad_control",
                advice="Leave sample out: such a policy is played as it is.",
            )
        self._samples = True

    def network(self) -> torch.nn.Module:
        """Return normaliser, layers and the mean of the distribution, then the wrapper's clipping."""
        import torch

        if self._actor.is_recurrent:
            raise recurrent(type(self._actor).__name__)
        require_flat(self._env, self.observation_groups)
        actor, clip = self._actor.as_jit(), self._env.clip_actions

        def forward(observations: Any) -> Any:
            actions = actor(observations)
            return actions if clip is None else torch.clamp(actions, -clip, clip)

        return as_network(forward, actor=actor)

    def normalizer(self) -> Normalizer | None:
        """Return the empirical statistics: RSL-RL adds its epsilon to the deviation and clips nothing."""
        if not self._actor.obs_normalization:
            return None
        statistics = self._actor.obs_normalizer
        return Normalizer.of(statistics.mean, statistics.std + statistics.eps)
