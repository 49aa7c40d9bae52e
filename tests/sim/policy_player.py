"""The simulator's side of `test_policies.py`, which the player calls: trains small policies and plays them."""

import copy
import hashlib
import os
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import isaaclab_tasks  # noqa: F401
import numpy as np
import torch

from simyard.core.errors import RequestError
from simyard.runner.isaaclab.environment import fresh_environment
from simyard.runner.rl import get_library
from simyard.runner.rl.base import Policy
from simyard.runner.rl.checkpoints import discover
from simyard.runner.rl.inference import load_policy

TASK = "Isaac-Cartpole-Direct"
NEWTON = "physics=newton_mjwarp"
TRAINED_ENVS, NUM_ENVS, STEPS = 16, 8, 40
OVERRIDES: dict[str, list[str]] = {
    "rsl_rl": ["agent.device=cpu", "agent.actor.obs_normalization=true"],
    "skrl": [],
    "rl_games": [
        "agent.params.config.device=cpu",
        "agent.params.config.device_name=cpu",
        "agent.params.config.minibatch_size=512",
    ],
    "sb3": ["agent.device=cpu", "+agent.normalize_input=true"],
}


class Recorder(gymnasium.Wrapper):
    """Keeps what a policy saw before each action that reached the environment."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.observations: list[dict[str, torch.Tensor]] = []
        self.actions: list[torch.Tensor] = []
        self.now: dict[str, torch.Tensor] = {}

    def reset(self, **arguments: Any) -> Any:
        result = self.env.reset(**arguments)
        # Copied: rl_games' wrapper clips the observations where they are.
        self.now = {name: value.clone() for name, value in result[0].items()}
        return result

    def step(self, action: Any) -> Any:
        self.observations.append(self.now)
        self.actions.append(action.clone())
        result = self.env.step(action)
        self.now = {name: value.clone() for name, value in result[0].items()}
        return result


def train(folder: Path) -> None:
    """Train each library by Isaac Lab's own call, whose logs lie in the working folder."""
    from isaaclab_rl.entrypoints import TrainingRequest
    from isaaclab_rl.entrypoints import train as train_one

    os.chdir(folder)
    for library, overrides in OVERRIDES.items():
        code = train_one(
            TrainingRequest(
                backend=library,
                task=TASK,
                num_envs=TRAINED_ENVS,
                seed=1,
                max_iterations=4,
                device="cpu",
                hydra_args=(NEWTON, *overrides),
            )
        )
        assert code == 0, library


def checkpoint_of(folder: Path, library: str) -> tuple[Path, Path | None]:
    """The last checkpoint of a library's only training, and its statistics where they are apart."""
    (run,) = (folder / "logs" / library).glob("*/*")
    statistics = run / "model_vecnormalize.pkl"
    return discover(run, library)[-1], statistics if statistics.exists() else None


@contextmanager
def playing(
    library: str,
    checkpoint: Path,
    normalizer: Path | None = None,
    *,
    task: str = TASK,
    num_envs: int = NUM_ENVS,
    change: Callable[[Any, Any], None] | None = None,
) -> Iterator[tuple[Recorder, Policy, Any]]:
    """A policy at the beginning of its first episodes."""
    overrides = [NEWTON, *OVERRIDES[library]] if task == TASK else [NEWTON]
    with fresh_environment(task, get_library(library), overrides, num_envs=num_envs, seed=5, device="cpu") as (
        env,
        cfg,
    ):
        if change:
            change(env.unwrapped, cfg)
        recorder = Recorder(env)
        given = copy.deepcopy(cfg)
        before = process_state()
        policy = load_policy(library, recorder, cfg, checkpoint, normalizer)
        assert process_state() == before
        assert to_dict(given) == to_dict(cfg)
        policy.begin()
        yield recorder, policy, cfg


def to_dict(cfg: Any) -> Any:
    return cfg if isinstance(cfg, dict) else cfg.to_dict()


def process_state() -> list[Any]:
    """What the libraries change for the whole process."""
    from skrl import config

    digests = [
        hashlib.sha256(pickle.dumps(state)).hexdigest()
        for state in (random.getstate(), np.random.get_state(), torch.get_rng_state().numpy().tobytes())
    ]
    backends = (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32)
    return [*digests, *backends, torch.get_num_threads(), torch.get_float32_matmul_precision(), config.torch.key]


