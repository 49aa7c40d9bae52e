"""Quantities to record: names, types and shapes, and the columns of each in an environment's row."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, Any]
    Values: TypeAlias = Array | torch.Tensor

DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
"""The types of values, by the names that numpy and torch share."""
_CARRIERS = {"uint16": "int16", "uint32": "int32", "uint64": "int64"}
"""Types that torch holds on a GPU and cannot join there, and those that carry their bits."""
_ALLOWED = "Allowed: torch tensors of the host or a CUDA device, warp arrays and numpy arrays."
_LONGEST_KEY = 200
_PART = re.compile(r"(?!__)[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class Description:
    """Meaning of a quantity, for readers of the rollout."""

    unit: str | None = None
    """Of its values, such as `rad/s`."""
    names: tuple[str, ...] | None = None
    """One for each entry of its last axis."""
    about: str | None = None
    """One sentence."""

    @classmethod
    def of(cls, key: str, unit: object, names: Sequence[str] | None, about: object) -> Description:
        """Return the description of a quantity.

        Raises:
            ValueError: If something is not text.
        """
        if isinstance(names, str):
            raise ValueError(f"The names of {key!r} are the one text {names!r}. Give a list of names.")
        for text in (unit, about, *(names or ())):
            if text is not None and not isinstance(text, str):
                raise ValueError(f"{key!r} is described by {text!r}, which is not text.")
        return cls(unit=unit, names=None if names is None else tuple(names), about=about)  # type: ignore[arg-type]

    def check(self, quantity: Quantity) -> None:
        """Check the names against the quantity.

        Raises:
            ValueError: If there are more or fewer.
        """
        last = quantity.shape[-1] if quantity.shape else 1
        if self.names is not None and len(self.names) != last:
            raise ValueError(f"{quantity.key!r} has {last} values in its last axis and {len(self.names)} names.")

    def attributes(self) -> dict[str, str | tuple[str, ...]]:
        """Return the known fields, as the array's attributes have them."""
        given = {"unit": self.unit, "names": self.names, "about": self.about}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One quantity, as its first values showed it to be."""

    key: str
    """Its name, with `/`."""
    shape: tuple[int, ...]
    """Of one step of one environment; empty for a single number."""
    dtype: str
    """One of `DTYPES`."""
    lane: int
    """Index of its lane."""
    columns: slice
    """Its columns of the lane."""
    device: torch.device | None
    """The GPU that its values are on; None for the host."""
    values_shape: tuple[int, ...]
    """`(num_envs, *shape)`."""
    values_dtype: Any
    """`dtype`, as numpy has it on the host and torch on a GPU."""
    row_bytes: int
    """Bytes of one step of one environment."""

    def values(self, value: object) -> Values:
        """Return the values of a step.

        Raises:
            ValueError: If they are not as the first ones were.
        """
        values = as_values(self.key, value)
        if values.shape != self.values_shape or values.dtype != self.values_dtype or _gpu(values) != self.device:
            was = f"{self.dtype} {self.values_shape} on {self.device or 'the host'}"
            now = f"{_name(values.dtype)} {tuple(values.shape)} on {_gpu(values) or 'the host'}"
            raise ValueError(f"{self.key!r} was {was} and is now {now}. Record it as at the first step.")
        return values


@dataclass(frozen=True, kw_only=True)
class Lane:
    """Quantities of one type in one place, side by side: a part of an environment's row."""

    dtype: str
    """Of the values, or of what carries their bits."""
    device: torch.device | None
    """The GPU that they are on; None for the host."""
    width: int
    """Values of one step of one environment."""
    quantities: tuple[Quantity, ...]
    """In the order of their columns."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All quantities of a recording."""

    num_envs: int
    """Number of environments."""
    lanes: tuple[Lane, ...]
    """The quantities by type and place, in the order of the first step."""
    quantities: tuple[Quantity, ...]
    """All of them, lane by lane."""
    keys: frozenset[str]
    """Their names."""
    row_bytes: int
    """Bytes of one step of one environment."""

    @classmethod
    def of(cls, given: Mapping[str, object], num_envs: int) -> Layout:
        """Learn the layout from the values of the first step.

        Raises:
            ValueError: If a name, a type or a shape cannot be recorded.
        """
        import numpy as np

        # Values of one type in one place stand side by side: they are copied at once.
        check_keys(given)
        found: dict[tuple[str, torch.device | None], list[tuple[str, Values]]] = {}
        for key, value in given.items():
            values = as_values(key, value)
            shape, dtype, device = tuple(values.shape), _name(values.dtype), _gpu(values)
            if dtype not in DTYPES:
                raise ValueError(f"{key!r} has the type {dtype!r}. Allowed: {', '.join(DTYPES)}.")
            if not shape or shape[0] != num_envs:
                raise ValueError(f"{key!r} has the shape {shape}. Its first axis must be the {num_envs} environments.")
            if not math.prod(shape):
                raise ValueError(f"{key!r} has the shape {shape}, which holds no value. Leave it out.")
            carrier = dtype if device is None else _CARRIERS.get(dtype, dtype)
            found.setdefault((carrier, device), []).append((key, values))

        # Their columns, in the order of the first step.
        lanes = []
        for number, ((carrier, device), members) in enumerate(found.items()):
            quantities, width = [], 0
            for key, values in members:
                shape = tuple(values.shape)
                size = math.prod(shape[1:])
                quantity = Quantity(
                    key=key, shape=shape[1:], dtype=_name(values.dtype), lane=number,
                    columns=slice(width, width + size), device=device, values_shape=shape,
                    values_dtype=values.dtype, row_bytes=size * np.dtype(carrier).itemsize,
                )  # fmt: skip
                quantities.append(quantity)
                width += size
            lanes.append(Lane(dtype=carrier, device=device, width=width, quantities=tuple(quantities)))
        everything = tuple(quantity for lane in lanes for quantity in lane.quantities)
        row_bytes = sum(quantity.row_bytes for quantity in everything)
        keys = frozenset(quantity.key for quantity in everything)
        return cls(num_envs=num_envs, lanes=tuple(lanes), quantities=everything, keys=keys, row_bytes=row_bytes)

    @property
    def device(self) -> torch.device | None:
        """The GPU that a recording must not wait for; None if all is on the host."""
        return next((lane.device for lane in self.lanes if lane.device is not None), None)

    def values(self, given: Mapping[str, object]) -> list[Values]:
        """Return the values of one step, in the order of `quantities`.

        Raises:
            ValueError: If they are not as at the first step.
        """
        if given.keys() != self.keys:
            changes = (("missing", self.keys - given.keys()), ("new", given.keys() - self.keys))
            said = "; ".join(f"{what}: {', '.join(map(repr, sorted(keys)))}" for what, keys in changes if keys)
            raise ValueError(f"The quantities changed ({said}). Record the same ones at every step.")
        return [quantity.values(given[quantity.key]) for quantity in self.quantities]


