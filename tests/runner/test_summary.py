"""Figures of an evaluation against published values and arithmetic done here, and the tables that hold them."""

import csv
import math
import statistics

import numpy as np
import pytest
from lazy import lazy

from simyard.core.specs import InputFile, PolicyFile
from simyard.runner.evaluation.across import Played, pair_rows, paired_returns, share_kept
from simyard.runner.evaluation.episode_statistics import Episode
from simyard.runner.evaluation.evaluate import logged
from simyard.runner.evaluation.summary import (
    difference,
    difference_of_rates,
    paired_difference_of_rates,
    spread,
    successes,
    summarize,
)
from simyard.runner.evaluation.tables import EpisodeTable, write_metrics, write_rows
from simyard.runner.rl import get_library

stats = lazy("scipy.stats")

SURVIVAL = "metric Metrics/success_rate"


def episode(number, total, **changes):
    fields = {"env": 0, "length": 10, "ended": "truncated", "term": "time_out", "success": None, **changes}
    return Episode(number=number, total=total, **fields)


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# Returns


def test_mean_deviation_and_median_are_those_of_a_sample():
    values = [4.5, -1.25, 3.0, 3.0, 8.75, 2.0]
    found = spread(values)
    assert found["mean"] == pytest.approx(statistics.mean(values))
    assert found["std"] == pytest.approx(statistics.stdev(values)), "of a sample: divided by n - 1"
    assert found["median"] == 3.0
    assert (found["min"], found["max"]) == (-1.25, 8.75)
    low, high = found["interval_95"]
    assert -1.25 < low < found["mean"] < high < 8.75
    assert all(type(value) is float for value in (found["mean"], found["std"], found["median"], low, high))


@pytest.mark.parametrize("value", [0.0, -3.25, 1e12])
def test_one_episode_has_neither_deviation_nor_interval(value):
    found = spread([value])
    assert found == {"mean": value, "std": None, "median": value, "min": value, "max": value, "interval_95": None}


