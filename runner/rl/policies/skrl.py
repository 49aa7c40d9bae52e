"""skrl: the runner's agent; its preprocessor normalises, its model clips the mean where it is told to."""

from __future__ import annotations

import copy
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

_MIXINS = (("_g_clip_mean_actions", "_g"), ("_mg_clip_mean_actions", "_mg"), ("_d_clip_actions", "_d"))
"""What each kind of model calls the clipping of the action that is played, and its prefix.

`clip_actions` of the Gaussian ones clips samples, which are not played.
"""


class SkrlPolicy(Policy):
    """An agent in evaluation mode."""

    library = "skrl"

    def __init__(self, env: Any, agent_cfg: Any, checkpoint: Path, normalizer: Path | None = None) -> None:
        from isaaclab_rl.skrl import SkrlVecEnvWrapper
        from skrl import config  # type: ignore[import-untyped]
        from skrl.utils.runner.torch import Runner  # type: ignore[import-untyped]

        cfg = copy.deepcopy(agent_cfg)
        cfg["trainer"]["close_environment_at_exit"] = False
        cfg["agent"]["experiment"] |= {"write_interval": 0, "checkpoint_interval": 0}
        self._env = SkrlVecEnvWrapper(env, ml_framework="torch")
        # The wrapper would seed the environment again, with the seed of whatever skrl ran last in this process.
        self._env._seed = None
        key = config.torch.key
        try:
            self._agent = Runner(self._env, cfg).agent
        finally:
            config.torch.key = key
        _load(self._agent, checkpoint)
        self._agent.enable_training_mode(False, apply_to_models=True)

    def begin(self) -> None:
        """Reset the environment: its wrapper does so once, and has to be told each time."""
        import torch

        self._env._reset_once = True
        with torch.inference_mode():
            self._observations, _ = self._env.reset()

    def step(self) -> None:
        """Play the mean of the distribution."""
        import torch

        with torch.inference_mode():
            with keeping_random_numbers(self._env.device):
                actions, outputs = self._agent.act(self._observations, self._env.state(), timestep=0, timesteps=0)
            self._observations, *_ = self._env.step(outputs.get("mean_actions", actions))

    def network(self) -> torch.nn.Module:
        """Return preprocessor, model and its clipping."""
        import torch

        model = self._agent.policy
        if model.get_specification().get("rnn"):
            raise recurrent("its model has a state")
        require_flat(self._env, self.observation_groups)
        normalizer = self.normalizer()
        clips, prefix = next((name, prefix) for name, prefix in _MIXINS if hasattr(model, name))
        low, high = getattr(model, f"{prefix}_min_actions"), getattr(model, f"{prefix}_max_actions")

        def forward(observations: Any) -> Any:
            if normalizer is not None:
                observations = normalizer.apply(observations)
            actions, _ = model.compute({"observations": observations}, "policy")
            return torch.clamp(actions, min=low, max=high) if getattr(model, clips) else actions

        try:
            return as_network(forward, model=model)
        finally:
            # A model that shares layers with the value keeps what they gave, which was no tensor here.
            if hasattr(model, "_shared_output"):
                model._shared_output = None

    def normalizer(self) -> Normalizer | None:
        """Return the running statistics: skrl adds its epsilon to the deviation."""
        if not self._agent.cfg.observation_preprocessor:
            return None
        scaler = self._agent._observation_preprocessor
        divisor = scaler.running_variance.float().sqrt() + scaler.epsilon
        return Normalizer.of(scaler.running_mean.float(), divisor, clip=scaler.clip_threshold)


def _load(agent: Any, checkpoint: Path) -> None:
    """Load a checkpoint, which must have every part that decides on actions: skrl itself only warns."""
    import torch

    saved = torch.load(checkpoint, map_location=agent.device, weights_only=False)
    parts = ("policy", "observation_preprocessor")
    if missing := [part for part in parts if part in agent.checkpoint_modules and part not in saved]:
        raise RequestError(
            f"Checkpoint {checkpoint.name!r} lacks {missing[0]!r}, which the agent configuration asks for.",
            code="checkpoint_wrong_normalizer" if missing == ["observation_preprocessor"] else "not_a_checkpoint",
            advice="Give the overrides it was trained with.",
        )
    agent.load(str(checkpoint))
