"""Episodes -> figures with their uncertainty."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

from simyard.runner.evaluation.meter import Episode

CONFIDENCE = 0.95


def summarize(episodes: Sequence[Episode], success_source: str | None) -> dict[str, Any]:
    """Return what the episodes say together; null for what was not measured.

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
    from scipy import stats

    if len(data) < 2:
        return None
    if data.min() == data.max():
        return [float(data[0])] * 2
    for method in ("BCa", "percentile"):  # the first is undefined for some tiny samples
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                (data,), np.mean, confidence_level=CONFIDENCE, method=method, rng=np.random.default_rng(0)
            )
        low, high = map(float, found.confidence_interval)
        if np.isfinite([low, high]).all():
            return [low, high]
    return None


def difference(reference: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of `mean(reference) - mean(other)`, two independent samples."""
    import numpy as np
    from scipy import stats

    first, second = np.asarray(reference, dtype=np.float64), np.asarray(other, dtype=np.float64)
    gap = float(first.mean() - second.mean())
    if np.ptp(first) == np.ptp(second) == 0:
        return gap, gap
    found = stats.bootstrap(
        (first, second),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


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
    from scipy import stats

    interval = stats.binomtest(count, trials).proportion_ci(CONFIDENCE, method="wilson")
    return [float(interval.low), float(interval.high)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
