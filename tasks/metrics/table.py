"""Metrics of a run, from its event files: metrics.csv, one row a step, the facts of metrics.json, and the curves.

Nothing is sampled and no folder is left out. Standard library alone, save for drawing, and fast enough to be run every
few seconds: the columns stay arrays until they are written, and whole columns go through one C call wherever there is
one.
"""

from __future__ import annotations

import math
import operator
import re
import struct
import threading
from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

from simyard.core.files import replacing
from simyard.tasks.metrics.events import EventReader, Series, find_event_files

AXIS = ("step", "wall_time")
"""The first two columns of every table."""
STAGE = "stage"
"""The third one, of a training in stages."""

# Loss/value_function, train/loss, losses/c_loss, train/value_loss; a column's name may end in its folder.
_LOSS = re.compile(r"(^|/)\s*loss|loss($| \[)", re.IGNORECASE)
EVALUATED, LOW, HIGH = "Evaluation/", "Evaluation/low/", "Evaluation/high/"
"""Beginnings of the columns of evaluations while training went on, and of the ends of their 95 % intervals."""
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


class Border(NamedTuple):
    """The beginning of a stage."""

    step: int
    """The first step in it."""
    name: str


class Point(TypedDict):
    """A value of a column, and the first step that reaches it; both null where it has no finite value."""

    step: int | None
    value: float | None


class Best(Point):
    """The lowest value of a loss, else the highest."""

    mode: Literal["min", "max"]


class Facts(TypedDict):
    """Facts of a column in `metrics.json`; values that are not finite are none of them."""

    count: int
    final: Point
    """The value of the last step, null when it is not finite."""
    min: Point
    max: Point
    best: Best


class MetricsTable:
    """All scalars of a run: one row a step, one column a tag.

    When a tag was written twice at a step, the scalar with the later wall time counts. Tags that end in `/time` have
    seconds for a step (rsl_rl logs them so); they go to a table of their own.
    """

    def __init__(self) -> None:
        self._series: dict[tuple[str, str], Series] = {}

    def add(self, folder: str, new: Mapping[str, Series], step_offset: int = 0, seconds_offset: int = 0) -> None:
        """Append the series that a reader returned.

        Args:
            folder: Where the event file lies, as it may appear in a column's name.
            new: Scalars by tag.
            step_offset: Added to every step, save those of `/time` tags.
            seconds_offset: Added to the steps of `/time` tags, which are seconds.
        """
        for tag, series in new.items():
            offset = seconds_offset if is_time(tag) else step_offset
            self._series.setdefault((tag, folder), Series()).extend(_shifted(series, offset) if offset else series)

    def put(self, columns: Mapping[str, Series]) -> None:
        """Have these columns in the place of those of the same tags that were put before."""
        self._series.update({(tag, ""): series for tag, series in columns.items()})

    def latest(self, tag: str) -> float | None:
        """Return the value of a tag that has the latest wall time in any folder, or None."""
        ends = [(s.walls[-1], s.values[-1]) for (name, _), s in self._series.items() if name == tag and s.values]
        return max(ends, key=operator.itemgetter(0))[1] if ends else None

    def columns(self) -> dict[str, Series]:
        """Return the columns by name, each sorted by step with one value a step; `/time` tags are not among them.

        A tag found in several folders keeps its name in the first of them and is `tag [folder]` in the others. The
        columns are the table's own: they are to be read, not changed.
        """
        return self._columns(time=False)

    def time_columns(self) -> dict[str, Series]:
        """Return the columns of the `/time` tags; their steps are seconds."""
        return self._columns(time=True)

    def write_csv(self, path: Path, borders: Sequence[Border] | None = None) -> None:
        """Write the table: `step`, `wall_time` in seconds since 1970, `stage` where there are any, the tags, sorted.

        An absent value is an empty cell. A float32 is written with the nine digits that give it back exactly, or
        fewer when they do. The file appears whole or not at all.

        Raises:
            OSError: The file cannot be written.
        """
        write_columns(path, self.columns(), borders)

    def write_time_csv(self, path: Path) -> bool:
        """Write the `/time` tags likewise; write no file and return False when there are none.

        Raises:
            OSError: The file cannot be written.
        """
        columns = self.time_columns()
        if columns:
            write_columns(path, columns)
        return bool(columns)

    def summary(self) -> dict[str, Facts]:
        """Return the facts of each column of metrics.csv, as strictly valid JSON."""
        return {name: _facts(name, series) for name, series in self.columns().items()}

    def _columns(self, *, time: bool) -> dict[str, Series]:
        columns: dict[str, Series] = {}
        for (tag, folder), series in sorted(self._series.items(), key=operator.itemgetter(0)):
            if is_time(tag) == time:
                name = tag
                while name in columns or name in (*AXIS, STAGE):
                    name = f"{name} [{folder}]"
                columns[name] = _by_step(series)
        return columns


