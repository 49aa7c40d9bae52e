"""Stable-Baselines3: PPO's prediction; VecNormalize around the environment normalises, the prediction clips."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.errors import RequestError
from simyard.runner.rl.policies.base import Normalizer, Policy, as_network, require_flat
from simyard.runner.rl.safe_load import SB3_POLICY, load

if TYPE_CHECKING:
    import torch

_NOT_PPO = ("policy", "n_timesteps", "normalize_input", "normalize_value", "clip_obs", "n_minibatches")
"""Settings that Isaac Lab takes out of the configuration before PPO sees it."""


class Sb3Policy(Policy):
    """PPO, built from its configuration: `PPO.load` would run whatever code the checkpoint holds."""

    library = "sb3"

    def __init__(self, env: Any, agent_cfg: Any, checkpoint: Path, normalizer: Path | None = None) -> None:
        from isaaclab_rl.sb3 import Sb3VecEnvWrapper, process_sb3_cfg
        from stable_baselines3 import PPO
        from stable_baselines3.common.vec_env import VecNormalize

        if agent_cfg.get("normalize_input") and normalizer is None:
            raise RequestError(
                f"The policy of {checkpoint.name!r} sees normalised observations, and no statistics came with it.",
                code="normalizer_missing",
                advice="Give the model_vecnormalize.pkl that the same training left beside it.",
            )
        cfg = process_sb3_cfg(copy.deepcopy(agent_cfg), env.unwrapped.num_envs)
        name = cfg["policy"]
        # The smallest rollout that PPO accepts, since none is made; and no seed, which would seed the environment.
        cfg |= {"device": env.unwrapped.device, "seed": None, "n_steps": 2, "batch_size": 2}
        self._env = Sb3VecEnvWrapper(env)
        self._statistics = None
        if normalizer is not None:
            try:
                self._env = self._statistics = VecNormalize.load(str(normalizer), self._env)
            except Exception as error:
                raise RequestError(
                    f"{normalizer.name!r} holds no statistics of this task's observations: "
                    f"{type(error).__name__}: {error}",
                    code="normalizer_unusable",
                    advice="Give the model_vecnormalize.pkl of the training that the checkpoint is from.",
                ) from error
            self._statistics.training = self._statistics.norm_reward = False
        self._agent = PPO(name, self._env, **{key: value for key, value in cfg.items() if key not in _NOT_PPO})
        self._agent.policy.load_state_dict(load(checkpoint)[SB3_POLICY])

    def begin(self) -> None:
        """Reset the environment."""
        import torch

        with torch.inference_mode():
            self._observations = self._env.reset()

    def step(self) -> None:
        """Play the mean of the distribution."""
        import torch

        with torch.inference_mode():
            actions, _ = self._agent.predict(self._observations, deterministic=True)
            self._observations, *_ = self._env.step(actions)

    def network(self) -> torch.nn.Module:
        """Return normaliser, layers, and what `predict` does with their output."""
        import torch

        require_flat(self._env, self.observation_groups)
        policy, normalizer = self._agent.policy, self.normalizer()
        low, high = (torch.as_tensor(limit) for limit in (policy.action_space.low, policy.action_space.high))

        def forward(observations: Any) -> Any:
            if normalizer is not None:
                observations = normalizer.apply(observations)
            features = policy.pi_features_extractor(observations)
            actions = policy.action_net(policy.mlp_extractor.policy_net(features))
            if policy.squash_output:
                return low + 0.5 * (torch.tanh(actions) + 1.0) * (high - low)
            return torch.clamp(actions, low, high)

        return as_network(forward, policy=policy)

    def normalizer(self) -> Normalizer | None:
        """Return the running statistics: VecNormalize adds its epsilon to the variance."""
        if self._statistics is None or not self._statistics.norm_obs:
            return None
        running: Any = self._statistics.obs_rms
        divisor = (running.var + self._statistics.epsilon) ** 0.5
        return Normalizer.of(running.mean, divisor, clip=float(self._statistics.clip_obs))
