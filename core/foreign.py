"""JSON that somebody else wrote: a user, or a program of theirs. Whatever it is, it is read, or refused in words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

MOST_DEPTH = 100
"""Values in each other; Python's own functions that walk such values end at about a thousand."""
MOST_VALUES = 1_000_000
"""Of commas and opening brackets, which are about as many as the values."""
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


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
        raise _too_deep() from None
    level, depth = [value] if isinstance(value, dict | list) else [], 0
    while level:
        if depth > MOST_DEPTH:
            raise _too_deep()
        depth += 1
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, dict | list)
        ]
    # Only an escape can bring half of a surrogate pair into text that was UTF-8.
    if _HALF_PAIR.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])
            raise ValueError(f"it has {half}, half of a character; allowed are whole ones") from None
    return value


def _too_deep() -> ValueError:
    return ValueError(f"it has more than {MOST_DEPTH} values in each other")
