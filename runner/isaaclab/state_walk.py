"""What carries state between two iterations: arrays and numbers, found by attributes from an environment's objects.

Nothing is called: an attribute is read where it is kept. Objects are visited once, nearest first, so that each array
has a short and steady name, `env.reward_manager._episode_sums.alive`.
"""

from __future__ import annotations

import collections
import enum
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

_PLAIN = (bool, int, float)
_NO_STATE = frozenset({
    "abc", "builtins", "carb", "collections", "contextlib", "ctypes", "_ctypes", "enum", "functools", "git",
    "gymnasium", "hydra", "inspect", "io", "_io", "logging", "matplotlib", "mujoco", "omegaconf", "omni", "pathlib",
    "PIL", "pxr", "re", "simyard", "subprocess", "tensorboard", "threading", "_thread", "torch", "trimesh", "types",
    "typing", "warp", "weakref",
})  # fmt: skip
"""Packages whose objects are not looked into: they hold code, files, scenes, or arrays of constants alone."""
_CONSTANT = frozenset({"ModelBuilder"})
"""Classes of objects that only make others."""


@dataclass(frozen=True, eq=False)
class Place:
    """Holder of a value, and its name there."""

    path: str
    holder: Any
    key: Any

    def put(self, value: Any) -> None:
        """Have the holder hold another value.

        Raises:
            TypeError: It is one that does not change.
            AttributeError: Likewise.
        """
        if isinstance(self.holder, dict | list | collections.deque):
            self.holder[self.key] = value
        else:
            setattr(self.holder, self.key, value)


