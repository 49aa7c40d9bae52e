"""rl_games: `logs/rl_games/<name>/<time>/nn/last_<name>_ep_<epoch>_rew_<reward>.pth`; epochs are absolute."""

from __future__ import annotations

import copy
import math
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.errors import RequestError
from simyard.runner.rl.base import (
    CheckpointFacts,
    Library,
    Normalizer,
    Policy,
    Progress,
    Resumption,
    Scale,
    StateKeeper,
    to_int,
    with_methods,
)
from simyard.runner.rl.checkpoints import COMPILED, layers_of, length_of, setting
from simyard.runner.rl.inference import keeping_random_numbers
from simyard.runner.rl.networks import (
    GRU,
    LSTM,
    Network,
    State,
    as_network,
    inputs_of,
    recurrent,
    refuse_normalized_images,
)

if TYPE_CHECKING:
    import torch


_EPOCH = re.compile(r"\bepoch: (\d+)/")
_FILE = re.compile(r".*_ep_(\d+)_rew_.*\.pth")
_RATE = "agent.params.config.learning_rate"
_MINIBATCH = "agent.params.config.minibatch_size"
_SEQUENCE = 4
"""Its default of `seq_length`."""
_CLIP = 5.0
"""Largest magnitude of a normalised observation; the library has no setting for it."""


class RlGamesPolicy(Policy):
    """A player of one of the actor-critic algorithms.

    It normalises, clips to [-1, 1] and rescales; its wrapper clips on both sides.
    """

    library = "rl_games"

    def __init__(self, env: Any, agent_cfg: Any, checkpoint: Path, normalizer: Path | None = None) -> None:
        import torch
        from isaaclab_rl.rl_games import RlGamesVecEnvWrapper
        from rl_games.torch_runner import Runner  # type: ignore[import-untyped]

        # Build the player as training does.
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
        self.observation_groups = tuple(self._env._obs_groups["obs"])
        self.critic_groups = tuple(self._env._obs_groups.get("states", ()))

        # Load the weights onto its device: the library's own way needs the device they were trained on.
        saved = torch.load(checkpoint, map_location=device, weights_only=False)
        if not isinstance(saved.get("model"), dict):
            raise RequestError(
                f"Checkpoint {checkpoint.name!r} has no 'model', so it is of an algorithm that simyard does not play.",
                code="unsupported_policy",
                advice="Use a2c_continuous or a2c_discrete (PPO).",
            )
        # Compiled models are saved under longer names.
        model = {name.removeprefix(COMPILED): tensor for name, tensor in saved["model"].items()}
        self._player.set_weights({**saved, "model": model})

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

    def network(self) -> Network:
        """Return both clippings of the wrapper with the player's normaliser, layers and rescaling between them."""
        import torch

        # Its layers, whose images are turned here and not by a look at their shape.
        player, wrapper = self._player, self._env
        layers = copy.deepcopy(player.model.a2c_network)
        turns = layers.has_cnn and layers.permute_input
        layers.permute_input = False
        inputs = inputs_of(wrapper, self.observation_groups, images=True, layout="NHWC" if turns else "NCHW")
        if len(inputs) > 1:
            raise RequestError(
                f"The policy sees vectors and images at once, {list(self.observation_groups)}.",
                code="unsupported_observations",
                advice="Evaluate it instead; rsl_rl's CNNModel takes both, and can be exported.",
            )
        turns = turns and inputs[0].is_image
        if normalizer := self.normalizer():
            refuse_normalized_images(inputs)
        states: tuple[State, ...] = ()
        if player.is_rnn:
            names = {"lstm": LSTM, "gru": GRU}.get(layers.rnn_name)
            if names is None:
                raise recurrent(layers.rnn_name)
            states = tuple(State(name=name, layers=layers.rnn_layers, size=layers.rnn_units) for name in names)
        clip_observations, clip_actions = wrapper._clip_obs, wrapper._clip_actions
        middle, half = (player.actions_high + player.actions_low) / 2, (player.actions_high - player.actions_low) / 2

        def act(network: Any, observations: Any, before: Any) -> Any:
            if normalizer is not None:
                observations = normalizer.apply(observations)
            elif math.isfinite(clip_observations):
                observations = torch.clamp(observations, -clip_observations, clip_observations)
            if turns:
                observations = observations.permute(0, 3, 1, 2)
            actions, *_, after = network.layers({"obs": observations, "rnn_states": before})
            if player.clip_actions:
                actions = torch.clamp(actions, -1.0, 1.0) * half + middle
            actions = torch.clamp(actions, -clip_actions, clip_actions) if math.isfinite(clip_actions) else actions
            return actions, after

        def react(self: Any, observations: Any) -> Any:
            return act(self, observations, None)[0]

        def remember(self: Any, observations: Any, *memory: Any) -> Any:
            # A critic with layers of its own has states behind the actor's; what it says is left out.
            before = tuple(memory[n] for n in range(len(states))) * (2 if layers.separate else 1)
            actions, (own, *_) = act(self, observations, before)
            return (actions, own[0], own[1]) if len(states) == len(LSTM) else (actions, own)

        forward = remember if states else react
        return Network(module=as_network(forward, layers=layers), inputs=inputs, states=states)

    def normalizer(self) -> Normalizer | None:
        """Return the running statistics: rl_games adds its epsilon to the variance."""
        if not self._player.normalize_input:
            return None
        statistics = self._player.model.running_mean_std
        divisor = (statistics.running_var.float() + statistics.epsilon).sqrt()
        before = self._env._clip_obs if math.isfinite(self._env._clip_obs) else None
        return Normalizer.of(statistics.running_mean.float(), divisor, clip=_CLIP, clip_before=before)


