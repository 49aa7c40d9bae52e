"""Stable-Baselines3: `logs/sb3/<task>/<time>/model.zip`, `model_<n>_steps.zip`; counts start anew on resume."""

from __future__ import annotations

import copy
import io
import json
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.errors import RequestError
from simyard.core.foreign import parse_json
from simyard.runner.rl.base import (
    CheckpointFacts,
    Library,
    Normalizer,
    Policy,
    Progress,
    Resumption,
    Scale,
    Schedule,
    StateKeeper,
    to_int,
    with_methods,
)
from simyard.runner.rl.checkpoints import layers_of, length_of, load, no_checkpoint, setting
from simyard.runner.rl.networks import Network, as_network, inputs_of

if TYPE_CHECKING:
    import torch


_TIMESTEPS = re.compile(r"\|\s+total_timesteps\s+\|\s+(\d+)\s+\|")
_REWARD = re.compile(r"\|\s+ep_rew_mean\s+\|\s+(\S+)\s+\|")
_FILE = re.compile(r"model_(\d+)_steps\.zip")
_FINAL = "model.zip"
_WEIGHTS = "policy.pth"
"""The member of an archive that holds weights; `data` beside it holds settings, some of them pickled."""
_MOST_SETTINGS = 64 << 20
_IN_STATISTICS = frozenset(
    f"{module}.{name}"
    for module, names in {
        "stable_baselines3.common.vec_env.vec_normalize": "VecNormalize",
        "stable_baselines3.common.running_mean_std": "RunningMeanStd",
        "gymnasium.spaces.box": "Box",
        "gymnasium.spaces.dict": "Dict",
        "gymnasium.spaces.discrete": "Discrete",
        "collections": "OrderedDict",
        "numpy": "dtype ndarray",
        "numpy._core.multiarray": "scalar _reconstruct",
        "numpy.core.multiarray": "scalar _reconstruct",
        "numpy.random._pickle": "__generator_ctor __bit_generator_ctor",
        "numpy.random._pcg64": "PCG64",
        "numpy.random.bit_generator": "__pyx_unpickle_SeedSequence SeedSequence",
    }.items()
    for name in names.split()
)
"""Names that pickled statistics may ask for: the library's own classes, spaces, arrays and generators."""
_SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf")
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
                self._env = self._statistics = _statistics(normalizer, self._env)
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

    def network(self) -> Network:
        """Return normaliser, layers, and what `predict` does with their output."""
        import torch

        inputs = inputs_of(self._env, self.observation_groups)
        policy, normalizer = self._agent.policy, self.normalizer()
        low, high = (torch.as_tensor(limit) for limit in (policy.action_space.low, policy.action_space.high))

        def forward(self: Any, observations: Any) -> Any:
            if normalizer is not None:
                observations = normalizer.apply(observations)
            features = self.policy.pi_features_extractor(observations)
            actions = self.policy.action_net(self.policy.mlp_extractor.policy_net(features))
            if policy.squash_output:
                return low + 0.5 * (torch.tanh(actions) + 1.0) * (high - low)
            return torch.clamp(actions, low, high)

        return Network(module=as_network(forward, policy=policy), inputs=inputs)

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

    schedule = Schedule(
        keys=frozenset(f"agent.{name}" for name in _SCHEDULES), form=re.compile(r"lin_[0-9]*\.?[0-9]+(e-?[0-9]+)?")
    )

    def rollout(self, agent_cfg: Mapping[str, Any]) -> int:
        """Return `n_steps`."""
        return int(agent_cfg["n_steps"])

    def checkpoints(self, agent_cfg: Mapping[str, Any], iterations: int, scale: Scale) -> int:
        """Count the one of every 1,000 steps that Isaac Lab asks for, and the last."""
        return iterations * scale.rollout // 1000 + 1

    def arguments(self, scale: Scale) -> list[str]:
        """Log every iteration: the default of 100,000 transitions hides a short run altogether."""
        return ["--log_interval", str(scale.transitions)]

    def not_resumable(self, agent_cfg: Mapping[str, Any]) -> str | None:
        """A checkpoint does not hold the observation normaliser's statistics, and Isaac Lab does not load them."""
        if agent_cfg.get("normalize_input"):
            return "sb3 checkpoints of a task with `normalize_input` lack the normaliser's statistics"
        return None

    def prepare_resume(self, resumption: Resumption) -> tuple[Path, list[str]]:
        """Return a copy with the request's settings, which logs into this attempt.

        The library takes every setting out of the file, also its first attempt's log folder, and nothing out of the
        configuration. The folder has as many levels as the library's own, so that the metrics of all attempts are one
        table.
        """
        target = resumption.folder / resumption.checkpoint.name
        with zipfile.ZipFile(resumption.checkpoint) as source, zipfile.ZipFile(target, "w") as copied:
            for member in source.infolist():
                data = source.read(member)
                if member.filename == "data":
                    state = _settings(source) | _wanted(resumption)
                    state["tensorboard_log"] = str(Path.cwd() / "logs" / "sb3" / "resumed" / "run")
                    data = json.dumps(state).encode()
                copied.writestr(member, data)
        return target, []

    # --- during a training ------------------------------------------------------------------------------------------

    @contextmanager
    def kept_by(self, keeper: StateKeeper) -> Iterator[None]:
        """Watch the algorithm, which resets its environments before it learns and saves in the middle of a rollout."""
        from stable_baselines3.common.base_class import BaseAlgorithm

        set_up, save = BaseAlgorithm._setup_learn, BaseAlgorithm.save

        def set_up_and_begin(algorithm: Any, *arguments: Any, **options: Any) -> Any:
            prepared = set_up(algorithm, *arguments, **options)
            keeper.begin(algorithm.env, {"environments": algorithm.env})
            return prepared

        def save_both(algorithm: Any, path: Any, *arguments: Any, **options: Any) -> None:
            file = Path(path)
            keeper.save(
                file if file.suffix else file.with_suffix(".zip"), algorithm.env, {"environments": algorithm.env}
            )
            save(algorithm, path, *arguments, **options)

        with with_methods(BaseAlgorithm, _setup_learn=set_up_and_begin, save=save_both):
            yield

    reward_tag = "rollout/ep_rew_mean"
    length_tag = "rollout/ep_len_mean"
    own_tags = frozenset({"rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/success_rate", "time/fps"})
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

    def is_own_network(self, agent_cfg: Any) -> bool:
        """Read the policy's name, and whether it has an extractor of its own."""
        is_named = setting(agent_cfg, "policy") in (None, "MlpPolicy", "CnnPolicy", "MultiInputPolicy")
        return is_named and setting(agent_cfg, "policy_kwargs.features_extractor_class") is None

    def hidden_sizes(self, agent_cfg: Any) -> Any:
        """Return the actor's, or those that it shares with the critic."""
        sizes = setting(agent_cfg, "policy_kwargs.net_arch")
        return sizes.get("pi") if isinstance(sizes, Mapping) else sizes