class LiveMetrics:
    """The metrics of a run that is still going: call `update` every few seconds.

    A call looks once at each file below the root and reads only the bytes that are new.
    """

    def __init__(self, root: Path, step_offset: int = 0, folder: Callable[[Sequence[str]], str] = "/".join) -> None:
        self.root = root
        self.folder = folder
        """From the parts of a file's folder below the root to the name that columns may have."""
        self.step_offset = step_offset
        self.table = MetricsTable()
        """Everything read so far."""
        self._readers: dict[Path, EventReader] = {}

    def update(self) -> bool:
        """Read additions to event files, old and new; return whether there were any."""
        arrived = False
        for path in find_event_files(self.root):
            reader = self._readers.setdefault(path, EventReader(path))
            if new := reader.read_new():
                self.table.add(self.folder(path.parent.relative_to(self.root).parts), new, self.step_offset)
                arrived = True
        return arrived

    def latest(self, tag: str) -> float | None:
        """Return the newest value of a tag, or None when it was not logged yet."""
        return self.table.latest(tag)

    @property
    def errors(self) -> dict[Path, str]:
        """Files that could not be read to their end, and why."""
        return {path: reader.error for path, reader in self._readers.items() if reader.error is not None}


def folder_of(parts: Sequence[str]) -> str:
    """Return a folder of events as columns may name it: one for all runs of a job, which have the same tags.

    `rsl_rl/cartpole/2026-01-01_10-00-00/rank_1` is `rsl_rl/rank_1`.
    """
    return "/".join([*parts[:1], *parts[3:]])


def is_time(tag: str) -> bool:
    """Return whether a tag's steps are seconds since its process began, as rsl_rl and rl_games log some."""
    return tag.endswith("/time")


def _shifted(series: Series, offset: int) -> Series:
    # Clamped, for a damaged record may hold any step and must not end the run.
    steps = array("q", (min(max(step + offset, _INT64_MIN), _INT64_MAX) for step in series.steps))
    return Series(steps, series.walls, series.values, series.wide)


def _by_step(series: Series) -> Series:
    steps = series.steps
    if all(map(operator.lt, steps, islice(steps, 1, None))):
        return series
    # Equal steps come in the order of their wall times, and a dict keeps the last.
    rows = sorted(zip(steps, series.walls, series.values, strict=True), key=operator.itemgetter(0, 1))
    last = {step: (wall, value) for step, wall, value in rows}
    walls, values = zip(*last.values(), strict=True)
    return Series(array("q", last), array("d", walls), array("d", values), series.wide)


def _facts(name: str, series: Series) -> Facts:
    finite = _finite(series)
    lowest, highest = _extreme(finite, min), _extreme(finite, max)
    last = Series(series.steps[-1:], values=series.values[-1:], wide=series.wide)
    return {
        "count": len(series.values),
        "final": {"step": last.steps[0], "value": _extreme(_finite(last), max)["value"]},
        "min": lowest,
        "max": highest,
        "best": {**lowest, "mode": "min"} if _LOSS.search(name) else {**highest, "mode": "max"},
    }


def _finite(series: Series) -> Series:
    if math.isfinite(sum(series.values)):
        return series
    kept = [(step, value) for step, value in zip(series.steps, series.values, strict=True) if math.isfinite(value)]
    steps, values = (step for step, _ in kept), (value for _, value in kept)
    return Series(array("q", steps), values=array("d", values), wide=series.wide)


def _extreme(series: Series, choose: Callable[[Iterable[float]], float]) -> Point:
    if not series.values:
        return {"step": None, "value": None}
    value = choose(series.values)
    # Through the cell, so that metrics.json and metrics.csv hold the same digits.
    cell = cells_of(Series(values=array("d", [value]), wide=series.wide))[0]
    return {"step": series.steps[series.values.index(value)], "value": float(cell)}


# --- the file ---------------------------------------------------------------------------------------------------------


