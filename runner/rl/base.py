"""The protocol of a reinforcement-learning library: all that simyard must know of one, in one file beside this one.

`<name>.py` has a subclass of `Library`, a subclass of `Policy`, and `LIBRARY`, the one object of the former. The file's
name is the library's in requests. It is imported by the control side too, which has neither torch nor a simulator: so
it imports the standard library at its top, and everything else inside functions.

What is left to the default is right for a library that Isaac Lab starts by `isaaclab_rl.entrypoints`, that logs to
TensorBoard below `logs/`, and whose checkpoints are files of `torch.save`.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from simyard.runner.rl.agents import Agents

if TYPE_CHECKING:
    import torch

    from simyard.runner.rl.networks import Network


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The sizes that turn a library's own counters into iterations."""

    num_envs: int
    rollout: int
    """Steps each environment takes in one iteration."""

    @property
    def transitions(self) -> int:
        """Environment steps of all environments in one iteration."""
        return self.num_envs * self.rollout


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One line's worth of progress."""

    done: int | None = None
    """Units of work finished; while training these are iterations, in the library's own count (see
    `Library.prints_absolute`)."""
    step: int | None = None
    """Steps taken so far: a sign of life between units."""
    reward: float | None = None
    """Mean return of recent episodes."""
    ended_early: str | None = None
    """Reason for which the library ends its training before its limit, by a rule of its own."""


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """A training that goes on from a checkpoint.

    Of two that want different things of a setting, the request wins over the checkpoint; a checkpoint of the job
    itself has what the request said, and what has become of it since: it goes on with that.
    """

    checkpoint: Path
    folder: Path
    """Where a changed copy may be put."""
    start_iteration: int
    """Iterations that the policy has seen."""
    share: float = 1.0
    """Part of the job's own iterations that is still to do: what is left of its schedules."""
    scale: Scale = Scale(num_envs=1, rollout=1)
    seed: int = 0
    agent_cfg: Mapping[str, Any] = field(default_factory=dict)
    """The agent's configuration as the request resolves it; empty where nobody knows it, as on Isaac Lab 2.3."""
    given: frozenset[str] = frozenset()
    """Keys that the user set; empty for a checkpoint of the job itself."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Numbers of an agent's configuration for which a text may stand that describes a schedule."""

    keys: frozenset[str]
    form: re.Pattern[str]
    """The whole text."""


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts:
    """The network that a checkpoint holds, as far as the file tells; None where it does not."""

    inputs: int | None
    """Observations its actor takes."""
    outputs: int | None
    """Actions its actor gives."""
    hidden: tuple[int, ...] | None
    """Sizes of the actor's hidden layers."""
    normalized: bool | None
    """Whether it holds statistics of the observations; None where they are kept in a file of their own."""


@dataclass(frozen=True, kw_only=True)
class Normalizer:
    """Normalisation of observations before the network: `(observation - mean) / divisor`, then clipped."""

    mean: tuple[float, ...]
    """One for each observation, in order."""
    divisor: tuple[float, ...]
    """Standard deviations, with whatever the library adds to them."""
    clip: float | None = None
    """Largest magnitude after it; None for no limit."""
    clip_before: float | None = None
    """Largest magnitude of an observation before it (rl_games' wrapper limits that too); None for no limit."""

    @classmethod
    def of(cls, mean: Any, divisor: Any, *, clip: float | None = None, clip_before: float | None = None) -> Normalizer:
        """Make one of tensors or arrays."""
        return cls(mean=tuple(map(float, mean)), divisor=tuple(map(float, divisor)), clip=clip, clip_before=clip_before)

    def apply(self, observations: Any) -> Any:
        """Normalise in float32, as the libraries do."""
        import torch

        if self.clip_before is not None:
            observations = torch.clamp(observations, -self.clip_before, self.clip_before)
        normalized = (observations - torch.tensor(self.mean)) / torch.tensor(self.divisor)
        return normalized if self.clip is None else torch.clamp(normalized, -self.clip, self.clip)


class TrainingWatch:
    """Eyes on a training, iteration by iteration, and the power to end it."""

    first_iteration: int
    """Iterations of the job before this training, which goes on counting from there."""
    seconds: float
    """Seconds of training before it, which the library goes on counting."""

    def begin(self, env: Any) -> None:
        """Note that the training begins in an environment, which is the innermost one."""
        raise NotImplementedError

    def iterated(self, iteration: int, metrics: Mapping[str, float], seconds: float) -> bool:
        """Take note of an iteration, counted from 0, and of all that it logged; return whether it was the last."""
        raise NotImplementedError

    def saving(self, file: Path) -> None:
        """Note that a checkpoint is about to be written."""
        raise NotImplementedError


