"""The verdict of a sweep against SciPy, and what it says of settings that were made up here."""

import random
import re
import statistics
from dataclasses import replace
from typing import Any

import pytest
from lazy import lazy

from simyard.core.errors import Category, Failure
from simyard.core.sweep_records import Decision, SeedRun, Setting, SweepVerdict
from simyard.requests.sweeps import Objective, SweepRequest
from simyard.runner.evaluation.paired_statistics import holm
from simyard.runner.evaluation.summary import spread
from simyard.tasks.sweeps import pictures
from simyard.tasks.sweeps.verdict import _paired, _t_beyond, _t_quantile, _unpaired, comparable, judge, mean_of

stats = lazy("scipy.stats")

BROKEN = Failure(code="diverged", category=Category.USER, message="It diverged.", advice="")
RATE = "agent.algorithm.learning_rate"


def run(seed: int, value: float | None, iterations: int = 60, failed: bool = False) -> SeedRun:
    return SeedRun(
        seed=seed, jobs=(f"job-{seed}",), iterations=iterations, status="failed" if failed else "succeeded",
        value=value, failure=BROKEN if failed else None, gpu_seconds=1.0,
    )  # fmt: skip


def setting(number: int, values: list[float], *, rung: int = 0, first: int = 42, **changes: Any) -> Setting:
    runs = [run(first + index, value, [20, 60][rung]) for index, value in enumerate(values)]
    fields = {"state": "complete", "runs": tuple(runs), "bracket": 0, **changes}
    return Setting(number=number, values={RATE: 0.001 * (number + 1)}, rung=rung, **fields)


def measured(number: int, values: list[float]) -> list[Decision]:
    """What was measured of a setting at its first rung."""
    return [
        Decision(number=1, kind="measured", setting=number, rung=0, run=run(42 + index, value, 20), why="", at="")
        for index, value in enumerate(values)
    ]


def found(*settings: Setting, decisions: list[Decision] = [], **objective: Any) -> SweepVerdict:  # noqa: B006
    return judge(settings, [Objective(**objective)], (42, 43, 44), decisions)


GOOD, FAIR, POOR = [5.0, 5.1, 4.9], [4.0, 4.05, 3.9], [1.0, 1.2, 0.8]


# The statistics


@pytest.mark.parametrize("freedom", [1, 1.3, 2, 7.7, 198])
def test_students_distribution_is_that_of_scipy(freedom):
    for t in (0.1, 1.0, 4.0, 60.0):
        assert _t_beyond(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-3)
    assert _t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-5)


def test_the_tests_are_those_of_scipy():
    ours, theirs = [4.1, 5.2, 4.8, 5.5], [3.9, 4.4, 4.9, 4.2]
    paired, welch = (
        _paired("", [a - b for a, b in zip(ours, theirs, strict=True)], 5.5),
        _unpaired("", ours, theirs[:3]),
    )
    for test, same in (
        (paired, stats.ttest_rel(ours, theirs)),
        (welch, stats.ttest_ind(ours, theirs[:3], equal_var=False)),
    ):
        assert test.p == pytest.approx(same.pvalue, rel=1e-4)
        bounds = same.confidence_interval()
        assert test.bounds == pytest.approx((bounds.low, bounds.high), rel=1e-4)


def test_holm_takes_the_smallest_p_times_their_number_and_never_falls():
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])


@pytest.mark.parametrize("count", [2, 3, 5])
def test_an_interval_of_few_seeds_is_as_wide_as_students(count):
    random.seed(0)
    values = tuple(random.gauss(0, 1) for _ in range(count))
    own, narrow = mean_of(values), spread(values)["interval_95"]
    reach = stats.t.ppf(0.975, count - 1) * statistics.stdev(values) / count**0.5
    assert own.low < narrow[0] < own.mean < narrow[1] < own.high
    assert (own.high - own.low) / (2 * reach) == pytest.approx(1, abs=0.35)
    assert mean_of(values, (-0.1, 0.1)).high <= 0.1, "no success rate is above 1"


@pytest.mark.long  # thousands of bootstraps
@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_intervals_cover_the_true_mean(count):
    random.seed(count)
    trials = 600
    samples = [tuple(random.gauss(7, 2) for _ in range(count)) for _ in range(trials)]
    hits = sum(own.low <= 7 <= own.high for own in map(mean_of, samples))
    narrow = sum(bounds[0] <= 7 <= bounds[1] for bounds in (spread(one)["interval_95"] for one in samples))
    assert 0.90 <= hits / trials <= 0.98
    assert narrow / trials < hits / trials, "which is why they are made wider"


