"""Trained policies, loaded as their library runs them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError
from simyard.runner.rl import get_library
from simyard.runner.rl.base import Policy


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


@contextmanager
def single_precision() -> Iterator[None]:
    """Have a policy compute in single precision, as exported files do.

    torch lets a GPU convolve in TF32, which keeps ten bits of a fraction, and rl_games has it multiply so: a policy
    that sees images then differs from its own export by 1e-4 and more.
    """
    import torch

    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, torch.get_float32_matmul_precision()
    cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])