class Policy:
    """A library's own inference, driving one environment. It plays the mean, unless it is told to `sample`."""

    library: ClassVar[str]
    """The library's name."""
    can_sample: ClassVar[bool] = False
    """Whether its actions can be drawn from its distribution."""
    log_prob: torch.Tensor | None = None
    """`(num_envs,)`: log-density of the actions drawn last, summed over their dimensions; None while it plays the
    mean. It is there before the environment steps."""
    observation_groups: tuple[str, ...] = ("policy",)
    """The environment's observation groups that the network sees, in its order."""
    critic_groups: tuple[str, ...] = ("critic",)
    """Those that its critic or its teacher saw, as far as the environment has them."""

    def __init__(self, env: Any, agent_cfg: Any, checkpoint: Path, normalizer: Path | None = None) -> None:
        """Build the library's agent as training built it, and load the checkpoint into it.

        Args:
            env: The gymnasium environment; wrappers below the library's own see each action it sends.
            agent_cfg: As `resolve_task_config` returns it.
            checkpoint: A file that `checkpoints.inspect` accepted.
            normalizer: The observation statistics, where the library keeps them in a file of their own.
        """
        raise NotImplementedError

    def begin(self) -> None:
        """Reset the environment and the policy's own state."""
        raise NotImplementedError

    def step(self) -> None:
        """Infer one action for every environment and take one step."""
        raise NotImplementedError

    def sample(self) -> None:
        """Draw actions from the policy's distribution from now on, by torch's own generator.

        Raises:
            RequestError: If the policy has no distribution.
        """
        raise NotImplementedError

    def network(self) -> Network:
        """Return observations -> actions for export, both as the environment has them.

        Raises:
            RequestError: If it has a memory or sees observations that cannot be exported.
        """
        raise NotImplementedError

    def normalizer(self) -> Normalizer | None:
        """Return the statistics inside `network`, or None when it does not normalise."""
        raise NotImplementedError


class StateKeeper(Protocol):
    """Keeps the state of a training beside its checkpoints."""

    has_state: bool
    """Whether there is one to put back."""

    def begin(self, env: Any, own: Mapping[str, Any]) -> bool:
        """Put the state back, before the first iteration; return whether episodes under way go on.

        Args:
            env: The environment, of which `unwrapped` is Isaac Lab's.
            own: Objects of the library with state that its checkpoints lack, by any name.
        """

    def save(self, checkpoint: Path, env: Any, own: Mapping[str, Any]) -> None:
        """Keep the state that belongs to a checkpoint, before the library writes that."""