@pytest.mark.long  # hundreds of sweeps
@pytest.mark.parametrize("first", [0, 100], ids=["paired", "unpaired"])
@pytest.mark.parametrize("count", [2, 6])
def test_equal_settings_are_seldom_called_better(count, first):
    random.seed(count)
    trials = 300
    wrong = sum(
        found(*(setting(n, [random.gauss(0, 1) for _ in range(3)], first=n * first) for n in range(count)))
        .comparison.is_better
        for _ in range(trials)
    )  # fmt: skip
    assert wrong / trials <= 0.08, "5 % and what 300 trials leave open"


# The ranking


def test_settings_are_ranked_by_their_mean_over_seeds_and_the_last_is_nothing_special():
    verdict = found(setting(0, FAIR), setting(1, GOOD), setting(2, POOR))
    assert [row.number for row in verdict.table] == [1, 0, 2]
    assert [row.rank for row in verdict.table] == [1, 2, 3]
    assert verdict.table[0].value.mean == pytest.approx(5.0)
    assert found(setting(0, FAIR), setting(1, GOOD), mode="min").table[0].number == 0


def test_a_longer_training_ranks_before_a_shorter_one_and_is_compared_where_both_were_measured():
    settings = setting(0, FAIR, state="pruned"), setting(1, [3.0, 3.1, 3.2], rung=1)
    early = [*measured(0, FAIR), *measured(1, [4.9, 5.0, 5.3])]
    verdict = found(*settings, decisions=early)
    assert [(row.number, row.iterations) for row in verdict.table] == [(1, 60), (0, 20)]
    assert verdict.comparison.difference.mean == pytest.approx(statistics.mean([4.9, 5.0, 5.3]) - statistics.mean(FAIR))
    assert "at iteration 20, the last that both reached" in verdict.comparison.test
    assert comparable(settings, early) == {0: pytest.approx(3.9833, abs=1e-3), 1: pytest.approx(5.0667, abs=1e-3)}
    without = found(*settings)
    assert without.comparison.p is None and "no rung in common" in without.sentence


def test_failed_seeds_are_counted_and_a_winner_of_survivors_is_not_called_better():
    lost = setting(1, [])
    lost = Setting(**{**vars(lost), "runs": (run(42, 5.0), run(43, 5.01), run(44, None, failed=True))})
    verdict = found(setting(0, FAIR), lost, setting(2, []))
    assert [(row.number, row.failed, row.value and row.value.n) for row in verdict.table] == [
        (1, 1, 2), (0, 0, 3), (2, 0, None),
    ]  # fmt: skip
    assert not verdict.comparison.is_better
    assert "1 of its 3 seeds failed" in verdict.sentence


def test_several_objectives_are_ranked_by_their_pareto_front_and_the_sentence_names_it():
    rewards, losses = [POOR, GOOD, FAIR, [3.0] * 3, []], [0.1, 0.9, 0.3, 0.4, 0.0]
    settings = [setting(number, values) for number, values in enumerate(rewards)]
    settings = [
        replace(one, runs=tuple(replace(own, others=(loss,)) for own in one.runs))
        for one, loss in zip(settings, losses, strict=True)
    ]
    objectives = [Objective(metric="Train/mean_reward"), Objective(metric="Loss/value", mode="min")]
    verdict = judge(settings, objectives, (42, 43, 44))
    assert [(row.number, row.on_front) for row in verdict.table] == [
        (1, True), (2, True), (0, True), (3, False), (4, False),
    ]  # fmt: skip
    assert [row.others and row.others[0].mean for row in verdict.table] == pytest.approx([0.9, 0.3, 0.1, 0.4, None])
    assert verdict.comparison is None and verdict.metrics == ("Train/mean_reward", "Loss/value")
    assert "3 of 4 settings are on the Pareto front of Train/mean_reward (max) and Loss/value (min)" in verdict.sentence
    assert SweepVerdict.from_json(verdict.to_json()) == verdict
    assert "No setting was measured" in judge([setting(0, [])], objectives, (42, 43, 44)).sentence


# What it says


