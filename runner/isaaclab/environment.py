"""A fresh Isaac Lab environment: made for one piece of work, closed after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from simyard.runner.isaaclab import kit
from simyard.runner.isaaclab.agents import registered_agent
from simyard.runner.progress import say_activity
from simyard.runner.rl import Library
from simyard.runner.video.trajectories import drawable

_MJWARP, _PHYSX = "mjwarp", "physx"
"""The orders of joints and bodies, as Isaac Lab names them: that of Newton's solvers, and that of PhysX."""


@contextmanager
def fresh_environment(
    task: str,
    library: Library | None,
    overrides: Sequence[str],
    *,
    num_envs: int,
    seed: int,
    device: str,
    steps_done: int = 0,
    change: Callable[[Any], None] = lambda env_cfg: None,
    drawn: bool = False,
    agent: str | None = None,
    order: str | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Make the environment of a task as training makes it, without rendering, and close it in the end.

    Args:
        task: The task's registered id.
        library: Whose agent configuration goes with it; None for no agent.
        overrides: Hydra arguments.
        num_envs: Environments side by side.
        seed: Of the environment; the same seed gives the same episodes on a CPU.
        device: `cpu` or `cuda:0`.
        steps_done: Steps that each environment of the policy's training has taken: curricula go by them.
        change: Called with the environment's configuration, to change what no override can.
        drawn: Whether it is to be drawn: see `Drawn`.
        agent: The job's agent.
        order: The engine whose order of joints and bodies the policy has: see `keep_order`.

    Yields:
        The gymnasium environment and the agent's configuration, None without a library.

    Raises:
        RequestError: It needs Isaac Sim, which is not here or whose licence nobody has accepted.
    """
    import gymnasium
    from isaaclab.app import launch_simulation
    from isaaclab_tasks.utils import resolve_task_config

    env_cfg, agent_cfg = resolve_task_config(task, registered_agent(task, library, agent), overrides=list(overrides))
    env_cfg.scene.num_envs = num_envs
    env_cfg.seed = seed
    env_cfg.sim.device = device
    change(env_cfg)
    keep_order(env_cfg, order)
    kit.require(task, kit.parts_on_it(env_cfg))
    say_activity("making the environment")
    with launch_simulation(env_cfg, {"device": device, "visualizer": []}):
        is_newton = hasattr(env_cfg.sim.physics, "solver_cfg")  # what it simulates can be drawn
        with stepped(steps_done), drawable() if drawn and not is_newton else nullcontext():
            env = gymnasium.make(task, cfg=env_cfg)
        if library is not None and hasattr(env_cfg, "possible_agents") and not library.is_multi_agent(agent_cfg):
            from isaaclab.envs import multi_agent_to_single_agent

            env = multi_agent_to_single_agent(env)  # as it is trained
        try:
            yield env, agent_cfg
        finally:
            env.close()


def keep_order(env_cfg: Any, engine: str | None) -> None:
    """Have robots keep an engine's order of joints and bodies under another engine, unless the task has its own order.

    Newton counts joints limb by limb, PhysX level by level. Observations and actions follow that order, so that a
    policy of one engine moves the wrong joints in the other.
    """
    if engine is None:
        return
    own = _MJWARP if hasattr(env_cfg.sim.physics, "solver_cfg") else _PHYSX
    wanted = _PHYSX if engine == "physx" else _MJWARP
    if wanted == own:
        return
    from isaaclab.assets import ArticulationCfg

    for holder in (env_cfg, env_cfg.scene):
        for robot in vars(holder).values():
            if isinstance(robot, ArticulationCfg) and robot.joint_ordering is None and robot.body_ordering is None:
                robot.joint_ordering = robot.body_ordering = wanted


@contextmanager
def stepped(
    steps_done: int, made: Callable[[Any], None] = lambda env: None, *, order: str | None = None
) -> Iterator[None]:
    """Let every environment that is made in the body go on counting its steps where an earlier one stopped.

    Isaac Lab counts from 0 in each process, and curricula, rewards and events ask for the count: a resumed training
    would have its first curriculum again, and an evaluation tasks that the policy has left behind. `made` is called
    with each innermost one, before its first reset; `order` is that of `fresh_environment`.
    """
    import gymnasium

    make = gymnasium.make

    def make_stepped(*arguments: Any, **options: Any) -> Any:
        if "cfg" in options:
            keep_order(options["cfg"], order)
        env = make(*arguments, **options)
        if hasattr(env.unwrapped, "common_step_counter"):
            env.unwrapped.common_step_counter = steps_done
        made(env.unwrapped)
        return env

    gymnasium.make = make_stepped
    try:
        yield
    finally:
        gymnasium.make = make


def settle(env: Any, seed: int) -> None:
    """Bring a fresh environment to where every policy begins, whatever its library did to it before: then reset it.

    Libraries reset a different number of times when they are built. And the very first reset of an environment may
    differ from all others: Isaac Lab's cartpole clamps its velocities to limits that are not known yet, so to 0.
    """
    import torch

    # As every step of a policy: a task that keeps its actions fills them in place when it is reset.
    with torch.inference_mode():
        env.reset()
    env.unwrapped.seed(seed)
