"""The environment's groups, and three agents of RSL-RL."""

from isaaclab.envs import mdp
from isaaclab.managers import ObservationGroupCfg, SceneEntityCfg
from isaaclab.managers import ObservationTermCfg as Term
from isaaclab.utils import configclass
from isaaclab_rl.rsl_rl import RslRlRNNModelCfg
from isaaclab_tasks.core.cartpole.agents.rsl_rl_ppo_cfg import CartpolePPORunnerCfg
from isaaclab_tasks.core.cartpole.cartpole_manager_env_cfg import CartpoleEnvCfg


@configclass
class PolicyCfg(ObservationGroupCfg):
    """The pole's angle, and the last action."""

    pole_pos = Term(func=mdp.joint_pos_rel, params={"asset_cfg": SceneEntityCfg("robot", joint_names=["cart_to_pole"])})
    action = Term(func=mdp.last_action)


@configclass
class CartCfg(ObservationGroupCfg):
    """The cart's place."""

    cart_pos = Term(
        func=mdp.joint_pos_rel, params={"asset_cfg": SceneEntityCfg("robot", joint_names=["slider_to_cart"])}
    )


@configclass
class PrivilegedCfg(ObservationGroupCfg):
    """Both velocities."""

    velocities = Term(func=mdp.joint_vel_rel)


@configclass
class ObservationsCfg:
    """Three groups."""

    policy: PolicyCfg = PolicyCfg()
    cart: CartCfg = CartCfg()
    privileged: PrivilegedCfg = PrivilegedCfg()


@configclass
class HiddenCartpoleEnvCfg(CartpoleEnvCfg):
    """Isaac Lab's cartpole with these observations."""

    observations: ObservationsCfg = ObservationsCfg()


@configclass
class MLPRunnerCfg(CartpolePPORunnerCfg):
    """An actor without a memory, and a critic that sees more."""

    experiment_name = "hidden_cartpole"
    obs_groups = {"actor": ["cart", "policy"], "critic": ["policy", "cart", "privileged"]}


def _remember(cfg, kind):
    plain = {"hidden_dims": [16], "activation": "elu", "rnn_type": kind, "rnn_hidden_dim": 16}
    own = {"obs_normalization": True, "distribution_cfg": cfg.actor.distribution_cfg}
    cfg.actor = RslRlRNNModelCfg(**plain, **own, rnn_num_layers=2)
    cfg.critic = RslRlRNNModelCfg(**plain, rnn_num_layers=1)


@configclass
class LSTMRunnerCfg(MLPRunnerCfg):
    """Both with an LSTM."""

    def __post_init__(self):
        _remember(self, "lstm")


@configclass
class GRURunnerCfg(MLPRunnerCfg):
    """Both with a GRU."""

    def __post_init__(self):
        _remember(self, "gru")
