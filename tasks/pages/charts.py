"""Small line charts: axes with ticks and units, and gaps where nothing was measured; charts.html.j2 draws them.

A `Plot` has one curve, an `Overlay` those of several jobs with the same axes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from simyard.tasks.shared.documents import shown

_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 32
MOST_POINTS = 400
"""A curve of more is thinned: the least and the greatest of every few are kept, so that no peak is lost."""
MOST_PIECES = 40
"""A line with more gaps than that leads over all of them: nobody could tell them apart."""
_FEWEST = 60
"""Points that a curve of an overlay has at least, of however many jobs it is."""
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


class _Axes:
    """The mapping from numbers to positions in a drawing, which holds all points and a little more."""

    def __init__(self, points: Iterable[tuple[float, float]]) -> None:
        xs, ys = zip(*points, strict=True)
        self.left, self.right = _bounds(min(xs), max(xs), whole=True)
        self.low, self.high = _bounds(min(ys), max(ys))

    def x(self, x: float) -> float:
        """Return the position of a number on the horizontal axis."""
        return round(_LEFT + (x - self.left) / (self.right - self.left) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, y: float) -> float:
        """Return the position of a number on the vertical axis."""
        return round(_HEIGHT - _BOTTOM - (y - self.low) / (self.high - self.low) * (_HEIGHT - _TOP - _BOTTOM), 1)

    def line(self, points: Iterable[tuple[float, float]]) -> str:
        """Return points as SVG writes them."""
        return " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)

    def x_ticks(self) -> list[tuple[float, str]]:
        """Return position and label of each tick of the horizontal axis."""
        return [(self.x(tick), label) for tick, label in _ticks(self.left, self.right)]

    def y_ticks(self) -> list[tuple[float, str]]:
        """Return position and label of each tick of the vertical axis."""
        return [(self.y(tick), label) for tick, label in _ticks(self.low, self.high)]


def plot(curve: Curve) -> Plot:
    """Lay out a curve that has points."""
    axes = _Axes(curve.points)
    ys = [float(y) for _, y in curve.points]
    pieces = [[point] for point in thinned(curve.points)] if curve.scattered else _pieces(curve.points)
    unit = f" {curve.unit}" if curve.unit else ""
    last = f"{shown(ys[-1])}{unit}"
    return Plot(
        title=curve.title,
        note=curve.unit if curve.scattered else f"last {last}",
        label=f"{curve.title}: {shown(min(ys))} to {shown(max(ys))}{unit}, last {last}",
        axis=curve.axis,
        x_ticks=axes.x_ticks(),
        y_ticks=axes.y_ticks(),
        lines=[axes.line(thinned(piece)) for piece in pieces if len(piece) > 1],
        borders=[(axes.x(x), name) for x, name in curve.borders if axes.left <= x <= axes.right],
        dots=[(axes.x(x), axes.y(y)) for piece in pieces if len(piece) == 1 for x, y in piece],
    )


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The curve of one job in an overlay."""

    number: int
    """Place of the job among those compared: its colour."""
    lines: list[str]
    """The points of each unbroken line, as SVG writes them: of many points the mean of every few."""
    bands: list[str]
    """The outline of least and greatest of every few points; none where all points are drawn."""
    dots: list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """The curves of several jobs laid out for one drawing, as a `Plot` is."""

    title: str
    label: str
    axis: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    traces: list[Trace]
    lasts: list[tuple[int, str]]
    """Place of each job, and its last value."""
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    bottom: int = _HEIGHT - _BOTTOM


def overlay(title: str, axis: str, curves: Mapping[int, Points]) -> Overlay:
    """Lay out the curves of several jobs, each with points, by the place of the job.

    What the page has of a curve does not grow with its points, and all curves together have as many as a few alone.
    """
    axes = _Axes(point for points in curves.values() for point in points)
    most = max(_FEWEST, MOST_POINTS // len(curves))
    traces = []
    for number, points in curves.items():
        size = math.ceil(len(points) / most)
        lines, bands, dots = [], [], []
        for piece in _pieces(points):
            groups = [piece[first : first + size] for first in range(0, len(piece), size)]
            if len(groups) < 2 and len(piece) < 2:
                dots += [(axes.x(x), axes.y(y)) for x, y in piece]
                continue
            xs = [group[0][0] for group in groups[:-1]] + [groups[-1][-1][0]]
            lines.append(axes.line(zip(xs, [_mean(group) for group in groups], strict=True)))
            if size > 1:
                above = zip(xs, [max(y for _, y in group) for group in groups], strict=True)
                below = zip(xs, [min(y for _, y in group) for group in groups], strict=True)
                bands.append(axes.line([*above, *reversed(list(below))]))
        traces.append(Trace(number=number, lines=lines, bands=bands, dots=dots))
    lasts = [(number, shown(float(points[-1][1]))) for number, points in curves.items()]
    said = ", ".join(f"job {number + 1} last {last}" for number, last in lasts)
    return Overlay(
        title=title, label=f"{title}: {said}", axis=axis, x_ticks=axes.x_ticks(), y_ticks=axes.y_ticks(),
        traces=traces, lasts=lasts,
    )  # fmt: skip


def _mean(points: Points) -> float:
    return math.fsum(y / len(points) for _, y in points)


def _pieces(points: Points) -> list[Points]:
    """Return the lines that points make: one over all gaps where there are too many of them."""
    pieces = unbroken(points)
    return [points] if len(pieces) > MOST_PIECES else pieces


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


def _ticks(low: float, high: float) -> Iterator[tuple[float, str]]:
    """Yield round numbers between two ends, each with its label."""
    rough = (high - low) / 5
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
