"""A cartpole whose encoders tell positions, and a group of observations with velocities that only a teacher sees."""

from isaaclab.managers import ObservationGroupCfg, ObservationTermCfg
from isaaclab.utils import configclass
from isaaclab_rl.rsl_rl import (
    RslRlDistillationAlgorithmCfg,
    RslRlDistillationRunnerCfg,
    RslRlMLPModelCfg,
)
from isaaclab_tasks.core.cartpole import mdp
from isaaclab_tasks.core.cartpole.agents.rsl_rl_ppo_cfg import CartpolePPORunnerCfg
from isaaclab_tasks.core.cartpole.cartpole_manager_env_cfg import CartpoleEnvCfg

ROBOT = ["policy"]
ALL = ["policy", "privileged"]


@configclass
class ObservationsCfg:
    """What the robot has, and what the simulation knows besides."""

    @configclass
    class PolicyCfg(ObservationGroupCfg):
        """The encoders, at this step and the two before it."""

        encoders = ObservationTermCfg(func=mdp.joint_pos_rel, history_length=3)

    @configclass
    class PrivilegedCfg(ObservationGroupCfg):
        """Velocities, which no sensor of the robot measures."""

        joint_vel = ObservationTermCfg(func=mdp.joint_vel_rel)

    policy: PolicyCfg = PolicyCfg()
    privileged: PrivilegedCfg = PrivilegedCfg()


@configclass
class EncodersCartpoleEnvCfg(CartpoleEnvCfg):
    """Isaac Lab's cartpole with these observations."""

    observations: ObservationsCfg = ObservationsCfg()


def _network(init_std: float) -> RslRlMLPModelCfg:
    return RslRlMLPModelCfg(
        hidden_dims=[32, 32],
        activation="elu",
        distribution_cfg=RslRlMLPModelCfg.GaussianDistributionCfg(init_std=init_std),
    )


@configclass
class TeacherCfg(CartpolePPORunnerCfg):
    """PPO that sees everything."""

    experiment_name = "cartpole_encoders"
    obs_groups = {"actor": ALL, "critic": ALL}


@configclass
class StudentCfg(RslRlDistillationRunnerCfg):
    """A student with the encoders alone, which imitates the teacher."""

    num_steps_per_env = 16
    max_iterations = 100
    save_interval = 50
    experiment_name = "cartpole_encoders"
    obs_groups = {"student": ROBOT, "teacher": ALL}
    student = _network(init_std=0.1)
    teacher = _network(init_std=1.0)
    # The student has no memory, so each step of the rollout may be a step of the optimiser. Small ones: with 3.0e-3 it
    # follows the states of the moment, and the student that is saved falls where those before it did not.
    algorithm = RslRlDistillationAlgorithmCfg(num_learning_epochs=4, learning_rate=1.0e-3, gradient_length=1)


@configclass
class FinetuneCfg(CartpolePPORunnerCfg):
    """PPO for the student: it acts by the encoders, and its critic still sees everything."""

    experiment_name = "cartpole_encoders"
    obs_groups = {"actor": ROBOT, "critic": ALL}
