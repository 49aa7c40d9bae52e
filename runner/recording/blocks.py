"""Blocks of steps: filled where the simulation runs, read by the writer on the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simyard.runner.recording.quantities import Layout, as_values, carried

if TYPE_CHECKING:
    import numpy as np
    import torch

    from simyard.runner.recording.quantities import Values

    Array = np.ndarray[Any, Any]

_FLAGS = {"ended": "bool", "terminated": "bool", "success": "float32", "kept": "bool"}


@dataclass(frozen=True)
class Part:
    """Some columns of a lane, as a block holds them."""

    lane: int
    """Index of the lane."""
    columns: slice
    """Columns of the lane."""
    values: Array
    """`(steps, num_envs, columns)`."""


class Block:
    """Some steps of all environments, in the order they were taken.

    Values are copied where they are, so that a step waits for nothing. On a GPU the copy is queued behind what computes
    the values, and a full block goes to pinned memory of the host on a stream of its own, while the next block fills.
    """

    def __init__(self, layout: Layout, capacity: int) -> None:
        """Make room, on each device and on the host.

        Args:
            layout: What a step consists of.
            capacity: Steps.
        """
        import numpy as np

        self._layout, self._capacity = layout, capacity
        # On the host a copy for each quantity is fastest, on a GPU one kernel for all of them.
        self._direct: list[tuple[int, _HostTable]] = []
        self._joined: list[tuple[slice, _GpuTable]] = []
        self._places: list[tuple[int, slice, _HostTable | _GpuTable]] = []
        first = 0
        for number, lane in enumerate(layout.lanes):
            if lane.device is None:
                for offset, quantity in enumerate(lane.quantities):
                    host = _HostTable((capacity, *quantity.values_shape), quantity.dtype)
                    self._direct.append((first + offset, host))
                    self._places.append((number, quantity.columns, host))
            else:
                gpu = _GpuTable((capacity, layout.num_envs, lane.width), lane.dtype, lane.device)
                self._joined.append((slice(first, first + len(lane.quantities)), gpu))
                self._places.append((number, slice(0, lane.width), gpu))
            first += len(lane.quantities)
        shape = (capacity, layout.num_envs)
        self._flags = {
            name: _HostTable(shape, dtype) if layout.device is None else _GpuTable(shape, dtype, layout.device)
            for name, dtype in _FLAGS.items()
        }
        self._given = {name: np.zeros(capacity, bool) for name in _FLAGS}
        tables = [*(table for _, _, table in self._places), *self._flags.values()]
        on_gpus = [table for table in tables if isinstance(table, _GpuTable)]
        devices = dict.fromkeys(table.device for table in on_gpus)
        self._moves = [_Move(device, [each for each in on_gpus if each.device == device]) for device in devices]
        self.steps = 0
        """How many steps it holds."""

    @property
    def is_full(self) -> bool:
        """Whether no step fits in any more."""
        return self.steps == self._capacity

    @property
    def has_flags(self) -> bool:
        """Whether the newest step has its flags already."""
        return bool(self._given["ended"][self.steps - 1])

    def clear(self) -> None:
        """Forget all steps."""
        self.steps = 0
        for given in self._given.values():
            given[:] = False

    def add(self, given: Mapping[str, object]) -> None:
        """Copy the values of one step.

        Raises:
            ValueError: If they are not as at the first step; nothing is added then.
        """
        values, step = self._layout.values(given), self.steps
        for index, host in self._direct:
            host.values[step] = values[index]
        for part, gpu in self._joined:
            gpu.join(step, values[part])
        for move in self._moves:
            move.follow()
        self.steps += 1

    def flag(self, **flags: object) -> None:
        """Copy the flags of the newest step: `ended`, `terminated`, `success`, `kept`.

        Raises:
            ValueError: If a flag is not `(num_envs,)` or of the wrong type.
        """
        checked = {}
        for name, flag in flags.items():
            if flag is None:
                continue
            checked[name] = values = as_values(name, flag)
            if values.shape != (self._layout.num_envs,):
                raise ValueError(
                    f"{name!r} has the shape {tuple(values.shape)}; it must be ({self._layout.num_envs},)."
                )
            if not _is_flag(values.dtype, fractions=name == "success"):
                allowed = "bool, integers" + (" and floats" if name == "success" else "")
                raise ValueError(f"{name!r} has the type {values.dtype}. Allowed: {allowed}.")
        for name, values in checked.items():
            self._flags[name].put(self.steps - 1, values)
            self._given[name][self.steps - 1] = True
        for move in self._moves:
            move.follow()

    def send(self) -> None:
        """Begin to move what is on GPUs to the host; does not wait."""
        for move in self._moves:
            move.begin(self.steps)

    def arrive(self) -> None:
        """Wait until the block is on the host; it may be filled again then."""
        for move in self._moves:
            move.wait()

    def parts(self) -> list[Part]:
        """Return all values of the steps."""
        shape = (self.steps, self._layout.num_envs, -1)
        return [Part(lane, columns, table.values[: self.steps].reshape(shape)) for lane, columns, table in self._places]

    def flags(self, name: str, unknown: float) -> Array:
        """Return a flag of all steps, `(steps, num_envs)`, with what stands for those that nobody gave."""
        import numpy as np

        values = self._flags[name].values[: self.steps]
        return np.where(self._given[name][: self.steps, None], values, np.asarray(unknown, values.dtype))


class _HostTable:
    """Steps in the host's memory."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        import numpy as np

        self.values: Array = np.empty(shape, dtype)

    def put(self, step: int, values: Values) -> None:
        import numpy as np

        self.values[step] = values if isinstance(values, np.ndarray) else values.cpu().numpy()


