"""The robot's side of exported policies on the real simulator, which the player calls."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from simyard.policy import PolicyRunner


def drive(folder: Path, policy: str, overrides: list[str], episodes: int, envs: int, package: str | None = None) -> Any:
    """Act on the environment with the exported policy alone; set its memory back where an episode ends."""
    import isaaclab_tasks  # noqa: F401
    import torch

    from simyard.runner.evaluation.episode_statistics import EpisodeMeter
    from simyard.runner.isaaclab.environment import fresh_environment, settle
    from simyard.runner.rl import get_library

    if package:
        sys.path.insert(0, package)
        __import__(Path(package).name)
    runner = PolicyRunner.load(policy)
    contract = runner.contract
    vectors = [group.name for group in contract.observation_groups if group.start is not None]
    played: list[Any] = []

    def act(observations: Any) -> Any:
        given = {image.name: observations[image.group].numpy() for image in contract.images or ()}
        if contract.input:
            given[contract.input.name] = np.concatenate([observations[name].numpy() for name in vectors], axis=1)
        return torch.from_numpy(runner.act(given))

    library = get_library(contract.library)
    with fresh_environment(contract.task, library, overrides, num_envs=envs, seed=1, device="cpu") as (env, _):
        meter = EpisodeMeter(env, episodes=episodes, longest=1000, seed=1, on_episode=played.append)
        settle(env, 1)
        observations, _ = env.reset()
        while not meter.done:
            observations, _, terminated, truncated, _ = env.step(act(observations))
            runner.reset((terminated | truncated).numpy())
    return [{"env": e.env, "length": e.length, "ended": e.ended, "total": e.total} for e in played]
