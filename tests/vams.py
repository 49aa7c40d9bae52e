"""Configs of the public VAMS pipeline for Isaac Lab, word for word."""

TRAINING = """
{
  "name": "Cartpole Training Job",
  "description": "Train a PPO policy for the Isaac-Cartpole-Direct-v0 environment",
  "trainingConfig": {
    "mode": "train",
    "task": "Isaac-Cartpole-Direct-v0",
    "numEnvs": 4096,
    "maxIterations": 500,
    "rlLibrary": "rsl_rl"
  },
  "computeConfig": {
    "numNodes": 1
  }
}
"""

ANT_TRAINING = """
{
  "name": "Ant Training Job",
  "description": "Train a PPO policy for the Isaac-Ant-Direct-v0 environment",
  "trainingConfig": {
    "mode": "train",
    "task": "Isaac-Ant-Direct-v0",
    "numEnvs": 4096,
    "maxIterations": 1000,
    "rlLibrary": "rsl_rl"
  },
  "computeConfig": {
    "numNodes": 1
  }
}
"""

EVALUATION = """
{
  "name": "Cartpole Evaluation Job",
  "description": "Evaluate a trained PPO policy for the Isaac-Cartpole-Direct-v0 environment",
  "trainingConfig": {
    "mode": "evaluate",
    "task": "Isaac-Cartpole-Direct-v0",
    "checkpointPath": "checkpoints/model_499.pt",
    "numEnvs": 4,
    "numEpisodes": 10,
    "stepsPerEpisode": 500,
    "rlLibrary": "rsl_rl"
  },
  "computeConfig": {
    "numNodes": 1
  }
}
"""

ANT_EVALUATION = """
{
  "name": "Ant Evaluation Job",
  "description": "Evaluate a trained PPO policy for the Isaac-Ant-Direct-v0 environment. Videos are automatically generated and uploaded.",
  "trainingConfig": {
    "mode": "evaluate",
    "task": "Isaac-Ant-Direct-v0",
    "checkpointPath": "checkpoints/model_1000.pt",
    "numEnvs": 4,
    "numEpisodes": 5,
    "stepsPerEpisode": 900,
    "rlLibrary": "rsl_rl"
  },
  "computeConfig": {
    "numNodes": 1
  }
}
"""  # noqa: E501

DISCOVERY = """
{
  "name": "Cartpole Evaluation Job",
  "description": "Evaluate a trained PPO policy for the Isaac-Cartpole-Direct-v0 environment. Videos are automatically generated and uploaded.",
  "trainingConfig": {
    "mode": "evaluate",
    "task": "Isaac-Cartpole-Direct-v0",
    "numEnvs": 4,
    "numEpisodes": 10,
    "stepsPerEpisode": 500,
    "rlLibrary": "rsl_rl"
  },
  "computeConfig": {
    "numNodes": 1
  }
}
"""  # noqa: E501

PIPELINE_TRAINING = """
{
"trainingConfig": {
"mode": "train",
"task": "Isaac-Cartpole-Direct-v0",
"numEnvs": 4096,
"maxIterations": 1500,
"rlLibrary": "rsl_rl",
"seed": 42
},
"computeConfig": {
"numNodes": 1
}
}
"""

PIPELINE_EVALUATION = """
{
"trainingConfig": {
"mode": "evaluate",
"task": "Isaac-Cartpole-Direct-v0",
"numEnvs": 100,
"numEpisodes": 50,
"stepsPerEpisode": 1000,
"recordVideo": false,
"rlLibrary": "rsl_rl"
}
}
"""

CUSTOM = """
{
"trainingConfig": {
"mode": "train",
"task": "MyCustomTask-v0"
},
"customEnvironmentS3Uri": "s3://my-bucket/envs/my-custom-env.tar.gz"
}
"""
