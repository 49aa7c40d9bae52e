"""What differs from Isaac Lab's cartpole: nothing brakes the cart, and it starts near the middle of a shorter rail."""

from isaaclab.utils import configclass
from isaaclab_tasks.core.cartpole.cartpole_direct_env_cfg import CartpoleEnvCfg


@configclass
class SlipperyCartpoleEnvCfg(CartpoleEnvCfg):
    """A cart without friction."""

    max_cart_pos = 2.0  # [m]; 3 in the original
    initial_cart_position_range = (-0.3, 0.3)  # [m]

    def __post_init__(self):
        super().__post_init__()
        self.scene.cartpole.actuators["cart_actuator"].damping = 0.0  # [N s/m]; 10 in the original
