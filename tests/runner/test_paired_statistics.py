"""Statistics of pairs and of sequential evaluations, against scipy and by simulation."""

import numpy as np
import pytest
import scipy.stats

from simyard.core.specs import Precision
from simyard.runner.evaluation.episode_statistics import Episode
from simyard.runner.evaluation.paired_statistics import (
    episodes_to_tell,
    holm,
    mcnemar,
    pairs_to_tell,
    rank_correlation,
    sign_flips,
)
from simyard.runner.evaluation.sequential import RateSequence, Rounds, mean_sequence
from simyard.runner.evaluation.summary import paired_difference_of_rates, spread

DRAWS = 2000


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (3, 0), (10, 2), (5, 5), (400, 300), (3000, 2000)])
def test_mcnemar_is_the_exact_test_of_a_fair_coin(lost: int, gained: int) -> None:
    expected = scipy.stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_sign_flips_are_those_of_a_permutation_test() -> None:
    differences = np.random.default_rng(1).normal(0.3, 1.0, 60)
    expected = scipy.stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=9999, random_state=1
    )
    assert sign_flips(differences.tolist()) == pytest.approx(expected.pvalue, abs=0.01)
    assert sign_flips([0.0, 0.0]) == 1.0
    assert sign_flips([1.0] * 40) == 1 / 10_000, "never 0"


def test_holm_corrects_the_smallest_for_all_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03, 0.2]) == pytest.approx([0.04, 0.09, 0.09, 0.2])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_rank_correlation_is_spearmans_with_ties() -> None:
    first, second = [1, 2, 2, 3, 5.0], [2, 1, 4, 4, 9.0]
    assert rank_correlation(first, second) == pytest.approx(scipy.stats.spearmanr(first, second).statistic)
    assert rank_correlation(first, [1.0] * 5) is None


def test_a_plan_asks_for_more_where_less_is_to_be_told() -> None:
    assert pairs_to_tell(0.9, 0.1, 0.8) < pairs_to_tell(0.9, 0.05, 0.8)
    assert pairs_to_tell(0.9, 0.1, 0.8) < pairs_to_tell(0.9, 0.1, 0.95)
    assert pairs_to_tell(0.9, 0.1, 0.8) < pairs_to_tell(0.9, 0.1, 0.8, comparisons=10)
    # The example of Fleiss' formula in every book: 0.9 against 0.8.
    assert episodes_to_tell(0.9, 0.1, 0.8) == 199


def test_a_sequence_never_widens_and_an_early_one_says_little() -> None:
    sequence, widths = RateSequence(), []
    for succeeded in [True] * 60:
        sequence.add(succeeded)
        widths.append(sequence.interval[1] - sequence.interval[0])
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 0.9
    assert 0.85 < sequence.interval[0] < 0.97
    assert sequence.interval[1] == 1.0
    assert mean_sequence([1.0] * 29) is None
    low, high = mean_sequence([0.0, 1.0] * 200) or (0.0, 0.0)
    assert 0.35 < low < 0.5 < high < 0.65


def test_only_whole_rounds_count_and_after_one_it_is_enough() -> None:
    """Short episodes end first, and every environment counts as often as any other."""
    counted: list[Episode] = []
    rounds = Rounds(Precision(metric="success_rate", half_width=0.2), [50, 50, 49], counted.append)

    def end(env: int) -> None:
        rounds.add(
            Episode(number=0, env=env, total=1.0, length=1, ended="truncated", term=None, success=True, rewards={})
        )

    for _ in range(5):
        end(2)
    assert not counted, "one environment is far ahead of two"
    end(0)
    end(1)
    assert [(episode.number, episode.env) for episode in counted] == [(1, 0), (2, 1), (3, 2)]
    while not rounds.is_enough:
        end(0)
        end(1)
        end(2)
    assert len(counted) % 3 == 0
    figures, before = rounds.figures, len(counted)
    assert figures["stopped"]
    assert figures["interval_95"] is not None
    assert (figures["interval_95"][1] - figures["interval_95"][0]) / 2 <= 0.2
    end(0)
    assert len(counted) == before


# By simulation


@pytest.mark.long  # thousands of draws; the default tier compares with scipy
def test_intervals_of_pairs_cover_the_truth_in_95_of_100() -> None:
    """Of paired returns (BCa) and of paired success rates (Newcombe), whose arms share a start."""
    rng, pairs = np.random.default_rng(0), 100
    rates = returns = 0
    for _ in range(DRAWS):
        start = rng.normal(size=pairs)
        first, second = (start + rng.normal(size=pairs) > cut for cut in (-1.2, -0.8))
        low, high = paired_difference_of_rates(second.tolist(), first.tolist())
        truth = scipy.stats.norm.sf(-0.8 / 2**0.5) - scipy.stats.norm.sf(-1.2 / 2**0.5)
        rates += low <= truth <= high
        bounds = spread((rng.exponential(1.0, pairs) - 0.5).tolist())["interval_95"]
        assert bounds
        returns += bounds[0] <= 0.5 <= bounds[1]
    assert 0.93 <= rates / DRAWS <= 0.97
    assert 0.93 <= returns / DRAWS <= 0.97


@pytest.mark.long  # the same
def test_the_tests_of_pairs_find_a_difference_that_is_none_in_5_of_100_at_most() -> None:
    rng = np.random.default_rng(0)
    exact = flips = 0
    for _ in range(DRAWS):
        first, second = (rng.random(60) < 0.8 for _ in range(2))
        exact += mcnemar(int((first & ~second).sum()), int((second & ~first).sum())) < 0.05
        flips += sign_flips(rng.normal(size=20).tolist()) < 0.05
    assert exact / DRAWS <= 0.05, "it is exact, so rather fewer"
    assert 0.03 <= flips / DRAWS <= 0.07


@pytest.mark.long  # the same
def test_a_plan_has_the_power_that_it_promises() -> None:
    rng, pairs = np.random.default_rng(0), pairs_to_tell(0.9, 0.1, 0.8)
    found = 0
    for _ in range(DRAWS):
        first, second = rng.random(pairs) < 0.9, rng.random(pairs) < 0.8
        found += mcnemar(int((first & ~second).sum()), int((second & ~first).sum())) < 0.05
    assert 0.75 <= found / DRAWS <= 0.87


@pytest.mark.long  # the same
def test_a_sequence_misses_the_truth_at_any_time_in_5_of_100_at_most() -> None:
    """Looked at after every episode, where Wilson's interval misses it three times as often."""
    rng = np.random.default_rng(0)
    missed = {rate: 0 for rate in (0.5, 0.9)}
    for rate in missed:
        for _ in range(DRAWS // 4):
            sequence = RateSequence()
            for succeeded in rng.random(150) < rate:
                sequence.add(bool(succeeded))
            low, high = sequence.interval  # it never widens: a truth that was outside once stays there
            missed[rate] += not low <= rate <= high
    assert all(count / (DRAWS // 4) <= 0.05 for count in missed.values()), missed
    late = 0
    for _ in range(DRAWS):
        values = rng.normal(1.0, 2.0, 400)
        late += any(
            not low <= 1.0 <= high
            for count in range(30, 401, 10)
            if (found := mean_sequence(values[:count].tolist())) is not None
            for low, high in [found]
        )
    assert late / DRAWS <= 0.06, "asymptotic"
