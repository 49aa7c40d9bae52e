"""The file format of metrics.csv."""

from __future__ import annotations

import re
import struct
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from simyard.core.files import replacing
from simyard.tasks.metrics.events import Series

AXIS = ("step", "wall_time")
"""The first two columns of every table."""


def write_columns(path: Path, columns: Mapping[str, Series]) -> None:
    """Write columns that are sorted by step, whole or not at all; raise OSError when that fails."""
    walls = _walls(columns.values())
    axis = array("q", sorted(walls))
    cells = [list(map(str, axis)), [repr(walls[step]) for step in axis]]
    for series in columns.values():
        column = cells_of(series)
        if series.steps != axis:
            by_step = dict(zip(series.steps, column, strict=True))
            column = [by_step.get(step, "") for step in axis]
        cells.append(column)
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        file.write(_header_line(columns))
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
    return short if "." in text and _float32(short) == _float32(text) else text


def _float32(text: str) -> bytes:
    return struct.pack("<f", float(text))


def _header_line(names: Iterable[str]) -> str:
    return ",".join([*AXIS, *map(_quoted, names)]) + "\n"


def _quoted(name: str) -> str:
    # csv.writer leaves a carriage return bare, which csv.reader then takes for the end of the line.
    return '"' + name.replace('"', '""') + '"' if re.search(r'[",\r\n]', name) else name
