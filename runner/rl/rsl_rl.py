"""RSL-RL: `logs/rsl_rl/<experiment>/<time>/model_<index>.pt`, one TensorBoard step an iteration."""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
    TrainingWatch,
    to_int,
    use_learning_rate,
    with_methods,
)
from simyard.runner.rl.checkpoints import layers_of, length_of, load, setting
from simyard.runner.rl.networks import Network, State, as_network, inputs_of

if TYPE_CHECKING:
    import torch


_ITERATION = re.compile(r"Learning iteration (\d+)/(\d+)")
_REWARD = re.compile(r"Mean reward:\s*([-+\d.einfa]+)")
_FILE = re.compile(r"model_(\d+)\.pt")
_RATE = "agent.algorithm.learning_rate"


class RslRlPolicy(Policy):
    """The runner's inference policy, or the student of a distillation. The wrapper clips, the model normalises."""

    library = "rsl_rl"
    can_sample = True

    def __init__(self, env: Any, agent_cfg: Any, checkpoint: Path, normalizer: Path | None = None) -> None:
        from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper, handle_deprecated_rsl_rl_cfg

        device = env.unwrapped.device
        cfg = handle_deprecated_rsl_rl_cfg(copy.deepcopy(agent_cfg), importlib.metadata.version("rsl-rl-lib"))
        cfg.device = device
        self._env = RslRlVecEnvWrapper(env, clip_actions=cfg.clip_actions)
        runner = create_runner(self._env, cfg)
        runner.load(str(checkpoint), map_location=device)
        self._actor = runner.get_inference_policy(device=device)
        self._samples = False
        # A model for images keeps those of its groups apart that are not flat.
        self.observation_groups = _groups(self._actor)
        self.critic_groups = _groups(getattr(runner.alg, "critic", getattr(runner.alg, "teacher", None)))

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

    def network(self) -> Network:
        """Return normaliser, memory, layers and the mean of the distribution, then the wrapper's clipping."""
        import torch

        inputs = inputs_of(self._env, self.observation_groups, images=True, layout="NCHW")
        clip = self._env.clip_actions
        states: tuple[State, ...] = ()

        def clipped(actions: Any) -> Any:
            return actions if clip is None else torch.clamp(actions, -clip, clip)

        if self._actor.is_recurrent:
            # Its ONNX form takes the states and returns the next ones.
            actor = self._actor.as_onnx(verbose=False)
            sizes = [tuple(state.shape) for state in actor.get_dummy_inputs()[1:]]
            names = [name.removesuffix("_in") for name in actor.input_names[1:]]
            states = tuple(
                State(name=name, layers=layers, size=size) for name, (layers, _, size) in zip(names, sizes, strict=True)
            )

            def remember(self: Any, observations: Any, *memory: Any) -> Any:
                actions, *after = self.actor(observations, *(memory[n] for n in range(len(states))))
                return clipped(actions), *after[: len(states)]

            forward: Callable[..., Any] = remember
        elif pictures := [each for each in inputs if each.is_image]:
            actor, first = self._actor.as_jit(), len(inputs) - len(pictures)

            def look(self: Any, *seen: Any) -> Any:
                latents = [self.actor.obs_normalizer(seen[n]) for n in range(first)]
                latents += [cnn(seen[first + n]) for n, cnn in enumerate(self.actor.cnns)]
                return clipped(self.actor.deterministic_output(self.actor.mlp(torch.cat(latents, dim=-1))))

            forward = look
        else:
            actor = self._actor.as_jit()

            def react(self: Any, observations: Any) -> Any:
                return clipped(self.actor(observations))

            forward = react
        return Network(module=as_network(forward, actor=actor), inputs=inputs, states=states)

    def normalizer(self) -> Normalizer | None:
        """Return the empirical statistics: RSL-RL adds its epsilon to the deviation and clips nothing."""
        if not self._actor.obs_normalization or not self._actor.obs_dim:  # of images alone it has none
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
        "agent.experiment_name": None,
        "agent.run_name": None,
    }

    def rollout(self, agent_cfg: Mapping[str, Any]) -> int:
        """Return `num_steps_per_env`."""
        return int(agent_cfg["num_steps_per_env"])

    def checkpoints(self, agent_cfg: Mapping[str, Any], iterations: int, scale: Scale) -> int:
        """Count those of `save_interval`, the first and the last."""
        return iterations // max(int(agent_cfg["save_interval"]), 1) + 2

    def fit(self, agent_cfg: Mapping[str, Any], scale: Scale, given: set[str]) -> tuple[list[str], list[str]]:
        """Refuse a logger that is not installed; each of them writes TensorBoard's files too. Note what none reads.

        A recurrent model is trained on whole environments: with fewer of them than minibatches there are none in one.
        """
        parts = int(setting(agent_cfg, "algorithm.num_mini_batches") or 1)
        is_recurrent = any(setting(agent_cfg, f"{model}.rnn_type") for model in ("actor", "critic"))
        if is_recurrent and scale.num_envs < parts:
            raise RequestError(
                f"A recurrent policy is trained on whole environments: there are {scale.num_envs}, for "
                f"{parts} minibatches.",
                code="bad_override",
                advice=f"Set trainingConfig.numEnvs to {parts} or more, or agent.algorithm.num_mini_batches to "
                f"{scale.num_envs} or less.",
            )
        logger = agent_cfg.get("logger")
        if logger in ("wandb", "neptune") and importlib.util.find_spec(logger) is None:
            raise RequestError(
                f"agent.logger is {logger!r}, which is not installed for {sys.executable!r}.",
                code="bad_override",
                advice=f"Install {logger} there, or set agent.logger to tensorboard; metrics.csv comes with each.",
            )
        unread = sorted(given & {f"agent.{other}_project" for other in ("wandb", "neptune") if other != logger})
        return [], [f"override {key!r} has no effect: agent.logger is {logger!r}" for key in unread]

    def distills(self, agent_cfg: Mapping[str, Any]) -> bool:
        """Read the algorithm's class."""
        return bool(setting(agent_cfg, "algorithm.class_name") == "Distillation")

    def groups_of_others(self, agent_cfg: Mapping[str, Any]) -> set[str]:
        """Read both lists of groups."""
        return {group for one in ("critic", "teacher") for group in setting(agent_cfg, f"obs_groups.{one}") or ()}

    def custom_classes(self, agent_cfg: Mapping[str, Any]) -> dict[str, str]:
        """Return those with a module in their names, of runner, algorithm and networks."""
        parts = {"": agent_cfg, **{f"{key}.": part for key, part in agent_cfg.items() if isinstance(part, Mapping)}}
        named = {f"{path}class_name": part.get("class_name") for path, part in parts.items()}
        return {key: name for key, name in named.items() if isinstance(name, str) and _is_custom(name)}

    def import_class(self, name: str) -> type:
        """Import `module:Class`, or `module.Class`."""
        from rsl_rl.utils import resolve_callable  # type: ignore[import-untyped]

        found = resolve_callable(name)
        if not isinstance(found, type):
            raise TypeError(f"it is a {type(found).__name__}, not a class")
        return found

    def begin_training(self) -> None:
        """Let Isaac Lab's training have a runner of the user's: its own function knows two by name."""
        from isaaclab_rl.entrypoints.backends import train_rsl_rl

        train_rsl_rl.create_rsl_rl_runner = create_runner

    def is_teacher(self, agent_cfg: Mapping[str, Any], checkpoint: Path) -> bool:
        """A distillation starts from the checkpoint of a reinforcement learning, and goes on with one of its own."""
        if not self.distills(agent_cfg):
            return False
        return "student_state_dict" not in load(checkpoint)

    def prepare_resume(self, resumption: Resumption) -> tuple[Path, list[str]]:
        """Return a copy whose counter names the *next* iteration, and whose learning rate is the request's.

        The library saves the index of the iteration it has just finished and, on loading, runs that index again:
        the last iteration would be trained twice and the job would end one short. And it goes on with the optimiser's
        own learning rate, whatever its configuration says.
        """
        import torch

        state = torch.load(resumption.checkpoint, map_location="cpu", weights_only=False)
        if "student_state_dict" in state and resumption.agent_cfg and not self.distills(resumption.agent_cfg):
            state = {"actor_state_dict": state["student_state_dict"], "infos": None}  # to be trained on by itself
        state["iter"] = resumption.start_iteration
        if _RATE in resumption.given:
            use_learning_rate(state, setting(resumption.agent_cfg, "algorithm.learning_rate"))
        target = resumption.folder / resumption.checkpoint.name
        torch.save(state, target)
        return target, []

    trains_in_stages = True

    @contextmanager
    def watched(self, watch: TrainingWatch) -> Iterator[None]:
        """Have the runner that Isaac Lab makes tell of its iterations and checkpoints."""
        from isaaclab_rl.entrypoints.backends import train_rsl_rl

        create = train_rsl_rl.create_rsl_rl_runner

        def create_watched(*arguments: Any, **options: Any) -> Any:
            runner = create(*arguments, **options)
            _watch(runner, watch)
            return runner

        with with_methods(train_rsl_rl, create_rsl_rl_runner=create_watched):
            yield

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
    own_tags = frozenset({
        "Train/mean_reward", "Train/mean_episode_length", "Policy/mean_std", "Policy/mean_noise_std", "Perf/total_fps",
        "Perf/collection_time", "Perf/collection time", "Perf/learning_time",
    })  # fmt: skip
    checkpoint_glob = "logs/rsl_rl/*/*/model_*.pt"

    def progress(self, line: str, scale: Scale) -> Progress | None:
        """Read the iteration's headline (printed when it is done) or its mean reward."""
        if match := _ITERATION.search(line):
            return Progress(done=int(match.group(1)) + 1)
        if match := _REWARD.search(line):
            return Progress(reward=float(match.group(1)))
        return None

    resumes_exactly = True

    @contextmanager
    def kept_by(self, keeper: StateKeeper) -> Iterator[None]:
        """Watch the runner learn and save; it saves behind an iteration's update."""
        import torch
        from rsl_rl.runners import OnPolicyRunner  # type: ignore[import-untyped]

        learn, save = OnPolicyRunner.learn, OnPolicyRunner.save

        def learn_on(runner: Any, num_learning_iterations: int, init_at_random_ep_len: bool = False) -> None:
            logger, algorithm = runner.logger, runner.alg
            models = [part for part in _own(runner)["models"].values() if getattr(part, "is_recurrent", False)]
            if keeper.has_state and models:  # their memory is made by the first action
                with torch.inference_mode():
                    algorithm.act(runner.env.get_observations().to(runner.device))
            elapsed = logger.tot_time  # simyard adds the seconds of attempts up itself
            goes_on = keeper.begin(runner.env, _own(runner))
            logger.tot_time = elapsed
            if not goes_on:
                for model in models:
                    model.reset()
            learn(runner, num_learning_iterations, init_at_random_ep_len and not goes_on)

        def save_both(runner: Any, path: str, infos: Any = None) -> None:
            keeper.save(Path(path), runner.env, _own(runner))
            save(runner, path, infos)

        with with_methods(OnPolicyRunner, learn=learn_on, save=save_both):
            yield

    def first_step(self, tag: str, start_iteration: int, scale: Scale) -> int:
        """The step is the iteration's index."""
        return start_iteration

    # --- checkpoints from anywhere ----------------------------------------------------------------------------------

    file_glob = "*.pt"
    file_example = "model_59.pt"
    actor_keys = ("actor_state_dict", "student_state_dict")
    hidden_key = "agent.actor.hidden_dims"
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

    def is_own_network(self, agent_cfg: Any) -> bool:
        """Read the class's name: the library finds those without a module in its own packages."""
        names = [setting(agent_cfg, f"{part}.class_name") for part in ("actor", "student", "policy")]
        return not any(_is_custom(name) for name in names if name)

    def observation_groups(self, agent_cfg: Any) -> Any:
        """Return those of the actor, or of the student of a distillation."""
        return setting(agent_cfg, "obs_groups.student") or setting(agent_cfg, "obs_groups.actor")

    def hidden_sizes(self, agent_cfg: Any) -> Any:
        """Return the actor's, by the new or the old name, or the student's."""
        keys = ("student.hidden_dims", "actor.hidden_dims", "policy.actor_hidden_dims")
        return next((sizes for key in keys if (sizes := setting(agent_cfg, key))), None)

    def normalizes(self, agent_cfg: Any) -> bool | None:
        """Look under each name that the setting has had; a student has one of its own."""
        if setting(agent_cfg, "student") is not None:
            return bool(setting(agent_cfg, "student.obs_normalization"))
        keys = ("actor.obs_normalization", "policy.actor_obs_normalization", "empirical_normalization")
        return any(bool(setting(agent_cfg, key)) for key in keys)


