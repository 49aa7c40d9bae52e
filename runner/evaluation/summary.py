"""Episodes -> figures with their uncertainty."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

from simyard.runner.evaluation.episode_statistics import Episode

CONFIDENCE = 0.95
RESAMPLES = 9_999
_TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
_NORMAL = NormalDist()


def summarize(episodes: Sequence[Episode], success_source: str | None) -> dict[str, Any]:
    """Return the statistics of the episodes; null for a value that was not measured.

    Args:
        episodes: At least one.
        success_source: What says whether an episode succeeded.

    Returns:
        `episodes` (how many), `return` and `length` (see `spread`), `success` (see `successes`), `ended` (how many in
        which way, and by which term) and `reward_terms` (each term's mean part of the return).
    """
    terms = Counter(episode.term for episode in episodes if episode.term is not None)
    ways = Counter(episode.ended for episode in episodes)
    names = list(episodes[0].rewards)
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
        "reward_terms": {name: _mean([episode.rewards[name] for episode in episodes]) for name in names},
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, standard deviation (of a sample), median, extremes and the mean's 95 % interval.

    The interval is a bias-corrected and accelerated bootstrap with 9,999 resamples of a fixed seed; null for a single
    value, and the value itself where all are the same.
    """
    import numpy as np

    data = np.asarray(values, dtype=np.float64)
    return {
        "mean": float(data.mean()),
        "std": float(data.std(ddof=1)) if len(data) > 1 else None,
        "median": float(np.median(data)),
        "min": float(data.min()),
        "max": float(data.max()),
        "interval_95": _bootstrap(data),
    }


def _bootstrap(data: Any) -> list[float] | None:
    import numpy as np

    if len(data) < 2:
        return None
    if data.min() == data.max():
        return [float(data[0])] * 2
    means = _resampled_means(data, np.random.default_rng(0))
    return _interval(means, _corrected_tails(data, means))


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


def _resampled_means(data: Any, rng: Any) -> Any:
    return data[rng.integers(0, len(data), (RESAMPLES, len(data)))].mean(axis=-1)


def _interval(means: Any, tails: tuple[float, float]) -> list[float]:
    import numpy as np

    return [float(np.percentile(means, 100 * tail)) for tail in tails]


def _corrected_tails(data: Any, means: Any) -> tuple[float, float]:
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


def successes(values: Sequence[bool | None], source: str | None) -> dict[str, Any]:
    """Return the success rate with its Wilson interval; null where no episode's success is known."""
    known = [value for value in values if value is not None and source is not None]
    found: dict[str, Any] = {
        "rate": None,
        "interval_95": None,
        "successes": None,
        "known": len(known),
        "source": source,
    }
    if known:
        count = sum(known)
        found |= {"rate": count / len(known), "interval_95": wilson(count, len(known)), "successes": count}
    return found


def wilson(count: int, trials: int) -> list[float]:
    """Return Wilson's 95 % interval of a rate, of `count` in `trials`."""
    z = _NORMAL.inv_cdf(_TAILS[1])
    share, room = count / trials, z * z / trials
    middle = share + room / 2
    reach = z * math.sqrt(share * (1 - share) / trials + room / (4 * trials))
    return [max(0.0, (middle - reach) / (1 + room)), min(1.0, (middle + reach) / (1 + room))]


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


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
