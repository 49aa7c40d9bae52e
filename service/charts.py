"""Small line charts as SVG: axes with ticks and units, and gaps where nothing was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from simyard.service.html import Html, shown, tag

WIDTH, HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 32
MOST_POINTS = 400
"""A curve of more is thinned: the least and the greatest of every few are kept, so that no peak is lost."""
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
    """What the horizontal axis counts."""
    points: Points
    """In order of the axis; what was not measured has none."""
    scattered: bool = False
    """Whether points are drawn, not lines."""


def chart(curve: Curve) -> Html:
    """Return a figure of a curve that has points."""
    xs, ys = zip(*curve.points, strict=True)
    left, right = _bounds(min(xs), max(xs), whole=True)
    low, high = _bounds(min(ys), max(ys))
    unit = f" {curve.unit}" if curve.unit else ""

    def x_of(x: float) -> float:
        return round(_LEFT + (x - left) / (right - left) * (WIDTH - _LEFT - _RIGHT), 1)

    def y_of(y: float) -> float:
        return round(HEIGHT - _BOTTOM - (y - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM), 1)

    parts: list[Html] = []
    for tick, label in _ticks(low, high):
        y = y_of(tick)
        parts.append(tag("line", {"class": "grid", "x1": _LEFT, "x2": WIDTH - _RIGHT, "y1": y, "y2": y}))
        parts.append(tag("text", {"x": _LEFT - 5, "y": y + 3, "text-anchor": "end"}, label))
    bottom = HEIGHT - _BOTTOM
    for tick, label in _ticks(left, right):
        x = x_of(tick)
        parts.append(tag("line", {"class": "grid", "x1": x, "x2": x, "y1": bottom, "y2": bottom + 4}))
        parts.append(tag("text", {"x": x, "y": bottom + 15, "text-anchor": "middle"}, label))
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(tag("text", {"x": middle, "y": HEIGHT - 4, "text-anchor": "middle"}, curve.axis))
    pieces = [[point] for point in curve.points] if curve.scattered else unbroken(curve.points)
    for piece in pieces:
        if len(piece) == 1:
            (x, y) = piece[0]
            parts.append(tag("circle", {"class": "point", "cx": x_of(x), "cy": y_of(y), "r": 2}))
        else:
            line = " ".join(f"{x_of(x)},{y_of(y)}" for x, y in thinned(piece))
            parts.append(tag("polyline", {"class": "curve", "points": line}))
    last = f"{shown(float(ys[-1]))}{unit}"
    label = f"{curve.title}: {shown(float(min(ys)))} to {shown(float(max(ys)))}{unit}, last {last}"
    svg = tag("svg", {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": label}, *parts)
    says = unit.strip() if curve.scattered else f"last {last}"
    return tag("figure", None, tag("figcaption", None, tag("span", None, curve.title), tag("span", None, says)), svg)


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
