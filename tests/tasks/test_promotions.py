"""When a policy is promoted, and the record of it: noise, ties, going back, and several who write at once."""

import json
import math
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import records
from helpers import HANG_S
from records import policy

from simyard.core.errors import Category, Failure, RequestError
from simyard.core.run_records import EngineShare, MetricDifference, PromotionDecision
from simyard.runner.evaluation.summary import difference, difference_of_rates
from simyard.store.keys import PromotionKeys
from simyard.store.store import Store
from simyard.tasks.promotion import promotions

WORSE, BETTER = [1.0, 2.0, 3.0, 4.0] * 10, [5.0, 6.0, 7.0, 8.0] * 10
"""Forty episodes each, four apart, with a deviation of about one."""


@pytest.fixture
def opened(store):
    return Store.open(str(store))


def made(decision, why="a test", **more):
    return PromotionDecision(decision=decision, why=why, **more)


def promote(opened, number):
    """Promote a policy over whichever is promoted."""
    promoted = made("promoted", job_id=f"job-{number}", candidate=policy(f"job-{number}"))
    return promotions.append(opened, "arm", promoted, upon=promotions.read(opened, "arm").current)


def written(store):
    return json.loads((store / "promotions" / "arm.json").read_text())


# Decisions


@pytest.mark.parametrize("incumbent", [WORSE, None], ids=["better", "the first"])
@pytest.mark.parametrize(
    ("share", "said"),
    [
        pytest.param((0.97, (0.95, 0.99)), None, id="holds"),
        pytest.param((1.2, (1.1, 1.3)), None, id="gains"),
        pytest.param((0.84, (0.75, 0.92)), "is kept 0.84 of it, 95 % interval [0.75, 0.92]", id="perhaps"),
        pytest.param((0.8, (0.8, 0.8)), "is kept 0.8 of it", id="just not"),
        pytest.param((None, None), "is kept not measured of it", id="not measured"),
    ],
)
def test_a_policy_is_promoted_only_where_it_holds_in_every_engine(incumbent, share, said):
    kept, bounds = share
    engines = [EngineShare(physics="newton", kept=1.0, interval_95=(1.0, 1.0))]
    engines.append(EngineShare(physics="physx", kept=kept, interval_95=bounds))
    found = promotions.decide(BETTER, incumbent, metric="return", elsewhere=engines, floor=0.8)
    assert found.promoted is (said is None)
    assert said is None or f"But under physx {said}" in found.why
    assert ("not all of it above floor 0.8" in found.why) is not found.promoted
    worse = promotions.decide(WORSE, BETTER, metric="return", elsewhere=engines, floor=0.8)
    assert "physx" not in worse.why, "what is not better needs no other engine"


def test_a_better_policy_is_promoted_with_the_interval_of_the_difference():
    found = promotions.decide(BETTER, WORSE, metric="return")
    assert found.promoted
    assert found.difference == MetricDifference(mean=4.0, interval_95=difference(BETTER, WORSE))
    assert found.why == "The return is better by 4, 95 % interval [3.525, 4.475]: all of it above 0."


@pytest.mark.parametrize(
    ("candidate", "incumbent", "said"),
    [
        pytest.param(WORSE, BETTER, "is worse by -4", id="worse"),
        pytest.param(BETTER, BETTER, "not better beyond noise", id="the same episodes"),
        pytest.param([3.0] * 40, [3.0] * 40, "differs by 0, 95 % interval [0, 0]", id="a tie without any noise"),
        pytest.param([1.0, 9.0] * 6, [0.9, 8.9] * 6, "not better beyond noise", id="a gain within the noise"),
        pytest.param([5.0] * 9, WORSE, "9 and 40 episodes measured the return: fewer than 10", id="too few"),
        pytest.param(BETTER, [1.0] * 9, "40 and 9 episodes", id="too few of the promoted one"),
        pytest.param([None] * 3, WORSE, "No episode of the new policy measured the return", id="new one not measured"),
        pytest.param(BETTER, [None], "No episode of the promoted policy", id="promoted one not measured"),
        pytest.param([], None, "No episode of the new policy", id="no episode"),
        pytest.param([*BETTER, math.nan], WORSE, "new policy has episodes whose return is not finite", id="NaN"),
        pytest.param([*BETTER, math.inf], None, "new policy has episodes whose return is not", id="infinite"),
        pytest.param(BETTER, [*WORSE, -math.inf], "promoted policy has episodes whose return", id="infinitely bad"),
    ],
)
def test_what_is_not_better_beyond_noise_is_not_promoted(candidate, incumbent, said):
    found = promotions.decide(candidate, incumbent, metric="return")
    assert not found.promoted
    assert said in found.why
    json.dumps(found.difference and found.difference.to_json(), allow_nan=False)


def test_the_first_measured_policy_is_promoted():
    found = promotions.decide(WORSE, None, metric="return")
    assert (found.promoted, found.difference) == (True, None)


