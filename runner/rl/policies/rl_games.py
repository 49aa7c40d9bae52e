"""rl_games: the player; it normalises, clips to [-1, 1] and rescales, and its wrapper clips on both sides."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.errors import RequestError
from simyard.runner.rl.policies.base import (
    Normalizer,
    Policy,
    as_network,
    keeping_random_numbers,
    recurrent,
    require_flat,
)

if TYPE_CHECKING:
    import torch

_CLIP = 5.0
"""Where the library's normaliser clips; it has no setting."""


class RlGamesPolicy(Policy):
    """A player of one of the actor-critic algorithms."""

    library = "rl_games"

    def __init__(self, env: Any, agent_cfg: Any, checkpoint: Path, normalizer: Path | None = None) -> None:
        from isaaclab_rl.rl_games import RlGamesVecEnvWrapper
        from rl_games.torch_runner import Runner  # type: ignore[import-untyped]

        device = env.unwrapped.device
        cfg = copy.deepcopy(agent_cfg)
        config = cfg["params"]["config"]
        config |= {"device": device, "device_name": device, "multi_gpu": False, "num_actors": env.unwrapped.num_envs}
        self._env = RlGamesVecEnvWrapper.from_agent_cfg(env, cfg)
        runner = Runner()
        runner.load(cfg)
        # Told what the environment is like, the player looks for none in the library's registry of this process.
        runner.params["config"]["env_info"] = self._env.get_env_info()
        self._player = runner.create_player()
        _load(self._player, checkpoint, device)
        self.observation_groups = tuple(self._env._obs_groups["obs"])

    def begin(self) -> None:
        """Reset the environment and the player's memory."""
        import torch

        with torch.inference_mode():
            self._observations = self._player.obs_to_torch(self._env.reset())
            self._player.get_batch_size(self._observations, 1)
            self._player.states = None
            self._player.init_rnn()

    def step(self) -> None:
        """Act, and forget what belongs to ended episodes."""
        import torch

        player = self._player
        with torch.inference_mode():
            with keeping_random_numbers(player.device):
                actions = player.get_action(self._observations, is_deterministic=True)
            observations, _, dones, _ = self._env.step(actions)
            self._observations = player.obs_to_torch(observations)
            if player.is_rnn:
                for state in player.states:
                    state[:, dones] = 0.0

    def network(self) -> torch.nn.Module:
        """Return both clippings of the wrapper with the player's normaliser, layers and rescaling between them."""
        import torch

        player, wrapper = self._player, self._env
        if player.is_rnn:
            raise recurrent(player.model.a2c_network.rnn_name)
        require_flat(wrapper, self.observation_groups)
        normalizer = self.normalizer()
        layers = player.model.a2c_network
        clip_observations, clip_actions = wrapper._clip_obs, wrapper._clip_actions
        middle, half = (player.actions_high + player.actions_low) / 2, (player.actions_high - player.actions_low) / 2

        def forward(observations: Any) -> Any:
            if normalizer is not None:
                observations = normalizer.apply(observations)
            elif math.isfinite(clip_observations):
                observations = torch.clamp(observations, -clip_observations, clip_observations)
            actions, *_ = layers({"obs": observations})
            if player.clip_actions:
                actions = torch.clamp(actions, -1.0, 1.0) * half + middle
            return torch.clamp(actions, -clip_actions, clip_actions) if math.isfinite(clip_actions) else actions

        return as_network(forward, layers=layers)

    def normalizer(self) -> Normalizer | None:
        """Return the running statistics: rl_games adds its epsilon to the variance."""
        if not self._player.normalize_input:
            return None
        statistics = self._player.model.running_mean_std
        divisor = (statistics.running_var.float() + statistics.epsilon).sqrt()
        before = self._env._clip_obs if math.isfinite(self._env._clip_obs) else None
        return Normalizer.of(statistics.running_mean.float(), divisor, clip=_CLIP, clip_before=before)


def _load(player: Any, checkpoint: Path, device: str) -> None:
    """Load the weights onto the player's device: the library's own way needs the device they were trained on."""
    import torch

    saved = torch.load(checkpoint, map_location=device, weights_only=False)
    if not isinstance(saved.get("model"), dict):
        raise RequestError(
            f"Checkpoint {checkpoint.name!r} has no 'model', so it is of an algorithm that simyard does not play.",
            code="unsupported_policy",
            advice="Use a2c_continuous or a2c_discrete (PPO).",
        )
    # Compiled models are saved under longer names.
    model = {name.removeprefix("_orig_mod."): tensor for name, tensor in saved["model"].items()}
    player.set_weights({**saved, "model": model})
