"""Requests of sweeps: bad ones are refused before any simulator, in words that mend them."""

import pytest
from helpers import changed

from simyard.core.errors import RequestError
from simyard.requests.config import check_config
from simyard.requests.sweeps import SweepRequest

RATE = "agent.algorithm.learning_rate"
LISTED = {RATE: {"values": [0.001, 0.0003]}}
RANGE = {RATE: {"low": 1e-5, "high": 1e-2, "log": True}}
TWO = [{"metric": "success_rate"}, {"metric": "Loss/value", "mode": "min"}]


def request(sweep, **changes):
    config = {"trainingConfig": {"task": "Isaac-Cartpole-Direct", "numEnvs": 16, "maxIterations": 30}, "sweep": sweep}
    return check_config(changed(config, changes), SweepRequest)


@pytest.mark.parametrize(
    ("sweep", "changes", "words"),
    [
        ({"parameters": {"trainingConfig.numEnv": {"values": [8]}}}, {}, "mean 'trainingConfig.numEnvs'?"),
        ({"parameters": {"agents.x": {"values": [8]}}}, {}, "Unknown parameter 'agents.x'. Allowed: an override's"),
        ({"parameters": {"trainingConfig.seed": {"values": [8]}}}, {}, "Give seeds in sweep.seeds"),
        ({"parameters": {"agent.seed": {"values": [8]}}}, {}, "'agent.seed' would do nothing: simyard sets it"),
        ({"parameters": {"env.scene.num_envs": {"values": [8]}}}, {}, "Name trainingConfig.numEnvs instead"),
        ({"parameters": {"trainingConfig.agentConfig": {"values": ["/etc/passwd"]}}}, {}, "Unknown parameter"),
        ({"parameters": {"trainingConfig.numEnvs": {"values": [16, 0]}}}, {}, "numEnvs 0: Input should be greater"),
        ({"parameters": {"physics": {"values": ["newton", "bullet"]}}}, {}, "'bullet': Input should be 'newton'"),
        ({"parameters": {RATE: {"values": []}}}, {}, "at least 1 item"),
        ({"parameters": {RATE: {"values": [1, 2, 1]}}}, {}, "values has one twice: [1, 2, 1]"),
        ({"parameters": {RATE: {"vals": [1]}}}, {}, "Unknown key 'vals'. Did you mean 'values'?"),
        ({"parameters": {RATE: {"low": 1}}}, {}, "give values, [0.001, 0.01] say, or a range"),
        ({"parameters": {RATE: {"values": [1], "low": 1}}}, {}, "not both"),
        ({"parameters": {RATE: {"low": 0.01, "high": 0.01}}}, {}, "from 0.01 to 0.01 is empty"),
        ({"parameters": {RATE: {"low": 0, "high": 0.1, "log": True}}}, {}, "log with low 0: a logarithm needs"),
        ({"parameters": {RATE: {"low": 1, "high": 9, "step": 20}}}, {}, "step 20: allowed is more than 0"),
        ({"parameters": RANGE}, {}, "list values, give it a step, or take sampler 'random'"),
        ({"parameters": {f"env.{x}": {"low": 0, "high": 999} for x in "ab"}}, {}, "the grid has 1,000,000 settings"),
        ({"parameters": LISTED, "trials": 3}, {}, "trials 3 with sampler 'grid', which takes all 2 settings"),
        ({"parameters": RANGE, "sampler": "tpe"}, {}, "sampler 'tpe' needs trials"),
        ({"sampler": "random", "trials": 4}, {}, "sampler 'random' without parameters has nothing to draw"),
        ({"parameters": LISTED, "sampler": "cmaes", "trials": 4}, {}, "draws from two ranges or more"),
        ({"parameters": LISTED, "sampler": "annealing"}, {}, "'grid', 'random', 'tpe' or 'cmaes', not 'annealing'"),
        ({"paired": [{"env.a": 1}, {"env.b": 1}]}, {}, "paired[1] has ['env.b'], and paired[0] ['env.a']"),
        ({"parameters": LISTED, "paired": [{RATE: 1}]}, {}, "stands in parameters and in paired; give it once"),
        ({"seeds": [1, 1]}, {}, "seeds has one twice: [1, 1]"),
        ({"scheduler": {"kind": "asha"}}, {}, "scheduler 'asha' chooses among settings, and this sweep has one"),
        ({"parameters": LISTED, "scheduler": {"kind": "asha", "interval": 3}}, {}, "interval is nothing to kind"),
        ({"parameters": LISTED, "scheduler": {"kind": "asha", "minIterations": 30}}, {}, "min_iterations is 30"),
        ({"parameters": LISTED, "scheduler": {"kind": "pbt"}, "sampler": "tpe", "trials": 4}, {}, "take 'random' or"),
        (
            {"parameters": {"trainingConfig.agent": {"values": ["a", "b"]}}, "scheduler": {"kind": "pbt"}},
            {},
            "'trainingConfig.agent' cannot be changed then",
        ),
        (
            {"parameters": {"trainingConfig.maxIterations": {"values": [3, 9]}}, "scheduler": {"kind": "asha"}},
            {},
            "trainingConfig.maxIterations is no parameter",
        ),
        (
            {"parameters": LISTED, "scheduler": {"kind": "asha"}},
            {"stages": [{"name": "a", "maxIterations": 30}]},
            "stages and scheduler 'asha' both decide on iterations",
        ),
        ({"objective": {"metric": "Loss/value", "evaluation": {}}}, {}, "evaluation measures success_rate or"),
        ({"objective": {"metric": "Train/mean_rewards"}}, {}, "Did you mean 'Train/mean_reward'?"),
        ({"objective": {"metric": "succes_rate"}}, {}, "Did you mean 'success_rate'?"),
        ({"objective": [{"metric": "Loss/value"}]}, {}, "at least 2 items"),
        ({"objective": [{"metric": "Loss/value"}, {}]}, {}, "name each of several, and none twice"),
        ({"objective": [{"metric": "Loss/a"}, {"metric": "Loss/b", "target": 1}]}, {}, "no one of them ends the sweep"),
        (
            {"parameters": LISTED, "scheduler": {"kind": "asha"}, "objective": TWO},
            {},
            "scheduler 'asha' with 2 objectives: it compares by one",
        ),
        ({"objective": {"mode": "most"}}, {}, "'max' or 'min', not 'most'"),
        ({"budget": {"maxGpuHours": 0}}, {}, "greater than 0"),
    ],
)  # fmt: skip
def test_a_bad_sweep_is_refused_in_words_that_mend_it(sweep, changes, words):
    with pytest.raises(RequestError) as refused:
        request(sweep, **changes)
    assert words in str(refused.value)


def test_a_setting_is_the_config_to_train_it_again():
    asked = request({"parameters": LISTED | {"trainingConfig.numEnvs": {"values": [8]}}, "seeds": 2}, overrides=["a"])
    assert asked.seeds == (42, 43)
    assert (asked.metric, asked.sweep.settings) == ("Train/mean_reward", 2)
    again = asked.training({"trainingConfig.numEnvs": 8, RATE: 0.001, "agent.x": [True, "elu"]}, 43, iterations=5)
    section = again.training_config
    assert (section.num_envs, section.seed, section.max_iterations) == (8, 43, 5)
    assert again.overrides == ("a", f"{RATE}=0.001", 'agent.x=[true, "elu"]')
    assert [*asked.probes] == [{RATE: value, "trainingConfig.numEnvs": 8} for value in (0.001, 0.0003)]
