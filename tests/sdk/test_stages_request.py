"""Stages of a training, as a request asks for them: what cannot be is refused before anything is staged."""

import pytest
from helpers import CONFIG, train_request

from simyard.core.errors import RequestError
from simyard.requests.code import named_code
from simyard.service.references import named_files, with_files
from simyard.store.store import Store
from simyard.tasks.resolve import resolve

JOB_ID = "job-01k00000000000000000000000"
GATE = {"metric": "Train/mean_reward", "op": ">=", "value": 4}
TRAINING = {key: value for key, value in CONFIG["trainingConfig"].items() if key != "maxIterations"}


def request(*stages, **training):
    return train_request({**CONFIG, "trainingConfig": {**TRAINING, **training}, "stages": list(stages)})


def stage(name, **fields):
    return {"name": name, "maxIterations": 10, **fields}


def test_stages_are_frozen_and_share_the_iterations(store):
    wanted = request(
        stage("reach", until={**GATE, "forIterations": 3}),
        stage("calm", start="best", overrides=["env.rew_scale_alive=2.0"]),
    )
    spec = resolve(wanted, Store.open(str(store)), JOB_ID).spec
    assert type(spec).from_json(spec.to_json()) == spec
    assert (spec.max_iterations, [one.name for one in spec.stages]) == (20, ["reach", "calm"])
    assert spec.stages[0].until.in_words() == "Train/mean_reward >= 4 for 3 iterations"
    part = spec.in_stage(1)
    assert (part.stages, part.overrides, part.max_iterations) == (None, ("env.rew_scale_alive=2.0",), 10)


def test_a_job_without_stages_is_frozen_as_before(store):
    document = resolve(train_request(CONFIG), Store.open(str(store)), JOB_ID).spec.to_json()
    assert "stages" not in document
    assert "agent" not in document


@pytest.mark.parametrize(
    ("stages", "training", "says"),
    [
        ([stage("a"), stage("a")], {}, r"two stages are called 'a'"),
        ([stage("a", start="best")], {}, r"'a' is the first, and has no stage before it"),
        ([stage("a", onNotReached="go_on")], {}, r"'a' has no until, so 'go_on' would never happen"),
        ([stage("a", until=GATE, onNotReached="go_back")], {}, r"'a' is the first, and cannot go back; allowed"),
        ([stage("a"), stage("b", until=GATE, onNotReached="go_back")], {}, r"'b' goes back, so maxIterations must say"),
        (
            [stage("a"), stage("b", until=GATE, onNotReached="go_back", start="scratch")], {"maxIterations": 50},
            r"'b' goes back, and starts from scratch",
        ),
        ([stage("a", until={**GATE, "forIterations": 11})], {}, r"after 10 iterations, .* must hold for 11"),
        (
            [stage("a"), stage("b", until=GATE), stage("c")], {"maxIterations": 11},
            r"'c' cannot be reached: those before it take 11 iterations or more, and maxIterations is 11",
        ),
        ([stage("a", until={**GATE, "op": "~"})], {}, r"stages.*op.*'>', '>=', '<' or '<='"),
        ([stage("a", until={**GATE, "value": float("nan")})], {}, r"finite"),
        ([stage("a/b")], {}, r"name"),
        ([stage(f"s{n}") for n in range(21)], {}, r"at most 20"),
        ([stage("a", start={"job": JOB_ID, "checkpoint": "x.pt"})], {}, r"give either job or checkpoint"),
    ],
)  # fmt: skip
def test_stages_that_cannot_be_are_refused_by_name(stages, training, says):
    with pytest.raises(RequestError, match=says) as refused:
        request(*stages, **training)
    assert refused.value.failure.code == "bad_config"


@pytest.mark.parametrize(
    ("training", "compute", "says"),
    [
        ({"rlLibrary": "skrl"}, {}, r"rlLibrary 'skrl'.*Those that train in stages: 'rsl_rl'"),
        ({}, {"gpusPerNode": 2}, r"asks for 2 GPUs: stages are trained on one"),
    ],
)
def test_what_cannot_train_in_stages_says_so(store, training, compute, says):
    wanted = train_request({
        **CONFIG, "trainingConfig": {**TRAINING, **training}, "stages": [stage("a")],
        "computeConfig": {**CONFIG["computeConfig"], **compute},
    })  # fmt: skip
    with pytest.raises(RequestError, match=says) as refused:
        resolve(wanted, Store.open(str(store)), JOB_ID)
    assert refused.value.failure.code == "no_stages"
    assert not any(store.iterdir())


def test_code_and_files_in_a_stage_are_seen_by_the_service():
    wanted = request(
        stage("a", start={"checkpoint": "s3://b/x.pt"}), stage("b", overrides=["agent.class_name=pkg.Mine"])
    )
    assert [*named_code(wanted)] == [("stages[1].overrides", "agent.class_name=pkg.Mine")]
    assert [*named_files(wanted)] == [("stages[0].start.checkpoint", "s3://b/x.pt")]
    assert with_files(wanted, lambda uri, where: "/here").stages[0].start.checkpoint == "/here"