def write_columns(path: Path, columns: Mapping[str, Series], borders: Sequence[Border] | None = None) -> None:
    """Write columns that are sorted by step, whole or not at all; raise OSError when that fails."""
    walls = _walls(columns.values())
    axis = array("q", sorted(walls))
    names, cells = [*AXIS], [list(map(str, axis)), [repr(walls[step]) for step in axis]]
    if borders is not None:
        begins = [border.step for border in borders]
        places = (bisect_right(begins, step) for step in axis)
        cells.append([borders[place - 1].name if place else "" for place in places])
        names.append(STAGE)
    for series in columns.values():
        column = cells_of(series)
        if series.steps != axis:
            by_step = dict(zip(series.steps, column, strict=True))
            column = [by_step.get(step, "") for step in axis]
        cells.append(column)
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        file.write(",".join([*names, *map(_quoted, columns)]) + "\n")
        file.writelines(f"{','.join(row)}\n" for row in zip(*cells, strict=True))


def _walls(columns: Iterable[Series]) -> dict[int, float]:
    """Return the latest wall time of each step."""
    groups: dict[bytes, list[Series]] = defaultdict(list)
    for series in columns:
        groups[series.steps.tobytes()].append(series)
    latest: dict[int, float] = {}
    # Tags are logged together, so a few groups share their steps: one dict entry for all of a group.
    for group in groups.values():
        walls: Iterable[float] = group[0].walls
        for series in group[1:]:
            walls = map(max, walls, series.walls)
        for step, wall in zip(group[0].steps, walls, strict=True):
            if step not in latest or wall > latest[step]:
                latest[step] = wall
    return latest


def cells_of(series: Series) -> list[str]:
    """Return the values as text that gives them back exactly: as float32, or as float64 when `wide`."""
    if series.wide:
        return list(map(repr, series.values))
    texts = ("%.9g " * len(series.values) % tuple(series.values)).split()
    return [_tidy(text) if "0000" in text or "9999" in text else text for text in texts]


@lru_cache(maxsize=4096)
def _tidy(text: str) -> str:
    """Shorten the nine digits of a float32 when six give the same number: 0.00100000005 is 0.001."""
    short = f"{float(text):.6g}"
    same = struct.pack("<f", float(short)) == struct.pack("<f", float(text))
    return short if "." in text and same else text


def _quoted(name: str) -> str:
    # csv.writer leaves a carriage return bare, which csv.reader then takes for the end of the line.
    return '"' + name.replace('"', '""') + '"' if re.search(r'[",\r\n]', name) else name


# --- curves -----------------------------------------------------------------------------------------------------------

_SHOWN = ("reward", "episode_length", "ep_len", "total timesteps (mean)", "episode_lengths", "success", "loss", "std")
MOST = 9
"""Charts of one job."""
_WIDE, _HIGH, _TITLE = 4.6, 3.0, 0.4
"""Inches of a chart with its labels, and of the title above all."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.65, 0.15, 0.3, 0.45
"""Inches between a chart's frame and the end of what belongs to it."""
_NAME = 14
"""Characters of a stage's name in a chart."""
_FAR = 1e300
"""The largest value in a frame: its width is a number too."""


def import_plotting() -> None:
    """Import matplotlib, a second of work, on a thread of its own: a simulator is starting meanwhile."""
    modules = ("matplotlib.figure", "matplotlib.backends.backend_agg")
    threading.Thread(target=lambda: [import_module(name) for name in modules], daemon=True).start()


def choose_curves(tags: Iterable[str], reward_tag: str) -> list[str]:
    """Return the tags to draw: the reward, what was evaluated, then lengths, success, losses and the deviation."""
    tags = [tag for tag in tags if not tag.startswith((LOW, HIGH))]
    first = [tag for tag in tags if tag == reward_tag] + [tag for tag in tags if tag.startswith(EVALUATED)][::-1]
    return list(dict.fromkeys([*first, *(tag for word in _SHOWN for tag in tags if word in tag.lower())]))[:MOST]