@pytest.mark.parametrize(
    ("settings", "says", "is_better", "more"),
    [
        ([setting(0, GOOD), setting(1, POOR)], "is better than setting 1 beyond noise: by 4.*of 3 pairs", True, None),
        ([setting(0, GOOD), setting(1, POOR, first=7)], "Welch's t-test of 3 and 3 seeds", True, None),
        ([setting(0, [5.0, 4.0, 6.0]), setting(1, [4.8, 4.1, 5.0])], "not beyond noise.* 18 more seeds", False, 18),
        ([setting(0, GOOD), setting(1, FAIR), setting(2, POOR)], "by Holm's method for 2 comparisons", True, None),
        ([setting(0, GOOD), setting(1, [4.65, 4.6, 4.25]), setting(2, [4.58, 4.5, 4.12])], "p = 0.057", False, 1),
        ([setting(0, [5.0]), setting(1, [4.0])], "1 seed: that says nothing of the noise", False, None),
        ([setting(0, [1.0, 1.0]), setting(1, [0.5, 0.5])], "p = 0.5 .*more seeds", False, 4),
        ([setting(0, [1.0, 1.0]), setting(1, [1.0, 1.0])], "does not lead setting 1", False, None),
    ],
    ids=["better", "unpaired", "noise", "corrected", "too many", "one seed", "no spread", "equal"],
)  # fmt: skip
def test_the_winner_is_called_better_only_beyond_noise(settings, says, is_better, more):
    verdict = found(*settings)
    assert re.search(says, verdict.sentence), verdict.sentence
    assert verdict.comparison.is_better is is_better
    assert verdict.comparison.more_seeds == more
    assert SweepVerdict.from_json(verdict.to_json()) == verdict


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ([], "No setting was measured yet."),
        (
            [setting(0, []), setting(1, [], runs=(run(42, None, failed=True),))],
            "No setting was measured: 1 training failed.",
        ),
        ([setting(0, GOOD)], "5 over 3 seeds, 95 % interval [4.7, 5.3]; best seed 43 (5.1), worst seed 44 (4.9)."),
        ([setting(0, [5.0])], "5 with seed 42: one seed says nothing of the noise."),
    ],
    ids=["none", "failed", "seeds alone", "a single seed"],
)
def test_without_a_rival_it_says_what_is_known(settings, says):
    verdict = found(*settings)
    assert verdict.comparison is None
    assert re.sub(r"\[.*\]", "[]", verdict.sentence) == re.sub(r"\[.*\]", "[]", says)


# The pictures


class Drawn:
    """Curves that were made up."""

    tag = "Train/mean_reward"

    def of(self, one: Setting) -> dict[int, dict[int, float]]:
        return {own.seed: {step: step * (own.value or 0.0) for step in range(20)} for own in one.runs}


def test_pictures_are_drawn_of_what_there_is(tmp_path):
    request = SweepRequest.model_validate({
        "name": "_$a$ b", "trainingConfig": {"task": "Isaac-Cartpole-Direct"},
        "sweep": {"parameters": {RATE: {"values": [0.001, 0.002]}}, "seeds": 3},
    })  # fmt: skip
    settings = [setting(0, FAIR), setting(1, GOOD), setting(2, [])]
    verdict = found(*settings)
    made = pictures.draw(tmp_path, request, settings, verdict, Drawn())
    assert [path.name for path in made] == [pictures.CURVES, pictures.PARALLEL]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made)
    assert pictures.draw(tmp_path, request, [], found(), Drawn()) == []


def test_a_band_reaches_from_the_lowest_seed_to_the_highest_where_all_have_come():
    band = pictures.Band.of([{0: 1.0, 1: 2.0, 2: 9.0}, {0: 3.0, 1: 4.0}])
    assert (band.steps, band.mean, band.low, band.high) == ([0, 1], [2.0, 3.0], [1.0, 2.0], [3.0, 4.0])


def test_the_parameter_that_matters_is_the_important_one():
    request = SweepRequest.model_validate({
        "trainingConfig": {"task": "Isaac-Cartpole-Direct"},
        "sweep": {"sampler": "random", "trials": 30, "parameters": {
            RATE: {"low": 1e-4, "high": 1e-2, "log": True}, "agent.seed_like": {"values": [1, 2, 3]},
        }},
    })  # fmt: skip
    random.seed(1)
    drawn = [{RATE: 10 ** random.uniform(-4, -2), "agent.seed_like": random.choice([1, 2, 3])} for _ in range(30)]
    settings = [Setting(number=n, values=v, runs=(), state="complete", rung=0) for n, v in enumerate(drawn)]
    means = {one.number: one.values[RATE] for one in settings}
    importance = pictures.importance_of(request, settings, means)
    assert max(importance, key=lambda name: importance[name]) == RATE and importance[RATE] > 0.7
    assert pictures.importance_of(request, settings[:4], means) == {}