def test_unmeasured_episodes_do_not_count_as_zero():
    sparse, whole = (promotions.decide(new, WORSE, metric="return") for new in ([*BETTER, *[None] * 500], BETTER))
    assert sparse == whole


@pytest.mark.parametrize(("min_delta", "promoted"), [(3.52, True), (3.53, False), (4.5, False)])
def test_the_interval_must_lie_above_the_least_gain(min_delta, promoted):
    found = promotions.decide(BETTER, WORSE, metric="return", min_delta=min_delta)
    assert found.promoted is promoted
    assert f"above minDelta {min_delta}" in found.why


def test_two_policies_that_are_the_same_are_told_apart_as_seldom_as_the_interval_says():
    random = np.random.default_rng(5)
    draws = [promotions.decide(*random.normal(0, 1, (2, 30)).tolist(), metric="return") for _ in range(150)]
    assert sum(draw.promoted for draw in draws) <= 11, "2.5 % of 150 are 4"


@pytest.mark.parametrize(
    ("new", "old", "promoted"),
    [
        pytest.param((50, 50), (0, 50), True, id="all against none"),
        pytest.param((50, 50), (50, 50), False, id="all against all"),
        pytest.param((0, 50), (0, 50), False, id="none against none"),
        pytest.param((0, 50), (50, 50), False, id="none against all"),
        pytest.param((10, 10), (9, 10), False, id="one more of ten"),
        pytest.param((10, 10), (0, 10), True, id="all against none, of ten"),
    ],
)
def test_rates_at_their_limits_have_an_interval_with_a_width(new, old, promoted):
    values = [[1.0] * count + [0.0] * (trials - count) for count, trials in (new, old)]
    found = promotions.decide(*values, metric="success_rate")
    low, high = found.difference.interval_95
    assert found.promoted is promoted
    assert -1 <= low < high <= 1
    assert found.difference.mean == new[0] / new[1] - old[0] / old[1]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param((56, 70, 48, 80), (0.0524, 0.3339), id="example a"),
        pytest.param((9, 10, 3, 10), (0.1705, 0.8090), id="example b"),
        pytest.param((5, 56, 0, 29), (-0.0381, 0.1926), id="example d"),
        pytest.param((10, 10, 0, 20), (0.6791, 1.0), id="example f"),
        pytest.param((10, 10, 0, 10), (0.6075, 1.0), id="example g"),
    ],
)
def test_the_interval_of_two_rates_is_the_published_one(counts, expected):
    # Newcombe, Statistics in Medicine 17 (1998), 873-890, table II, method 10.
    assert difference_of_rates(*counts) == pytest.approx(expected, abs=5e-5)


# The record


def test_a_name_that_nobody_used_has_an_empty_record(opened):
    record = promotions.read(opened, "arm")
    assert (record.current, record.history) == (None, ())
    with pytest.raises(RequestError, match="There is no promotion 'arm'"):
        promotions.require(opened, "arm")


def test_the_file_holds_the_promoted_policy_and_the_whole_history(opened, store):
    first, kept = promote(opened, 1), made("kept", job_id="job-2", candidate=policy("job-2"))
    promotions.append(opened, "arm", kept, upon=promotions.read(opened, "arm").current)
    second = promote(opened, 3)
    record = written(store)
    assert record["name"] == "arm"
    assert record["current"] == policy("job-3", promoted_at=second.at).to_json()
    assert [entry["decision"] for entry in record["history"]] == ["promoted", "kept", "promoted"]
    assert [entry["number"] for entry in record["history"]] == [1, 2, 3]
    assert record["history"][0] == first.to_json()
    assert promotions.names(opened) == ["arm"]


def test_a_rollback_goes_back_step_by_step_and_is_in_the_history(opened, store):
    at = [promote(opened, number).at for number in (1, 2, 3)]
    for expected in (2, 1):
        entry = promotions.rollback(opened, "arm", why="it rattles", by="Ada")
        assert (entry.decision, entry.why, entry.by) == ("rolled_back", "it rattles", "Ada")
        assert written(store)["current"] == policy(f"job-{expected}", promoted_at=at[expected - 1]).to_json()
    with pytest.raises(RequestError, match="there was none"):
        promotions.rollback(opened, "arm", why="", by="Ada")
    promotions.append(opened, "leg", made("not_trained"), upon=None)
    with pytest.raises(RequestError, match="'leg' has no promoted policy"):
        promotions.rollback(opened, "leg", why="", by="Ada")
    promote(opened, 4)
    promotions.rollback(opened, "arm", why="", by="Ada")
    assert written(store)["current"]["job_id"] == "job-1", "what was rolled back is not come back to"


@pytest.mark.parametrize("name", ["", "Arm", "../arm", "a/b", ".arm", "a" * 65, "a\n", "arm#1"])
def test_a_name_that_is_none_is_refused(opened, name):
    with pytest.raises(RequestError, match="is not the name of a promotion"):
        promotions.read(opened, name)


