"""State is put back where it was: into the same memory where others have its address, else into its holder."""

from __future__ import annotations

import collections
import ctypes
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from simyard.runner.isaaclab.generators import set_generator
from simyard.runner.isaaclab.state_file import Entry, Kept, StateError
from simyard.runner.isaaclab.state_walk import Array, Found, Place, Region

_NAME = re.compile(r"\.(?!__)([^.\[\]]+)$|\[(\d+)\]$")
"""The last name of a path: of an attribute or a key, or an index."""


def bytes_of(region: Region) -> bytes:
    """Return a copy of memory."""
    if region.device == "cpu":
        return ctypes.string_at(region.address, region.size)
    import torch

    torch.cuda.synchronize(region.device)
    return bytes(_as_bytes(region.device, region.address, region.size).numpy().tobytes())


def entries_of(region: Region) -> list[Entry]:
    """Return the arrays of a region as the file lists them."""
    return [Entry(array.path, array.address - region.address, array.form) for array in region.members]


def put_back(found: Found, kept: Kept, fresh: Mapping[str, Any], wanted: Callable[[str], bool] | None) -> list[str]:
    """Put arrays, numbers and generators where they were.

    Args:
        found: The environment as it is.
        kept: The state.
        fresh: Numbers of the environment as it was made.
        wanted: Whether a path is put back; None for all of them.

    Returns:
        The paths that have no place here.

    Raises:
        StateError: If the state has something that no training saves.
    """
    left: list[str] = []
    taken: set[tuple[str, int]] = set()
    for data, entries in kept.regions:
        if wanted is None or wanted(entries[0].path):
            left += _put_region(found, data, entries, taken, may_replace=wanted is None)

    # Numbers of a configuration are the request's, and put back where that says what it said.
    numbers = kept.head["numbers"]
    for path, pair in numbers.items():
        of_config = path in found.numbers and found.numbers[path].of_config
        if (wanted is None or wanted(path) or of_config) and not _put_number(found, path, pair, fresh):
            left.append(path)
    if wanted is None:  # what has changed here since the environment was made, and had not in the training
        for path, number in found.numbers.items():
            if path not in numbers and path in fresh and fresh[path] != number.value:
                _put_number(found, path, [fresh[path], fresh[path]], fresh)

    for path, state in kept.head["generators"].items():
        if path in found.generators:
            set_generator(found.generators[path], state)
        elif wanted is None:
            left.append(path)
    return left


def differing(found: Found, kept: Kept) -> list[str]:
    """Return the paths whose values are not those of a state, to the bit."""
    wrong = []
    for data, entries in kept.regions:
        for entry in entries:
            array = found.arrays.get(entry.path)
            if array is None:
                if entry is entries[0]:  # the others are views, which are made when somebody asks for them
                    wrong.append(entry.path)
            elif array.form != entry.form or _bytes(array) != data[entry.offset : entry.offset + array.extent]:
                wrong.append(entry.path)
    for path, (_, now) in kept.head["numbers"].items():
        if path not in found.numbers or found.numbers[path].value != now:
            wrong.append(path)
    return wrong


# --- arrays -----------------------------------------------------------------------------------------------------------


def _put_region(
    found: Found, data: bytes, entries: Sequence[Entry], taken: set[tuple[str, int]], *, may_replace: bool
) -> list[str]:
    """Put the arrays of one region back; return the paths that have no place.

    Args:
        found: The environment as it is.
        data: The region's memory.
        entries: The arrays in it.
        taken: Memory that another region was put into.
        may_replace: Whether a tensor may take the place of one of another shape.
    """
    here = [(entry, found.arrays[entry.path]) for entry in entries if entry.path in found.arrays]
    here = [(entry, array) for entry, array in here if array.form == entry.form]
    for entry, array in here:
        if not 0 <= entry.offset <= len(data) - array.extent:
            raise StateError(f"lists {entry.path!r:.80} beyond its memory")
        _refuse_nonsense(array, data[entry.offset : entry.offset + array.extent])

    # The same arrays share the same memory: everybody who has its address goes on seeing it.
    places = {(array.device, array.address - entry.offset) for entry, array in here}
    is_whole = len(here) == len(entries) or any(array.kind != "torch" for _, array in here)
    if len(places) == 1 and is_whole and not places & taken:
        taken |= places
        for entry, array in here:
            _write(array, data[entry.offset : entry.offset + array.extent])
        return []

    # Tensors that the environment makes anew in each step, which nobody else holds.
    is_new = not any(entry.path in found.arrays for entry in entries)
    if all(entry.form[:1] == ["torch"] for entry in entries) and (may_replace or is_new):
        device = here[0][1].device if here else "cpu"
        return [entry.path for entry, tensor in _tensors(data, entries, device) if not _hand(found, entry.path, tensor)]
    return [entry.path for entry in entries]


