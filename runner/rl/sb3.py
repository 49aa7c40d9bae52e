"""Stable-Baselines3: `logs/sb3/<task>/<time>/model.zip`, `model_<n>_steps.zip`; counts start anew on resume."""

from __future__ import annotations

import copy
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.errors import RequestError
from simyard.core.foreign import parse_json
from simyard.runner.rl.base import CheckpointFacts, Library, Normalizer, Policy, Progress, Scale, to_int
from simyard.runner.rl.checkpoints import layers_of, length_of, load, no_checkpoint, setting
from simyard.runner.rl.inference import as_network, require_flat

if TYPE_CHECKING:
    import torch


_TIMESTEPS = re.compile(r"\|\s+total_timesteps\s+\|\s+(\d+)\s+\|")
_REWARD = re.compile(r"\|\s+ep_rew_mean\s+\|\s+(\S+)\s+\|")
_FILE = re.compile(r"model_(\d+)_steps\.zip")
_FINAL = "model.zip"
_WEIGHTS = "policy.pth"
"""The member of an archive that holds weights; `data` beside it holds settings, some of them pickled."""
_MOST_SETTINGS = 64 << 20
_NOT_PPO = ("policy", "n_timesteps", "normalize_input", "normalize_value", "clip_obs", "n_minibatches")
"""Settings that Isaac Lab takes out of the configuration before PPO sees it."""


class Sb3Policy(Policy):
    """PPO, built from its configuration: `PPO.load` would run whatever code the checkpoint holds.

    `VecNormalize` around the environment normalises, and the prediction clips.
    """

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
        self._agent.policy.load_state_dict(load(checkpoint)[_WEIGHTS])

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


