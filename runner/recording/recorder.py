"""Records every environment of a simulation into `rollout.zarr`, while the simulation runs.

    with RolloutRecorder(folder, num_envs=64, longest=1000, control_period_s=0.02, scratch=scratch) as recorder:
        recorder.describe("action", names=joints)
        for each control step:
            recorder.record({"obs/policy": observations, "action": actions, "reward": rewards})
            recorder.end(terminated | truncated, terminated=terminated, success=success)

What is in the store: `simyard.runner.recording.arrays`.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from simyard.runner.recording.arrays import RolloutStore
from simyard.runner.recording.blocks import Block
from simyard.runner.recording.episodes import Counts, EpisodeWriter, Ring
from simyard.runner.recording.quantities import Description, Layout, check_key
from simyard.runner.recording.reading import ArrayForm, Figures, size_of

BLOCK_BYTES = 1 << 24
"""Of a block: enough for the ring to be written in runs of whole pages."""
SHARD_BYTES = 1 << 24
"""Of one shard of every quantity, before compression."""
_BLOCK_STEPS_MOST = 256
"""So that a small simulation too is written while it runs."""
_BLOCKS = 2


class RolloutRecorder:
    """Copies each step into a block where the simulation runs; a thread of its own does all the rest.

    A full block goes to the thread while the next one fills. The thread sorts it into a ring on disk, environment by
    environment, and appends the episodes that ended to the store, whole shards at a time. When it falls behind,
    `record` waits.

    **Memory.** At most `3 * block + shard + 16 MiB`, where a block is `block_bytes` (or one step, if that is more) and
    a shard `shard_bytes` (or one row): 80 MiB by default, however long the simulation runs and whatever its size. On a
    GPU two blocks are there as well. Importing zarr takes some 50 MB more. While episodes are read from the ring its
    pages are mapped, and count as resident: they are the kernel's cache of the file, which it takes back at need.

    **Disk.** `scratch` holds `longest` steps of all environments, plus a block. It is reserved at the first step, so
    a full disk is an error then. The file has no name: nothing is left of it, however the process ends.

    Warp arrays are read on torch's current stream, with which Warp's own streams agree as long as it is the default.
    """

    def __init__(
        self,
        folder: Path,
        *,
        num_envs: int,
        longest: int,
        control_period_s: float,
        scratch: Path,
        attributes: Mapping[str, Any] | None = None,
        block_bytes: int = BLOCK_BYTES,
        shard_bytes: int = SHARD_BYTES,
        after_step: Callable[[int], None] = lambda steps: None,
        whole_alone: bool = False,
    ) -> None:
        """Make the store.

        Args:
            folder: The store: a new or an empty folder.
            num_envs: Environments side by side.
            longest: Steps of the longest episode; one that is longer is an error.
            control_period_s: Simulated seconds between two steps.
            scratch: Where there is room for running episodes.
            attributes: Of the store: whatever JSON can hold, such as the job's id, versions, seed and task.
            block_bytes: Of the steps that are handed to the writer at once.
            shard_bytes: Of one shard of all quantities together, before compression.
            after_step: Called with the number of steps after each.
            whole_alone: Whether episodes that still run in the end are forgotten, rather than kept as cut off.

        Raises:
            ValueError: If an argument makes no sense.
            FileExistsError: If `folder` holds anything.
        """
        for name, value in (("num_envs", num_envs), ("longest", longest)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}. Allowed: whole numbers from 1.")
        if not math.isfinite(control_period_s) or control_period_s <= 0:
            raise ValueError(f"control_period_s is {control_period_s!r}. Allowed: seconds above 0.")
        self._folder, self._scratch = folder, scratch
        self._num_envs, self._longest = num_envs, longest
        self._block_bytes, self._shard_bytes = block_bytes, shard_bytes
        self._after_step, self._whole_alone = after_step, whole_alone
        self._store = RolloutStore(folder, attributes or {}, control_period_s=control_period_s, num_envs=num_envs)
        self._descriptions: dict[str, Description] = {}
        self._layout: Layout | None = None
        self._writer: EpisodeWriter | None = None
        self._thread: threading.Thread | None = None
        self._full: queue.SimpleQueue[Block | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[Block] = queue.SimpleQueue()
        self._block: Block | None = None
        self._error: BaseException | None = None
        self._figures: Figures | None = None
        self._steps = 0

    @property
    def steps(self) -> int:
        """Steps recorded of each environment."""
        return self._steps

    def describe(
        self, key: str, *, unit: str | None = None, names: Sequence[str] | None = None, about: str | None = None
    ) -> None:
        """Describe a quantity, before the first step; one that is never recorded is not described in the store either.

        Args:
            key: Its name.
            unit: Of its values, such as `rad/s`.
            names: One for each entry of its last axis.
            about: One sentence.

        Raises:
            ValueError: If the name is bad, or the first step was recorded.
        """
        if self._layout is not None:
            raise ValueError(f"{key!r} is described after the first step. Describe it before.")
        self._descriptions[check_key(key)] = Description.of(key, unit, names, about)

    def record(self, quantities: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Record one control step of all environments.

        The values are copied, so their memory may be used again. NaN is recorded as it is. On a GPU the copy is only
        queued, behind what computes the values.

        Args:
            quantities: By key, each `(num_envs, ...)`: torch tensors, warp arrays or numpy arrays.
            more: The same, by name.

        Raises:
            ValueError: If a key or a value is bad, or not as at the first step; the step is not recorded.
            OSError: If there is no room, or what was recorded before could not be written.
        """
        self._check_open()
        given = {**quantities, **more} if quantities is not None else more
        if quantities is not None and len(given) < len(quantities) + len(more):
            twice = ", ".join(map(repr, sorted(more.keys() & quantities.keys())))
            raise ValueError(f"{twice} given in the mapping and by name. Give each quantity once.")

        # The first step tells what a step consists of: make room, and start the writer.
        if self._layout is None:
            self._begin(given)

        # A full block goes to the writer; the next one is free once the writer has emptied it.
        block = self._block
        if block is not None and block.is_full:
            self._send(block)
            block = self._block = None
        if block is None:
            block = self._free.get()
            self._raise_error()
            block.clear()
            self._block = block

        block.add(given)
        self._steps += 1
        self._after_step(self._steps)

    def end(self, ended: Any, *, terminated: Any = None, success: Any = None, kept: Any = None) -> None:
        """Mark the episodes that ended with the step just recorded; without a call none did.

        Args:
            ended: `(num_envs,)` bools.
            terminated: `(num_envs,)` bools, True where the episode terminated rather than reached its time limit;
                None if none did.
            success: `(num_envs,)`, whether each succeeded; -1 or NaN for one that was not measured, None if none was.
            kept: `(num_envs,)` bools, False for an episode that ended and is to be forgotten; None keeps all.

        Raises:
            ValueError: If no step was recorded since the last time, or a flag is bad.
            OSError: If what was recorded before could not be written.
        """
        self._check_open()
        if self._block is None or not self._block.steps or self._block.has_flags:
            raise ValueError("end() without a step before it. Call it at most once after each record().")
        if ended is None:
            raise ValueError("'ended' is None. Give (num_envs,) bools, or do not call end() for this step.")
        self._block.flag(ended=ended, terminated=terminated, success=success, kept=kept)

    def close(self) -> Figures:
        """Keep the episodes that still run as cut off, write all that is left, and return the figures of all.

        Raises:
            ValueError: If something that was recorded made no sense; the episodes listed before it stay.
            OSError: If something could not be written; the same holds.
        """
        if self._figures is not None:
            return self._figures

        # The writer ends with the last block.
        if self._thread is not None:
            if self._error is None and self._block is not None:
                self._send(self._block)
            self._block = None
            self._full.put(None)
            self._thread.join()
            self._thread, self._free = None, queue.SimpleQueue()
        self._raise_error()

        self._store.finish()
        quantities = self._layout.quantities if self._layout is not None else ()
        forms = {each.key: ArrayForm(shape=list(each.shape), dtype=each.dtype) for each in quantities}
        self._figures = Figures(
            counts=self._writer.counts if self._writer is not None else Counts(),
            keys=dict(sorted(forms.items())),
            size_bytes=size_of(self._folder),
            finished=True,
        )
        return self._figures

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception as problem:
            if error is None:
                raise
            if problem is not error:
                # What stopped the simulation is what its user must read first.
                error.add_note(f"The rollout could not be completed either: {problem}")

    def _raise_error(self) -> None:
        """Raise the writer's error in the thread that simulates."""
        if self._error is not None:
            raise self._error

    def _check_open(self) -> None:
        self._raise_error()
        if self._figures is not None:
            raise ValueError("The recorder is closed. Make a new one, with a new folder.")

    def _begin(self, given: Mapping[str, Any]) -> None:
        """Learn the layout from the first step, make room, and start the writer."""
        layout = Layout.of(given, self._num_envs)
        for quantity in layout.quantities:
            self._descriptions.get(quantity.key, Description()).check(quantity)

        # Room: on disk for running episodes, in memory for two blocks and a shard.
        step_bytes = self._num_envs * layout.row_bytes
        steps = max(1, min(_BLOCK_STEPS_MOST, self._block_bytes // step_bytes))
        ring = Ring(self._scratch, layout, longest=self._longest, block_steps=steps)
        rows = self._store.create(layout, self._descriptions, self._shard_bytes)
        self._writer = writer = EpisodeWriter(
            self._store, ring, layout, rows, self._longest, whole_alone=self._whole_alone
        )
        for _ in range(_BLOCKS):
            self._free.put(Block(layout, steps))

        self._thread = threading.Thread(target=self._write, args=(writer,), name="simyard-rollout-writer", daemon=True)
        self._thread.start()
        self._layout = layout

    def _send(self, block: Block) -> None:
        block.send()
        self._full.put(block)

    def _write(self, writer: EpisodeWriter) -> None:
        """Do the writer's work, in its thread; after an error only hand the blocks back."""
        while (block := self._full.get()) is not None:
            try:
                block.arrive()
                if self._error is None:
                    writer.take(block)
            except BaseException as error:
                self._error = error
            self._free.put(block)
        try:
            if self._error is None:
                writer.finish()
        except BaseException as error:
            self._error = error
        finally:
            writer.close()
