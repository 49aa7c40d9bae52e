"""The configs of the VAMS pipeline for Isaac Lab, word for word: what each of them becomes.

They are run in tests/sim/test_vams_jobs.py.
"""

import json
import shutil

import pytest
from vams import (
    ANT_EVALUATION,
    ANT_TRAINING,
    CUSTOM,
    DISCOVERY,
    EVALUATION,
    PIPELINE_EVALUATION,
    PIPELINE_TRAINING,
    TRAINING,
)

from simyard.core.errors import RequestError
from simyard.requests.config import check_config, model_of
from simyard.requests.jobs import RetrainRequest, TrainRequest
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.kinds.policy_sources import newest_training
from simyard.tasks.promotion.retrain import find_start
from simyard.tasks.resolve import resolve
from simyard.tasks.stage import stage

FILMS = ("first", "best", "worst")
TASKS = {
    "Isaac-Cartpole-Direct-v0": "Isaac-Cartpole-Direct",
    "Isaac-Ant-Direct-v0": "Isaac-Ant-Direct",
    "Isaac-Humanoid-Direct-v0": "Isaac-Humanoid-Direct",
    "Isaac-Velocity-Flat-Anymal-D-v0": "Isaac-Velocity-Flat-AnymalD",
    "Isaac-Velocity-Rough-Anymal-D-v0": "Isaac-Velocity-Rough-AnymalD",
}
"""The supported tasks of its readme, and their ids in Isaac Lab 3.0."""


@pytest.fixture
def jobs(tmp_path):
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def freeze(jobs, tmp_path):
    """Return the frozen job of a config in its place in the asset of the readme."""
    for name in ("model_0.pt", "model_100.pt", "model_499.pt", "model_1000.pt"):
        (tmp_path / "asset" / "checkpoints").mkdir(parents=True, exist_ok=True)
        (tmp_path / "asset" / "checkpoints" / name).write_bytes(name.encode())
    (tmp_path / "asset" / "evaluation").mkdir()

    def freeze(config):
        body = json.loads(config) if isinstance(config, str) else config
        request = check_config(body, model_of(body))
        return resolve(request, jobs, keys.new_job_id(), tmp_path / "asset" / "evaluation")

    return freeze


@pytest.mark.parametrize(
    ("config", "name", "task", "num_envs", "iterations"),
    [
        (TRAINING, "Cartpole Training Job", "Isaac-Cartpole-Direct", 4096, 500),
        (ANT_TRAINING, "Ant Training Job", "Isaac-Ant-Direct", 4096, 1000),
        (PIPELINE_TRAINING, "training", "Isaac-Cartpole-Direct", 4096, 1500),
    ],
)
def test_a_training_is_accepted_and_frozen_under_the_id_of_3_0(freeze, config, name, task, num_envs, iterations):
    spec = freeze(config).spec
    assert (spec.kind, spec.name, spec.task, spec.renamed_from) == ("train", name, task, f"{task}-v0")
    assert (spec.num_envs, spec.max_iterations, spec.library, spec.nodes) == (num_envs, iterations, "rsl_rl", 1)
    assert spec.seed == 42
    assert spec.request == json.loads(config)


@pytest.mark.parametrize(
    ("config", "checkpoint", "num_envs", "episodes", "steps", "films"),
    [
        (EVALUATION, "model_499.pt", 4, 10, 500, FILMS),
        (ANT_EVALUATION, "model_1000.pt", 4, 5, 900, FILMS),
        (DISCOVERY, "model_7.pt", 4, 10, 500, FILMS),
        (PIPELINE_EVALUATION, "model_7.pt", 100, 50, 1000, ()),
    ],
)
def test_an_evaluation_is_filmed_unless_it_says_no(
    freeze, tmp_path, config, checkpoint, num_envs, episodes, steps, films
):
    if checkpoint == "model_7.pt":  # beside the config
        shutil.copy(tmp_path / "asset/checkpoints/model_0.pt", tmp_path / "asset/evaluation/model_7.pt")
    spec = freeze(config).spec
    assert spec.task in ("Isaac-Cartpole-Direct", "Isaac-Ant-Direct")
    assert spec.renamed_from == f"{spec.task}-v0"
    assert [policy.checkpoint.name for policy in spec.policies] == [checkpoint]
    assert (spec.num_envs, spec.evaluation.num_episodes, spec.evaluation.steps_per_episode) == (
        num_envs, episodes, steps,
    )  # fmt: skip
    assert (spec.evaluation.videos, spec.evaluation.require_video) == (films, False)


