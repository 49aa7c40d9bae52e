"""What differs from Isaac Lab's cartpole: the pole's mass, the motor's force and the price of moving the cart."""

from isaaclab.sim.schemas import MassCfg
from isaaclab.utils import configclass
from isaaclab_tasks.core.cartpole.agents.rsl_rl_ppo_cfg import CartpoleDirectPPORunnerCfg
from isaaclab_tasks.core.cartpole.cartpole_direct_env_cfg import CartpoleEnvCfg

POLE_MASS = 4.0  # [kg]; 1 in the original asset


@configclass
class HeavyCartpoleEnvCfg(CartpoleEnvCfg):
    """A pole of four times the mass, on a cart with twice the force."""

    action_scale = 200.0  # [N]
    rew_scale_cart_vel = -0.02

    def __post_init__(self):
        super().__post_init__()
        # The key is a pattern below the robot's prim.
        self.scene.cartpole.spawn.mass_props = {"/pole": [MassCfg(mass=POLE_MASS)]}


@configclass
class HeavyCartpoleRunnerCfg(CartpoleDirectPPORunnerCfg):
    """The original's PPO, logged under its own name."""

    experiment_name = "cartpole_heavy"
