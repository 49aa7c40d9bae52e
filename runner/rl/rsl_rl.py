"""RSL-RL: `logs/rsl_rl/<experiment>/<time>/model_<index>.pt`, one TensorBoard step an iteration."""

from __future__ import annotations

import copy
import importlib.metadata
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.errors import RequestError
from simyard.runner.rl.base import CheckpointFacts, Library, Normalizer, Policy, Progress, Scale, to_int
from simyard.runner.rl.checkpoints import layers_of, length_of, setting
from simyard.runner.rl.inference import as_network, recurrent, require_flat

if TYPE_CHECKING:
    import torch


_ITERATION = re.compile(r"Learning iteration (\d+)/(\d+)")
_REWARD = re.compile(r"Mean reward:\s*([-+\d.einfa]+)")
_FILE = re.compile(r"model_(\d+)\.pt")


class RslRlPolicy(Policy):
    """The runner's inference policy, or the student of a distillation. The wrapper clips, the model normalises."""

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


class RslRl(Library):
    """The library of Isaac Lab's locomotion tasks, and its default."""

    # --- names ------------------------------------------------------------------------------------------------------

    name = "rsl_rl"
    module = "rsl_rl"
    install = "uv pip install rsl-rl-lib==5.5.1"
    packages = ("rsl-rl-lib",)
    policy = RslRlPolicy

    # --- before a training ------------------------------------------------------------------------------------------

    owned_keys = {
        "agent.seed": "trainingConfig.seed",
        "agent.max_iterations": "trainingConfig.maxIterations",
        "agent.device": "computeConfig.gpusPerNode",
        "agent.logger": None,
        "agent.experiment_name": None,
        "agent.run_name": None,
    }

    def rollout(self, agent_cfg: Mapping[str, Any]) -> int:
        """Return `num_steps_per_env`."""
        return int(agent_cfg["num_steps_per_env"])

    def prepare_resume(self, checkpoint: Path, folder: Path, start_iteration: int) -> Path:
        """Return a copy whose counter names the *next* iteration.

        The library saves the index of the iteration it has just finished and, on loading, runs that index again:
        the last iteration would be trained twice and the job would end one short.
        """
        import torch

        state = torch.load(checkpoint, map_location="cpu", weights_only=False)
        state["iter"] = start_iteration
        target = folder / checkpoint.name
        torch.save(state, target)
        return target

    def scripts_resume(self, checkpoint: Path) -> list[str]:
        """Put the file where 2.3 looks, `logs/rsl_rl/<experiment>/<run>`, and name it by regular expressions."""
        run = Path("logs/rsl_rl/simyard/resumed")
        run.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint, run / checkpoint.name)
        names = ["--load_run", "resumed", "--checkpoint", re.escape(checkpoint.name)]
        return ["--resume", *names, "agent.experiment_name=simyard"]

    # --- during a training ------------------------------------------------------------------------------------------

    prints_absolute = True
    reward_tag = "Train/mean_reward"
    length_tag = "Train/mean_episode_length"
    checkpoint_glob = "logs/rsl_rl/*/*/model_*.pt"

    def progress(self, line: str, scale: Scale) -> Progress | None:
        """Read the iteration's headline (printed when it is done) or its mean reward."""
        if match := _ITERATION.search(line):
            return Progress(done=int(match.group(1)) + 1)
        if match := _REWARD.search(line):
            return Progress(reward=float(match.group(1)))
        return None

    def first_step(self, tag: str, start_iteration: int, scale: Scale) -> int:
        """The step is the iteration's index."""
        return start_iteration

    # --- checkpoints from anywhere ----------------------------------------------------------------------------------

    file_glob = "*.pt"
    file_example = "model_59.pt"
    actor_keys = ("actor_state_dict", "student_state_dict")
    hidden_key = "agent.actor.hidden_dims"
    groups_key = "obs_groups.actor"
    normalizer_key = "agent.actor.obs_normalization"

    def iteration_in_name(self, name: str) -> int | None:
        """`model_59.pt` was saved after iteration index 59, the sixtieth."""
        index = to_int(_FILE.fullmatch(name))
        return None if index is None else index + 1

    def wrote(self, state: Mapping[Any, Any]) -> bool:
        """Look for one of the models."""
        return any(key in state for key in (*self.actor_keys, "model_state_dict"))

    def require_playable(self, file: Path, state: Mapping[Any, Any]) -> None:
        """Refuse the format before 4.0."""
        if not any(key in state for key in self.actor_keys):
            raise RequestError(
                f"Checkpoint {file.name!r} was written by an rsl_rl before 4.0, which kept actor and critic together.",
                code="checkpoint_of_old_rsl_rl",
                advice="Train anew, or play it with the Isaac Lab it was trained with (2.3 has rsl_rl 3.1).",
            )

    def read(self, state: Mapping[Any, Any], actor: Mapping[str, torch.Tensor]) -> CheckpointFacts:
        """Read the layers of `MLPModel` and its kin."""
        layers = layers_of(actor, "mlp.")
        memory = actor.get("rnn.rnn.weight_ih_l0")
        images = any(name.startswith("cnns.") for name in actor)
        seen = memory.shape[1] if memory is not None else layers[0][1] if layers else None
        return CheckpointFacts(
            inputs=None if images else seen,
            outputs=length_of(actor, "distribution.std_param", "distribution.log_std_param"),
            hidden=tuple(size for size, _ in layers[:-1]) if layers else None,
            normalized=any(name.startswith("obs_normalizer.") for name in actor),
        )

    def hidden_sizes(self, agent_cfg: Any) -> Any:
        """Return the actor's, by the new or the old name."""
        return setting(agent_cfg, "actor.hidden_dims") or setting(agent_cfg, "policy.actor_hidden_dims")

    def normalizes(self, agent_cfg: Any) -> bool | None:
        """Look under each name that the setting has had."""
        keys = ("actor.obs_normalization", "policy.actor_obs_normalization", "empirical_normalization")
        return any(bool(setting(agent_cfg, key)) for key in keys)


LIBRARY = RslRl()
