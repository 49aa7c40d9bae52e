"""The task `Heavy-Cartpole-Direct`, registered when this package is imported.

Entry points are given as text, so that importing this package costs nothing until the task is made.
"""

import gymnasium

ISAACLAB = "isaaclab_tasks.core.cartpole"

gymnasium.register(
    id="Heavy-Cartpole-Direct",
    entry_point=f"{ISAACLAB}.cartpole_direct_env:CartpoleEnv",
    disable_env_checker=True,
    kwargs={
        "default_agent": "rsl_rl",
        "env_cfg_entry_point": f"{__name__}.config:HeavyCartpoleEnvCfg",
        "rsl_rl_cfg_entry_point": f"{__name__}.config:HeavyCartpoleRunnerCfg",
        # The other libraries train as they do for Isaac Lab's own cartpole.
        "skrl_cfg_entry_point": f"{ISAACLAB}.agents:skrl_direct_ppo_cfg.yaml",
        "rl_games_cfg_entry_point": f"{ISAACLAB}.agents:rl_games_direct_ppo_cfg.yaml",
        "sb3_cfg_entry_point": f"{ISAACLAB}.agents:sb3_ppo_cfg.yaml",
    },
)
