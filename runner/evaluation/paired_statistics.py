"""Statistics of pairs: is a level different from the control arm, how many episodes tell that, what matters most.

By hand, as in `summary.py`: importing scipy's takes longer than evaluating a cartpole. The tests compare them with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np

SIGN_FLIPS = 9_999
"""Random signs that the test of paired returns draws."""
_NORMAL = NormalDist()
P = TypeVar("P", float, float | None)


def mcnemar(lost: int, gained: int) -> float:
    """Return the exact two-sided p-value of McNemar's test: of pairs that differ, either kind is as likely.

    Args:
        lost: Pairs that succeed in the control arm alone.
        gained: Pairs that succeed in the other arm alone.
    """
    pairs, fewer = lost + gained, min(lost, gained)
    # In logarithms: thousands of pairs are more than a float's exponent holds.
    logs = [math.lgamma(pairs + 1) - math.lgamma(k + 1) - math.lgamma(pairs - k + 1) for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(math.exp(log - pairs * math.log(2)) for log in logs))


def sign_flips(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of a mean of paired differences: that of the same ones with random signs.

    9,999 draws of a fixed seed, of which the observed one is another (Phipson and Smyth 2010: never 0).
    """
    import numpy as np

    values = np.asarray(differences, dtype=np.float64)
    if not values.any():
        return 1.0
    rng = np.random.default_rng(0)
    signs = rng.integers(0, 2, (SIGN_FLIPS, len(values)), dtype=np.int8) * 2 - 1
    beyond = np.abs(signs @ values) >= abs(values.sum()) * (1 - 1e-12)
    return float((1 + beyond.sum()) / (1 + SIGN_FLIPS))


def holm(p_values: Sequence[P]) -> list[P]:
    """Return p-values corrected for their number (Holm 1979): below 0.05, all of them together err in 5 %.

    One that is None was no test, and stays None.
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected, largest = list(p_values), 0.0
    for place, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p))
        corrected[index] = largest
    return corrected


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, ties with their mean rank; None where one of the two never changes."""
    import numpy as np

    ranks = np.array([_ranks(values) for values in (first, second)])
    if (ranks.std(axis=1) == 0).any():
        return None
    return float(np.corrcoef(ranks)[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    import numpy as np

    _, places, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: np.ndarray[tuple[int], np.dtype[np.float64]] = (ends - (counts - 1) / 2)[places]
    return ranks


def pairs_to_tell(rate: float, difference: float, power: float, comparisons: int = 1) -> int:
    """Return the pairs with which McNemar's test finds a difference of success rates.

    Miettinen's formula (1968, Biometrics 24, 339), two-sided at 5 % shared by all comparisons. It takes the two arms of
    a pair for independent: those of one start are alike, so fewer would do, and how many nobody knows before.

    Args:
        rate: Success rate of the control arm.
        difference: What the other arm loses; below 0, gains.
        power: Probability to find it, such as 0.8.
        comparisons: Levels that are compared with the control arm.
    """
    other = min(max(rate - difference, 0.0), 1.0)
    apart = rate * (1 - other) + other * (1 - rate)
    error, reach = _NORMAL.inv_cdf(1 - 0.025 / comparisons), _NORMAL.inv_cdf(power)
    gap = rate - other
    return math.ceil((error * math.sqrt(apart) + reach * math.sqrt(max(apart - gap**2, 0.0))) ** 2 / gap**2)


def episodes_to_tell(rate: float, difference: float, power: float) -> int:
    """Return the episodes of each of two policies, with other starts, that tell a difference of their success rates.

    The two-sample formula of Fleiss (1981, without its correction for continuity), two-sided at 5 %; see
    `pairs_to_tell`.
    """
    other = min(max(rate - difference, 0.0), 1.0)
    mean, gap = (rate + other) / 2, rate - other
    error, reach = _NORMAL.inv_cdf(0.975), _NORMAL.inv_cdf(power)
    spread = error * math.sqrt(2 * mean * (1 - mean)) + reach * math.sqrt(rate * (1 - rate) + other * (1 - other))
    return math.ceil((spread / gap) ** 2)
