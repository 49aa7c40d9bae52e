"""Small line charts: axes with ticks and units, and gaps where nothing was measured; charts.html.j2 draws them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from simyard.tasks.shared.documents import shown

_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 32
MOST_POINTS = 400
"""A curve of more is thinned: the least and the greatest of every few are kept, so that no peak is lost."""
MOST_PIECES = 40
"""A line with more gaps than that leads over all of them: nobody could tell them apart."""
_GAP = 2.5
"""A line ends where the next point is so many times further away than points usually are."""

Points = list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Numbers over steps or time."""

    title: str
    unit: str = ""
    """Of the numbers; empty where they have none."""
    axis: str
    """Quantity that the horizontal axis counts."""
    points: Points
    """In order of the axis; what was not measured has none."""
    scattered: bool = False
    """Whether points are drawn, not lines."""
    borders: Sequence[tuple[float, str]] = ()
    """Place and name of each part that begins on the axis."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A curve laid out for a drawing: all positions are pixels from the upper left corner."""

    title: str
    note: str
    """The last value, or the unit of scattered points."""
    label: str
    """The curve in words, for people who do not see it."""
    axis: str
    x_ticks: list[tuple[float, str]]
    """Position and label of each tick."""
    y_ticks: list[tuple[float, str]]
    lines: list[str]
    """The points of each unbroken line, as SVG writes them."""
    dots: list[tuple[float, float]]
    """Points that no line leads to."""
    borders: list[tuple[float, str]]
    """Position and name of each part that begins."""
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    bottom: int = _HEIGHT - _BOTTOM


def plot(curve: Curve) -> Plot:
    """Lay out a curve that has points."""
    xs, ys = zip(*curve.points, strict=True)
    left, right = _bounds(min(xs), max(xs), whole=True)
    low, high = _bounds(min(ys), max(ys))

    def x_of(x: float) -> float:
        return round(_LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y_of(y: float) -> float:
        return round(_HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 1)

    pieces = [[point] for point in thinned(curve.points)] if curve.scattered else unbroken(curve.points)
    if not curve.scattered and len(pieces) > MOST_PIECES:
        pieces = [curve.points]
    unit = f" {curve.unit}" if curve.unit else ""
    last = f"{shown(float(ys[-1]))}{unit}"
    return Plot(
        title=curve.title,
        note=curve.unit if curve.scattered else f"last {last}",
        label=f"{curve.title}: {shown(float(min(ys)))} to {shown(float(max(ys)))}{unit}, last {last}",
        axis=curve.axis,
        x_ticks=[(x_of(tick), label) for tick, label in _ticks(left, right)],
        y_ticks=[(y_of(tick), label) for tick, label in _ticks(low, high)],
        lines=[" ".join(f"{x_of(x)},{y_of(y)}" for x, y in thinned(piece)) for piece in pieces if len(piece) > 1],
        borders=[(x_of(x), name) for x, name in curve.borders if left <= x <= right],
        dots=[(x_of(x), y_of(y)) for piece in pieces if len(piece) == 1 for x, y in piece],
    )


def unbroken(points: Points) -> list[Points]:
    """Return the pieces that a line is drawn through: it does not lead over what was not measured."""
    distances = [after[0] - before[0] for before, after in pairwise(points)]
    farthest = _GAP * statistics.median(distances) if distances else 0.0
    pieces = [points[:1]]
    for point, distance in zip(points[1:], distances, strict=True):
        if distance > farthest:
            pieces.append([])
        pieces[-1].append(point)
    return pieces


def thinned(points: Points) -> Points:
    """Return few enough points to draw."""
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(2 * len(points) / MOST_POINTS)
    kept: Points = []
    for first in range(0, len(points), size):
        some = points[first : first + size]
        least, greatest = min(some, key=lambda p: p[1]), max(some, key=lambda p: p[1])
        kept += sorted({least, greatest})
    return kept


def _bounds(low: float, high: float, *, whole: bool = False) -> tuple[float, float]:
    """Return the ends of an axis; one on which all is the same has some room about it."""
    if high > low:
        room = 0.0 if whole else 0.04 * (high - low)
        return low - room, high + room
    if whole:
        return max(low - 1.0, 0.0) if low >= 0 else low - 1.0, high + 1.0
    room = 1.0 if low == 0 else abs(low) * 0.1
    return low - room, high + room


def _ticks(low: float, high: float, wanted: int = 5) -> Iterator[tuple[float, str]]:
    """Yield round numbers between two ends, each with its label."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((power * factor for factor in (1, 2, 5) if power * factor >= rough), power * 10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    marks = [count * step for count in range(first, last + 1)]
    yield from zip(marks, _labels(marks, step), strict=True)


def _labels(marks: Sequence[float], step: float) -> list[str]:
    largest = max((abs(mark) for mark in marks), default=0.0)
    if largest < 1e-3 and largest > 0:
        return [f"{mark:.2g}" for mark in marks]
    scale, suffix = next(((s, t) for s, t in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if largest >= 10 * s), (1.0, ""))
    decimals = max(0, -math.floor(math.log10(step / scale) + 1e-9))
    return [f"{mark / scale + 0.0:.{decimals}f}{suffix}" if mark else "0" for mark in marks]
