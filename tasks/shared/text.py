"""Figures for people."""

from __future__ import annotations


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
