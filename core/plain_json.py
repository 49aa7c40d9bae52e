"""JSON from outside, held to what every program that reads, keeps or shows it can take."""

from __future__ import annotations

import math
import re
from typing import Any

MAX_DEPTH = 20
"""Levels of objects and lists: more than anybody writes by hand."""
_HALF = re.compile("[\ud800-\udfff]")


def require_plain(value: object, depth: int = MAX_DEPTH) -> None:
    """Refuse a value of JSON types that not every program can take.

    Args:
        value: The value, of any size; the time is linear in it.
        depth: Levels that it may have.

    Raises:
        ValueError: It is nested deeper, has half of a surrogate pair in a key or a text, a number that is not finite,
            or another type. The message is the end of a sentence, behind the place in the value.
    """
    waiting: list[tuple[object, _Place | None, int]] = [(value, None, 0)]
    while waiting:
        one, place, level = waiting.pop()
        if level > depth:
            raise ValueError(f"it is nested more than {depth} deep")
        if isinstance(one, dict):
            for key, item in one.items():
                if problem := _problem_of(key) if isinstance(key, str) else f"key {key!r} is no text":
                    raise ValueError(_said(place, problem))
                waiting.append((item, (place, key), level + 1))
        elif isinstance(one, list | tuple):
            waiting += ((item, (place, index), level + 1) for index, item in enumerate(one))
        elif problem := _problem_of(one):
            raise ValueError(_said(place, problem))


_Place = tuple[Any, object]
"""The place of what holds a value, and the key or index there."""


def _problem_of(value: object) -> str | None:
    """Return the fault of a value that holds no others."""
    if isinstance(value, str):
        if not (half := _HALF.search(value)):
            return None
        near = value[max(0, half.start() - 20) : half.end() + 20]
        return f"{near!r} has half of a surrogate pair, which is no character"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no number that JSON knows"
    return None if isinstance(value, int | float | None) else f"{type(value).__name__} is no type that JSON knows"


def _said(place: _Place | None, problem: str) -> str:
    names: list[str] = []
    while place is not None:
        place, name = place
        names.append(str(name)[:50])
    return f"{'.'.join(reversed(names))}: {problem}" if names else problem
