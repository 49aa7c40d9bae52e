"""Sorts the steps of all environments into episodes, as they end, and has these written.

A running episode's steps are kept on disk, in a ring of blocks, until it has ended.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.runner.recording.arrays import CUT_OFF, NOT_MEASURED, TERMINATED, TIME_LIMIT, Episodes, RolloutStore
from simyard.runner.recording.blocks import Block, Part
from simyard.runner.recording.quantities import Layout

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_PIECE_BYTES = 1 << 20
"""Read at once; then the pages it took are unmapped, so that the map never grows to the size of the file."""
_INTERVAL_S = 1.0
"""Seconds by which the episodes may lag the shards: some twenty small files are replaced each time."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Counts of the episodes and steps of a rollout."""

    episodes: int = 0
    """Episodes that a reader sees."""
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

    def __init__(
        self,
        store: RolloutStore,
        ring: Ring,
        layout: Layout,
        shard_rows: int,
        longest: int,
        *,
        whole_alone: bool = False,
    ) -> None:
        """Begin with no step taken.

        Args:
            store: Where episodes go.
            ring: Made for the longest episode.
            layout: What a step consists of.
            shard_rows: Rows of a shard.
            longest: Steps of the longest episode.
            whole_alone: Whether episodes that still run in the end are forgotten.
        """
        import numpy as np

        self._whole_alone = whole_alone
        self._store, self._ring, self._longest, self._shard_rows = store, ring, longest, shard_rows
        self._starts = np.zeros(layout.num_envs, np.int64)
        self._steps = 0
        self._blocks = 0
        self._shard = [np.empty((shard_rows, lane.width), lane.dtype) for lane in layout.lanes]
        self._filled = 0
        self._shards = 0
        self._gathered = 0
        self._waiting: Episodes | None = None
        self._committed = time.monotonic()
        self.counts = Counts()
        """Counts of the episodes that were committed."""

    def take(self, block: Block) -> None:
        """Keep a block of steps, and write the episodes that ended in it.

        Raises:
            ValueError: If an episode is longer than the caller said, or a flag means nothing.
            OSError: If something cannot be written.
        """
        import numpy as np

        # All steps go to the ring first: an episode that ends here began in an earlier block, or in this one.
        self._ring.put(self._blocks, block.parts())
        self._blocks += 1

        # Flags that nobody gave have a meaning too: no end, no termination, no measurement.
        steps, envs = np.nonzero(block.flags("ended", False))
        if len(envs):
            termination = np.where(block.flags("terminated", False)[steps, envs], TERMINATED, TIME_LIMIT)
            said = block.flags("success", np.nan)[steps, envs]
            success = np.where(np.isnan(said), NOT_MEASURED, said)
            if len(bad := np.flatnonzero(~np.isin(success, (1, 0, NOT_MEASURED)))):
                raise ValueError(
                    f"The success of an episode of environment {int(envs[bad[0]])} was {float(said[bad[0]])!r}. "
                    "Allowed: True, False, and -1 or NaN where it was not measured."
                )
            self._end(envs, self._steps + steps, termination, success, block.flags("kept", True)[steps, envs])
        self._steps += block.steps

        # The ring has no room for one that is still running and longer than that.
        self._check_lengths(self._starts, self._steps - self._starts, np.arange(len(self._starts)))

    def finish(self) -> None:
        """Write the episodes that still run, as cut off, and all that is left."""
        import numpy as np

        envs = np.flatnonzero(self._starts < self._steps)
        if len(envs) and not self._whole_alone:
            unknown, kept = np.full(len(envs), NOT_MEASURED), np.ones(len(envs), bool)
            self._end(envs, np.full(len(envs), self._steps - 1), np.full(len(envs), CUT_OFF), unknown, kept)
        if self._filled:
            for values in self._shard:
                values[self._filled :] = 0
            self._store.write(self._shards, self._shard, self._filled)
        self._commit(self._gathered)

    def close(self) -> None:
        """Give the disk space of running episodes back."""
        self._ring.close()

    def _end(self, envs: Array, steps: Array, termination: Array, success: Array, kept: Array) -> None:
        """Take over episodes that ended, in the order of `steps`, then `envs`; of those that are kept the rows too."""
        import numpy as np

        # An episode began after the one before it in the same environment, kept or not.
        starts = self._starts_of(envs, steps)
        lengths = steps - starts + 1
        self._check_lengths(starts, lengths, envs)
        if not kept.any():
            return
        envs, starts, lengths = envs[kept], starts[kept], lengths[kept]
        termination, success = termination[kept], success[kept]
        ends = np.cumsum(lengths)
        begins = ends - lengths
        episodes = Episodes(
            episode_ends=self._gathered + ends, success=success.astype(np.int8),
            termination=termination.astype(np.int8), env=envs.astype(np.int32), start_step=starts,
        )  # fmt: skip
        self._waiting = episodes if self._waiting is None else self._waiting + episodes

        # Their rows go from the ring to the shard that fills; a full one is written. A piece is as much as fits in.
        total, done = int(ends[-1]), 0
        while done < total:
            upto = min(total, done + self._shard_rows - self._filled)
            part = slice(np.searchsorted(ends, done, "right"), np.searchsorted(begins, upto, "left"))
            counts = np.minimum(ends[part], upto) - np.maximum(begins[part], done)
            rows = np.arange(done, upto) + np.repeat(starts[part] - begins[part], counts)
            into = [values[self._filled : self._filled + upto - done] for values in self._shard]
            self._ring.take(np.repeat(envs[part], counts), rows, into)
            self._filled += upto - done
            done = upto
            if self._filled == self._shard_rows:
                self._store.write(self._shards, self._shard, self._filled)
                self._shards += 1
                self._filled = 0
        self._gathered += total

        # Readers see them once all their rows are in whole shards.
        if time.monotonic() - self._committed > _INTERVAL_S:
            self._commit(self._shards * self._shard_rows)

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

    def _check_lengths(self, starts: Array, lengths: Array, envs: Array) -> None:
        if int(lengths.max()) > self._longest:
            index = int(lengths.argmax())
            raise ValueError(
                f"The episode of environment {int(envs[index])} that began at step {int(starts[index])} is longer than "
                f"the {self._longest} steps that were given as the longest. Give a true bound."
            )

    def _commit(self, written: int) -> None:
        """Commit the episodes whose rows are all among those written."""
        import numpy as np

        self._committed = time.monotonic()
        if self._waiting is None:
            return
        count = int(np.searchsorted(self._waiting.episode_ends, written, "right"))
        whole, self._waiting = self._waiting[:count], self._waiting[count:]
        self._store.commit(whole)
        self.counts = self.counts.plus(whole)


