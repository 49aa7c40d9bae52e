"""Verdict on one item of the checklist."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """Status of an item."""

    PASS = "pass"
    FAIL = "fail"
    HUMAN = "needs-a-human"
    """Nobody measured it, or no measurement can tell."""


@dataclass(frozen=True)
class Verdict:
    """Verdict of the evidence on one item."""

    status: Status
    summary: str
    """One sentence."""
    advice: str = ""
    """Next step; empty for a pass."""
    numbers: Mapping[str, object] = field(default_factory=dict)
    """Numbers it was judged by, as plain JSON."""


def few(sentences: list[str], most: int = 4) -> str:
    """Return the first sentences, and how many there are more: a robot has many joints."""
    more = [f"And {len(sentences) - most} more."] if len(sentences) > most else []
    return " ".join(sentences[:most] + more)


def quoted(names: list[str]) -> str:
    """Return names as a list in a sentence."""
    return ", ".join(map(repr, names))


def finite(value: Any) -> Any:
    """Return None for a number that JSON cannot have."""
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
