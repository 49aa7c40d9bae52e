"""Trained policies: loaded as their library runs them, and made bare networks for a robot."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.errors import RequestError
from simyard.runner.rl import get_library
from simyard.runner.rl.base import Policy

if TYPE_CHECKING:
    import torch


def load_policy(
    library_name: str, env: Any, agent_cfg: Any, checkpoint: Path, normalizer: Path | None = None
) -> Policy:
    """Build a library's agent on an environment and load a checkpoint into it; see `Policy`.

    Nothing outside the policy changes: random numbers go on as if it had not been built, and what is given stays as
    it is.

    Raises:
        RequestError: If the checkpoint does not fit the environment and the agent's configuration.
    """
    library = get_library(library_name)
    if hasattr(env.unwrapped, "possible_agents") and not library.is_multi_agent(agent_cfg):
        raise RequestError(
            f"The task has several agents ({', '.join(env.unwrapped.possible_agents)}); a policy here is for one.",
            code="multi_agent_task",
            advice="Use a task with one agent.",
        )
    try:
        with undisturbed(str(env.unwrapped.device)):
            return library.policy(env, agent_cfg, checkpoint, normalizer)
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        first = " ".join(line.strip() for line in str(error).splitlines()[:2])  # torch has a line for every tensor
        raise RequestError(
            f"Checkpoint {checkpoint.name!r} does not fit the task and its agent configuration: {first}",
            code="checkpoint_wrong_shape",
            advice="Give the task and the overrides it was trained with.",
        ) from error


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


def _describe(space: Any) -> str:
    shape = getattr(space, "shape", None)
    return f"{type(space).__name__} of shape {list(shape)}" if shape else type(space).__name__
