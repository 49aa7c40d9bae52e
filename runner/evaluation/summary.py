"""Episodes -> figures with their uncertainty, as `summary.json` has them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, TypedDict

from simyard.runner.evaluation.episode_statistics import Episode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 9_999
_TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
_NORMAL = NormalDist()


class Spread(TypedDict):
    """Distribution of one value over episodes."""

    mean: float
    std: float | None
    """Standard deviation of a sample; None for a single value."""
    median: float
    min: float
    max: float
    interval_95: list[float] | None
    """Interval of the mean, lowest and highest; None for a single value."""


class SuccessRate(TypedDict):
    """Share of episodes that succeeded; None where no episode's success is known."""

    rate: float | None
    interval_95: list[float] | None
    successes: int | None
    known: int
    """Episodes whose success is known."""
    source: str | None
    """Source of the success of episodes: a metric or a termination; None if there is none."""


class Endings(TypedDict):
    """Number of episodes by their end."""

    terminated: int
    truncated: int
    terms: dict[str, int]
    """By the term that fired, as far as the task names them."""


class CheckpointName(TypedDict):
    """Checkpoint that was played."""

    name: str
    sha256: str
    iteration: int | None


_Return = TypedDict("_Return", {"return": Spread})
"""The key that cannot be a field of a class."""


class Figures(_Return):
    """Statistics of episodes; None for a value that was not measured."""

    episodes: int
    length: Spread
    success: SuccessRate
    ended: Endings
    reward_terms: dict[str, float]
    """Each term's mean part of the return."""


def summarize(episodes: Sequence[Episode], success_source: str | None) -> Figures:
    """Return the statistics of the episodes.

    Args:
        episodes: At least one.
        success_source: What says whether an episode succeeded.
    """
    terms = Counter(episode.term for episode in episodes if episode.term is not None)
    ways = Counter(episode.ended for episode in episodes)
    parts = {name: [episode.rewards[name] for episode in episodes] for name in episodes[0].rewards}
    return {
        "episodes": len(episodes),
        "return": spread([episode.total for episode in episodes]),
        "length": spread([float(episode.length) for episode in episodes]),
        "success": successes([episode.success for episode in episodes], success_source),
        "ended": {
            "terminated": ways["terminated"],
            "truncated": ways["truncated"],
            "terms": dict(sorted(terms.items())),
        },
        "reward_terms": {name: sum(values) / len(values) for name, values in parts.items()},
    }


def spread(values: Sequence[float]) -> Spread:
    """Return mean, standard deviation (of a sample), median, extremes and the mean's 95 % interval.

    The interval is a bias-corrected and accelerated bootstrap with 9,999 resamples of a fixed seed; None for a single
    value, and the value itself where all are the same.
    """
    import numpy as np

    data = np.asarray(values, dtype=np.float64)
    interval = None
    if len(data) > 1:
        interval = [float(data[0])] * 2
        if data.min() != data.max():
            means = _resampled_means(data, np.random.default_rng(0))
            interval = _interval(means, _corrected_tails(data, means))
    return {
        "mean": float(data.mean()),
        "std": float(data.std(ddof=1)) if len(data) > 1 else None,
        "median": float(np.median(data)),
        "min": float(data.min()),
        "max": float(data.max()),
        "interval_95": interval,
    }