def _wanted(resumption: Resumption) -> dict[str, Any]:
    """Return the request's settings of PPO, as the library writes them into a checkpoint; schedules run over the job.

    The library lets a schedule begin anew with each process, from 1 to 0: this attempt has the job's rest of it.
    """
    if not resumption.agent_cfg:
        return {}
    from isaaclab_rl.sb3 import process_sb3_cfg
    from stable_baselines3.common.save_util import data_to_json

    cfg = process_sb3_cfg(copy.deepcopy(dict(resumption.agent_cfg)), resumption.scale.num_envs)
    wanted = {key: value for key, value in cfg.items() if key not in (*_NOT_PPO, "device")}
    for key in _SCHEDULES:
        if callable(wanted.get(key)):
            wanted[key] = _rest_of(wanted[key], resumption.share)
    return dict(json.loads(data_to_json(wanted | {"seed": resumption.seed})))


def _rest_of(schedule: Callable[[float], float], share: float) -> Callable[[float], float]:
    """Return the part of a schedule that is left; as a local function, which is saved with its code."""
    return lambda remaining: schedule(remaining * share)


def _statistics(path: Path, env: Any) -> Any:
    """Return `VecNormalize` around an environment, with the statistics of a file; no code of the file runs.

    The library unpickles it, whatever is in it.

    Raises:
        UnpicklingError: It asks for something else than the library's own classes, spaces and numbers.
    """
    from stable_baselines3.common.vec_env import VecNormalize

    class Numbers(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if f"{module}.{name}" not in _IN_STATISTICS:
                raise pickle.UnpicklingError(f"it asks for '{module}.{name}'")
            return super().find_class(module, name)

    with path.open("rb") as file:
        found = Numbers(file).load()
    if not isinstance(found, VecNormalize):
        raise pickle.UnpicklingError(f"it holds a {type(found).__name__}")
    found.set_venv(env)
    return found


def _settings(archive: zipfile.ZipFile) -> Any:
    """Return the settings in an archive, whose size is not what it says.

    Raises:
        KeyError: It has none.
        ValueError: They cannot be read.
    """
    with archive.open("data") as file:
        return parse_json(file.read(_MOST_SETTINGS + 1), most_bytes=_MOST_SETTINGS)


LIBRARY = Sb3()
