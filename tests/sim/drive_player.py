"""Called in a simulator: the cartpole's cart left to its damping."""

from pathlib import Path

import torch
from film_player import environment

from simyard.runner.isaaclab.adapter import give_joints_drives


def coast(folder: Path) -> dict[str, float]:
    """Return in each engine the speed of a cart that had 1 m/s, a sixth of a second before."""
    give_joints_drives()
    speeds = {}
    for physics in ("newton_mjwarp", "ovphysx"):
        with environment(physics, drawn=False) as (env, _):
            base = env.unwrapped
            env.reset()
            robot, count = base.scene["cartpole"], base.num_envs
            ids = torch.arange(count, dtype=torch.int32)
            robot.write_joint_position_to_sim_index(position=torch.zeros(count, 2), env_ids=ids)
            robot.write_joint_velocity_to_sim_index(velocity=torch.tensor([[1.0, 0.0]] * count), env_ids=ids)
            for _ in range(10):
                env.step(torch.zeros(count, 1))
            speeds[physics.removesuffix("_mjwarp")] = float(robot.data.joint_vel.torch[0, 0])
    return speeds
