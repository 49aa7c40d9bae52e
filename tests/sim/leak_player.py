"""The side of the simulator in `test_warm_simulator.py`: makes environments, and counts what is alive."""

import gc
from pathlib import Path


def step(folder: Path, num_envs: int) -> None:
    import isaaclab_tasks  # noqa: F401
    import torch

    from simyard.runner.isaaclab.environment import fresh_environment
    from simyard.runner.rl import get_library

    overrides = ["physics=newton_mjwarp"]
    with fresh_environment(
        "Isaac-Cartpole-Direct", get_library("rsl_rl"), overrides, num_envs=num_envs, seed=7, device="cpu"
    ) as (env, _):
        env.reset()
        env.step(torch.zeros(num_envs, 1))


def alive(folder: Path) -> list[int]:
    """Return how many models, arrays with memory and environments there are."""
    import gymnasium
    import newton
    import warp

    gc.collect()
    objects = gc.get_objects()
    arrays = [item for item in objects if type(item) is warp.array and item.capacity]
    return [
        sum(type(item) is newton.Model for item in objects),
        len(arrays),
        sum(issubclass(type(item), gymnasium.Env) for item in objects),
    ]
