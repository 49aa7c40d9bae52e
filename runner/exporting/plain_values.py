"""Values of Isaac Lab's objects as plain JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def function_name(function: Any) -> str | None:
    """Return `module:name` of a function, a class, or the class of a callable object."""
    if function is None or isinstance(function, str):
        return function
    if not hasattr(function, "__qualname__"):
        function = type(function)
    return f"{function.__module__}:{function.__qualname__}"


def plain(value: Any) -> Any:
    """Return a configuration's value as plain JSON.

    What has no such form becomes its name, and what a configuration leaves open is left out.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if hasattr(value, "detach"):
        return plain(value.detach().cpu().tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, slice):
        return "all" if value == slice(None) else str(value)
    if is_dataclass(value) and not isinstance(value, type):
        found = {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        return {name: item for name, item in found.items() if item not in (None, "all")}
    return function_name(value)


def numbers(value: Any) -> tuple[float, ...] | None:
    """Return a number, several of them or a tensor as floats; None for anything else."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().reshape(-1).tolist()
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, list | tuple) and all(isinstance(item, int | float) for item in value):
        return tuple(float(item) for item in value)
    return None


def common_row(value: Any) -> Any:
    """Return the row that all environments have in common as numbers, or None where they differ."""
    if not hasattr(value, "detach"):
        return float(value)
    rows = value.detach().cpu()
    return rows[0].tolist() if bool((rows == rows[:1]).all()) else None


def each_of(values: Any, size: int) -> tuple[float, ...] | None:
    """Return one number for each of `size`, from one for all or from as many; None for anything else."""
    if values is None:
        return None
    each = (float(values),) * size if isinstance(values, int | float) else tuple(float(value) for value in values)
    each = each * size if len(each) == 1 else each
    return each if len(each) == size and all(math.isfinite(value) for value in each) else None


def named(params: Mapping[str, Any], base: Any) -> dict[str, Any]:
    """Return a term's parameters as plain JSON; parts of the scene by the names of their joints and bodies.

    Args:
        params: Of the term, as its manager has resolved them.
        base: The environment.
    """
    found: dict[str, Any] = {}
    for key, value in params.items():
        if not hasattr(value, "joint_ids") or not hasattr(value, "body_ids"):
            found[key] = plain(value)
            continue
        entity = base.scene[value.name]
        found[key] = {
            "entity": value.name,
            "joints": _chosen(getattr(entity, "joint_names", None), value.joint_ids),
            "bodies": _chosen(getattr(entity, "body_names", None), value.body_ids),
        }
    return found


def _chosen(names: Any, ids: Any) -> list[str] | None:
    """Return the chosen ones of some names; None for all of them, and where there are no names."""
    if names is None or ids is None or ids == slice(None):
        return None
    return [str(names[int(n)]) for n in (ids if not isinstance(ids, slice) else range(len(names))[ids])]