class _EndedError(KeyboardInterrupt):
    """Raised in the library's loop to leave it: Isaac Lab takes it for Ctrl-C, and closes the environment."""


def _watch(runner: Any, watch: TrainingWatch) -> None:
    """Have a runner tell of its training."""
    logger, logged = runner.logger, dict[str, float]()
    learn, load, save = runner.learn, runner.load, runner.save
    init_writer, log = logger.init_logging_writer, logger.log

    def learn_on(*arguments: Any, **options: Any) -> None:
        runner.current_learning_iteration = watch.first_iteration
        logger.tot_time = watch.seconds
        watch.begin(runner.env.unwrapped)
        learn(*arguments, **options)

    def init_noting_writer() -> None:
        init_writer()
        add_scalar = logger.writer.add_scalar

        def note_scalar(tag: str, value: Any, *arguments: Any, **options: Any) -> None:
            logged[tag] = float(value)
            add_scalar(tag, value, *arguments, **options)

        logger.writer.add_scalar = note_scalar

    def log_and_judge(*arguments: Any, **options: Any) -> None:
        logged.clear()
        log(*arguments, **options)
        iteration = runner.current_learning_iteration
        if watch.iterated(iteration, logged, logger.tot_time):
            runner.save(str(Path(logger.log_dir, f"model_{iteration}.pt")))
            logger.stop_logging_writer()
            raise _EndedError

    def save_noted(path: str, *arguments: Any, **options: Any) -> None:
        watch.saving(Path(path))
        save(path, *arguments, **options)

    def load_what_is_there(path: str, load_cfg: Any = None, *arguments: Any, **options: Any) -> Any:
        import torch

        # Of a student there is the policy alone: its critic and its optimiser begin anew.
        keys = set(torch.load(path, map_location="cpu", weights_only=False))
        if load_cfg is None and "actor_state_dict" in keys and "critic_state_dict" not in keys:
            load_cfg = {"actor": True, "iteration": True}
        return load(path, load_cfg, *arguments, **options)

    runner.learn, runner.load, runner.save = learn_on, load_what_is_there, save_noted
    logger.init_logging_writer, logger.log = init_noting_writer, log_and_judge


