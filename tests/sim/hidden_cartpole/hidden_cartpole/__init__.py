"""Cartpoles whose policy sees positions in two groups; velocities are for the critic alone."""

import gymnasium

for kind in ("MLP", "LSTM", "GRU"):
    gymnasium.register(
        id=f"Hidden-Cartpole-{kind}",
        entry_point="isaaclab.envs:ManagerBasedRLEnv",
        disable_env_checker=True,
        kwargs={
            "env_cfg_entry_point": f"{__name__}.config:HiddenCartpoleEnvCfg",
            "rsl_rl_cfg_entry_point": f"{__name__}.config:{kind}RunnerCfg",
            **({"rl_games_cfg_entry_point": f"{__name__}:rl_games.yaml"} if kind == "LSTM" else {}),
        },
    )