def compare(recorder: Recorder, policy: Policy, limit: float | None = None) -> dict[str, Any]:
    """Play on, and put the bare network beside what the environment received."""
    while len(recorder.actions) < STEPS:
        policy.step()
    whole, normalizer = policy.network(), policy.normalizer()
    network, (given,) = whole.module, whole.inputs
    groups = policy.observation_groups
    assert given.groups == groups
    seen = torch.cat([given.take(item) for item in recorder.observations])
    actions = torch.cat(recorder.actions)
    with torch.inference_mode():
        answers = network(seen)
        singles = torch.cat([network(seen[row : row + 1]) for row in range(0, len(seen), 7)])
        scripted = torch.jit.script(network)(seen)
        traced = torch.jit.trace(network, seen[:1])(seen)
    beyond = beyond_before = None
    if normalizer is not None and normalizer.clip is not None:
        before = normalizer.clip_before or float("inf")
        scaled = (seen.clamp(-before, before) - torch.tensor(normalizer.mean)) / torch.tensor(normalizer.divisor)
        beyond = float((scaled.abs() > normalizer.clip).float().mean())
        beyond_before = float((seen.abs() > before).float().mean())
    return {
        "steps": len(recorder.actions),
        "shapes": [list(seen.shape), list(answers.shape)],
        "dtype": str(answers.dtype),
        "error": float((answers - actions).abs().max()),
        "error_one": float((singles - actions[::7]).abs().max()),
        "error_scripted": float((scripted - actions).abs().max()),
        "error_traced": float((traced - actions).abs().max()),
        "largest": float(actions.abs().max()),
        "typical": float(actions.abs().median()),
        "at_limit": None if limit is None else float((actions.abs() >= limit * (1 - 1e-6)).float().mean()),
        "beyond_clip": beyond,
        "beyond_clip_before": beyond_before,
        "normalizer": None if normalizer is None else vars(normalizer),
        "groups": list(groups),
        "trainable": any(parameter.requires_grad for parameter in network.parameters()),
    }


def narrow(name: str, folder: Path, typical: float) -> dict[str, Any]:
    """Play with limits that half of what a policy does is beyond, so that each clipping has something to clip."""
    library = name.partition(",")[0]
    checkpoint, normalizer = checkpoint_of(folder, library)
    limit: float | None = typical
    if library == "sb3":
        assert normalizer is not None
        statistics = pickle.loads(normalizer.read_bytes())
        statistics.clip_obs = 1.0
        statistics.action_space = gymnasium.spaces.Box(-typical, typical, (1,))  # the file's, not the environment's
        statistics.class_attributes = statistics.returns = None  # it leaves them out by deleting them
        (normalizer := folder / "narrow.pkl").write_bytes(pickle.dumps(statistics))
    if name in ("rl_games, rescaled", "rl_games, observations"):
        state = torch.load(checkpoint, weights_only=False)
        if name == "rl_games, rescaled":
            limit = 2.0
            state["model"]["a2c_network.mu.weight"] /= typical
            state["model"]["a2c_network.mu.bias"] /= typical
        else:
            limit = None
            state["model"]["running_mean_std.running_var"] *= 0.01
        torch.save(state, checkpoint := folder / f"{name}.pth")

    def change(env: Any, cfg: Any) -> None:
        if library == "rsl_rl":
            cfg.clip_actions = typical
        elif library == "rl_games":
            cfg["params"]["config"]["clip_actions"] = name == "rl_games, rescaled"
            cfg["params"]["env"]["clip_actions"] = limit or 100.0
            cfg["params"]["env"]["clip_observations"] = 0.5 if name == "rl_games, observations" else 5.0
        elif library == "skrl":
            env.single_action_space = gymnasium.spaces.Box(-typical, typical, (1,))
            cfg["models"]["policy"]["clip_mean_actions"] = True
            cfg["agent"]["state_preprocessor_kwargs"] = {"clip_threshold": 1.0}

    with playing(library, checkpoint, normalizer, change=change) as (recorder, policy, _):
        return {**compare(recorder, policy, limit), "limit": limit}


def train_and_play(folder: Path, order: list[str]) -> dict[str, Any]:
    """Everything that the tests ask about."""
    train(folder)
    alone, other_order = play_first(folder, order[:1]), play_first(folder, order[::-1])
    seen = play(folder, order)
    assert seen["first"][order[0]] == alone[order[0]]
    return {**seen, "other order": other_order}


def play_first(folder: Path, order: list[str]) -> dict[str, Any]:
    """The first actions of each library's policy."""
    seen = {}
    for library in order:
        with playing(library, *checkpoint_of(folder, library)) as (recorder, policy, _):
            seen[library] = first_actions(recorder, policy)
    return seen


