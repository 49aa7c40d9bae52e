"""skrl: `logs/skrl/<directory>/<time>_…/checkpoints/agent_<timestep>.pt`; counts start anew on resume."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
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
    use_learning_rate,
    with_methods,
)
from simyard.runner.rl.checkpoints import layers_of, length_of, setting
from simyard.runner.rl.inference import keeping_random_numbers
from simyard.runner.rl.networks import Layout, Network, as_network, inputs_of, recurrent, refuse_normalized_images

if TYPE_CHECKING:
    import torch


_ALGORITHMS = ("AMP", "IPPO", "MAPPO", "PPO")
"""Algorithms of the library that Isaac Lab has agents for: each is the short form of one."""
_PPO = "skrl_ppo_cfg_entry_point"
_BAR = re.compile(r"(\d+)/\d+ \[")
_RATE = "agent.agent.learning_rate"
_WRITE_INTERVAL = "agent.agent.experiment.write_interval"
_FILE = re.compile(r"agent_(\d+)\.pt")
_MIXINS = (("_g_clip_mean_actions", "_g"), ("_mg_clip_mean_actions", "_mg"), ("_d_clip_actions", "_d"))
"""Attribute of each kind of model that has the played action clipped, and the prefix of its limits.

`clip_actions` of the Gaussian ones clips samples, which are not played.
"""


class SkrlPolicy(Policy):
    """An agent in evaluation mode. Its preprocessor normalises, its model clips the mean where it is told to."""

    library = "skrl"

    def __init__(self, env: Any, agent_cfg: Any, checkpoint: Path, normalizer: Path | None = None) -> None:
        import torch
        from isaaclab_rl.skrl import SkrlVecEnvWrapper
        from skrl import config  # type: ignore[import-untyped]
        from skrl.utils.runner.torch import Runner  # type: ignore[import-untyped]

        # Build the agent as training does, without what writes logs.
        cfg = copy.deepcopy(agent_cfg)
        cfg["trainer"]["close_environment_at_exit"] = False
        cfg["agent"]["experiment"] |= {"write_interval": 0, "checkpoint_interval": 0}
        self._env = SkrlVecEnvWrapper(env, ml_framework="torch")
        # The wrapper would seed the environment again, with the seed of whatever skrl ran last in this process.
        self._env._seed = None
        key = config.torch.key
        try:
            self._agent = agent = Runner(self._env, cfg).agent
        finally:
            config.torch.key = key

        # Load the checkpoint, which must have every part that decides on actions: skrl itself only warns.
        saved, wanted = torch.load(checkpoint, map_location=agent.device, weights_only=False), agent.checkpoint_modules
        self._team = getattr(agent, "possible_agents", None)
        if self._team is not None:  # of all agents alike
            saved, wanted = saved.get(self._team[0], {}), wanted[self._team[0]]
        parts = ("policy", "observation_preprocessor")
        if missing := [part for part in parts if part in wanted and part not in saved]:
            raise RequestError(
                f"Checkpoint {checkpoint.name!r} lacks {missing[0]!r}, which the agent configuration asks for.",
                code="checkpoint_wrong_normalizer" if missing == ["observation_preprocessor"] else "not_a_checkpoint",
                advice="Give the overrides it was trained with.",
            )
        agent.load(str(checkpoint))
        agent.enable_training_mode(False, apply_to_models=True)

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
            if self._team is None:
                actions = outputs.get("mean_actions", actions)
            else:
                actions = {name: outputs[name].get("mean_actions", actions[name]) for name in self._team}
            self._observations, *_ = self._env.step(actions)

    def network(self) -> Network:
        """Return preprocessor, model and its clipping."""
        import torch

        if self._team is not None:
            raise RequestError(
                f"The policy is {len(self._team)} networks, one for each of {', '.join(self._team)}.",
                code="multi_agent",
                advice="Evaluation takes them; an export is one network.",
            )
        model = self._agent.policy
        if model.get_specification().get("rnn"):
            raise recurrent("its model has a state")
        convolutions = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
        (given,) = inputs = inputs_of(self._env, self.observation_groups, images=True)
        if given.is_image and convolutions:
            inputs = (replace(given, layout=_layout(given.shape, convolutions[0].in_channels)),)
        if normalizer := self.normalizer():
            refuse_normalized_images(inputs)
        clips, prefix = next((name, prefix) for name, prefix in _MIXINS if hasattr(model, name))
        low, high = getattr(model, f"{prefix}_min_actions"), getattr(model, f"{prefix}_max_actions")

        def forward(self: Any, observations: Any) -> Any:
            if normalizer is not None:
                observations = normalizer.apply(observations)
            # The library hands its models everything flat.
            flat = observations.flatten(1) if given.is_image else observations
            actions, _ = self.model.compute({"observations": flat}, "policy")
            return torch.clamp(actions, min=low, max=high) if getattr(model, clips) else actions

        try:
            return Network(module=as_network(forward, model=model), inputs=inputs)
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


class Skrl(Library):
    """A timestep of this library is one step of every environment."""

    # --- names ------------------------------------------------------------------------------------------------------

    name = "skrl"
    module = "skrl"
    install = "uv pip install 'isaaclab[skrl]==3.0.0'"
    packages = ("skrl",)
    policy = SkrlPolicy

    # --- before a training ------------------------------------------------------------------------------------------

    needs_rollout = True
    owned_keys = {
        "agent.seed": "trainingConfig.seed",
        "agent.trainer.timesteps": "trainingConfig.maxIterations",
        "agent.agent.experiment.directory": None,
        "agent.agent.experiment.experiment_name": None,
    }

    def named_agent(self, agent: str) -> str:
        """Take the name of an algorithm in upper or lower case."""
        return super().named_agent(agent.lower() if agent.upper() in _ALGORITHMS else agent)

    def find_agent(self, agent: str | None, registered: Iterable[str]) -> str | None:
        """Find PPO under the library's own key, as Isaac Lab does: `agent_problem` says where that is another one."""
        registered = list(registered)
        found = super().find_agent(agent, registered)
        return found or (super().find_agent(None, registered) if agent == _PPO else None)

    def is_multi_agent(self, agent_cfg: Any) -> bool:
        """Read the algorithm: the other ones learn one policy, which acts for all agents."""
        return str(setting(agent_cfg, "agent.class")).upper() in ("IPPO", "MAPPO")

    def agent_problem(self, agent: str | None, agent_cfg: Mapping[str, Any]) -> str | None:
        """Compare the algorithm that is named with that of the configuration."""
        have = str(setting(agent_cfg, "agent.class") or "")
        wanted = next((name for name in _ALGORITHMS if agent == self.named_agent(name)), None)
        return None if wanted in (None, have.upper()) else f"is {wanted}, and the task's is {have or 'of no class'}"

    def device_overrides(self, device: str) -> list[str]:
        """Return nothing: the agent follows the environment's device."""
        return []

    def rollout(self, agent_cfg: Mapping[str, Any]) -> int:
        """Return `agent.rollouts`."""
        return int(agent_cfg["agent"]["rollouts"])

    def checkpoints(self, agent_cfg: Mapping[str, Any], iterations: int, scale: Scale) -> int:
        """Count those of `checkpoint_interval`, by default a tenth of the run, and the best."""
        interval = setting(agent_cfg, "agent.experiment.checkpoint_interval")
        if interval == "auto":
            return 11
        return iterations * scale.rollout // int(interval) + 1 if interval else 0

    def fit(self, agent_cfg: Mapping[str, Any], scale: Scale, given: set[str]) -> tuple[list[str], list[str]]:
        """Log once an iteration: `auto` is a hundredth of the run, and writes nothing at all in a short one."""
        interval = agent_cfg["agent"].get("experiment", {}).get("write_interval")
        if interval != "auto" or _WRITE_INTERVAL in given:
            return [], []
        return [f"{_WRITE_INTERVAL}={scale.rollout}"], []

    def prepare_resume(self, resumption: Resumption) -> tuple[Path, list[str]]:
        """Return a copy with the request's learning rate: the library goes on with that of the optimiser's state."""
        if _RATE not in resumption.given:
            return resumption.checkpoint, []
        import torch

        state = torch.load(resumption.checkpoint, map_location="cpu", weights_only=False)
        for part in (state, *(part for part in state.values() if isinstance(part, Mapping))):  # of each agent too
            use_learning_rate(part, setting(resumption.agent_cfg, "agent.learning_rate"))
        target = resumption.folder / resumption.checkpoint.name
        torch.save(state, target)
        return target, []

    # --- during a training ------------------------------------------------------------------------------------------

    @contextmanager
    def kept_by(self, keeper: StateKeeper) -> Iterator[None]:
        """Watch the agents write, and the first step: the trainer resets the environments before it."""
        from skrl.agents.torch import Agent  # type: ignore[import-untyped]
        from skrl.envs.wrappers.torch.isaaclab_envs import IsaacLabWrapper  # type: ignore[import-untyped]
        from skrl.utils.runner.torch import Runner

        run, step, write = Runner.run, IsaacLabWrapper.step, Agent.write_checkpoint
        running: list[Any] = []
        begun: list[Any] = []

        def own() -> dict[str, Any]:
            schedulers = [getattr(runner.agent, "scheduler", None) for runner in running]
            return {"schedulers": [vars(scheduler) for scheduler in schedulers if scheduler is not None]}

        def run_watched(runner: Any, *arguments: Any, **options: Any) -> None:
            running[:], begun[:] = [runner], []
            run(runner, *arguments, **options)

        def begin_and_step(env: Any, actions: Any) -> Any:
            if running and not begun:
                begun.append(env)
                keeper.begin(env, own())
            return step(env, actions)

        def write_both(agent: Any, *, timestep: int, timesteps: int) -> None:
            if begun and not agent.cfg.experiment.store_separately:
                keeper.save(Path(agent.experiment_dir, "checkpoints", f"agent_{timestep}.pt"), begun[0], own())
            write(agent, timestep=timestep, timesteps=timesteps)

        with (
            with_methods(Runner, run=run_watched),
            with_methods(IsaacLabWrapper, step=begin_and_step),
            with_methods(Agent, write_checkpoint=write_both),
        ):
            yield

    reward_tag = "Reward / Total reward (mean)"
    length_tag = "Episode / Total timesteps (mean)"
    own_tags = frozenset(
        f"{name} ({statistic})"
        for name in ("Reward / Total reward", "Reward / Instantaneous reward", "Episode / Total timesteps")
        for statistic in ("max", "min", "mean")
    )
    checkpoint_glob = "logs/skrl/*/*/checkpoints/*.pt"

    def progress(self, line: str, scale: Scale) -> Progress | None:
        """Read the progress bar."""
        timestep = to_int(_BAR.search(line))
        return None if timestep is None else Progress(done=timestep // scale.rollout)

    def iteration_of(self, file: Path, start_iteration: int, scale: Scale) -> int | None:
        """`agent_320.pt` was saved after timestep 320 of its attempt."""
        timestep = to_int(_FILE.fullmatch(file.name))
        return None if timestep is None else start_iteration + timestep // scale.rollout

    def artifact_name(self, file: Path, start_iteration: int, scale: Scale) -> str:
        """Count the timesteps of earlier attempts too."""
        timestep = to_int(_FILE.fullmatch(file.name))
        return file.name if timestep is None else f"agent_{timestep + self.step_offset(start_iteration, scale)}.pt"

    def step_offset(self, start_iteration: int, scale: Scale) -> int:
        """Every attempt logs from timestep 1."""
        return start_iteration * scale.rollout

    def first_step(self, tag: str, start_iteration: int, scale: Scale) -> int:
        """The step is the timestep, counted from 1."""
        return self.step_offset(start_iteration, scale) + 1

    def leave_process(self) -> None:
        """Forget the seed: the library seeds the first reset of an environment with the last one given, at first 0."""
        import skrl

        skrl.config.torch.key = 0

    # --- checkpoints from anywhere ----------------------------------------------------------------------------------

    file_glob = "*.pt"
    file_folder = "checkpoints"
    file_example = "agent_320.pt"
    actor_keys = ("policy",)
    hidden_key = "agent.models.policy.network"
    normalizer_key = "agent.agent.state_preprocessor"

    def order_of(self, file: Path) -> tuple[int, ...] | None:
        """Compare timesteps."""
        timestep = to_int(_FILE.fullmatch(file.name))
        return None if timestep is None else (timestep,)

    def wrote(self, state: Mapping[Any, Any]) -> bool:
        """Look for the policy's model."""
        return self.actor_of(state) is not None

    def actor_of(self, state: Mapping[Any, Any]) -> Mapping[Any, Any] | None:
        """Look below the name of the first agent too, where there are several."""
        return super().actor_of(_of_first_agent(state))

    def read(self, state: Mapping[Any, Any], actor: Mapping[str, torch.Tensor]) -> CheckpointFacts:
        """Read the layers of a model that its runner generates."""
        state = _of_first_agent(state)
        containers = {name.partition(".")[0] for name in actor if name.partition(".")[0].endswith("_container")}
        layers = layers_of(actor, f"{containers.pop()}.") if len(containers) == 1 else []
        # A model that shares its layers with the value has its last one apart.
        hidden = layers if "policy_layer.weight" in actor else layers[:-1]
        return CheckpointFacts(
            inputs=layers[0][1] if layers else None,
            outputs=length_of(actor, "log_std_parameter"),
            hidden=tuple(size for size, _ in hidden) if layers else None,
            normalized="observation_preprocessor" in state,
        )

    def hidden_sizes(self, agent_cfg: Any) -> Any:
        """Return those of a network of one container."""
        containers = setting(agent_cfg, "models.policy.network") or []
        return containers[0].get("layers") if len(containers) == 1 else None

    def normalizes(self, agent_cfg: Any) -> bool | None:
        """Look for a preprocessor; its older name counts only where the newer one does not stand at all."""
        agent = agent_cfg["agent"]
        return bool(agent.get("observation_preprocessor", agent.get("state_preprocessor")))


def _of_first_agent(state: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return the part of a checkpoint that is the first agent's: all of it where there is one."""
    parts = [part for part in state.values() if isinstance(part, Mapping)]
    is_team = "policy" not in state and bool(parts) and all(isinstance(part.get("policy"), Mapping) for part in parts)
    return parts[0] if is_team else state


def _layout(shape: tuple[int, ...], channels: int) -> Layout | None:
    """Return the order of an image's sides by the channels that the first convolution takes."""
    first, last = shape[0] == channels, shape[-1] == channels
    return None if first == last else "NCHW" if first else "NHWC"


LIBRARY = Skrl()