def draw_curves(
    columns: Mapping[str, Series], reward_tag: str, title: str, path: Path, borders: Sequence[Border] = ()
) -> bool:
    """Draw the curves that `choose_curves` picks, with a line and a name where a stage begins.

    A caller waits for them. Axes of Matplotlib's own, which lay out and format themselves, take ten times as long.

    Returns:
        False when there is nothing to draw.
    """
    chosen = choose_curves((tag for tag in columns if columns[tag].steps), reward_tag)
    if not chosen:
        return False
    from matplotlib.figure import Figure

    across = min(3, len(chosen))
    high = math.ceil(len(chosen) / across) * _HIGH + _TITLE
    figure = Figure(figsize=(_WIDE * across, high))
    inches = figure.dpi_scale_trans
    middle: dict[str, Any] = {"ha": "center", "va": "top", "transform": inches, "parse_math": False}
    figure.text(_WIDE * across / 2, high - 0.1, title, fontsize=12, **middle)
    for index, tag in enumerate(chosen):
        row, column = divmod(index, across)
        name = tag.removeprefix(EVALUATED)
        band = [columns[end + name] for end in (LOW, HIGH) if tag != name and end + name in columns]
        _draw_chart(figure, column * _WIDE, high - _TITLE - (row + 1) * _HIGH, tag, columns[tag], borders, band)
    figure.savefig(path, dpi=110)
    return True


def _draw_chart(
    figure: Any, left: float, bottom: float, tag: str, series: Series, borders: Sequence[Border], band: Sequence[Series]
) -> None:
    """Draw one curve with its frame and labels, and the band between two others.

    Args:
        figure: Where to draw.
        left: Inches from the figure's left side.
        bottom: Inches from below.
        tag: Name of the curve.
        series: The curve.
        borders: Beginnings of stages.
        band: Lowest and highest values at the curve's steps; none for no band.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Polygon
    from matplotlib.ticker import MaxNLocator
    from matplotlib.transforms import Affine2D

    # Where values go: the frame holds all that are finite, and a little more.
    x, y = left + _LEFT, bottom + _BOTTOM
    wide, high = _WIDE - _LEFT - _RIGHT, _HIGH - _TOP - _BOTTOM
    finite = [value for one in (series, *band) for value in _finite(one).values] or [0.0]
    (first, last), (low, top) = _widened(series.steps[0], series.steps[-1]), _widened(min(finite), max(finite))
    inches = figure.dpi_scale_trans
    place = Affine2D().translate(-first, -low).scale(wide / (last - first), high / (top - low)).translate(x, y) + inches

    # The frame, a line and a label for each round number, and the names.
    def line(xs: Any, ys: Any, **how: Any) -> None:
        figure.add_artist(Line2D(xs, ys, **{"color": "0.88", "linewidth": 0.8, "transform": inches, **how}))

    def text(at_x: float, at_y: float, said: str, **how: Any) -> None:
        how = {"fontsize": 8, "ha": "center", "va": "top", **how}
        figure.text(at_x, at_y, said, transform=inches, parse_math=False, **how)  # names are the users' own

    for value in MaxNLocator(4, integer=True).tick_values(first, last):
        if first <= value <= last:
            at = x + wide * (value - first) / (last - first)
            line([at, at], [y, y + high])
            text(at, y - 0.05, f"{value:.10g}")
    for value in MaxNLocator(4).tick_values(low, top):
        if low <= value <= top:
            at = y + high * (value - low) / (top - low)
            line([x, x + wide], [at, at])
            text(x - 0.05, at, f"{value:.6g}", ha="right", va="center")
    line([x, x + wide, x + wide, x, x], [y, y, y + high, y + high, y], color="black")
    text(x + wide / 2, y + high + 0.06, tag, fontsize=9, va="bottom")
    text(x + wide / 2, y - 0.22, "step")

    # Where stages begin.
    for border in borders:
        if first <= border.step <= last:
            at = x + wide * (border.step - first) / (last - first)
            line([at, at], [y, y + high], color="C1", linestyle="--")
            name = border.name if len(border.name) <= _NAME else f"{border.name[: _NAME - 1]}…"
            text(at + 0.03, y + high - 0.03, name, fontsize=7, ha="left", color="C1")

    # The curve.
    few = len(series.steps) < 3 or bool(band)
    if len(band) == 2:
        low_end, high_end = (list(zip(one.steps, one.values, strict=True)) for one in band)
        inside = Polygon([*low_end, *high_end[::-1]], closed=True, color="C0", alpha=0.2, linewidth=0, transform=place)
        figure.add_artist(inside)
    line(series.steps, series.values, color="C0", linewidth=1.5, marker="." if few else "", transform=place)


def _widened(low: float, high: float) -> tuple[float, float]:
    """Return bounds with a margin, which are never the same."""
    low, high = max(low, -_FAR), min(high, _FAR)
    margin = 0.05 * (high - low) or abs(high) * 0.05 or 0.5
    return low - margin, high + margin