class _GpuTable:
    """Steps in a GPU's memory, and pinned memory of the host for them to go to."""

    def __init__(self, shape: tuple[int, ...], dtype: str, device: torch.device) -> None:
        import torch

        self.device = device
        # What is made in inference mode could not be written outside of it.
        with torch.inference_mode(False):
            self._dtype: torch.dtype = getattr(torch, dtype)
            self._there = torch.empty(shape, dtype=self._dtype, device=device)
            self._here = torch.empty(shape, dtype=self._dtype, pin_memory=True)
        self.values: Array = self._here.numpy()

    def join(self, step: int, values: list[Any]) -> None:
        """Copy the values of a step's quantities, side by side."""
        import torch

        torch.cat([carried(each, self._dtype) for each in values], dim=1, out=self._there[step])

    def put(self, step: int, values: Values) -> None:
        """Copy the values of a step, from wherever they are."""
        import torch

        source = values if isinstance(values, torch.Tensor) else torch.from_numpy(values.copy())
        # CUDA reads memory of the host that is not pinned before it returns.
        self._there[step].copy_(source, non_blocking=True)

    def move(self, steps: int) -> None:
        """Queue the copy of the first steps to the host."""
        self._here[:steps].copy_(self._there[:steps], non_blocking=True)


class _Move:
    """Moves tables of one GPU to the host, beside what the simulation computes."""

    def __init__(self, device: torch.device, tables: list[_GpuTable]) -> None:
        import torch

        self._device, self._tables = device, tables
        self._stream = torch.cuda.Stream(device)
        self._before: set[torch.cuda.Stream] = set()
        # Waited for by sleeping: the writer must not take a core from the simulation.
        self._done = torch.cuda.Event(blocking=True)

    def follow(self) -> None:
        """Note that the current stream fills the tables."""
        import torch

        self._before.add(torch.cuda.current_stream(self._device))

    def begin(self, steps: int) -> None:
        import torch

        for stream in self._before:
            self._stream.wait_stream(stream)
        self._before.clear()
        with torch.cuda.stream(self._stream):
            for table in self._tables:
                table.move(steps)
            self._done.record(self._stream)

    def wait(self) -> None:
        self._done.synchronize()


def _is_flag(dtype: Any, *, fractions: bool) -> bool:
    """Return whether a type of numpy or torch can hold flags; `fractions` where floats do too."""
    if (kind := getattr(dtype, "kind", None)) is not None:
        return kind in ("biuf" if fractions else "biu")
    return not dtype.is_complex and (fractions or not dtype.is_floating_point)
