"""JSON that somebody else wrote: a user, or a program of theirs. Whatever it is, it is read, or refused in words."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

MOST_DEPTH = 100
"""Levels of a file that a program wrote; Python's own functions that walk such values end at about a thousand."""
MOST_VALUES = 1_000_000
"""Of commas and opening brackets, which are about as many as the values."""
MAX_DEPTH = 20
"""Levels of objects and lists: more than anybody writes by hand."""
_HALF = re.compile("[\ud800-\udfff]")


def parse_json(
    data: bytes, *, most_bytes: int | None = None, parse_constant: Callable[[str], Any] | None = None
) -> Any:
    """Read JSON that is in UTF-8, of few and shallow values, and of characters that can be written again.

    Args:
        data: The JSON.
        most_bytes: Its size that is still accepted; None for a caller that knows it.
        parse_constant: What to make of NaN and the infinities, as `json.loads` has it; they are kept by default.

    Raises:
        ValueError: It is something else; the error says what is wrong and what is allowed.
    """
    if most_bytes is not None and len(data) > most_bytes:
        raise ValueError(f"it has {len(data):,} bytes; allowed are {most_bytes:,}")
    # A value of Python's takes thirty times the bytes of the shortest in JSON.
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ValueError(f"it has more than {MOST_VALUES:,} values")
    text = data.decode("utf-8-sig")
    try:
        value = json.loads(text, parse_constant=parse_constant)
    except RecursionError:
        raise ValueError(f"it is nested more than {MOST_DEPTH} deep") from None
    require_plain(value, MOST_DEPTH, finite=False)
    return value


def require_plain(value: object, depth: int = MAX_DEPTH, *, finite: bool = True) -> None:
    """Refuse a value of JSON types that not every program can take.

    Args:
        value: The value, of any size; the time is linear in it.
        depth: Levels that it may have.
        finite: Whether NaN and the infinities are refused, too.

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
                if problem := _problem_of(key, finite) if isinstance(key, str) else f"key {key!r} is no text":
                    raise ValueError(_said(place, problem))
                waiting.append((item, (place, key), level + 1))
        elif isinstance(one, list | tuple):
            waiting += ((item, (place, index), level + 1) for index, item in enumerate(one))
        elif problem := _problem_of(one, finite):
            raise ValueError(_said(place, problem))


_Place = tuple[Any, object]
"""The place of what holds a value, and the key or index there."""


def _problem_of(value: object, finite: bool) -> str | None:
    """Return the fault of a value that holds no others."""
    if isinstance(value, str):
        if not (half := _HALF.search(value)):
            return None
        near = value[max(0, half.start() - 20) : half.end() + 20]
        return f"{near!r} has half of a surrogate pair, which is no character"
    if finite and isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no number that JSON knows"
    return None if isinstance(value, int | float | None) else f"{type(value).__name__} is no type that JSON knows"


def _said(place: _Place | None, problem: str) -> str:
    names: list[str] = []
    while place is not None:
        place, name = place
        names.append(str(name)[:50])
    return f"{'.'.join(reversed(names))}: {problem}" if names else problem