def play(folder: Path, order: list[str]) -> dict[str, Any]:
    seen: dict[str, Any] = {"first": {}, "plain": {}, "narrow": {}, "alone": {}, "refused": {}}
    for library in order:
        checkpoint, normalizer = checkpoint_of(folder, library)
        with playing(library, checkpoint, normalizer) as (recorder, policy, _):
            seen["first"][library] = first_actions(recorder, policy)
            seen["plain"][library] = compare(recorder, policy)
            policy.begin()
            seen["plain"][library]["begins_anew"] = bool((recorder.env.unwrapped.episode_length_buf == 0).all())
        with playing(library, checkpoint, normalizer, num_envs=1) as (recorder, policy, _):
            seen["alone"][library] = compare(recorder, policy)
    for name in ("rsl_rl", "skrl", "rl_games, rescaled", "rl_games, wrapper", "rl_games, observations", "sb3"):
        seen["narrow"][name] = narrow(name, folder, seen["plain"][name.partition(",")[0]]["typical"])
    seen["narrow"]["sb3, squashed"] = squashed(folder)
    seen["manager-based"] = manager_based(folder)
    seen["memory"] = {"rsl_rl": rsl_rl_memory(folder), "rl_games": rl_games_memory(folder)}
    refusals(folder, seen["refused"])
    return seen


def first_actions(recorder: Recorder, policy: Policy) -> list[list[float]]:
    for _ in range(3):
        policy.step()
    return [action.flatten().tolist() for action in recorder.actions]


def squashed(folder: Path) -> dict[str, Any]:
    """A policy whose output tanh limits and sb3 scales: Isaac Lab's tasks have none, its configuration allows one."""
    from isaaclab_rl.sb3 import Sb3VecEnvWrapper
    from stable_baselines3 import PPO

    def change(env: Any, cfg: Any) -> None:
        env.single_action_space = gymnasium.spaces.Box(-1.0, 3.0, (1,))
        cfg |= {"use_sde": True, "normalize_input": False}
        cfg["policy_kwargs"] |= {"squash_output": True}
        options = {"use_sde": True, "policy_kwargs": {**cfg["policy_kwargs"], "activation_fn": torch.nn.ELU}}
        agent = PPO("MlpPolicy", Sb3VecEnvWrapper(env), n_steps=2, batch_size=2, device="cpu", **options)
        with torch.no_grad():
            agent.policy.action_net.weight *= 100
        agent.save(folder / "squashed.zip")

    with playing("sb3", folder / "squashed.zip", change=change) as (recorder, policy, _):
        return compare(recorder, policy)


def manager_based(folder: Path) -> dict[str, Any]:
    """Isaac-Cartpole with a second observation group, which the actor sees first."""
    from isaaclab_tasks.core.cartpole.cartpole_manager_env_cfg import CartpoleEnvCfg

    def configuration() -> Any:
        cfg = CartpoleEnvCfg()
        cfg.observations.more = copy.deepcopy(cfg.observations.policy)
        return cfg

    original = gymnasium.spec("Isaac-Cartpole")
    kwargs = {**original.kwargs, "env_cfg_entry_point": configuration}
    gymnasium.register("Test-Two-Groups", entry_point=original.entry_point, disable_env_checker=True, kwargs=kwargs)
    seen = {}
    for name, task, groups in (
        ("one group", "Isaac-Cartpole", None),
        ("two groups", "Test-Two-Groups", ["more", "policy"]),
    ):

        def change(env: Any, cfg: Any, groups: Any = groups, name: str = name) -> None:
            cfg.device = "cpu"
            cfg.actor.obs_normalization = True
            if groups:
                cfg.obs_groups = {"actor": groups, "critic": ["policy"]}
            save_untrained(env, cfg, folder / f"{name}.pt")

        with playing("rsl_rl", folder / f"{name}.pt", task=task, change=change) as (recorder, policy, _):
            seen[name] = compare(recorder, policy)
    return seen


def save_untrained(env: Any, cfg: Any, path: Path) -> None:
    """Save a fresh agent of RSL-RL as training saves it, with statistics of its own."""
    from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper, create_rsl_rl_runner, handle_deprecated_rsl_rl_cfg

    cfg = handle_deprecated_rsl_rl_cfg(copy.deepcopy(cfg), version("rsl-rl-lib"))
    runner = create_rsl_rl_runner(RslRlVecEnvWrapper(env), cfg)
    state = {**runner.alg.save(), "iter": 0, "infos": None}
    for name, tensor in state["actor_state_dict"].items():
        if name in ("obs_normalizer._mean", "obs_normalizer._std"):
            tensor.copy_(torch.linspace(0.5, 1.5, tensor.numel()).view_as(tensor))
    torch.save(state, path)


def rsl_rl_memory(folder: Path) -> dict[str, Any]:
    from isaaclab_rl.rsl_rl import RslRlRNNModelCfg

    def change(env: Any, cfg: Any) -> None:
        plain = {"hidden_dims": [8], "activation": "elu", "distribution_cfg": cfg.actor.distribution_cfg}
        cfg.actor = RslRlRNNModelCfg(rnn_type="lstm", rnn_hidden_dim=16, rnn_num_layers=1, **plain)
        save_untrained(env, cfg, folder / "recurrent.pt")

    with playing("rsl_rl", folder / "recurrent.pt", change=change) as (recorder, policy, _):
        found = forgetting(recorder, policy, lambda: policy._actor.get_hidden_state())
        return found | remembered(recorder, policy)


