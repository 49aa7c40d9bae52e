"""Intervals that one may look at after every episode, and stop when they are narrow enough.

An ordinary 95 % interval that is looked at again and again until it is narrow misses the truth far more often than in
5 %. A confidence sequence holds at all times together.

- Success, between 0 and 1: the hedged betting sequence of Waudby-Smith and Ramdas (2024, "Estimating means of bounded
  random variables by betting", J. R. Stat. Soc. B 86, theorem 3), exact for every number of episodes.
- Returns, which have no bounds: the asymptotic sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024,
  "Time-uniform central limit theory and asymptotic confidence sequences", Ann. Stat. 52, theorem 2.2), which is
  one of the central limit: right for many episodes, so it begins with the 30th.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict

from simyard.core.errors import RequestError
from simyard.core.specs import Precision
from simyard.runner.evaluation.episode_statistics import Episode

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

ERROR = 0.05
"""Probability to miss the truth at any time."""
FEWEST = 30
"""Episodes with which the sequence of returns begins."""
_GRID = 1000
"""Steps of the grid of rates that are tested."""
_TRUNCATION = 0.5
"""Share of the stake that a bet may lose at most: keeps wealth above 0."""
_TIGHTEST = 100
"""Number of episodes for which the sequence of returns is made narrowest."""


class RateSequence:
    """The confidence sequence of a success rate, fed with episodes one by one."""

    def __init__(self) -> None:
        import numpy as np

        self._rates: Array = np.linspace(0.0, 1.0, _GRID + 1)
        self._up: Array = np.zeros(_GRID + 1)  # logarithms of the wealth of bets that the rate is higher
        self._down: Array = np.zeros(_GRID + 1)
        self._count, self._sum, self._squares = 0, 0.0, 0.0
        self.low, self.high = 0.0, 1.0
        """Ends of the interval so far: it never grows again."""

    def add(self, succeeded: bool) -> None:
        """Bet on an episode against every rate; those that lose 20 times the stake are none."""
        import numpy as np

        # The stake is fixed before the episode is looked at, by those before it.
        count = self._count + 1
        variance = (0.25 + self._squares) / count
        stake = math.sqrt(2 * math.log(2 / ERROR) / (variance * count * math.log(count + 1)))
        value, rates = float(succeeded), self._rates
        with np.errstate(divide="ignore"):
            up = np.minimum(stake, _TRUNCATION / rates)
            down = np.minimum(stake, _TRUNCATION / (1 - rates))
        self._up += np.log1p(up * (value - rates))
        self._down += np.log1p(-down * (value - rates))

        # What is left: half of the money was bet on either side.
        wealth = np.maximum(self._up, self._down) + math.log(0.5)
        possible = rates[wealth < math.log(1 / ERROR)]
        if len(possible):
            # The truth may lie anywhere between two points of the grid.
            self.low = max(self.low, float(possible[0]) - 1 / _GRID)
            self.high = min(self.high, float(possible[-1]) + 1 / _GRID)
        self._count, self._sum = count, self._sum + value
        mean = (0.5 + self._sum) / (count + 1)
        self._squares += (value - mean) ** 2

    @property
    def interval(self) -> tuple[float, float]:
        """The interval so far."""
        return max(self.low, 0.0), min(self.high, 1.0)


def mean_sequence(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the confidence sequence's interval of the mean of all values; None for too few.

    Args:
        values: Returns of the episodes, in an order that does not follow from them.
    """
    import numpy as np

    count = len(values)
    if count < FEWEST:
        return None
    data = np.asarray(values, dtype=np.float64)
    # The parameter that makes it narrowest at `_TIGHTEST`: equation 14 there, by its approximation.
    log = -2 * math.log(ERROR)
    rho2 = (log + math.log(log) + 1) / _TIGHTEST
    scale = count * rho2 + 1
    reach = float(data.std()) * math.sqrt(2 * scale / (count**2 * rho2) * math.log(math.sqrt(scale) / ERROR))
    mean = float(data.mean())
    return mean - reach, mean + reach


class Sequential(TypedDict):
    """How a sequential evaluation ended."""

    metric: str
    half_width: float
    """The one that was asked for."""
    interval_95: list[float] | None
    """Interval that holds at all times together; None for too few episodes."""
    stopped: bool
    """Whether it was narrow enough before the last episode."""


class Rounds:
    """Episodes in rounds: each environment's first ones, then its second ones, and so on.

    Only whole rounds count and only after one is stopped, so that neither short episodes are favoured nor those of any
    environment.
    """

    def __init__(self, until: Precision, shares: Sequence[int], count: Callable[[Episode], None]) -> None:
        """Begin.

        Args:
            until: The precision to stop at.
            shares: Episodes that each environment is to complete at most.
            count: Called with each episode that counts, in order.
        """
        self._until, self._count = until, count
        self._shares, self._done = shares, [0] * len(shares)
        self._waiting: dict[tuple[int, int], Episode] = {}
        self._round, self._number = 0, 0
        self._rates = RateSequence()
        self._returns: list[float] = []
        self.is_enough = False
        """Whether the interval is narrow enough."""

    def add(self, episode: Episode) -> None:
        """Take an episode, and count those of every round that is whole by now."""
        self._waiting[self._done[episode.env], episode.env] = episode
        self._done[episode.env] += 1
        while not self.is_enough:
            envs = [env for env, share in enumerate(self._shares) if share > self._round]
            if not envs or any(self._done[env] <= self._round for env in envs):
                return
            for env in envs:
                self._take(self._waiting.pop((self._round, env)))
            self._round += 1
            found = self.interval
            self.is_enough = found is not None and (found[1] - found[0]) / 2 <= self._until.half_width

    def _take(self, episode: Episode) -> None:
        self._number += 1
        self._count(replace(episode, number=self._number))
        self._returns.append(episode.total)
        if self._until.metric == "success_rate":
            if episode.success is None:
                raise RequestError(
                    "plan: the task does not say whether an episode has succeeded.",
                    code="success_unknown",
                    advice="Name successTermination, or give plan.metric 'return' with a halfWidth in its unit.",
                )
            self._rates.add(episode.success)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval so far; None for too few episodes."""
        return self._rates.interval if self._until.metric == "success_rate" else mean_sequence(self._returns)

    @property
    def figures(self) -> Sequential:
        """How it ended."""
        found = self.interval
        return {
            "metric": self._until.metric,
            "half_width": self._until.half_width,
            "interval_95": list(found) if found else None,
            "stopped": self.is_enough and self._number < sum(self._shares),
        }