@pytest.mark.parametrize("value", [0.0, 4.1, -1e-30])
def test_of_equal_episodes_the_interval_is_the_value(value):
    found = spread([value] * 20)
    assert found["mean"] == pytest.approx(value)
    assert found["std"] == pytest.approx(0.0, abs=1e-12)
    assert found["interval_95"] == [value, value]


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, 1.0, 2.0], [0.0] * 99 + [1.0]])
def test_tiny_and_lopsided_samples_have_a_finite_interval(values):
    low, high = spread(values)["interval_95"]
    assert min(values) <= low <= np.mean(values) <= high <= max(values)
    assert low < high


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([1.0, 2.0], id="two"),
        pytest.param([4.5, -1.25, 3.0, 3.0, 8.75, 2.0], id="with ties"),
        pytest.param([10.0] * 30 + [-50.0] * 3, id="lopsided"),
        pytest.param([1e6 + n % 7 for n in range(50)], id="far from 0"),
    ],
)
def test_the_intervals_are_scipys(values):
    data = np.array(values)
    found = stats.bootstrap((data,), np.mean, method="BCa", rng=np.random.default_rng(0)).confidence_interval
    assert spread(values)["interval_95"] == pytest.approx([found.low, found.high], rel=1e-12)
    other = data[: len(data) // 2 + 1] - 1
    found = stats.bootstrap(
        (data, other),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert difference(values, other) == pytest.approx([found.low, found.high], rel=1e-12)


# Success


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    # Newcombe, Two-sided confidence intervals for the single proportion, Statist. Med. 17 (1998), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_success_interval_is_wilsons(count, of, low, high):
    found = successes([True] * count + [False] * (of - count), SURVIVAL)
    assert found["interval_95"] == [pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5)]
    assert (found["rate"], found["successes"], found["known"]) == (count / of, count, of)
    assert found["source"] == SURVIVAL


def test_success_that_nobody_knows_is_null_and_never_0():
    found = summarize([episode(1, 1.0), episode(2, 2.0)], None)["success"]
    assert found == {"rate": None, "interval_95": None, "successes": None, "known": 0, "source": None}


def test_episodes_without_a_known_success_are_left_out_of_the_rate():
    said = [True, None, False, None, True]
    found = summarize([episode(n, 0.0, success=value) for n, value in enumerate(said)], SURVIVAL)["success"]
    assert (found["rate"], found["successes"], found["known"]) == (2 / 3, 2, 3)
    assert found["interval_95"] == successes([True, False, True], SURVIVAL)["interval_95"]


# Pairs


def test_a_pair_is_of_one_environment_in_whichever_order_its_episodes_ended():
    def played(physics, order):
        episodes = [episode(number, 10.0 * env, env=env) for number, env in enumerate(order, start=1)]
        return Played(physics=physics, episodes=episodes, success_source=None, speed={}, longest_s=1.0)

    found = pair_rows("model_1.pt", [played("newton", [0, 1, 2]), played("physx", [2, 0, 1])])
    assert [(row["pair"], row["newton.return"], row["physx.return"]) for row in found] == [
        (1, "0.0", "0.0"), (2, "10.0", "10.0"), (3, "20.0", "20.0"),
    ]  # fmt: skip


def test_pairs_that_differ_little_are_told_apart_where_independent_samples_are_not():
    ours = [float(n % 17) for n in range(60)]
    theirs = [value - 0.1 - 0.01 * (n % 3) for n, value in enumerate(ours)]
    found = paired_returns(ours, theirs)
    low, high = found["interval_95"]
    assert -0.12 < low < found["mean"] < high < -0.1
    assert difference(theirs, ours)[1] > 0, "of independent samples it is lost in the spread"


def test_the_share_that_is_kept_of_a_negative_return_is_less_than_all_where_more_is_lost():
    for reference, other, kept in (([10.0] * 5, [8.0] * 5, 0.8), ([-10.0] * 5, [-12.0] * 5, 0.8)):
        share, bounds = share_kept(paired_returns(reference, other), reference)
        assert (share, *bounds) == pytest.approx((kept, kept, kept))
    assert share_kept(paired_returns([1.0, -1.0], [2.0, 2.0]), [1.0, -1.0]) is None


def pairs(both, ours, theirs, neither):
    """Return the successes of two in pairs, by how many succeed in both, in one alone, and in neither."""
    first = [True] * (both + ours) + [False] * (theirs + neither)
    return first, [True] * both + [False] * ours + [True] * theirs + [False] * neither


@pytest.mark.parametrize("counts", [(30, 0, 0, 0), (0, 0, 0, 30), (40, 10, 0, 0), (20, 9, 3, 8), (5, 20, 20, 5)])
def test_the_interval_of_paired_rates_holds_the_difference_and_has_a_width(counts):
    ours, theirs = pairs(*counts)
    low, high = paired_difference_of_rates(ours, theirs)
    assert -1 <= low < (sum(ours) - sum(theirs)) / len(ours) < high <= 1
    back = paired_difference_of_rates(theirs, ours)
    assert back == pytest.approx((-high, -low)), "turned round"


def test_pairs_that_go_together_have_a_narrower_interval_than_independent_ones_and_others_a_wider():
    def width(*counts):
        ours, theirs = pairs(*counts)
        low, high = paired_difference_of_rates(ours, theirs)
        alone = difference_of_rates(sum(ours), len(ours), sum(theirs), len(theirs))
        return (high - low) / (alone[1] - alone[0])

    assert width(45, 5, 0, 50) < 0.5
    assert width(0, 50, 45, 5) > 1.2
    assert width(25, 25, 25, 25) == pytest.approx(1.0), "neither"


def test_the_interval_of_paired_rates_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)

    def play(episodes):
        hard = rng.random(episodes)  # the same start is as hard for both
        return hard < 0.85, hard + rng.normal(0, 0.1, episodes) < 0.75

    ours, theirs = play(10**6)
    true = ours.mean() - theirs.mean()
    found = [paired_difference_of_rates(*(sample.tolist() for sample in play(50))) for _ in range(400)]
    assert 0.93 < np.mean([low <= true <= high for low, high in found]) <= 1.0


# Together


def test_the_summary_counts_endings_and_averages_terms():
    episodes = [
        episode(1, 3.0, length=10, rewards={"alive": 4.0, "effort": -1.0}),
        episode(2, 1.0, length=4, ended="terminated", term="fell", rewards={"alive": 1.5, "effort": -0.5}),
        episode(3, 2.0, length=7, ended="terminated", term=None, rewards={"alive": 2.0, "effort": 0.0}),
        episode(4, 2.0, length=9, term="stepsPerEpisode", rewards={"alive": 2.5, "effort": -0.5}),
    ]
    found = summarize(episodes, None)
    assert found["episodes"] == 4
    assert found["return"]["mean"] == 2.0
    assert found["length"]["mean"] == 7.5
    assert found["ended"] == {
        "terminated": 2, "truncated": 2, "terms": {"fell": 1, "stepsPerEpisode": 1, "time_out": 1}
    }  # fmt: skip
    assert found["reward_terms"] == {"alive": 2.5, "effort": -0.5}
    assert sum(found["reward_terms"].values()) == found["return"]["mean"]


def test_of_samples_without_spread_the_drop_is_certain():
    assert difference([5.0] * 8, [3.0] * 4) == (2.0, 2.0)
    low, high = difference([5.0] * 8, [3.0, 1.0, 2.0, 4.0])
    assert 1.0 <= low < 2.5 < high <= 4.0


# Tables

