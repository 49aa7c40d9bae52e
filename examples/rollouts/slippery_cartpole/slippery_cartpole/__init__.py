"""The task `Slippery-Cartpole-Direct`, registered when this package is imported."""

import gymnasium

ISAACLAB = "isaaclab_tasks.core.cartpole"

gymnasium.register(
    id="Slippery-Cartpole-Direct",
    entry_point=f"{ISAACLAB}.cartpole_direct_env:CartpoleEnv",
    disable_env_checker=True,
    kwargs={
        "env_cfg_entry_point": f"{__name__}.config:SlipperyCartpoleEnvCfg",
        # So that a policy trained on Isaac Lab's own cartpole can drive it.
        "default_agent": "rsl_rl",
        "rsl_rl_cfg_entry_point": f"{ISAACLAB}.agents.rsl_rl_ppo_cfg:CartpoleDirectPPORunnerCfg",
    },
)