def test_defaults_are_those_of_its_table(freeze):
    spec = freeze({"trainingConfig": {"mode": "train"}}).spec
    assert (spec.task, spec.renamed_from) == ("Isaac-Cartpole", "Isaac-Cartpole-v0")
    assert (spec.num_envs, spec.max_iterations, spec.library, spec.nodes) == (4096, 1500, "rsl_rl", 1)
    # `null` stands for Isaac Lab's own default, which is recorded.
    assert freeze({"trainingConfig": {"seed": None}}).spec.seed == spec.seed == 42


@pytest.mark.parametrize("task", TASKS)
def test_every_supported_task_is_known_wherever_a_task_is_named(freeze, jobs, task):
    named = {"task": task, "checkpointPath": "checkpoints/model_499.pt"}
    rollout = {
        "runtime_profile": "isaac_lab_rollout", "execution": {"steps": 1}, "isaac_lab": {"task_class_or_name": task},
    }  # fmt: skip
    training = {"trainingConfig": {"mode": "train", "task": task}}
    for config in (training, {"trainingConfig": {"mode": "evaluate", **named}}, {"exportConfig": named}, rollout):
        spec = freeze(config).spec
        assert (spec.task, spec.renamed_from) == (TASKS[task], task)

    # A job that takes up a training, and a retraining, whichever of the two ids either of them has.
    trained = freeze({"trainingConfig": {"task": TASKS[task]}})
    stage(trained, jobs)
    jobs.put_json(keys.JobKeys(trained.spec.job_id).manifest, {})
    found = newest_training(jobs, task, "rsl_rl")
    assert found is not None
    assert found.job_id == trained.spec.job_id
    retraining = {"promotion": "a", "training": training, "start": "newest"}
    start = find_start(check_config(retraining, RetrainRequest), None, jobs, keys.new_job_id())
    assert start.resume is not None
    assert start.resume.from_job == trained.spec.job_id


def test_a_follower_of_a_renamed_job_is_renamed_too(freeze, jobs):
    """A package that has kept an old id is asked for it in an evaluation as well."""
    trained = freeze({"trainingConfig": {"task": "Isaac-Cartpole-Depth-v0"}})
    stage(trained, jobs)
    source = {"jobId": trained.spec.job_id}
    own = {"fromJob": source, "checkpointPath": "checkpoints/model_0.pt"}
    for config in ({"trainingConfig": {"mode": "evaluate", **own}}, {"exportConfig": own}):
        spec = freeze(config).spec
        assert (spec.task, spec.renamed_from) == ("Isaac-Cartpole-Camera", "Isaac-Cartpole-Depth-v0")
        assert spec.overrides == ("presets=depth",)


def test_a_custom_task_keeps_its_id(freeze):
    body = json.loads(CUSTOM)
    assert (
        body.pop("customEnvironmentS3Uri") == check_config(json.loads(CUSTOM), TrainRequest).custom_environment_s3_uri
    )
    spec = freeze(body).spec
    assert (spec.task, spec.renamed_from) == ("MyCustomTask-v0", None)


def test_an_evaluation_still_needs_its_task():
    with pytest.raises(RequestError, match="task is missing; only with fromJob is it known"):
        body = {"trainingConfig": {"mode": "evaluate", "checkpointPath": "checkpoints/model_499.pt"}}
        check_config(body, model_of(body))


def test_a_misspelt_section_is_no_training_of_the_default_task():
    with pytest.raises(RequestError, match="Did you mean 'trainingConfig'"):
        check_config({"trainigConfig": {"task": "Isaac-Ant-v0"}}, TrainRequest)
