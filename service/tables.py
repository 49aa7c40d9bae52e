"""Tables of a job's page: what is drawn of them is made once a version, of a bounded number of rows, and kept.

A table is a file of a workload: it may be large, change every few seconds, or be no table at all.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from simyard.core.artifacts import EPISODES, METRICS, STAGES, TELEMETRY
from simyard.core.specs import JobSpec
from simyard.core.stages import MAX_BYTES, Stages
from simyard.runner.rl import get_library
from simyard.store.keys import JobKeys
from simyard.store.store import KeyNotFound, Stat, Store
from simyard.tasks.metrics.table import choose_curves
from simyard.tasks.pages.charts import Curve, Plot, plot
from simyard.tasks.pages.sheets import LONGEST, MOST_ROWS, Faults, Sheet, joined, read, tags_of, unit_of
from simyard.tasks.shared import history
from simyard.tasks.shared.history import PastAttempt

MOST_KEPT = 256
"""Drawings that are kept; each has nine charts of some hundred points at most."""
MADE_AT_ONCE = 4
"""Drawings; each holds its table in memory meanwhile."""
PAUSE = 20.0
"""Times as long as a reading took, until a table that has changed is read again."""
PAUSED_S = 0.1
"""Seconds of a reading up to which there is no such pause."""
_MACHINE = (
    ("cpu_percent", "CPU", "%", 1.0),
    ("memory_bytes", "memory", "GB", 1e-9),
    ("gpu_percent", "GPU", "%", 1.0),
    ("gpu_memory_bytes", "GPU memory", "GB", 1e-9),
    ("gpu_power_watts", "GPU power", "W", 1.0),
    ("gpu_temperature_c", "GPU temperature", "°C", 1.0),
)
"""Columns of telemetry.csv: title, unit, and what a number is multiplied by."""
_EPISODE = ("checkpoint", "episode", "return", "length", "ended", "term", "success")
"""Columns of episodes.csv that are shown."""


@dataclass(kw_only=True)
class Drawing(Faults):
    """Charts and rows of tables, as a page shows them."""

    plots: list[Plot] = field(default_factory=list)
    rows: list[dict[str, str]] = field(default_factory=list)
    """The first rows, of tables that are shown as such."""
    row_count: int = 0
    several: bool = False
    """Whether the rows are of several checkpoints."""


@dataclass(frozen=True)
class _Kept:
    version: tuple[tuple[int, datetime] | None, ...]
    drawing: Drawing
    until: float
    """Moment, by `time.monotonic()`, up to which it is good enough whatever has changed."""


class Drawings:
    """Drawings that were made of late."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, ...], _Kept] = OrderedDict()
        self._making = threading.BoundedSemaphore(MADE_AT_ONCE)

    def of(
        self, store: Store, keys: list[str], make: Callable[[], Drawing], there: Mapping[str, Stat] | None = None
    ) -> Drawing:
        """Return what was made of some objects, or make it anew where they have changed.

        Args:
            store: Their store.
            keys: Of the objects.
            make: Reads them.
            there: All objects that may be among them, where they were listed: then the store is not asked.
        """
        name = (store.url(), *keys)
        version = tuple(_version(store, key, there) for key in keys)
        if kept := self._current(name, version):
            return kept
        with self._making:
            if kept := self._current(name, version):  # made while this one waited
                return kept
            began = time.monotonic()
            drawing = make()
            took = time.monotonic() - began
            pause_s = PAUSE * took if took > PAUSED_S and any(version) else 0.0  # of nothing nothing was read
            self._kept[name] = _Kept(version, drawing, began + took + pause_s)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return drawing

    def _current(self, name: tuple[str, ...], version: tuple[tuple[int, datetime] | None, ...]) -> Drawing | None:
        kept = self._kept.get(name)
        if kept is None or (kept.version != version and time.monotonic() > kept.until):
            return None
        with suppress(KeyError):  # dropped at this moment
            self._kept.move_to_end(name)
        return kept.drawing


def _version(store: Store, key: str, there: Mapping[str, Stat] | None) -> tuple[int, datetime] | None:
    with suppress(KeyNotFound, KeyError):
        stat = store.stat(key) if there is None else there[key]
        return stat.size_bytes, stat.modified
    return None