@dataclass(frozen=True, eq=False)
class Array(Place):
    """A tensor of torch's, or an array of Warp's or NumPy's."""

    value: Any
    kind: str
    """`torch`, `warp` or `numpy`."""
    device: str
    address: int
    """Of its first element."""
    extent: int
    """Bytes from there to the end of its last element."""
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In bytes."""

    @property
    def form(self) -> list[Any]:
        """Everything but where it lies, as JSON has it."""
        return [self.kind, self.dtype, list(self.shape), list(self.strides)]


@dataclass(frozen=True, eq=False)
class Number(Place):
    """A number, a truth value, None, or a list of such."""

    value: Any
    """As JSON has it."""
    of_config: bool
    """Whether it is of a configuration, so of the request."""


@dataclass(eq=False)
class Region:
    """Memory of which several arrays may be views."""

    device: str
    address: int
    size: int
    members: list[Array] = field(default_factory=list)


@dataclass
class Found:
    """The state that a walk has found."""

    arrays: dict[str, Array] = field(default_factory=dict)
    numbers: dict[str, Number] = field(default_factory=dict)
    generators: dict[str, Any] = field(default_factory=dict)
    """Random generators that an object has for itself."""
    holders: dict[str, Any] = field(default_factory=dict)
    """Every object that was looked into."""
    out_of_reach: list[str] = field(default_factory=list)
    """Paths of values that carry state and cannot be read or put back."""

    def regions(self) -> list[Region]:
        """Return the memory of all arrays, in parts that do not overlap."""
        merged: list[Region] = []
        for array in sorted(self.arrays.values(), key=lambda one: (one.device, one.address, -one.extent)):
            last = merged[-1] if merged else None
            if last and last.device == array.device and array.address < last.address + last.size:
                last.size = max(last.size, array.address + array.extent - last.address)
                last.members.append(array)
            else:
                merged.append(Region(array.device, array.address, array.extent, [array]))
        return merged


def walk(roots: Iterable[tuple[str, Any]]) -> Found:
    """Find all state below some objects.

    Args:
        roots: Objects, classes or mappings with the names that their paths begin with.
    """
    import numpy
    import torch
    import warp

    found, seen = Found(), dict[int, Any]()
    waiting = collections.deque((Place(name, None, None), root, False) for name, root in roots)
    while waiting:
        place, value, of_config = waiting.popleft()

        # Numbers are values: the same object may stand in many places.
        plain = _as_json(value)
        if plain is not _NOT_PLAIN:
            found.numbers[place.path] = Number(place.path, place.holder, place.key, plain, of_config)
            continue
        is_root = place.holder is None
        if id(value) in seen or (isinstance(value, _WITHOUT_STATE) and not is_root):
            continue
        seen[id(value)] = value

        # Arrays, and generators that somebody keeps apart from the libraries' own.
        if isinstance(value, torch.Tensor | warp.array | numpy.ndarray):
            if (array := _array(place, value)) is not None:
                found.arrays[place.path] = array
            continue
        if isinstance(value, torch.Generator | numpy.random.Generator | random.Random):
            found.generators[place.path] = value
            continue
        if isinstance(value, Iterator) and type(value).__module__ in ("builtins", "itertools"):
            found.out_of_reach.append(place.path)
            continue

        # Everything else holds others.
        of_config = of_config or type(value).__name__.endswith("Cfg")
        if items := _items(value):
            found.holders[place.path] = value
        for key, item in items:
            name = f".{key}" if isinstance(key, str) else f"[{key!r}]"
            waiting.append((Place(place.path + name, value, key), item, of_config))
    return found


_WITHOUT_STATE = (str, bytes, type, ModuleType, enum.Enum, complex, slice, range)
_NOT_PLAIN = object()


def _as_json(value: Any) -> Any:
    """Return a number, None, or a list of numbers, as JSON has it; `_NOT_PLAIN` for anything else."""
    import numpy

    if value is None or type(value) in _PLAIN:
        return value
    if isinstance(value, numpy.number | numpy.bool_) and not isinstance(value, numpy.complexfloating):
        return value.item()
    if type(value) in (list, tuple, set, frozenset, collections.deque) and all(type(one) in _PLAIN for one in value):
        return sorted(value) if isinstance(value, set | frozenset) else list(value)
    return _NOT_PLAIN


def _items(value: Any) -> list[tuple[Any, Any]]:
    """Return the values that an object holds, with their names; none of an object without state."""
    import torch

    if isinstance(value, type):
        own = {name: item for name, item in vars(value).items() if not name.startswith("__")}
        return [(name, item) for name, item in own.items() if not isinstance(item, classmethod | staticmethod)]
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, list | tuple | collections.deque):
        return list(enumerate(value))
    cls = type(value)
    package, _, rest = cls.__module__.partition(".")
    if isinstance(value, torch.nn.Module):
        return [(name, item) for name, item in vars(value).items() if name != "_parameters"]
    if cls.__name__ in _CONSTANT or (package in _NO_STATE and not rest.startswith("wrappers")):
        return []
    items = dict(getattr(value, "__dict__", {}))
    for base in cls.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            try:
                items[name] = object.__getattribute__(value, name)
            except AttributeError:
                continue
    return list(items.items())


def _array(place: Place, value: Any) -> Array | None:
    """Return an array of numbers that has memory; None for others, and for those that hold addresses."""
    import numpy
    import torch
    import warp

    if isinstance(value, torch.Tensor):
        if value.numel() == 0 or value.layout is not torch.strided or value.device.type not in ("cpu", "cuda"):
            return None
        size = value.element_size()
        kind, device, address, dtype = "torch", str(value.device), value.data_ptr(), str(value.dtype)
        shape, strides = tuple(value.shape), tuple(step * size for step in value.stride())
    elif isinstance(value, warp.array):
        # A structure may hold addresses, and so may numbers of 64 bits without a sign: they are of this process alone.
        if not value.ptr or value.size == 0 or type(value.dtype).__name__ == "Struct" or value.dtype is warp.uint64:
            return None
        size = warp.types.type_size_in_bytes(value.dtype)
        kind, device, address, dtype = "warp", str(value.device), value.ptr, value.dtype.__name__
        shape, strides = tuple(value.shape), tuple(value.strides)
    else:
        if value.dtype.kind not in "biuf" or value.size == 0 or value.dtype == numpy.uint64:
            return None
        size = value.itemsize
        kind, device, address, dtype = "numpy", "cpu", value.__array_interface__["data"][0], value.dtype.str
        shape, strides = value.shape, value.strides
    extent = sum((count - 1) * step for count, step in zip(shape, strides, strict=True)) + size
    if any(step < 0 for step in strides):
        return None
    return Array(place.path, place.holder, place.key, value, kind, device, address, extent, dtype, shape, strides)