class RlGames(Library):
    """An epoch of this library is one iteration."""

    # --- names ------------------------------------------------------------------------------------------------------

    name = "rl_games"
    module = "rl_games"
    install = "uv pip install rl-games==1.6.5 gym"
    packages = ("rl-games",)
    policy = RlGamesPolicy

    # --- before a training ------------------------------------------------------------------------------------------

    absolute_iterations = True
    owned_keys = {
        "agent.params.seed": "trainingConfig.seed",
        "agent.params.config.max_epochs": "trainingConfig.maxIterations",
        "agent.params.config.device": "computeConfig.gpusPerNode",
        "agent.params.config.device_name": "computeConfig.gpusPerNode",
        "agent.params.config.name": None,
        "agent.params.config.train_dir": None,
        "agent.params.config.full_experiment_name": None,
    }

    def device_overrides(self, device: str) -> list[str]:
        """Return both names the library reads."""
        return [f"agent.params.config.device={device}", f"agent.params.config.device_name={device}"]

    def rollout(self, agent_cfg: Mapping[str, Any]) -> int:
        """Return `params.config.horizon_length`."""
        return int(agent_cfg["params"]["config"]["horizon_length"])

    def checkpoints(self, agent_cfg: Mapping[str, Any], iterations: int, scale: Scale) -> int:
        """Count those of `save_frequency`, the best and the last."""
        every = int(setting(agent_cfg, "params.config.save_frequency") or 0)
        return (iterations // every if every > 0 else 0) + 2

    def fit(self, agent_cfg: Mapping[str, Any], scale: Scale, given: set[str]) -> tuple[list[str], list[str]]:
        """Fit the minibatch, which must divide the batch: the library asserts it after the simulator has started.

        Of a recurrent network it is whole sequences, of which a rollout must have a whole number too.
        """
        config = agent_cfg["params"]["config"]
        wanted, batch = int(config["minibatch_size"]), scale.transitions
        is_recurrent = setting(agent_cfg, "params.network.rnn") is not None
        sequence = int(config.get("seq_length", _SEQUENCE)) if is_recurrent else 1
        if scale.rollout % sequence:
            raise RequestError(
                f"A recurrent network is trained on sequences of seq_length = {sequence} steps, and the rollout's "
                f"horizon_length = {scale.rollout} is no multiple of it.",
                code="bad_override",
                advice="Set agent.params.config.seq_length to a number that divides horizon_length.",
            )
        if batch % wanted == 0 and wanted % sequence == 0:
            return [], []
        sizes = range(sequence, max(min(wanted, batch), sequence) + 1, sequence)
        fitted = max(size for size in sizes if batch % size == 0)
        rule = f"it must divide numEnvs x horizon_length = {scale.num_envs} x {scale.rollout} = {batch}"
        if is_recurrent:
            rule += f", and be a multiple of seq_length = {sequence}"
        if _MINIBATCH in given:
            raise RequestError(
                f"Override {_MINIBATCH}={wanted} does not fit: {rule}.",
                code="bad_override",
                advice=f"The nearest size that does is {fitted}.",
            )
        return [f"{_MINIBATCH}={fitted}"], [f"minibatch_size fitted from {wanted} to {fitted}: {rule}"]

    def prepare_resume(self, resumption: Resumption) -> tuple[Path, list[str]]:
        """Return a copy with the job's own count: the library trains until *its* count reaches the limit.

        It takes its learning rate out of the configuration, also where the schedule has adapted it since: then it is
        told the optimiser's.
        """
        import torch

        state = torch.load(resumption.checkpoint, map_location="cpu", weights_only=False)
        state["epoch"] = resumption.start_iteration
        target = resumption.folder / resumption.checkpoint.name
        torch.save(state, target)
        adapts = setting(resumption.agent_cfg, "params.config.lr_schedule") == "adaptive"
        groups = state["optimizer"].get("param_groups") if isinstance(state.get("optimizer"), Mapping) else None
        if adapts and groups and _RATE not in resumption.given:
            return target, [f"{_RATE}={float(groups[0]['lr'])!r}"]
        return target, []

    # --- during a training ------------------------------------------------------------------------------------------

    @contextmanager
    def kept_by(self, keeper: StateKeeper) -> Iterator[None]:
        """Watch the agent save, and reset its environments before it learns."""
        from rl_games.algos_torch.a2c_continuous import A2CAgent  # type: ignore[import-untyped]
        from rl_games.algos_torch.a2c_discrete import DiscreteA2CAgent  # type: ignore[import-untyped]

        def own(agent: Any) -> dict[str, Any]:
            shaped = agent.game_shaped_rewards
            return {"rewards": agent.game_rewards, "shaped_rewards": shaped, "lengths": agent.game_lengths}

        def watched(cls: Any) -> AbstractContextManager[None]:
            reset, save = cls.env_reset, cls.save

            def reset_and_begin(agent: Any) -> Any:
                observations = reset(agent)
                # Its first update gives such a mean a side more, without which it is not read.
                for meter in (agent.game_rewards, agent.game_shaped_rewards):
                    meter.mean = meter.mean.reshape(1, -1)
                keeper.begin(agent.vec_env.env, own(agent))
                return observations

            def save_both(agent: Any, name: str) -> None:
                keeper.save(Path(f"{name}.pth"), agent.vec_env.env, own(agent))
                save(agent, name)

            return with_methods(cls, env_reset=reset_and_begin, save=save_both)

        with watched(A2CAgent), watched(DiscreteA2CAgent):
            yield

    prints_absolute = True
    reward_tag = "rewards/iter"
    length_tag = "episode_lengths/iter"
    own_tags = frozenset(
        f"{group}/{axis}" for group in ("rewards", "shaped_rewards", "episode_lengths") for axis in ("step", "iter")
    )
    checkpoint_glob = "logs/rl_games/*/*/nn/*.pth"

    def progress(self, line: str, scale: Scale) -> Progress | None:
        """Read the epoch of a statistics line, or that `score_to_win` was passed."""
        if "Network won!" in line:
            return Progress(ended_early="its mean reward has passed score_to_win")
        epoch = to_int(_EPOCH.search(line))
        return None if epoch is None else Progress(done=epoch)

    def first_step(self, tag: str, start_iteration: int, scale: Scale) -> int:
        """Some tags count epochs from 1, the others the frames before the epoch."""
        if tag.endswith("/iter") or tag.startswith("Episode/"):
            return start_iteration + 1
        return start_iteration * scale.transitions

    def leave_process(self) -> None:
        """Forget the environment that Isaac Lab registers under one name: the library would keep it for good."""
        if (registry := sys.modules.get("rl_games.common.env_configurations")) is not None:
            registry.configurations.pop("rlgpu", None)

    # --- checkpoints from anywhere ----------------------------------------------------------------------------------

    file_glob = "*.pth"
    file_folder = "nn"
    file_example = "last_…_ep_60_….pth"
    actor_keys = ("model",)
    hidden_key = "agent.params.network.mlp.units"
    normalizer_key = "agent.params.config.normalize_input"

    def iteration_in_name(self, name: str) -> int | None:
        """The epoch is in the name; `<name>.pth` is the best so far and has none."""
        return to_int(_FILE.fullmatch(name))

    def wrote(self, state: Mapping[Any, Any]) -> bool:
        """Look for the network of one of the actor-critic algorithms."""
        model = state.get("model")
        return isinstance(model, Mapping) and any(str(name).removeprefix(COMPILED).startswith("a2c_") for name in model)

    def read(self, state: Mapping[Any, Any], actor: Mapping[str, torch.Tensor]) -> CheckpointFacts:
        """Read the layers of `A2CBuilder.Network`."""
        layers = layers_of(actor, "a2c_network.actor_mlp.")
        has_memory = any(part in name for name in actor for part in (".rnn.", ".a_rnn."))
        images = any(name.startswith("a2c_network.actor_cnn.") for name in actor)
        head = actor.get("a2c_network.mu.weight")
        seen = layers[0][1] if layers and not has_memory else None
        return CheckpointFacts(
            inputs=None if images else length_of(actor, "running_mean_std.running_mean") or seen,
            outputs=None if head is None else int(head.shape[0]),
            hidden=tuple(size for size, _ in layers) or None,
            normalized=any(name.startswith("running_mean_std.") for name in actor),
        )

    def is_own_network(self, agent_cfg: Any) -> bool:
        """Read the builder's name; packages register others."""
        return setting(agent_cfg, "params.network.name") in (None, "actor_critic")

    def observation_groups(self, agent_cfg: Any) -> Any:
        """Return those of the actor."""
        return setting(agent_cfg, "params.env.obs_groups.obs")

    def hidden_sizes(self, agent_cfg: Any) -> Any:
        """Return the units; of a D2RL network they do not say the layers' sizes."""
        return None if setting(agent_cfg, "params.network.mlp.d2rl") else setting(agent_cfg, "params.network.mlp.units")

    def normalizes(self, agent_cfg: Any) -> bool | None:
        """Return the setting."""
        return bool(setting(agent_cfg, "params.config.normalize_input"))


LIBRARY = RlGames()
