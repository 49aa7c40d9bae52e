"""Figures for people."""

from __future__ import annotations

from datetime import datetime
from typing import Any

DASH = "–"  # noqa: RUF001 - it stands where nothing was measured


def number(value: float | None) -> str:
    """Return four digits, or that it was not measured."""
    return "not measured" if value is None else f"{value:.4g}"


def size(count: int) -> str:
    """Return a number of bytes."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def interval(bounds: list[float] | None) -> str:
    """Return an interval as `[low, high]`."""
    return "not measured" if bounds is None else f"[{bounds[0]:.4g}, {bounds[1]:.4g}]"


def shown(value: Any) -> str:
    """Return a value for a table: four digits of a fraction, a dash for None."""
    if value is None or value == "":
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def span(seconds: float | None) -> str | None:
    """Return a length of time."""
    if seconds is None:
        return None
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def moment(text: str | None) -> str | None:
    """Return a moment that is written in ISO 8601."""
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC" if text else None