def _refuse_nonsense(array: Array, data: bytes) -> None:
    """Refuse values that no training saves: neither true nor false, and in a tensor NaN."""
    import torch

    if array.kind != "torch":
        return
    values = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if array.dtype == "torch.bool" and bool((values > 1).any()):
        raise StateError(f"has other values than true and false in {array.path!r}")
    if array.value.is_floating_point() and bool(values.view(array.value.dtype).isnan().any()):
        raise StateError(f"has NaN in {array.path!r}")


def _tensors(data: bytes, entries: Sequence[Entry], device: str) -> Iterator[tuple[Entry, Any]]:
    """Yield new tensors that share memory as those in the file did."""
    import torch

    storage = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device).untyped_storage()
    for entry in entries:
        try:
            _, name, shape, strides = entry.form
            empty = torch.empty(0, dtype=getattr(torch, name.removeprefix("torch.")), device=device)
            size = empty.element_size()
            yield entry, empty.set_(storage, entry.offset // size, shape, [step // size for step in strides])
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise StateError(f"describes {entry.path!r:.80} in another form ({error!r:.200})") from error


def _bytes(array: Array) -> bytes:
    return bytes_of(Region(array.device, array.address, array.extent))


def _as_bytes(device: str, address: int, size: int) -> Any:
    """Return memory as an array of Warp's, which does not own it."""
    import warp

    return warp.array(ptr=address, dtype=warp.uint8, shape=(size,), device=device)


def _write(array: Array, data: bytes) -> None:
    if array.device == "cpu":
        ctypes.memmove(array.address, data, len(data))
        return
    import numpy
    import warp

    source: Any = warp.array(numpy.frombuffer(data, dtype=numpy.uint8), dtype=warp.uint8, device="cpu")
    warp.copy(_as_bytes(array.device, array.address, len(data)), source)
    warp.synchronize_device(array.device)


# --- numbers ----------------------------------------------------------------------------------------------------------


def _put_number(found: Found, path: str, pair: Any, fresh: Mapping[str, Any]) -> bool:
    """Put a number or a list of numbers back; return whether it had a place."""
    if not isinstance(pair, list) or len(pair) != 2 or not _is_number(pair[1]):
        raise StateError(f"has no number in {path!r:.80}")
    was, now = pair
    number = found.numbers.get(path)
    if number is None:
        return now is None or (not isinstance(now, list) and _hand(found, path, now))
    if number.value == now:
        return True
    if number.of_config and fresh.get(path) != was:
        return False
    if isinstance(now, list) != isinstance(number.value, list):
        return None in (now, number.value) and not isinstance(now, list) and _hand(found, path, now)
    if not isinstance(now, list):
        return _hand(found, path, now)

    # A list may be known to others, too.
    is_item = isinstance(number.holder, dict | list | collections.deque)
    target: Any = number.holder[number.key] if is_item else getattr(number.holder, number.key)
    if isinstance(target, tuple | frozenset):
        return _hand(found, path, type(target)(now))
    target.clear()
    target.update(now) if isinstance(target, set) else target.extend(now)
    return True


def _is_number(value: Any) -> bool:
    many = value if isinstance(value, list) else [value]
    return all(one is None or (isinstance(one, bool | int | float) and one == one) for one in many)


def _hand(found: Found, path: str, value: Any) -> bool:
    """Give a value to the holder that a path names, in place of a number or an array, or of nothing.

    Returns:
        Whether the environment has that holder, and nothing else under this name.
    """
    place = found.arrays.get(path) or found.numbers.get(path)
    try:
        if place is not None:
            place.put(value)
            return True
        match = _NAME.search(path)
        holder = found.holders.get(path[: match.start()]) if match else None
        if match is None or holder is None or isinstance(holder, type):
            return False
        name, index = match.groups()
        key = int(index) if name is None else name
        if isinstance(holder, dict):
            is_free = key not in holder
        else:
            is_free = name is not None and hasattr(holder, "__dict__") and not hasattr(holder, name)
        if is_free:
            Place(path, holder, key).put(value)
        return is_free
    except (TypeError, AttributeError, IndexError):
        return False