def rl_games_memory(folder: Path) -> dict[str, Any]:
    def change(env: Any, cfg: Any) -> None:
        cfg["params"]["network"]["rnn"] = {"name": "lstm", "units": 16, "layers": 1, "before_mlp": True}
        from isaaclab_rl.rl_games import RlGamesVecEnvWrapper
        from rl_games.torch_runner import Runner

        runner = Runner()
        runner.load(cfg)
        runner.params["config"]["env_info"] = RlGamesVecEnvWrapper.from_agent_cfg(env, cfg).get_env_info()
        torch.save({"model": runner.create_player().model.state_dict(), "epoch": 1}, folder / "recurrent.pth")

    with playing("rl_games", folder / "recurrent.pth", change=change) as (recorder, policy, _):
        return forgetting(recorder, policy, lambda: policy._player.states) | remembered(recorder, policy)


def forgetting(recorder: Recorder, policy: Policy, memory: Callable[[], Any]) -> dict[str, Any]:
    """End the first environment's episode, then begin anew."""
    for _ in range(3):
        policy.step()
    env = recorder.env.unwrapped
    env.episode_length_buf[0] = env.max_episode_length
    policy.step()
    states = torch.stack([state.abs().sum(dim=(0, 2)) for state in memory()])
    kept = {"ended": float(states[:, 0].max()), "going_on": float(states[:, 1:].min())}
    policy.begin()
    after = memory()
    cleared = after is None or all(float(state.abs().max()) == 0 for state in after)
    return {**kept, "cleared": cleared}


def remembered(recorder: Recorder, policy: Policy) -> dict[str, Any]:
    """Play from a beginning, an episode of which ends, and put the bare network beside it step by step."""
    policy.begin()
    recorder.observations.clear()
    recorder.actions.clear()
    env, ended = recorder.env.unwrapped, 10
    for step in range(STEPS):
        if step == ended:
            env.episode_length_buf[0] = env.max_episode_length
        policy.step()
    network = policy.network()
    (given,) = network.inputs
    states = [state.zeros(NUM_ENVS) for state in network.states]
    errors, errors_not_reset, kept = [], [], None
    with torch.inference_mode():
        for step, (seen, sent) in enumerate(zip(recorder.observations, recorder.actions, strict=True)):
            if step == ended + 1:
                kept = [state.clone() for state in states]
                states = [state.index_fill(1, torch.tensor([0]), 0.0) for state in states]
            actions, *states = network.module(given.take(seen), *states)
            errors.append(float((actions - sent).abs().max()))
            if kept is not None:
                wrong, *kept = network.module(given.take(seen), *kept)
                errors_not_reset.append(float((wrong - sent).abs().max()))
    shapes = [[state.name, state.layers, state.size] for state in network.states]
    return {"error": max(errors), "error_not_reset": max(errors_not_reset), "states": shapes}


def refusal(action: Callable[[], Any]) -> list[str]:
    """The code and the message of an error that must come."""
    try:
        action()
    except RequestError as error:
        return [error.failure.code, str(error)]
    return ["", "nothing was refused"]


def refusals(folder: Path, seen: dict[str, Any]) -> None:
    """Checkpoints that fit neither the task nor the configuration."""
    checkpoint, _ = checkpoint_of(folder, "sb3")
    with fresh_environment(TASK, get_library("sb3"), [NEWTON], num_envs=2, seed=1, device="cpu") as (env, cfg):
        wanting = {**cfg, "normalize_input": True}
        seen["no statistics"] = refusal(lambda: load_policy("sb3", env, wanting, checkpoint))
        (folder / "other.pkl").write_bytes(pickle.dumps({"mean": [0.0]}))
        seen["other statistics"] = refusal(lambda: load_policy("sb3", env, wanting, checkpoint, folder / "other.pkl"))
        seen["unknown library"] = refusal(lambda: load_policy("sb33", env, cfg, checkpoint))
    with fresh_environment(TASK, get_library("rsl_rl"), [NEWTON], num_envs=2, seed=1, device="cpu") as (env, cfg):
        cfg.actor.obs_normalization = True
        seen["another shape"] = refusal(lambda: load_policy("rsl_rl", env, cfg, folder / "two groups.pt"))
    checkpoint, _ = checkpoint_of(folder, "skrl")
    state = torch.load(checkpoint, weights_only=False)
    del state["observation_preprocessor"]
    torch.save(state, folder / "agent_1.pt")
    with fresh_environment(TASK, get_library("skrl"), [NEWTON], num_envs=2, seed=1, device="cpu") as (env, cfg):
        seen["no preprocessor"] = refusal(lambda: load_policy("skrl", env, cfg, folder / "agent_1.pt"))
