"""What `retrain` and `promotions` refuse before a simulator is started: what is said, and nothing is left."""

import json

import pytest
from records import policy

from simyard.core.run_records import PromotionDecision
from simyard.store.store import Store
from simyard.tasks.promotion import promotions

SOME_ID = "job-01k00000000000000000000000"
TRAINING = {"trainingConfig": {"task": "Isaac-Cartpole-Direct"}}


def promote(store, **changes):
    """Promote a policy, the first one."""
    decision = PromotionDecision(decision="promoted", why="", candidate=policy(SOME_ID, **changes))
    promotions.append(Store.open(str(store)), "arm", decision, upon=None)


def config(**changes):
    fields = {"promotion": "arm", "training": TRAINING, **changes}
    return {name: value for name, value in fields.items() if value != "LEFT OUT"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"promotion": "LEFT OUT"}, ["promotion is missing"], id="no promotion"),
        pytest.param({"promotion": "../arm"}, ["promotion", "'../arm'"], id="promotion is a path"),
        pytest.param({"promotion": "Arm"}, ["promotion", "'Arm'"], id="promotion in capitals"),
        pytest.param({"promotion": "a" * 65}, ["promotion"], id="promotion is long"),
        pytest.param({"promotion": "arm\n"}, ["promotion"], id="promotion of two lines"),
        pytest.param({"promotion": 5}, ["promotion", "not 5"], id="promotion is a number"),
        pytest.param({"training": "LEFT OUT"}, ["training is missing"], id="no training"),
        pytest.param({"training": {}}, ["training.trainingConfig is missing"], id="an empty training"),
        pytest.param(
            {"training": {"trainingConfig": {"task": "T", "numEnvz": 1}}},
            ["'numEnvz'", "Did you mean 'numEnvs'?"],
            id="a slip in the training",
        ),
        pytest.param(
            {"training": {"trainingConfig": {"task": "T", "rlLibrary": "rslrl"}}}, ["'rslrl'", "rsl_rl"], id="library"
        ),
        pytest.param({"start": "best"}, ["start", "'incumbent'", "not 'best'"], id="start is unknown"),
        pytest.param({"evaluation": {"metric": "reward"}}, ["metric", "'return'", "'reward'"], id="metric is unknown"),
        pytest.param({"evaluation": {"numEpisodes": 9}}, ["numEpisodes", "equal to 10, not 9"], id="few episodes"),
        pytest.param({"evaluation": {"minDelta": -1}}, ["minDelta", "not -1"], id="minDelta is negative"),
        pytest.param({"evaluation": {"minDelta": float("inf")}}, ["minDelta"], id="minDelta is infinite"),
        pytest.param({"evaluation": {"minDelta": "much"}}, ["minDelta", "not 'much'"], id="minDelta is text"),
        pytest.param({"evaluation": {"seed": -1}}, ["seed", "not -1"], id="seed is negative"),
        pytest.param({"evaluation": {"successTermination": "a b"}}, ["successTermination", "'a b'"], id="a space"),
        pytest.param({"evaluation": {"min_dleta": 1}}, ["'min_dleta'", "minDelta"], id="a slip"),
        pytest.param({"evaluation": {"across": ["newton"]}}, ["across names two or more"], id="across one engine"),
        pytest.param({"evaluation": {"floor": 0}}, ["floor", "not 0"], id="a floor of nothing"),
        pytest.param(
            {"training": TRAINING | {"physics": "physx"}, "evaluation": {"across": ["newton", "physx"]}},
            ["training is on physics 'physx'", "across begins with 'newton'"],
            id="across engines of which the first is another",
        ),
        pytest.param(
            {"training": TRAINING | {"overrides": ["physics=ovphysx"]}, "evaluation": {"across": ["newton", "physx"]}},
            ["training is on physics 'physx'", "across begins with 'newton'"],
            id="across engines beside a preset of another",
        ),
        pytest.param({"schedule": "daily"}, ["Unknown key 'schedule'"], id="a schedule"),
        pytest.param(
            {"training": TRAINING | {"resume": {"fromJob": SOME_ID}}},
            ["training.resume and start 'incumbent' both name a beginning", "'scratch'"],
            id="two beginnings",
        ),
        pytest.param(
            {"training": TRAINING | {"resume": {"fromJob": SOME_ID}}, "start": "scratch"},
            ["There is no job", SOME_ID],
            id="a beginning that is not there",
        ),
    ],
)
def test_a_field_that_is_wrong(refuse, write, changes, said):
    refuse("retrain", write(config(**changes)), said=said)


def test_no_config_and_two(refuse, write):
    refuse("retrain", said=["Missing CONFIG."])
    refuse("retrain", write(config()), "another.json", said=["Unexpected argument"])


def test_settings_change_the_evaluation_and_the_training(refuse, write):
    refuse("retrain", write(config()), "--set", "numEpisodes=3", said=["evaluation.numEpisodes", "not 3"])
    refuse("retrain", write(config()), "--set", "training.trainingConfig.numEnvs=0", said=["numEnvs", "not 0"])


def test_a_promotion_of_another_task_is_refused(refuse, write, store):
    promote(store, task="Isaac-Ant-Direct")
    refuse("retrain", write(config()), said=["'arm' holds a policy of 'Isaac-Ant-Direct'", "Take another name"])


@pytest.mark.parametrize("arguments", [("show", "arm"), ("rollback", "arm")])
def test_a_promotion_that_is_not_there(refuse, arguments):
    result = refuse("promotions", *arguments, "--json", said=["There is no promotion 'arm'", "promotions list"])
    assert json.loads(result.stdout)["error"]["code"] == "unknown_promotion"
    refuse("promotions", arguments[0], "../../arm", said=["is not the name of a promotion", "Allowed:"])


def test_a_reason_that_is_a_book(refuse):
    refuse("promotions", "rollback", "arm", "--why", "x" * 4001, said=["--why has 4001 characters", "4,000"])


def test_going_back_from_the_first(refuse, store):
    promote(store)
    refuse("promotions", "rollback", "arm", said=["Before the promoted policy of 'arm' there was none."])