class Sb3(Library):
    """A timestep of this library is one step of one environment."""

    # --- names ------------------------------------------------------------------------------------------------------

    name = "sb3"
    module = "stable_baselines3"
    install = "uv pip install 'isaaclab[sb3]==3.0.0'"
    packages = ("stable-baselines3",)
    policy = Sb3Policy

    # --- before a training ------------------------------------------------------------------------------------------

    multi_gpu = False
    needs_rollout = True
    owned_keys = {
        "agent.seed": "trainingConfig.seed",
        "agent.n_timesteps": "trainingConfig.maxIterations",
        "agent.device": "computeConfig.gpusPerNode",
    }

    def rollout(self, agent_cfg: Mapping[str, Any]) -> int:
        """Return `n_steps`."""
        return int(agent_cfg["n_steps"])

    def arguments(self, scale: Scale) -> list[str]:
        """Log every iteration: the default of 100,000 transitions hides a short run altogether."""
        return ["--log_interval", str(scale.transitions)]

    def not_resumable(self, agent_cfg: Mapping[str, Any]) -> str | None:
        """A checkpoint does not hold the observation normaliser's statistics, and Isaac Lab does not load them."""
        if agent_cfg.get("normalize_input"):
            return "sb3 checkpoints of a task with `normalize_input` lack the normaliser's statistics"
        return None

    def prepare_resume(self, checkpoint: Path, folder: Path, start_iteration: int) -> Path:
        """Return a copy that logs into this attempt: the file remembers its first attempt's log folder.

        The folder has as many levels as the library's own, so that the metrics of all attempts are one table.
        """
        target = folder / checkpoint.name
        with zipfile.ZipFile(checkpoint) as source, zipfile.ZipFile(target, "w") as copy:
            for member in source.infolist():
                data = source.read(member)
                if member.filename == "data":
                    state = _settings(source)
                    state["tensorboard_log"] = str(Path.cwd() / "logs" / "sb3" / "resumed" / "run")
                    data = json.dumps(state).encode()
                copy.writestr(member, data)
        return target

    # --- during a training ------------------------------------------------------------------------------------------

    reward_tag = "rollout/ep_rew_mean"
    length_tag = "rollout/ep_len_mean"
    checkpoint_glob = "logs/sb3/*/*/model*.zip"
    normalizer_glob = "*vecnormalize.pkl"

    def progress(self, line: str, scale: Scale) -> Progress | None:
        """Read a row of the printed table."""
        if match := _TIMESTEPS.search(line):
            return Progress(done=int(match.group(1)) // scale.transitions)
        if match := _REWARD.search(line):
            return Progress(reward=float(match.group(1)))
        return None

    def iteration_of(self, file: Path, start_iteration: int, scale: Scale) -> int | None:
        """The final `model.zip` has its count inside; the others are saved in a rollout, before its update."""
        timesteps = to_int(_FILE.fullmatch(file.name))
        if timesteps is not None:
            return start_iteration + (timesteps - 1) // scale.transitions
        with zipfile.ZipFile(file) as archive:
            timesteps = int(_settings(archive)["num_timesteps"])
        return start_iteration + timesteps // scale.transitions

    def artifact_name(self, file: Path, start_iteration: int, scale: Scale) -> str:
        """Count the transitions of earlier attempts too."""
        timesteps = to_int(_FILE.fullmatch(file.name))
        if timesteps is None:
            return file.name
        return f"model_{timesteps + self.step_offset(start_iteration, scale)}_steps.zip"

    def step_offset(self, start_iteration: int, scale: Scale) -> int:
        """Every attempt logs from its own first transition."""
        return start_iteration * scale.transitions

    def first_step(self, tag: str, start_iteration: int, scale: Scale) -> int:
        """The step is the number of transitions seen."""
        return self.step_offset(start_iteration, scale) + 1

    def load_own(self, file: Path) -> list[Any]:
        """Load each member that torch wrote."""
        import torch

        with zipfile.ZipFile(file) as archive:
            members = [archive.read(name) for name in archive.namelist() if name.endswith(".pth")]
        return [torch.load(io.BytesIO(member), map_location="cpu", weights_only=True) for member in members]

    # --- checkpoints from anywhere ----------------------------------------------------------------------------------

    file_glob = "model*.zip"
    file_example = _FINAL
    actor_keys = (_WEIGHTS,)
    hidden_key = "agent.policy_kwargs.net_arch"

    def order_of(self, file: Path) -> tuple[int, ...] | None:
        """Compare transitions; the final file has the number of the last one before it, or a greater one."""
        if file.name != _FINAL:
            timesteps = to_int(_FILE.fullmatch(file.name))
            return None if timesteps is None else (timesteps, 0)
        try:
            with zipfile.ZipFile(file) as archive:
                return int(_settings(archive)["num_timesteps"]), 1
        except (OSError, zipfile.BadZipFile, zlib.error, KeyError, TypeError, ValueError):
            return None

    def read_archive(
        self, file: Path, archive: zipfile.ZipFile, load_member: Callable[[str], Any]
    ) -> dict[Any, Any] | None:
        """Return the weights alone: some of the settings beside them are pickled."""
        if _WEIGHTS not in archive.namelist():
            return None
        weights = load_member(_WEIGHTS)
        try:
            is_readable = isinstance(_settings(archive), dict)
        except (KeyError, ValueError):
            is_readable = False
        if not is_readable:
            raise no_checkpoint(file, f"has no readable 'data' beside its {_WEIGHTS!r}")
        return {_WEIGHTS: weights}

    def has_pickled_settings(self, file: Path) -> bool:
        """Look for `data`: a zip archive is found by its end, and may hide behind another library's checkpoint."""
        if not zipfile.is_zipfile(file):
            return False
        with zipfile.ZipFile(file) as archive:
            return "data" in archive.namelist()

    def wrote(self, state: Mapping[Any, Any]) -> bool:
        """Look for the weights as `read_archive` names them."""
        return _WEIGHTS in state

    def read(self, state: Mapping[Any, Any], actor: Mapping[str, torch.Tensor]) -> CheckpointFacts:
        """Read the layers of `ActorCriticPolicy`."""
        layers = layers_of(actor, "mlp_extractor.policy_net.")
        head = actor.get("action_net.weight")
        seen = layers[0][1] if layers else None if head is None else int(head.shape[1])
        recurrent = any(name.startswith("lstm_") for name in actor)
        images = any(name.startswith("features_extractor.") for name in actor)
        return CheckpointFacts(
            inputs=None if images or recurrent else seen,
            outputs=length_of(actor, "log_std"),
            hidden=None if head is None else tuple(size for size, _ in layers),
            normalized=None,
        )

    def hidden_sizes(self, agent_cfg: Any) -> Any:
        """Return the actor's, or those that it shares with the critic."""
        sizes = setting(agent_cfg, "policy_kwargs.net_arch")
        return sizes.get("pi") if isinstance(sizes, Mapping) else sizes


def _settings(archive: zipfile.ZipFile) -> Any:
    """Return the settings in an archive, whose size is not what it says.

    Raises:
        KeyError: It has none.
        ValueError: They cannot be read.
    """
    with archive.open("data") as file:
        return parse_json(file.read(_MOST_SETTINGS + 1), most_bytes=_MOST_SETTINGS)


LIBRARY = Sb3()