def difference(reference: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of `mean(reference) - mean(other)`, two independent samples."""
    import numpy as np

    first, second = np.asarray(reference, dtype=np.float64), np.asarray(other, dtype=np.float64)
    gap = float(first.mean() - second.mean())
    if np.ptp(first) == np.ptp(second) == 0:
        return gap, gap
    rng = np.random.default_rng(0)
    low, high = _interval(_resampled_means(first, rng) - _resampled_means(second, rng), _TAILS)
    return low, high


# By hand, with the figures of `scipy.stats.bootstrap`: importing that takes longer than evaluating a cartpole.


def _resampled_means(data: Floats, rng: np.random.Generator) -> Floats:
    return data[rng.integers(0, len(data), (RESAMPLES, len(data)))].mean(axis=-1)


def _interval(means: Floats, tails: tuple[float, float]) -> list[float]:
    import numpy as np

    return [float(np.percentile(means, 100 * tail)) for tail in tails]


def _corrected_tails(data: Floats, means: Floats) -> tuple[float, float]:
    """Return the share of the resampled means below each end of a BCa interval (Efron 1987).

    Where the mean of all is beyond every resampled one, the correction is undefined: then they are the plain ones.
    """
    import numpy as np

    below = float(((means < data.mean()).mean() + (means <= data.mean()).mean()) / 2)
    if not 0 < below < 1:
        return _TAILS
    bias = _NORMAL.inv_cdf(below)
    influence = data - data.mean()  # of each value on the mean; its scale cancels out
    acceleration = float((influence**3).sum() / (6 * (influence**2).sum() ** 1.5))
    shifted = [bias + _NORMAL.inv_cdf(tail) for tail in _TAILS]
    low, high = (_NORMAL.cdf(bias + shift / (1 - acceleration * shift)) for shift in shifted)
    return (low, high) if np.isfinite([low, high]).all() else _TAILS


def successes(values: Sequence[bool | None], source: str | None) -> SuccessRate:
    """Return the success rate with its Wilson interval; None where no episode's success is known."""
    known = [value for value in values if value is not None and source is not None]
    if not known:
        return {"rate": None, "interval_95": None, "successes": None, "known": 0, "source": source}
    count = sum(known)
    return {
        "rate": count / len(known),
        "interval_95": wilson(count, len(known)),
        "successes": count,
        "known": len(known),
        "source": source,
    }


def wilson(count: int, trials: int) -> list[float]:
    """Return Wilson's 95 % interval of a rate, of `count` in `trials`."""
    z = _NORMAL.inv_cdf(_TAILS[1])
    share, room = count / trials, z * z / trials
    middle = share + room / 2
    reach = z * math.sqrt(share * (1 - share) / trials + room / (4 * trials))
    return [max(0.0, (middle - reach) / (1 + room)), min(1.0, (middle + reach) / (1 + room))]


def paired_difference_of_rates(ours: Sequence[bool], theirs: Sequence[bool]) -> tuple[float, float]:
    """Return the 95 % interval of the rate of `ours` less that of `theirs`, which are pairs.

    It is Newcombe's for paired samples (1998, Statistics in Medicine 17, 2635, method 10): that of independent ones,
    made narrower by the correlation of the pairs.
    """
    trials = len(ours)
    count, other_count = sum(ours), sum(theirs)
    rate, other = count / trials, other_count / trials
    (low, high), (other_low, other_high) = wilson(count, trials), wilson(other_count, trials)
    both = sum(one and two for one, two in zip(ours, theirs, strict=True))
    product = count * (trials - count) * other_count * (trials - other_count)
    excess = float(both * (trials - count - other_count + both) - (count - both) * (other_count - both))
    if excess > 0:
        excess = max(excess - trials / 2, 0.0)  # the correction for continuity
    correlation = excess / math.sqrt(product) if product else 0.0

    def reach(down: float, up: float) -> float:
        return math.sqrt(down**2 - 2 * correlation * down * up + up**2)

    return rate - other - reach(rate - low, other_high - other), rate - other + reach(high - rate, other - other_low)


def difference_of_rates(count: int, trials: int, other_count: int, other_trials: int) -> tuple[float, float]:
    """Return the 95 % interval of `count / trials - other_count / other_trials`, two independent samples.

    It is Newcombe's (1998, method 10), from the Wilson interval of each: it has a width at rates of 0 and 1 too.
    """
    rate, other = count / trials, other_count / other_trials
    (low, high), (other_low, other_high) = wilson(count, trials), wilson(other_count, other_trials)
    return (
        rate - other - math.hypot(rate - low, other_high - other),
        rate - other + math.hypot(high - rate, other - other_low),
    )