AWKWARD = [0.1 + 0.2, -1 / 3, 1e-308, 123456789.12345679, 5.0]


def policy(name="model_59.pt", iteration=60):
    file = InputFile(name=name, key=f"assets/0/{name}", sha256="0" * 64, size_bytes=1)
    return PolicyFile(checkpoint=file, iteration=iteration)


def test_the_episode_table_keeps_every_bit_and_leaves_empty_what_nobody_knows(tmp_path):
    table = EpisodeTable(tmp_path / "episodes.csv", seed=42)
    for number, value in enumerate(AWKWARD, 1):
        success = (None, True, False)[number % 3]
        rewards = {"alive": value / 7, "a, b": value / 3}
        table.add(policy(), episode(number, value, env=number % 2, term=None, success=success, rewards=rewards))
    table.add(policy("policy.pt", None), episode(1, 0.0, ended="terminated", rewards={"alive": 0.0, "a, b": -0.0}))
    table.write()
    found = rows(tmp_path / "episodes.csv")
    assert list(found[0]) == [
        "checkpoint", "iteration", "episode", "env", "seed", "return", "length", "ended", "term", "success",
        "reward.alive", "reward.a, b",
    ]  # fmt: skip
    assert [float(row["return"]) for row in found] == [*AWKWARD, 0.0]
    assert [float(row["reward.a, b"]) for row in found[:-1]] == [value / 3 for value in AWKWARD]
    assert math.copysign(1, float(found[-1]["reward.a, b"])) == -1
    assert [row["success"] for row in found] == ["1", "0", "", "1", "0", ""]
    assert [row["term"] for row in found] == [""] * 5 + ["time_out"]
    assert [row["iteration"] for row in found] == ["60"] * 5 + [""]
    assert {row["seed"] for row in found} == {"42"}
    assert [row["episode"] for row in found] == ["1", "2", "3", "4", "5", "1"]


def test_the_metrics_table_has_a_row_a_checkpoint(tmp_path):
    summaries = []
    for name, iteration, successful in (("model_0.pt", 1, [True, False, None]), ("policy.pt", None, [None] * 3)):
        episodes = [
            episode(number, value, success=success, rewards={"alive": value})
            for number, (value, success) in enumerate(zip(AWKWARD[:3], successful, strict=True))
        ]
        figures = summarize(episodes, SURVIVAL)
        tags = logged(figures, get_library("rsl_rl"), longest_s=5.0)
        summaries.append({"checkpoint": {"name": name, "iteration": iteration}, **figures, "tags": tags})
    write_metrics(tmp_path / "metrics.csv", summaries)
    known, unknown = rows(tmp_path / "metrics.csv")
    for row, summary in ((known, summaries[0]), (unknown, summaries[1])):
        assert row["checkpoint"] == summary["checkpoint"]["name"]
        assert row["episodes"] == "3"
        returns = summary["return"]
        assert float(row["return_mean"]) == returns["mean"]
        assert float(row["return_std"]) == returns["std"]
        assert float(row["return_median"]) == returns["median"]
        assert [float(row["return_low_95"]), float(row["return_high_95"])] == returns["interval_95"]
        assert float(row["length_mean"]) == 10.0
        assert float(row["reward.alive"]) == summary["reward_terms"]["alive"]
        # The tags that training logs them by.
        assert float(row["Train/mean_reward"]) == returns["mean"]
        assert float(row["Train/mean_episode_length"]) == 10.0
        assert float(row["Episode_Reward/alive"]) == summary["reward_terms"]["alive"] / 5.0
        assert float(row["Episode_Termination/time_out"]) == 1.0
    assert (known["step"], unknown["step"]) == ("1", "")
    assert float(known["success_rate"]) == float(known["Metrics/success_rate"]) == 0.5
    assert unknown["Metrics/success_rate"] == ""
    assert [float(known["success_low_95"]), float(known["success_high_95"])] == summaries[0]["success"]["interval_95"]
    assert [unknown[name] for name in ("success_rate", "success_low_95", "success_high_95")] == ["", "", ""]


def test_one_episode_leaves_its_uncertainty_empty(tmp_path):
    summary = {"checkpoint": {"name": "a.pt", "iteration": 3}, **summarize([episode(1, 2.5)], None), "tags": {}}
    write_metrics(tmp_path / "metrics.csv", [summary])
    (row,) = rows(tmp_path / "metrics.csv")
    columns = ("return_mean", "return_median", "return_std", "return_low_95", "return_high_95")
    assert [row[name] for name in columns] == ["2.5", "2.5", "", "", ""]


def test_a_table_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "table.csv"
    write_rows(path, [{"a": 1}, {"a": 2}])
    write_rows(path, [{"a": 3}])
    assert path.read_bytes() == b"a\n3\n"
    assert list(tmp_path.iterdir()) == [path]