def test_records_whose_names_end_alike_do_not_meet(opened):
    for name in ("arm", "arm.history", "arm.json"):
        promotions.append(opened, name, made("not_trained", name), upon=None)
    assert promotions.names(opened) == ["arm", "arm.history", "arm.json"]
    assert [promotions.read(opened, name).history[0].why for name in promotions.names(opened)] == [
        "arm", "arm.history", "arm.json",
    ]  # fmt: skip


def test_a_decision_in_view_of_another_policy_is_not_written(opened, store):
    promote(opened, 1)
    seen = promotions.read(opened, "arm").current
    promote(opened, 2)
    late = made("promoted", "it was better than the first", job_id="job-3", candidate=policy("job-3"))
    assert promotions.append(opened, "arm", late, upon=seen) is None
    assert written(store)["current"]["job_id"] == "job-2"
    assert len(written(store)["history"]) == 2


@pytest.mark.parametrize(
    ("category", "ends"), [("user", True), ("resource", True), ("infra", False), ("canceled", False)]
)
def test_a_training_is_decided_on_once_and_not_by_a_failure_of_the_machine(opened, category, ends):
    error = Failure(code="x", category=Category(category), message="it failed")
    first = promotions.append(opened, "arm", made("not_measured", job_id="job-1", error=error), upon=None)
    assert promotions.find_conclusion(promotions.read(opened, "arm"), "job-1") == (first if ends else None)
    second = promote(opened, 1)
    assert (second == first) is ends
    assert promotions.append(opened, "arm", made("kept", job_id="job-1"), upon=None) == second, "whatever is promoted"
    assert promotions.read(opened, "arm").history == ((first,) if ends else (first, second))


def test_a_writer_that_was_killed_before_the_record_has_decided_all_the_same(opened, store):
    promote(opened, 1)
    before = (store / "promotions" / "arm.json").read_bytes()
    promote(opened, 2)
    # As a kill between the two writes leaves it: the decision is there, the record is the old one.
    (store / "promotions" / "arm.json").write_bytes(before)
    assert promotions.read(opened, "arm").current.job_id == "job-2"
    (store / "promotions" / "arm.json").unlink()
    assert promotions.read(opened, "arm").current.job_id == "job-2"
    promotions.rollback(opened, "arm", why="", by="Ada")
    assert [entry["decision"] for entry in written(store)["history"]] == ["promoted", "promoted", "rolled_back"]


WRITER = """
import sys
from records import policy
from simyard.core.run_records import PromotionDecision
from simyard.store.store import Store
from simyard.tasks.promotion import promotions
store, me = Store.open(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for turn in range(12):
    kept = PromotionDecision(decision="kept", why=f"{me} {turn}", job_id=f"job-{me}-{turn}")
    assert promotions.append(store, "arm", kept, upon=None).why == f"{me} {turn}"
print("done", flush=True)
sys.stdin.readline()
promoted = PromotionDecision(decision="promoted", why=me, candidate=policy(me))
won = promotions.append(store, "arm", promoted, upon=None)
print("won" if won else "lost")
"""


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_of_two_processes_that_write_at_once_no_decision_is_lost_and_one_promotes(request, store, monkeypatch, place):
    url = str(store) if place == "folder" else _bucket(request.getfixturevalue("s3_server"), monkeypatch)
    command = [sys.executable, "-c", WRITER, url]
    env = {**os.environ, "PYTHONPATH": str(Path(records.__file__).parent)}
    writers = [subprocess.Popen([*command, me], stdin=-1, stdout=-1, text=True, env=env) for me in "ab"]
    for said in ("ready\n", "done\n"):
        assert [writer.stdout.readline() for writer in writers] == [said] * 2
        for writer in writers:
            writer.stdin.write("go\n")
            writer.stdin.flush()
    ended = [writer.communicate(timeout=HANG_S)[0] for writer in writers]
    assert sorted(ended) == ["lost\n", "won\n"]
    opened = Store.open(url)
    # A server may see a write again after later ones, when its answer came too late for the client; reading mends that.
    read = promotions.read(opened, "arm").to_json()
    record = opened.get_json(PromotionKeys("arm").record) if place == "folder" else read
    assert [entry["number"] for entry in record["history"]] == list(range(1, 26))
    whys = [entry["why"] for entry in record["history"] if entry["decision"] == "kept"]
    assert sorted(whys) == sorted(f"{me} {turn}" for me in "ab" for turn in range(12))
    assert record["current"]["job_id"] == "ab"[ended.index("won\n")]
    assert record == read


def _bucket(server, monkeypatch):
    for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("ENDPOINT_URL", server)):
        monkeypatch.setenv(f"AWS_{name}", value)
    urllib.request.urlopen(urllib.request.Request(f"{server}/promotions", method="PUT")).close()
    return "s3://promotions/yard"
