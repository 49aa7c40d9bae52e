"""A config as it is documented, in both spellings, with settings from the command line on top."""

import json
import time

import pytest
from helpers import train_request
from pydantic.alias_generators import to_snake

from simyard.core.errors import RequestError
from simyard.requests.config import check_config, parse_config, read_config
from simyard.requests.jobs import TrainRequest

CAMEL = {
    "name": "walk",
    "description": "a robot that walks",
    "trainingConfig": {
        "mode": "train", "task": "Isaac-Ant-Direct", "rlLibrary": "skrl", "numEnvs": 64, "maxIterations": 10, "seed": 3,
    },
    "computeConfig": {"numNodes": 1, "gpusPerNode": 0},
    "customEnvironmentS3Uri": "s3://bucket/robot.whl",
    "customEnvironmentCallback": "robot.tasks:register",
    "resume": {"fromJob": "job-01k00000000000000000000000", "iteration": 5},
    "overrides": ["env.sim.dt=0.01"],
    "timeouts": {"wallSeconds": 60, "iterationSeconds": 0.5},
    "retries": 0,
}  # fmt: skip


@pytest.fixture
def read(tmp_path):
    def read_with(*settings, config=None):
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config or {"trainingConfig": {"task": "T"}}))
        return read_config(path, TrainRequest, settings)

    return read_with


def snake(config):
    return {to_snake(key): snake(value) for key, value in config.items()} if isinstance(config, dict) else config


def test_both_spellings_are_one_request():
    spelled = snake(CAMEL)
    assert "custom_environment_s3_uri" in spelled and "rl_library" in spelled["training_config"]
    assert train_request(CAMEL) == train_request(spelled)


@pytest.mark.parametrize("field", ["customEnvironmentS3Uri", "customEnvironmentCallback", "resume", "overrides",
                                   "timeouts", "retries"])  # fmt: skip
def test_a_shared_field_may_stand_in_the_training_config(field):
    inside = json.loads(json.dumps(CAMEL))
    inside["trainingConfig"][field] = inside.pop(field)
    assert train_request(inside) == train_request(CAMEL)


def test_what_is_left_out_has_the_documented_default():
    request = train_request({"trainingConfig": {"task": "T"}})
    training = request.training_config
    assert (training.mode, training.rl_library, training.num_envs, training.max_iterations, training.seed) == (
        "train", "rsl_rl", 4096, 1500, None,
    )  # fmt: skip
    assert (request.simulator, request.retries, request.overrides, request.resume) == ("isaaclab", 2, (), None)
    assert (request.compute_config.num_nodes, request.compute_config.gpus_per_node) == (1, None)
    patience = request.timeouts
    assert (patience.wall_seconds, patience.first_iteration_seconds, patience.iteration_seconds) == (28800, 900, 1800)


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("numEnvs=64", "trainingConfig.numEnvs", 64),
        ("num_envs=64", "trainingConfig.num_envs", 64),
        ("trainingConfig.seed=7", "trainingConfig.seed", 7),
        ("seed=null", "trainingConfig.seed", None),
        ("task=Isaac-Ant", "trainingConfig.task", "Isaac-Ant"),
        ("name=a=b", "name", "a=b"),
        ("name=", "name", ""),
        ('name="7"', "name", "7"),
        ("timeouts.wallSeconds=1.5", "timeouts.wallSeconds", 1.5),
        ("resume.fromJob=job-x", "resume.fromJob", "job-x"),
        ("computeConfig.gpusPerNode=0", "computeConfig.gpusPerNode", 0),
        ("retries=NaN", "retries", "NaN"),
        ("env.sim.dt=0.01", "overrides", ["env.sim.dt=0.01"]),
        ("agent.policy.sizes=[32,32]", "overrides", ["agent.policy.sizes=[32,32]"]),
        ("physics=newton_mjwarp", "overrides", ["physics=newton_mjwarp"]),
        ("physics=physx", "physics", "physx"),
        ('overrides=["env.a=1"]', "overrides", ["env.a=1"]),
    ],
)
def test_a_setting_lands_where_it_belongs(read, setting, path, value):
    node = read(setting)
    for part in path.split("."):
        node = node[part]
    assert node == value


def test_a_setting_finds_its_field_as_the_config_spells_it(read):
    given = {"compute_config": {"gpus_per_node": 0}}
    config = read("computeConfig.session=off", "computeConfig.gpusPerNode=1", config=given)
    assert config == {"compute_config": {"gpus_per_node": 1, "session": "off"}}


def test_settings_go_before_the_file_and_the_last_one_counts(read):
    config = read(
        "numEnvs=2", "numEnvs=3", "env.b=2", config={"trainingConfig": {"numEnvs": 1}, "overrides": ["env.a=1"]}
    )
    assert config == {"trainingConfig": {"numEnvs": 3}, "overrides": ["env.a=1", "env.b=2"]}


def test_one_repeated_key_of_many_is_found_in_one_pass():
    """Processor time, with room for any machine: compared each with each these keys take minutes."""
    keys = [f'"{number}": 0' for number in range(60_000)]
    began = time.process_time()
    with pytest.raises(RequestError, match="key '59999' stands twice"):
        parse_config(("{" + ", ".join([*keys, keys[-1]]) + "}").encode(), "The body")
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({f"k{number}": 1 for number in range(70_000)}, ["k19: Unknown key 'k19'", "and 69,980 more problems"]),
        ({"k" * 900_000: 1}, [f"Unknown key '{'k' * 99}…. Allowed: "]),
        ({"trainingConfig": {"task": "T", "rlLibrary": "k" * 900_000}}, ["Unknown rlLibrary 'kkk", "'rsl_rl'"]),
    ],
    ids=["many", "a long key", "a long name"],
)
def test_the_first_problems_of_a_large_config_are_explained(config, said):
    with pytest.raises(RequestError) as caught:
        check_config({"trainingConfig": {"task": "T"}, **config}, TrainRequest)
    message = str(caught.value)
    assert all(part in message for part in said), message[:2000]
    assert len(message) < 6_000
