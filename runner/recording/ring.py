"""The last steps of every environment, kept on disk until the episodes they belong to have ended."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.runner.recording.blocks import Part
from simyard.runner.recording.quantities import Layout

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


_PIECE_BYTES = 1 << 20
"""Read at once; then the pages it took are unmapped, so that the map never grows to the size of the file."""


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
            _write(self._file.fileno(), memoryview(block).cast("B"), start + number % self._blocks * block.nbytes)

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


def _write(file: int, data: memoryview, start: int) -> None:
    while data:
        written = os.pwrite(file, data, start)
        data, start = data[written:], start + written
