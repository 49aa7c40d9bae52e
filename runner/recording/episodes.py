"""Sorts the steps of all environments into episodes, as they end, and has these written."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simyard.runner.recording.arrays import CUT_OFF, NOT_MEASURED, TERMINATED, TIME_LIMIT, Episodes, RolloutStore
from simyard.runner.recording.blocks import Block
from simyard.runner.recording.quantities import Layout
from simyard.runner.recording.ring import Ring

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_INTERVAL_S = 1.0
"""Seconds by which the list of episodes may lag the shards: some twenty small files are replaced each time."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Counts of the episodes and steps written so far."""

    episodes: int = 0
    """Episodes listed."""
    steps: int = 0
    """Rows of these."""
    measured: int = 0
    """Those of which somebody said whether they succeeded."""
    succeeded: int = 0
    """Those that did."""

    def plus(self, episodes: Episodes) -> Counts:
        """Return the counts with further episodes."""
        if not len(episodes):
            return self
        return Counts(
            episodes=self.episodes + len(episodes),
            steps=int(episodes.episode_ends[-1]),
            measured=self.measured + int((episodes.success != NOT_MEASURED).sum()),
            succeeded=self.succeeded + int((episodes.success == 1).sum()),
        )


class EpisodeWriter:
    """Keeps running episodes in the ring; gathers those that end into shards."""

    def __init__(self, store: RolloutStore, ring: Ring, layout: Layout, shard_rows: int, longest: int) -> None:
        """Begin with no step taken.

        Args:
            store: Where episodes go.
            ring: Made for the longest episode.
            layout: What a step consists of.
            shard_rows: Rows of a shard.
            longest: Steps of the longest episode.
        """
        import numpy as np

        self._store, self._ring, self._longest, self._shard_rows = store, ring, longest, shard_rows
        self._starts = np.zeros(layout.num_envs, np.int64)
        self._steps = 0
        self._blocks = 0
        self._shard = [np.empty((shard_rows, lane.width), lane.dtype) for lane in layout.lanes]
        self._filled = 0
        self._shards = 0
        self._gathered = 0
        self._waiting: Episodes | None = None
        self._listed = time.monotonic()
        self.counts = Counts()
        """What is listed."""

    def take(self, block: Block) -> None:
        """Keep a block of steps, and write the episodes that ended in it.

        Raises:
            ValueError: If an episode is longer than the caller said, or a flag means nothing.
            OSError: If something cannot be written.
        """
        import numpy as np

        self._ring.put(self._blocks, block.parts())
        self._blocks += 1
        steps, envs = np.nonzero(block.flags("ended", False))
        if len(envs):
            termination = np.where(block.flags("terminated", False)[steps, envs], TERMINATED, TIME_LIMIT)
            success = _success(block.flags("success", np.nan)[steps, envs], envs)
            self._end(envs, self._steps + steps, termination, success)
        self._steps += block.steps
        self._check(self._starts, self._steps - self._starts)

    def finish(self) -> None:
        """Write the episodes that still run, as cut off, and all that is left."""
        import numpy as np

        envs = np.flatnonzero(self._starts < self._steps)
        if len(envs):
            unknown = np.full(len(envs), NOT_MEASURED)
            self._end(envs, np.full(len(envs), self._steps - 1), np.full(len(envs), CUT_OFF), unknown)
        if self._filled:
            for values in self._shard:
                values[self._filled :] = 0
            self._store.write(self._shards, self._shard, self._filled)
        self._list(self._gathered)

    def close(self) -> None:
        """Give the disk space of running episodes back."""
        self._ring.close()

    def _end(self, envs: Array, steps: Array, termination: Array, success: Array) -> None:
        """Take over episodes that ended, in the order of `steps`, then `envs`."""
        import numpy as np

        starts = self._starts_of(envs, steps)
        lengths = steps - starts + 1
        self._check(starts, lengths, envs)
        episodes = Episodes(
            episode_ends=self._gathered + np.cumsum(lengths), success=success.astype(np.int8),
            termination=termination.astype(np.int8), env=envs.astype(np.int32), start_step=starts,
        )  # fmt: skip
        self._waiting = episodes if self._waiting is None else self._waiting + episodes
        self._gather(envs, starts, lengths)
        if time.monotonic() - self._listed > _INTERVAL_S:
            self._list(self._shards * self._shard_rows)

    def _starts_of(self, envs: Array, steps: Array) -> Array:
        """Return the first step of each ended episode: the one after the episode before it in the same environment."""
        import numpy as np

        order = np.lexsort((steps, envs))
        sorted_envs, sorted_steps = envs[order], steps[order]
        starts = np.empty_like(sorted_steps)
        first = np.ones(len(envs), bool)
        first[1:] = sorted_envs[1:] != sorted_envs[:-1]
        starts[first] = self._starts[sorted_envs[first]]
        starts[~first] = sorted_steps[:-1][~first[1:]] + 1
        np.maximum.at(self._starts, envs, steps + 1)
        result = np.empty_like(starts)
        result[order] = starts
        return result

    def _check(self, starts: Array, lengths: Array, envs: Array | None = None) -> None:
        if int(lengths.max()) > self._longest:
            index = int(lengths.argmax())
            raise ValueError(
                f"The episode of environment {index if envs is None else int(envs[index])} that began at step "
                f"{int(starts[index])} is longer than the {self._longest} steps that were given as the longest. "
                "Give a true bound."
            )

    def _gather(self, envs: Array, starts: Array, lengths: Array) -> None:
        """Copy the rows of episodes into shards, and write each shard that fills."""
        import numpy as np

        ends = np.cumsum(lengths)
        begins = ends - lengths
        total, done = int(ends[-1]), 0
        while done < total:
            upto = min(total, done + self._shard_rows - self._filled)
            part = slice(np.searchsorted(ends, done, "right"), np.searchsorted(begins, upto, "left"))
            counts = np.minimum(ends[part], upto) - np.maximum(begins[part], done)
            steps = np.arange(done, upto) + np.repeat(starts[part] - begins[part], counts)
            into = [values[self._filled : self._filled + upto - done] for values in self._shard]
            self._ring.take(np.repeat(envs[part], counts), steps, into)
            self._filled += upto - done
            done = upto
            if self._filled == self._shard_rows:
                self._store.write(self._shards, self._shard, self._filled)
                self._shards += 1
                self._filled = 0
        self._gathered += total

    def _list(self, written: int) -> None:
        """List the episodes whose rows are all among those written."""
        import numpy as np

        self._listed = time.monotonic()
        if self._waiting is None:
            return
        count = int(np.searchsorted(self._waiting.episode_ends, written, "right"))
        whole, self._waiting = self._waiting[:count], self._waiting[count:]
        self._store.list(whole)
        self.counts = self.counts.plus(whole)


def _success(said: Array, envs: Array) -> Array:
    """Return 1, 0 or -1 for what was said of episodes that ended."""
    import numpy as np

    success = np.where(np.isnan(said), NOT_MEASURED, said)
    if not np.isin(success, (1, 0, NOT_MEASURED)).all():
        index = int(np.flatnonzero(~np.isin(success, (1, 0, NOT_MEASURED)))[0])
        raise ValueError(
            f"The success of an episode of environment {int(envs[index])} was {float(said[index])!r}. "
            "Allowed: True, False, and -1 or NaN where it was not measured."
        )
    return success