class Library(Agents):
    """A library's names, files and habits. An *iteration* is one policy update everywhere in simyard."""

    # --- names ----------------------------------------------------------------------------------------------------

    module: ClassVar[str]
    """The module that must be importable. A bare interpreter that tries an exported policy refuses it."""
    install: ClassVar[str]
    """The command that makes it so."""
    packages: ClassVar[tuple[str, ...]]
    """Distributions that determine a training's result; their versions are kept with each job."""
    policy: ClassVar[type[Policy]]
    """Its inference, for evaluation, export and rollouts."""

    # --- before a training ----------------------------------------------------------------------------------------

    multi_gpu: ClassVar[bool] = True
    """Whether Isaac Lab's multi-GPU launcher can drive it."""
    absolute_iterations: ClassVar[bool] = False
    """Whether the library's own limit counts the iterations of the checkpoint too."""
    needs_rollout: ClassVar[bool] = False
    """Whether checkpoints are named by environment steps: a rollout's length turns those into iterations."""
    owned_keys: ClassVar[Mapping[str, str | None]] = {}
    """Keys of its agent's configuration that simyard sets, which no override may: each with the field of the request
    that is meant instead, or None where simyard decides (where logs go, and in which form)."""

    schedule: ClassVar[Schedule | None] = None
    """Numbers that may be schedules instead; None where none may."""

    def device_overrides(self, device: str) -> list[str]:
        """Return the Hydra arguments that move the agent to a device (`--device` moves the simulation alone)."""
        return [f"agent.device={device}"]

    def rollout(self, agent_cfg: Mapping[str, Any]) -> int:
        """Return the steps each environment takes in one iteration."""
        raise NotImplementedError

    def fit(self, agent_cfg: Mapping[str, Any], scale: Scale, given: set[str]) -> tuple[list[str], list[str]]:
        """Return (overrides, notes) that make the agent's configuration fit the job.

        Args:
            agent_cfg: The resolved configuration.
            scale: The job's sizes.
            given: Keys the user set; those are never changed.

        Raises:
            RequestError: If what the user set cannot work.
        """
        return [], []

    def arguments(self, scale: Scale) -> list[str]:
        """Return command-line arguments of this library's own."""
        return []

    def not_resumable(self, agent_cfg: Mapping[str, Any]) -> str | None:
        """Return the reason for which a checkpoint cannot be resumed without its state; None for one that can."""
        return None

    def is_teacher(self, agent_cfg: Mapping[str, Any], checkpoint: Path) -> bool:
        """Return whether a checkpoint that a training starts from is only looked up to: the policy begins at 0."""
        return False

    trains_in_stages: ClassVar[bool] = False
    """Whether `watched` is there."""

    def watched(self, watch: TrainingWatch) -> AbstractContextManager[None]:
        """Let every training that begins in the body be watched; one that the watch ends leaves a last checkpoint."""
        raise NotImplementedError

    def distills(self, agent_cfg: Mapping[str, Any]) -> bool:
        """Return whether an agent imitates a teacher."""
        return False

    def groups_of_others(self, agent_cfg: Mapping[str, Any]) -> set[str]:
        """Return the observation groups that an agent's critic or teacher sees, as far as the configuration tells."""
        return set()

    def limit(self, last_iteration: int, start_iteration: int) -> int:
        """Return the limit for a training until `last_iteration`, by the library's own count."""
        return last_iteration if self.absolute_iterations else last_iteration - start_iteration

    def checkpoints(self, agent_cfg: Mapping[str, Any], iterations: int, scale: Scale) -> int:
        """Return the number of checkpoints that a training of so many iterations will save, about; 0 if unknown."""
        return 0

    def prepare_resume(self, resumption: Resumption) -> tuple[Path, list[str]]:
        """Return (checkpoint, overrides) with which the library goes on with iteration `start_iteration`.

        The overrides come after the user's own.
        """
        return resumption.checkpoint, []

    def scripts_resume(self, checkpoint: Path) -> list[str]:
        """Return the arguments that resume on Isaac Lab 2.3."""
        return ["--checkpoint", str(checkpoint)]

    # --- during a training ----------------------------------------------------------------------------------------

    prints_absolute: ClassVar[bool] = False
    """Whether the printed iteration counts those of the checkpoint too."""
    reward_tag: ClassVar[str]
    """TensorBoard tag of the mean episode return."""
    length_tag: ClassVar[str]
    """TensorBoard tag of the mean length of episodes, in steps."""
    own_tags: ClassVar[frozenset[str]] = frozenset()
    """Every tag in the groups that are the library's alone, a group being what stands before the first slash; empty
    where nothing is known of its tags."""
    checkpoint_glob: ClassVar[str]
    """Checkpoints, relative to the workload's folder."""
    normalizer_glob: ClassVar[str | None] = None
    """Observation statistics that it keeps in a file of their own, relative to a run's folder; None for none."""

    def never_logs(self, tag: str) -> bool:
        """Return whether no training has such a tag: it is in no group, or is missing in one of the library's own."""
        group, slash, _ = tag.partition("/")
        groups = {own.partition("/")[0] for own in self.own_tags}
        return bool(groups) and (not slash or (group in groups and tag not in self.own_tags))

    def progress(self, line: str, scale: Scale) -> Progress | None:
        """Return the progress that one line of output tells of, or None."""
        raise NotImplementedError

    def iteration_of(self, file: Path, start_iteration: int, scale: Scale) -> int | None:
        """Return the iterations the policy had seen when `file` was saved, or None for a file without a number.

        The default is right for a library whose names go on counting when it resumes.
        """
        return self.iteration_in_name(file.name)

    def artifact_name(self, file: Path, start_iteration: int, scale: Scale) -> str:
        """Return the checkpoint's name in the job, unique over all attempts."""
        return file.name

    def step_offset(self, start_iteration: int, scale: Scale) -> int:
        """Return the number to add to the logged steps of an attempt that starts at this iteration."""
        return 0

    def first_step(self, tag: str, start_iteration: int, scale: Scale) -> int:
        """Return the first step such an attempt logs for a tag, on the job's axis."""
        raise NotImplementedError

    def is_complete(self, file: Path) -> bool:
        """Return True for a whole checkpoint: of a zip archive, as torch writes, the directory comes last.

        Needs no torch: the supervisor asks it of a file that is perhaps still being written.
        """
        try:
            with zipfile.ZipFile(file) as archive:
                return archive.testzip() is None
        except (zipfile.BadZipFile, OSError, EOFError, ValueError):
            return False

    resumes_exactly: ClassVar[bool] = False
    """Whether its training, on the CPU, goes on where it was: it resets no environment and keeps no observation."""

    def kept_by(self, keeper: StateKeeper) -> AbstractContextManager[None]:
        """Have a keeper told when a training begins and when it saves, while the body of the context runs."""
        return nullcontext()

    def load_own(self, file: Path) -> list[Any]:
        """Load the parts with tensors of a checkpoint that this very job wrote, on the CPU."""
        import torch

        # The optimiser's state may hold more than plain tensors.
        return [torch.load(file, map_location="cpu", weights_only=False)]

    def leave_process(self) -> None:
        """Undo changes of a training to this process that would affect the next job, of whatever library.

        It is called after every job of a process that has imported `module`.
        """

    # --- checkpoints from anywhere --------------------------------------------------------------------------------

    file_glob: ClassVar[str]
    """Files in any folder that may be its checkpoints: `*.pt`."""
    file_folder: ClassVar[str] = ""
    """Folder below a run's that it saves checkpoints in."""
    file_example: ClassVar[str]
    """The name of a checkpoint, for messages."""
    actor_keys: ClassVar[tuple[str, ...]]
    """Keys of the actor's tensors in a checkpoint; the first that is there counts."""
    hidden_key: ClassVar[str]
    """The override that sets the actor's hidden layers, for messages."""
    normalizer_key: ClassVar[str] = ""
    """The override that has observations normalised, for messages; empty where checkpoints never tell."""

    def iteration_in_name(self, name: str) -> int | None:
        """Return the iterations that a checkpoint from elsewhere had seen, or None when its name does not say."""
        return None

    def order_of(self, file: Path) -> tuple[int, ...] | None:
        """Return a sort key by which a run's newest checkpoint comes last, or None when the file does not say."""
        iteration = self.iteration_in_name(file.name)
        return None if iteration is None else (iteration,)

    def read_archive(
        self, file: Path, archive: zipfile.ZipFile, load_member: Callable[[str], Any]
    ) -> dict[Any, Any] | None:
        """Return the state in a zip archive that is not torch's, or None for an archive of another kind.

        Args:
            file: The checkpoint, for messages.
            archive: The same, open.
            load_member: Loads a member that torch wrote, without running code in it.

        Raises:
            RequestError: If it is this library's and cannot be read.
        """
        return None

    def has_pickled_settings(self, file: Path) -> bool:
        """Return True for a file out of which this library, when it resumes, unpickles more than `load` has seen."""
        return False

    def wrote(self, state: Mapping[Any, Any]) -> bool:
        """Return whether a loaded checkpoint is this library's."""
        raise NotImplementedError

    def require_playable(self, file: Path, state: Mapping[Any, Any]) -> None:
        """Refuse a checkpoint of a version of this library that cannot be played.

        Raises:
            RequestError: If it is of such a version.
        """

    def actor_of(self, state: Mapping[Any, Any]) -> Mapping[Any, Any] | None:
        """Return the actor's tensors in a loaded checkpoint; of several actors the first one's, None for none."""
        return next((state[key] for key in self.actor_keys if isinstance(state.get(key), Mapping)), None)

    def read(self, state: Mapping[Any, Any], actor: Mapping[str, torch.Tensor]) -> CheckpointFacts:
        """Return the facts that a loaded checkpoint holds about itself.

        Args:
            state: The checkpoint.
            actor: The actor's tensors by name.
        """
        raise NotImplementedError

    def is_own_network(self, agent_cfg: Any) -> bool:
        """Return whether the actor's class is one of the library's: the weights of another tell nothing by their names.

        Such a checkpoint is not compared with its task; the library says when it loads it.
        """
        return True

    def observation_groups(self, agent_cfg: Any) -> Any:
        """Return the groups of observations that the actor sees; None where the agent's configuration does not say."""
        return None

    def hidden_sizes(self, agent_cfg: Any) -> Any:
        """Return the list of the actor's hidden layers in an agent's configuration, or None where it has none.

        A -1 stands for as many as there are observations.
        """
        return None

    def normalizes(self, agent_cfg: Any) -> bool | None:
        """Return whether an agent's configuration has observations normalised with statistics in the checkpoint."""
        return None


@contextmanager
def with_methods(cls: Any, **methods: Callable[..., Any]) -> Iterator[None]:
    """Have a class or a module do something else under some names, while the body runs."""
    originals = {name: vars(cls).get(name) for name in methods}
    for name, method in methods.items():
        setattr(cls, name, method)
    try:
        yield
    finally:
        for name, original in originals.items():
            if original is None:  # it inherits it
                delattr(cls, name)
            else:
                setattr(cls, name, original)


def to_int(match: re.Match[str] | None) -> int | None:
    """Return the first group as a number."""
    return int(match.group(1)) if match else None


def use_learning_rate(state: Mapping[Any, Any], rate: Any) -> None:
    """Write a learning rate into every optimiser's state of a loaded checkpoint; what is no number is left out."""
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        return
    for value in state.values():
        if isinstance(value, Mapping):
            for group in value.get("param_groups", ()):
                group["lr"] = float(rate)


def tensors_of(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (dotted name, tensor) of every tensor in nested containers, below a name."""
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from tensors_of(f"{name}.{key}" if name else str(key), item)