class Ring:
    """Blocks of steps in a file without a name, each turned so that the steps of an environment follow each other.

    A block is written in one piece, over the oldest one, and never through a map of the file: a page that is written
    through a map costs more than the write. Episodes are read through one, from as many runs as they have blocks.
    Nothing is left of the file, however the process ends.
    """

    def __init__(self, folder: Path, layout: Layout, *, longest: int, block_steps: int) -> None:
        """Reserve the disk space.

        Args:
            folder: Where there is room.
            layout: What a step consists of.
            longest: Steps of the longest episode.
            block_steps: Steps of a block.

        Raises:
            OSError: If there is no room.
        """
        import numpy as np

        self._envs, self._steps = layout.num_envs, block_steps
        self._piece = max(1, _PIECE_BYTES // layout.row_bytes)
        self._blocks = math.ceil((longest - 1) / block_steps) + 1
        shapes = [(self._envs, block_steps, lane.width) for lane in layout.lanes]
        self._turned: list[Array] = [
            np.zeros(shape, lane.dtype) for shape, lane in zip(shapes, layout.lanes, strict=True)
        ]
        page = mmap.ALLOCATIONGRANULARITY
        sizes = [math.ceil(self._blocks * block.nbytes / page) * page for block in self._turned]
        self._starts = [sum(sizes[:number]) for number in range(len(sizes))]
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        try:
            os.posix_fallocate(self._file.fileno(), 0, sum(sizes))
        except OSError as error:
            self._file.close()
            size = f"{sum(sizes) / 1e6:.0f} MB of running episodes"
            raise OSError(error.errno, f"no room for {size} in {folder}: {error.strerror}") from error
        self._map = mmap.mmap(self._file.fileno(), sum(sizes), prot=mmap.PROT_READ)
        rows = self._blocks * self._envs * block_steps
        self._tables: list[Array] = [
            np.ndarray((rows, lane.width), lane.dtype, self._map, start)
            for lane, start in zip(layout.lanes, self._starts, strict=True)
        ]
        # Through ctypes, because `mmap.madvise` would hold up every thread meanwhile.
        self._madvise = ctypes.CDLL(None).madvise
        self._whole = ctypes.c_void_p(self._tables[0].ctypes.data), ctypes.c_size_t(sum(sizes))

    def put(self, number: int, parts: Sequence[Part]) -> None:
        """Keep a block.

        Args:
            number: Of the block, counted from 0; all blocks before it were whole.
            parts: All columns of all lanes.
        """
        for part in parts:
            self._turned[part.lane][:, : len(part.values), part.columns] = part.values.swapaxes(0, 1)
        for block, start in zip(self._turned, self._starts, strict=True):
            data, place = memoryview(block).cast("B"), start + number % self._blocks * block.nbytes
            while data:
                written = os.pwrite(self._file.fileno(), data, place)
                data, place = data[written:], place + written

    def take(self, envs: Array, steps: Array, out: Sequence[Array]) -> None:
        """Copy rows.

        Args:
            envs: `(rows,)`, of which environment each is.
            steps: `(rows,)`, of which step.
            out: For each lane `(rows, width)`, contiguous.
        """
        import numpy as np

        blocks, within = np.divmod(steps, self._steps)
        rows = (blocks % self._blocks * self._envs + envs) * self._steps + within
        for start in range(0, len(rows), self._piece):
            piece = slice(start, start + self._piece)
            for table, values in zip(self._tables, out, strict=True):
                # Only `clip` writes into `out` directly.
                np.take(table, rows[piece], axis=0, out=values[piece], mode="clip")
            # The file keeps the pages.
            self._madvise(*self._whole, ctypes.c_int(mmap.MADV_DONTNEED))

    def close(self) -> None:
        """Give the disk space back."""
        del self._tables, self._map
        self._file.close()