def create_runner(env: Any, agent_cfg: Any, log_dir: str | None = None) -> Any:
    """Make the runner that an agent's configuration names: one of rsl_rl's as Isaac Lab does, or one of the user's."""
    from isaaclab_rl.rsl_rl.utils import create_rsl_rl_runner, to_dict

    if not _is_custom(agent_cfg.class_name):
        return create_rsl_rl_runner(env, agent_cfg, log_dir=log_dir)
    runner: Any = LIBRARY.import_class(agent_cfg.class_name)
    return runner(env, to_dict(agent_cfg), log_dir=log_dir, device=agent_cfg.device)


def _is_custom(name: str) -> bool:
    """Return whether a class is not one of the library's, which have names without a module, or of its own modules."""
    return ":" in name or "." in name.removeprefix("rsl_rl.")


def _own(runner: Any) -> dict[str, Any]:
    """Return statistics of episodes, and models: a recurrent one remembers what it saw."""
    import torch

    models = {name: part for name, part in vars(runner.alg).items() if isinstance(part, torch.nn.Module)}
    return {"logger": runner.logger, "models": models}


def _groups(model: Any) -> tuple[str, ...]:
    """Return a model's observation groups in its order: vectors, then images."""
    return (*getattr(model, "obs_groups", ()), *getattr(model, "obs_groups_2d", ()))


LIBRARY = RslRl()
