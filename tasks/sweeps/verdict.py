"""Settings of a sweep -> its verdict: which is best, and whether that is more than luck.

- A setting stands at the rung that most of its seeds were measured at, of several such the highest. Settings are ranked
  by rung first, since a longer training is no fair match for a shorter one; then by their mean over the seeds.
- Its interval is a bootstrap over the seeds, made wider where there are few (`mean_of`).
- The winner is compared with each other setting at the highest rung that both were measured at: by a t-test of pairs
  where both have the same seeds, else by Welch's. The p of these comparisons is corrected by Holm's method.
- By several objectives nothing is tested: the settings of the Pareto front come first, and the sentence names them.
- A seed that failed has no value and is counted. A winner of which more seeds failed than of the runner-up is not
  called better: its mean is that of the survivors.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from statistics import NormalDist, fmean, stdev, variance
from typing import Any

from simyard.core.sweep_records import (
    Decision,
    Interval,
    RankedSetting,
    SeedRun,
    Setting,
    SettingComparison,
    SweepVerdict,
)
from simyard.requests.sweeps import Objective
from simyard.runner.evaluation.paired_statistics import holm
from simyard.runner.evaluation.summary import CONFIDENCE, spread
from simyard.tasks.shared.documents import interval, number

ALPHA = 1 - CONFIDENCE
"""Chance of calling a setting better that is not."""
POWER = 0.8
"""Chance with which the further seeds of the advice tell, if the difference is what it seems."""
MOST_SEEDS = 1000
"""Seeds beyond which no number is said."""
MOST_NAMED = 3
"""Settings of a front that the sentence names."""
_EQUAL = 1e-12
"""Values that differ by less, relative to their size, are the same."""

Values = Mapping[int, float]
"""The objective by seed."""


@dataclass(frozen=True)
class _Contender:
    """A setting with what was measured of it."""

    setting: Setting
    rungs: Mapping[int, Values]
    """What was measured at each rung."""
    iterations: Mapping[int, int]
    """Iterations of the trainings that were measured at each rung."""

    @property
    def rung(self) -> int:
        """The rung that it stands at; -1 where nothing was measured."""
        return max(self.rungs, key=lambda rung: (len(self.rungs[rung]), rung), default=-1)

    @property
    def values(self) -> Values:
        return self.rungs.get(self.rung, {})


@dataclass(frozen=True)
class _Test:
    """One comparison of two settings, in the direction in which more is better."""

    name: str
    seeds: int
    """Of the one that has fewer."""
    gap: float
    bounds: tuple[float, float] | None
    p: float | None
    """Not corrected; None where one seed alone was measured."""
    told: Callable[[int, float], bool]
    """Returns whether so many seeds of both would probably tell, with p times a factor."""


def judge(
    settings: Sequence[Setting], objectives: Sequence[Objective], seeds: Sequence[int],
    decisions: Iterable[Decision] = (),
) -> SweepVerdict:  # fmt: skip
    """Rank settings, and compare the best with the others; by several objectives name the Pareto front.

    Args:
        settings: All of the sweep, as they are now.
        objectives: What they are ranked by.
        seeds: Those that each setting is trained with.
        decisions: Of the sweep so far: they tell what was measured at earlier rungs.
    """
    # The ranking.
    sign = 1.0 if objectives[0].mode == "max" else -1.0
    ranked = sorted(_contenders(settings, decisions), key=lambda one: _place(one, sign))
    bounds = _bounds(objectives[0])
    table = tuple(_row(rank, one, len(seeds), bounds) for rank, one in enumerate(ranked, 1))

    if len(objectives) > 1:
        return _by_front(ranked, table, objectives)

    # The winner against each other; the correction is for all of them, the verdict on the runner-up.
    measured = [one for one in ranked if one.values]
    if len(measured) < 2:
        return SweepVerdict(table=table, comparison=None, sentence=_without_rival(table, measured, sign))
    tests = [_compare(measured[0], other, sign) for other in measured[1:]]
    comparison = _verdict(measured[0], measured[1], tests)
    return SweepVerdict(table=table, comparison=comparison, sentence=_in_words(table, comparison, tests[0]))


# --- the ranking ------------------------------------------------------------------------------------------------------


def _contenders(settings: Sequence[Setting], decisions: Iterable[Decision]) -> list[_Contender]:
    """Gather what was measured of each setting. Rungs are told apart by their iterations: brackets count their own."""
    has_rungs = any(one.rung or one.bracket for one in settings)
    measured: dict[int, list[SeedRun]] = {one.number: [] for one in settings}
    for decision in decisions:
        if decision.kind == "measured" and decision.run is not None and decision.setting in measured:
            measured[decision.setting].append(decision.run)
    found = []
    for one in settings:
        rungs: dict[int, dict[int, float]] = {}
        iterations: dict[int, int] = {}
        for run in (*measured[one.number], *one.runs):
            if run.value is not None and math.isfinite(run.value):
                rung = run.iterations if has_rungs else 0
                rungs.setdefault(rung, {})[run.seed] = run.value
                iterations[rung] = max(run.iterations, iterations.get(rung, 0))
        found.append(_Contender(one, rungs, iterations))
    return found


def comparable(settings: Sequence[Setting], decisions: Iterable[Decision] = ()) -> dict[int, float]:
    """Return the mean of each setting at the rung that most of them were measured at, of several such the highest."""
    found = _contenders(settings, decisions)
    rungs = [rung for one in found for rung in one.rungs]
    rung = max(rungs, key=lambda rung: (rungs.count(rung), rung), default=-1)
    return {one.setting.number: fmean(one.rungs[rung].values()) for one in found if rung in one.rungs}


def _place(one: _Contender, sign: float) -> tuple[int, float, int]:
    mean = fmean(one.values.values()) if one.values else -math.inf
    return -one.rung, -sign * mean, one.setting.number


def _bounds(objective: Objective) -> tuple[float, float]:
    """Return the lowest and the highest value that an objective can have."""
    return (0.0, 1.0) if objective.metric == "success_rate" else (-math.inf, math.inf)


def _row(rank: int, one: _Contender, seeds: int, bounds: tuple[float, float]) -> RankedSetting:
    setting, values = one.setting, [*one.values.values()]
    return RankedSetting(
        rank=rank,
        number=setting.number,
        values=setting.values,
        value=mean_of(tuple(values), bounds) if values else None,
        seeds=seeds,
        failed=_failed(setting),
        iterations=one.iterations.get(one.rung, 0),
        state=setting.state,
    )


def _failed(setting: Setting) -> int:
    return sum(run.status == "failed" or not math.isfinite(run.value or 0.0) for run in setting.runs)


@lru_cache(maxsize=4096)
def mean_of(values: tuple[float, ...], bounds: tuple[float, float] = (-math.inf, math.inf)) -> Interval:
    """Return a mean over seeds with its 95 % interval.

    The interval is the bootstrap of evaluations (BCa). That of a few values is too narrow by nature, whatever resamples
    them: it knows no spread but theirs, and takes theirs for the true one. So both arms are stretched as Student's t
    stretches the normal distribution's, by t √(n / (n - 1)) / z, and cut off where no value can be.

    Args:
        values: One a seed, at least one.
        bounds: The lowest and the highest value that there can be.
    """
    count = len(values)
    found = spread(values)
    mean, arms = found["mean"], found["interval_95"]
    if arms is None:
        return Interval(mean=mean, low=None, high=None, n=count)
    wider = _t_quantile(count - 1) * math.sqrt(count / (count - 1)) / NormalDist().inv_cdf(1 - ALPHA / 2)
    low, high = (min(max(mean + wider * (end - mean), bounds[0]), bounds[1]) for end in arms)
    return Interval(mean=mean, low=low, high=high, n=count)


def _by_front(
    ranked: Sequence[_Contender], table: Sequence[RankedSetting], objectives: Sequence[Objective]
) -> SweepVerdict:
    """Put those first that no other setting is better than in one objective, and no worse in all: the Pareto front."""
    import optuna

    # The means of each, by all its seeds; Optuna says which are on the front.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["maximize" if one.mode == "max" else "minimize" for one in objectives])
    means: dict[int, tuple[Interval, ...]] = {}
    for one in ranked:
        if one.values:
            by_objective = zip(*(run.measured for run in one.setting.runs if run.measured), strict=True)
            means[one.setting.number] = tuple(map(mean_of, by_objective, map(_bounds, objectives)))
    for values in means.values():
        study.add_trial(optuna.create_trial(values=[value.mean for value in values]))
    numbers = [*means]
    front = {numbers[trial.number] for trial in study.best_trials} if means else set[int]()

    # The table: they first, the best of the first objective before the others.
    rows = [
        replace(row, others=means[row.number][1:] if row.number in means else None, on_front=row.number in front)
        for row in table
    ]
    rows.sort(key=lambda row: not row.on_front)
    rows = [replace(row, rank=rank) for rank, row in enumerate(rows, 1)]

    metrics = tuple(str(one.metric) for one in objectives)
    return SweepVerdict(
        table=tuple(rows), comparison=None, metrics=metrics,
        sentence=_of_front(rows, [f"{one.metric} ({one.mode})" for one in objectives]),
    )  # fmt: skip


def _of_front(rows: Sequence[RankedSetting], metrics: Sequence[str]) -> str:
    there = [row for row in rows if row.value is not None]
    if not there:
        return _without_rival(rows, [], 1.0)
    front = [row for row in there if row.on_front]
    of = f"{len(front)} of {_seeds(len(there), 'setting')} {'is' if len(front) == 1 else 'are'} on the Pareto front of "
    named = [
        f"setting {row.number} ({values_in_words(row.values)}): "
        + ", ".join(number(value.mean) for value in row.measured)
        for row in front[:MOST_NAMED]
    ]
    more = f" and {len(front) - MOST_NAMED} more" if len(front) > MOST_NAMED else ""
    return f"{of}{' and '.join(metrics)}, by their means: {'; '.join(named)}{more}. No test says how far that is luck."


# --- the tests --------------------------------------------------------------------------------------------------------


def _compare(winner: _Contender, other: _Contender, sign: float) -> _Test:
    """Compare two settings at the highest rung that both were measured at."""
    if not (common := winner.rungs.keys() & other.rungs.keys()):
        return _Test(
            "no test: no rung that both were measured at", 0, math.nan, None, None, lambda seeds, factor: False
        )
    rung = max(common)
    ours, theirs = ({seed: sign * value for seed, value in one.rungs[rung].items()} for one in (winner, other))
    where = f" at iteration {rung}, the last that both reached" if winner.rung != other.rung else ""
    fewer = min(len(ours), len(theirs))
    if ours.keys() == theirs.keys():
        gaps = [ours[seed] - theirs[seed] for seed in ours]
        name = f"t-test of {_seeds(fewer, 'pair')} by seed{where}"
        return _paired(name, gaps, max(map(abs, (*ours.values(), *theirs.values()))))
    name = f"Welch's t-test of {len(ours)} and {_seeds(len(theirs))}{where}"
    return _unpaired(name, [*ours.values()], [*theirs.values()])


def _paired(name: str, gaps: Sequence[float], size: float) -> _Test:
    count, gap = len(gaps), fmean(gaps)
    if count < 2:
        return _Test(name, count, gap, None, None, lambda seeds, factor: False)
    deviation = stdev(gaps)
    if deviation <= _EQUAL * size:
        # All pairs differ alike, and no spread is no proof: every sign is as likely as the other by chance.
        p = 1.0 if abs(gap) <= _EQUAL * size else 2.0 ** (1 - count)
        return _Test(
            name, count, gap, (gap, gap), p, lambda seeds, factor: p < 1 and 2.0 ** (1 - seeds) * factor < ALPHA
        )
    error = deviation / math.sqrt(count)
    reach = _t_quantile(count - 1) * error

    def told(seeds: int, factor: float) -> bool:
        return _is_enough(gap / (deviation / math.sqrt(seeds)), seeds - 1, factor)

    return _Test(name, count, gap, (gap - reach, gap + reach), _t_beyond(gap / error, count - 1), told)


def _unpaired(name: str, ours: Sequence[float], theirs: Sequence[float]) -> _Test:
    counts, fewer = (len(ours), len(theirs)), min(len(ours), len(theirs))
    gap = fmean(ours) - fmean(theirs)
    if fewer < 2:
        return _Test(name, fewer, gap, None, None, lambda seeds, factor: False)
    spreads = variance(ours), variance(theirs)
    size = max(map(abs, (*ours, *theirs)))
    if math.sqrt(sum(spreads)) <= _EQUAL * size:
        p = 1.0 if abs(gap) <= _EQUAL * size else 2.0 / math.comb(sum(counts), fewer)
        return _Test(
            name, fewer, gap, (gap, gap), p,
            lambda seeds, factor: p < 1 and 2.0 / math.comb(2 * seeds, seeds) * factor < ALPHA,
        )  # fmt: skip
    error, freedom = _welch(spreads, counts)
    reach = _t_quantile(freedom) * error

    def told(seeds: int, factor: float) -> bool:
        later, free = _welch(spreads, (seeds, seeds))
        return _is_enough(gap / later, free, factor)

    return _Test(name, fewer, gap, (gap - reach, gap + reach), _t_beyond(gap / error, freedom), told)


def _welch(spreads: tuple[float, float], counts: tuple[int, int]) -> tuple[float, float]:
    """Return the standard error of a difference of means, and its degrees of freedom (Welch 1947)."""
    parts = [spread / count for spread, count in zip(spreads, counts, strict=True)]
    freedom = sum(parts) ** 2 / sum(part**2 / (count - 1) for part, count in zip(parts, counts, strict=True))
    return math.sqrt(sum(parts)), freedom


def _is_enough(t: float, freedom: float, factor: float) -> bool:
    """Return whether a t that is expected is large enough to be told with the power that is wanted."""
    return t >= _t_quantile(freedom, ALPHA / factor) + _t_quantile(freedom, 2 * (1 - POWER))


# Student's distribution in a few lines: it is all that would be used of SciPy, which is no dependency.


def _t_beyond(t: float, freedom: float) -> float:
    """Return the chance of a value further from 0: with t = √freedom tan θ the density is a power of cos θ."""
    start = math.atan(abs(t) / math.sqrt(freedom))
    return min(1.0, _area(start, freedom) / _area(0.0, freedom))


def _area(low: float, freedom: float) -> float:
    """Return the integral of the density, but for a factor, from an angle to a right one, by Gauss and Legendre."""
    import numpy as np

    nodes, weights = _nodes()
    half = (math.pi / 2 - low) / 2
    return float(half * (weights * np.cos(low + half * (nodes + 1)) ** (freedom - 1)).sum())


@cache
def _nodes() -> tuple[Any, Any]:
    import numpy as np

    return np.polynomial.legendre.leggauss(200)


@lru_cache(maxsize=4096)
def _t_quantile(freedom: float, beyond: float = ALPHA) -> float:
    """Return the value beyond which, on both sides together, is this share."""
    low, high = 0.0, math.pi / 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if _t_beyond(math.sqrt(freedom) * math.tan(middle), freedom) > beyond else (low, middle)
        )
    return math.sqrt(freedom) * math.tan(low)


# --- the verdict ------------------------------------------------------------------------------------------------------


def _verdict(winner: _Contender, runner_up: _Contender, tests: Sequence[_Test]) -> SettingComparison:
    """Say what the comparison with the runner-up, the first of all, comes to."""
    first, p = tests[0], holm([test.p for test in tests])[0]
    made = sum(test.p is not None for test in tests)
    survived = _failed(winner.setting) <= _failed(runner_up.setting)
    is_better = p is not None and p < ALPHA and first.gap > 0 and survived
    more = None
    if p and first.p and not is_better and first.gap > 0 and survived:
        counts, factor = range(first.seeds + 1, MOST_SEEDS + 1), p / first.p
        enough = bisect_left(counts, True, key=lambda count: first.told(count, factor))
        more = enough + 1 if enough < len(counts) else None
    found = None
    if first.seeds:
        low, high = first.bounds or (None, None)
        found = Interval(mean=first.gap, low=low, high=high, n=first.seeds)
    correction = f"; p corrected by Holm's method for {made} comparisons" if made > 1 else ""
    return SettingComparison(
        winner=winner.setting.number,
        runner_up=runner_up.setting.number,
        test=first.name + correction,
        difference=found,
        p=p,
        is_better=is_better,
        more_seeds=more,
    )


def _in_words(table: Sequence[RankedSetting], found: SettingComparison, test: _Test) -> str:
    first, second = table[0], table[1]
    names = f"Setting {first.number} ({values_in_words(first.values)})", f"setting {second.number}"
    if found.difference is None:
        return f"{names[0]} leads; it has no rung in common with {names[1]}, so nothing says how they compare."
    gap = abs(found.difference.mean)
    if found.p is None:
        least = _seeds(test.seeds)
        return (
            f"{names[0]} leads {names[1]} by {number(gap)}, measured with {least}: that says nothing of the noise. "
            "Train both with 3 seeds or more."
        )
    bounds = found.difference.low, found.difference.high
    assert bounds[0] is not None and bounds[1] is not None
    size = f"by {number(found.difference.mean)}, 95 % interval {interval((bounds[0], bounds[1]))}, p = {found.p:.2g}"
    if found.is_better:
        return f"{names[0]} is better than {names[1]} beyond noise: {size} ({found.test})."
    if first.failed > second.failed:
        lost = f"{first.failed} of its {_seeds(first.seeds)} failed, so that its mean is of those that went well"
        return f"{names[0]} leads {names[1]} {size}, and is not called better: {lost}."
    if found.difference.mean <= 0:
        return f"{names[0]} ranks first by its length; where both were measured it does not lead {names[1]}: {size}."
    advice = ""
    if found.more_seeds is not None:
        advice = f" If that is the true difference, {_more(found.more_seeds)} of both would probably tell."
    return f"{names[0]} leads {names[1]}, but not beyond noise: {size} ({found.test}).{advice}"


def _more(count: int) -> str:
    return f"{count} more seed{'s' * (count != 1)}"


def _without_rival(table: Sequence[RankedSetting], measured: Sequence[_Contender], sign: float) -> str:
    """Say what is known where one setting was measured, or none."""
    if not measured:
        lost = sum(row.failed for row in table)
        return (
            f"No setting was measured: {_seeds(lost, 'training')} failed." if lost else "No setting was measured yet."
        )
    first, values = table[0], measured[0].values
    assert first.value is not None
    rival = " No other setting was measured." if len(table) > 1 else ""
    failed = f"; {first.failed} of {_seeds(first.seeds)} failed" if first.failed else ""
    if first.value.low is None or first.value.high is None:
        seed = next(iter(values))
        return f"{number(first.value.mean)} with seed {seed}{failed}: one seed says nothing of the noise.{rival}"
    order = sorted(values, key=lambda seed: -sign * values[seed])
    ends = ", ".join(f"{word} seed {seed} ({number(values[seed])})" for word, seed in
                     (("best", order[0]), ("worst", order[-1])))  # fmt: skip
    bounds = interval((first.value.low, first.value.high))
    return f"{number(first.value.mean)} over {_seeds(first.value.n)}, 95 % interval {bounds}; {ends}{failed}.{rival}"


def values_in_words(values: Mapping[str, object]) -> str:
    """Return the values of a setting as people name them: each by the end of its path, which is the whole of it."""
    names = {path: path.rpartition(".")[2] for path in values}
    twice = {name for name in names.values() if list(names.values()).count(name) > 1}
    return ", ".join(
        f"{path if names[path] in twice else names[path]} {number(value) if isinstance(value, float) else value}"
        for path, value in values.items()
    ) or "the config as it is"  # fmt: skip


def _seeds(count: int, noun: str = "seed") -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
