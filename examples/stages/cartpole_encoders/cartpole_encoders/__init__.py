"""The task `Encoders-Cartpole`, registered when this package is imported."""

import gymnasium

gymnasium.register(
    id="Encoders-Cartpole",
    entry_point="isaaclab.envs:ManagerBasedRLEnv",
    disable_env_checker=True,
    kwargs={
        "default_agent": "rsl_rl",
        "env_cfg_entry_point": f"{__name__}.config:EncodersCartpoleEnvCfg",
        "rsl_rl_cfg_entry_point": f"{__name__}.config:TeacherCfg",
        "rsl_rl_distillation_cfg_entry_point": f"{__name__}.config:StudentCfg",
        "rsl_rl_finetune_cfg_entry_point": f"{__name__}.config:FinetuneCfg",
    },
)
