"""Comparisons of jobs, made for one who looks at a time, and good for a moment."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from simyard.store.store import Store
from simyard.tasks.pages.comparison import Comparison, compare

KNOWN_S = 3.0
MOST_KEPT = 8
MADE_AT_ONCE = 2
"""Comparisons: each holds the tables of eight jobs in memory meanwhile."""


class Comparisons:
    """Those that were made of late."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, ...], tuple[float, Comparison]] = OrderedDict()
        self._making = threading.BoundedSemaphore(MADE_AT_ONCE)

    def of(self, store: Store, references: tuple[str, ...]) -> Comparison:
        """Compare jobs of a store as `compare` does, or return what was found a moment ago."""
        name = (store.url(), *references)
        with self._making:
            kept = self._kept.get(name)
            if kept and time.monotonic() - kept[0] < KNOWN_S:
                return kept[1]
            found = compare(store, references)
            self._kept[name] = (time.monotonic(), found)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return found
