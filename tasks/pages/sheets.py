"""Tables that jobs leave, read in bounded pieces: files of workloads, which may be large, or no tables at all."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from simyard.store.store import KeyNotFound, Store
from simyard.tasks.metrics.table import AXIS, STAGE
from simyard.tasks.pages.charts import Points

MAX_READ_BYTES = 16_000_000
"""A table larger than this is not read for a page: it is there to be fetched."""
MAX_ROWS_READ = 20_000
"""Of a longer table every second, third … row is read; a chart has fewer points than that anyway."""
MOST_ROWS = 200
"""Shown of a table; the files have all."""
MOST_BORDERS = 50
"""Stages of a training that a chart shows."""
LONGEST = 200
"""Characters of a name or a cell that are shown."""
_GREATEST = 1e300
"""Numbers beyond this are none that a chart can hold: the difference of two may be infinite."""
_UNITS = (("fps", "steps/s"), ("length", "steps"), ("collection_time", "s"), ("learning_time", "s"))
"""Units of what libraries log, by a part of the tag; everything else has none."""


@dataclass(kw_only=True)
class Faults:
    """Files that are shown in part, or not at all."""

    too_large: set[str] = field(default_factory=set)
    """Names of files that were not read."""
    damaged: set[str] = field(default_factory=set)
    """Names of files in which something was no table of numbers."""


@dataclass(frozen=True)
class Sheet:
    """The rows of a table that were read."""

    name: str
    names: list[str]
    """Of the columns."""
    rows: list[list[str]]
    row_count: int
    """Rows that there are."""
    faults: Faults

    def borders(self) -> list[tuple[float, str]]:
        """Return the steps at which a stage of a training begins, with its name."""
        if STAGE not in self.names or "step" not in self.names:
            return []
        where, across = self.names.index(STAGE), self.names.index("step")
        found: list[tuple[float, str]] = []
        for row in self.rows:
            if len(row) > max(where, across) and row[where] and (not found or row[where] != found[-1][1]):
                with suppress(ValueError):
                    found.append((float(row[across]), row[where]))
        return [(step, name[:LONGEST]) for step, name in found if abs(step) < _GREATEST][:MOST_BORDERS]

    def points(self, axis: str, column: str) -> Points:
        """Return the numbers of two columns, row by row; cells that are none are left out, and noted if not empty."""
        if axis not in self.names or column not in self.names:
            return []
        across, up = self.names.index(axis), self.names.index(column)
        points: Points = []
        for row in self.rows:
            if len(row) <= max(across, up) or not row[up]:
                continue
            try:
                x, y = float(row[across]), float(row[up])
            except ValueError:
                self.faults.damaged.add(self.name)
                continue
            if abs(x) < _GREATEST and abs(y) < _GREATEST:  # NaN is not
                points.append((x, y))
        return points


def read(store: Store, key: str, name: str, faults: Faults, size: int | None = None) -> Sheet | None:
    """Return the rows of a table, the first and the last among them; None where there is none, or none to show.

    Args:
        store: Its store.
        key: The table.
        name: For people.
        faults: Notes what cannot be shown.
        size: Bytes that it has; None asks the store.
    """
    try:
        if (store.stat(key).size_bytes if size is None else size) > MAX_READ_BYTES:
            faults.too_large.add(name)
            return None
        lines = store.get_bytes(key).split(b"\n")
    except KeyNotFound:
        return None
    count = len(lines)
    stride = math.ceil(count / MAX_ROWS_READ)

    def texts() -> Iterator[str]:
        for number in range(count):
            if number <= MOST_ROWS or number % stride == 0 or number >= count - 2:
                yield lines[number].decode(errors="replace") + "\n"

    names: list[str] = []
    rows: list[list[str]] = []
    try:
        reader = csv.reader(texts())
        names = next(reader, [])
        rows = [row for row in reader if row]
    except csv.Error:
        faults.damaged.add(name)
    if any(len(row) != len(names) for row in rows):
        faults.damaged.add(name)
    return Sheet(name, names, rows, max(0, count - 1 - (not lines[-1])), faults)


def unit_of(tag: str) -> str:
    """Return the unit of a column; empty for one that has none."""
    return next((unit for word, unit in _UNITS if word in tag.lower()), "")


def tags_of(sheets: Sequence[Sheet]) -> list[str]:
    """Return the columns of a training's newest table that may be drawn."""
    return [tag for tag in sheets[-1].names if tag not in (*AXIS, STAGE)] if sheets else []


def joined(sheets: Sequence[Sheet], tag: str) -> Points:
    """Return a training's points of a column, from the tables of its attempts: what a later one made again counts."""
    points: Points = []
    for sheet in sheets:
        first = next((step for step, _ in sheet.points("step", "step")), math.inf)
        points = [point for point in points if point[0] < first] + sheet.points("step", tag)
    return points