def check_key(key: object) -> str:
    """Return the name of a quantity.

    Raises:
        ValueError: If it is none.
    """
    parts = key.split("/") if isinstance(key, str) else [""]
    good = all(_PART.fullmatch(part) and part != "zarr.json" for part in parts)
    if not isinstance(key, str) or not good or len(key) > _LONGEST_KEY:
        shown = repr(key) if len(repr(key)) <= _LONGEST_KEY else f"{repr(key)[:_LONGEST_KEY]}…"
        raise ValueError(
            f"{shown} cannot name a quantity. Allowed: up to {_LONGEST_KEY} letters, digits, '_', '.' and '-', in "
            "parts joined by '/', such as 'obs/policy'; no part begins with '.', '-' or '__' or is 'zarr.json'."
        )
    return key


def check_keys(keys: Collection[object]) -> None:
    """Check the names of all quantities of a step.

    Raises:
        ValueError: If there are none, one is bad, or one is both a quantity and a group of quantities.
    """
    if not keys:
        raise ValueError("Nothing to record: name at least one quantity, such as action.")
    known = {check_key(key) for key in keys}
    for key in sorted(known):
        parts = key.split("/")
        for group in ("/".join(parts[:count]) for count in range(1, len(parts))):
            if group in known:
                raise ValueError(f"{group!r} cannot be a quantity while {key!r} is one. Rename one of them.")


def as_values(key: str, value: Any) -> Values:
    """Return values of the host as a numpy array and those of a GPU as a torch tensor, without a copy.

    Raises:
        ValueError: If they cannot be recorded.
    """
    if (torch := sys.modules.get("torch")) is not None and isinstance(value, torch.Tensor):
        if value.requires_grad:
            value = value.detach()
        if value.is_cuda:
            return value
        try:
            return value.numpy()
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"{key!r} is a tensor that cannot be recorded: {error} {_ALLOWED}") from error

    import numpy as np

    if isinstance(value, np.ndarray):
        return value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))
    if (warp := sys.modules.get("warp")) is not None and isinstance(value, warp.array):
        try:
            return value.numpy() if value.device.is_cpu else warp.to_torch(value, requires_grad=False)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{key!r} is a warp array that cannot be recorded: {error} {_ALLOWED}") from error
    raise ValueError(f"{key!r} is a {type(value).__name__}. {_ALLOWED}")


def carried(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a GPU's values as `(num_envs, columns)`, of the type that carries their bits."""
    if values.dtype != dtype:
        values = values.contiguous().view(dtype)
    return values.reshape(values.shape[0], -1)


def _gpu(values: Values) -> torch.device | None:
    return values.device if hasattr(values, "is_cuda") else None


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
