"""A trained policy as its library runs it, and as a bare network for a robot."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from simyard.core.errors import RequestError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Normalizer:
    """How observations are normalised before the network: `(observation - mean) / divisor`, then clipped."""

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
        return cls(mean=_numbers(mean), divisor=_numbers(divisor), clip=clip, clip_before=clip_before)

    def apply(self, observations: Any) -> Any:
        """Normalise in float32, as the libraries do."""
        import torch

        if self.clip_before is not None:
            observations = torch.clamp(observations, -self.clip_before, self.clip_before)
        normalized = (observations - torch.tensor(self.mean)) / torch.tensor(self.divisor)
        return normalized if self.clip is None else torch.clamp(normalized, -self.clip, self.clip)


class Policy:
    """A library's own inference, driving one environment. It plays the mean, unless it is told to `sample`."""

    library: ClassVar[str]
    can_sample: ClassVar[bool] = False
    """Whether its actions can be drawn from its distribution."""
    log_prob: torch.Tensor | None = None
    """`(num_envs,)`: log-density of the actions drawn last, summed over their dimensions; None while it plays the
    mean. It is there before the environment steps."""
    observation_groups: tuple[str, ...] = ("policy",)
    """The environment's observation groups that the network sees, concatenated in this order."""

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

    def network(self) -> torch.nn.Module:
        """Return observations -> actions as one module for export.

        Returns:
            A module on the CPU in evaluation mode, float32, that TorchScript and ONNX can take: `(batch, observations)`
            -> `(batch, actions)`, both as the environment has them: normaliser and clipping are inside.

        Raises:
            RequestError: If the policy is recurrent or sees anything but flat observations.
        """
        raise NotImplementedError

    def normalizer(self) -> Normalizer | None:
        """Return the statistics inside `network`, or None when it does not normalise."""
        raise NotImplementedError


def as_network(forward: Callable[[Any], Any], **parts: Any) -> torch.nn.Module:
    """Return a function of observations as one module of plain operations.

    Tracing leaves the libraries' classes behind: what comes back holds torch's own layers and calls, whatever Python
    the library runs around them, so that TorchScript and ONNX take it.

    Args:
        forward: The function, of the parts and of torch's operations.
        parts: The modules it calls.

    Raises:
        RequestError: If its course depends on the observations' values.
    """
    import torch

    root = type("Network", (torch.nn.Module,), {"forward": lambda _, observations: forward(observations)})()
    for name, part in parts.items():
        setattr(root, name, part)
    try:
        network = torch.fx.symbolic_trace(root)
    except Exception as error:
        raise RequestError(
            f"The policy's network cannot be taken out of its library: {type(error).__name__}: {error}",
            code="unsupported_policy",
            advice="Networks of plain layers can be; evaluate this one with its library.",
        ) from error
    network.graph.eliminate_dead_code()
    network.recompile()
    network = copy.deepcopy(network).cpu().float().eval()
    return network.requires_grad_(False)


def require_flat(env: Any, groups: tuple[str, ...]) -> None:
    """Raise `RequestError` unless the network sees vectors and gives one."""
    import gymnasium

    spaces = env.unwrapped.single_observation_space
    for group in groups:
        space = spaces[group]
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise RequestError(
                f"The policy sees observation group {group!r}, a {_describe(space)}; only vectors can be exported.",
                code="unsupported_observations",
                advice="Evaluate it instead, or train a policy on vectors: a distilled one, say.",
            )
    if not isinstance(env.unwrapped.single_action_space, gymnasium.spaces.Box):
        raise RequestError(
            f"The policy's actions are a {_describe(env.unwrapped.single_action_space)}; only vectors can be exported.",
            code="unsupported_actions",
            advice="Evaluate it instead.",
        )


def recurrent(what: str) -> RequestError:
    """Return the error for a policy with a memory."""
    return RequestError(
        f"The policy is recurrent ({what}): its actions depend on more than the last observation.",
        code="recurrent_policy",
        advice="Evaluate it instead, or train a policy without a memory on a history of observations.",
    )


def keeping_random_numbers(device: Any) -> AbstractContextManager[None]:
    """Give torch's random numbers back: some libraries draw a sample even where they play the mean."""
    import torch

    here = torch.device(device)
    found: AbstractContextManager[None] = torch.random.fork_rng([here] if here.type == "cuda" else [])
    return found


@contextmanager
def undisturbed(device: str) -> Iterator[None]:
    """Leave random numbers and torch's settings as they were.

    Building an agent draws weights, rl_games and skrl seed everything, and rl_games changes threads and precision for
    the whole process. Restored, episodes depend on the environment's seed alone, and each policy acts as it does alone.
    """
    import numpy as np
    import torch

    numbers = random.getstate(), np.random.get_state()
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    convolutions = cudnn.allow_tf32, cudnn.benchmark
    try:
        with keeping_random_numbers(device):
            yield
    finally:
        random.setstate(numbers[0])
        np.random.set_state(numbers[1])
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        cudnn.allow_tf32, cudnn.benchmark = convolutions


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _describe(space: Any) -> str:
    shape = getattr(space, "shape", None)
    return f"{type(space).__name__} of shape {list(shape)}" if shape else type(space).__name__