class Tables:
    """Reads the tables of one job."""

    def __init__(
        self,
        store: Store,
        spec: JobSpec,
        kept: set[str],
        past: list[PastAttempt],
        drawings: Drawings,
        there: Mapping[str, Stat] | None = None,
    ) -> None:
        """Look at nothing yet.

        Args:
            store: The job's.
            spec: The job.
            kept: Names of its artifacts.
            past: Its attempts.
            drawings: Those made of late.
            there: Everything that the job has, where it was listed.
        """
        self._there = there
        self._store = store
        self._spec = spec
        self._job = JobKeys(spec.job_id)
        self._kept = kept
        self._past = past
        self._drawings = drawings

    def _read(self, key: str, name: str, drawing: Drawing) -> Sheet | None:
        if self._there is None:
            return read(self._store, key, name, drawing)
        return read(self._store, key, name, drawing, self._there[key].size_bytes) if key in self._there else None

    def training(self) -> Drawing:
        """Draw the curves of all attempts, as far as a later one has not taken over; or of what was made of them."""
        if METRICS.name in self._kept:
            keys = [self._job.artifact(METRICS.name)]
        else:
            keys = [attempt.keys.file(METRICS.name) for attempt, _ in history.chain(self._past)]

        def make() -> Drawing:
            drawing = Drawing()
            sheets = [sheet for key in keys if (sheet := self._read(key, METRICS.name, drawing))]
            borders = [border for sheet in sheets for border in sheet.borders()]
            for tag in choose_curves(tags_of(sheets), get_library(self._spec.library).reward_tag):
                title, unit, points = tag[:LONGEST], unit_of(tag), joined(sheets, tag)
                _add(drawing, Curve(title=title, unit=unit, axis="step", points=points, borders=borders))
            return drawing

        return self._drawings.of(self._store, keys, make, self._there)

    def stages(self) -> Stages | None:
        """Read how the stages of a training stand; None where it has none."""
        if not self._spec.stages or not self._past:
            return None
        is_kept = STAGES.name in self._kept
        key = self._job.artifact(STAGES.name) if is_kept else self._past[-1].keys.file(STAGES.name)
        with suppress(KeyNotFound):
            if self._store.stat(key).size_bytes <= MAX_BYTES:
                return Stages.read(self._store.get_bytes(key))
        return None

    def machine(self) -> Drawing:
        """Draw the machine's load in the newest attempt."""

        def make(key: str) -> Drawing:
            drawing = Drawing()
            if sheet := self._read(key, TELEMETRY.name, drawing):
                for column, title, unit, scale in _MACHINE:
                    points = [(x, y * scale) for x, y in sheet.points("time_s", column)]
                    _add(drawing, Curve(title=title, unit=unit, axis="s", points=points))
            return drawing

        if not self._past:
            return Drawing()
        key = self._past[-1].keys.file(TELEMETRY.name)
        return self._drawings.of(self._store, [key], lambda: make(key), self._there)

    def episodes(self) -> Drawing:
        """Show the episodes of an evaluation or a rollout, and draw their returns where they are of one checkpoint."""
        if EPISODES.name not in self._kept:
            return Drawing()
        key = self._job.artifact(EPISODES.name)

        def make() -> Drawing:
            drawing = Drawing()
            if sheet := self._read(key, EPISODES.name, drawing):
                drawing.row_count = sheet.row_count
                rows = (dict(zip(sheet.names, row, strict=False)) for row in sheet.rows[:MOST_ROWS])
                drawing.rows = [{name: row.get(name, "")[:LONGEST] for name in _EPISODE} for row in rows]
                where = sheet.names.index("checkpoint") if "checkpoint" in sheet.names else len(sheet.names)
                drawing.several = len({row[where] for row in sheet.rows if len(row) > where}) > 1
                if not drawing.several:
                    points = sheet.points("episode", "return")
                    _add(drawing, Curve(title="return", axis="episode", points=points, scattered=True))
            return drawing

        return self._drawings.of(self._store, [key], make, self._there)


def _add(drawing: Drawing, curve: Curve) -> None:
    if curve.points:
        drawing.plots.append(plot(curve))
