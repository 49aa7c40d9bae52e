"""Content of a job's page, from the store; while the job runs, from the files that its attempts have sent so far."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from simyard.core.artifacts import EPISODES, METRICS, TELEMETRY, shown_as
from simyard.core.specs import JobSpec
from simyard.runner.rl import get_library
from simyard.service.charts import Curve
from simyard.service.prefect_api import Launches
from simyard.service.status import artifact_key, job_standing
from simyard.store.keys import JobKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.metrics.table import choose_curves
from simyard.tasks.shared import history
from simyard.tasks.shared.history import PastAttempt, load_spec
from simyard.tasks.shared.logs import last_lines

LOG_LINES = 40
MAX_READ_BYTES = 16_000_000
"""A table larger than this is not read for a page: it is there to be fetched."""
_UNITS = (("fps", "steps/s"), ("length", "steps"), ("collection_time", "s"), ("learning_time", "s"))
"""Units of what libraries log, by a part of the tag; everything else has none."""
_MACHINE = (
    ("cpu_percent", "CPU", "%", 1.0),
    ("memory_bytes", "memory", "GB", 1e-9),
    ("gpu_percent", "GPU", "%", 1.0),
    ("gpu_memory_bytes", "GPU memory", "GB", 1e-9),
    ("gpu_power_watts", "GPU power", "W", 1.0),
    ("gpu_temperature_c", "GPU temperature", "°C", 1.0),
)
"""Columns of telemetry.csv: title, unit, and what a number is multiplied by."""

Rows = list[dict[str, str]]
Link = Callable[[str, str], str]
"""From the key and the name of an object to the address it is fetched by."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look at a job."""

    spec: JobSpec
    standing: dict[str, Any]
    """As the API tells it."""
    attempts: list[PastAttempt]
    curves: list[Curve]
    """Curves of a training's log, or of an evaluation of several checkpoints."""
    machine: list[Curve]
    """Curves of the newest attempt's use of the machine."""
    logs: dict[str, list[str]]
    """The last lines of the newest attempt's logs; of those that have any."""
    episodes: Rows
    """Rows of `episodes.csv`."""
    links: dict[str, str]
    """Address of each artifact, by its name."""
    skipped: list[str]
    """Artifacts that are too large to be shown here."""


def look(store: Store, job_id: str, launches: Launches, link: Link) -> Look:
    """Return the content of a job's page.

    Raises:
        RequestError: There is no such job.
    """
    spec = load_spec(store, job_id)
    standing = job_standing(store, job_id, launches)
    past = history.attempts(store, job_id)
    reading = _Reading(store, JobKeys(job_id), standing, past)
    drawn = _training_curves(spec, reading) if spec.kind == "train" else _sweep(standing["summary"])
    machine = reading.newest(TELEMETRY.name)
    names = [row.name for row in shown_as("log")]
    logs = {name: last_lines(store, job_id, past[-1].number, name, LOG_LINES) for name in names} if past else {}
    return Look(
        spec=spec,
        standing=standing,
        attempts=past,
        curves=drawn,
        machine=_machine_curves(machine),
        logs={name: lines for name, lines in logs.items() if lines},
        episodes=reading.artifact(EPISODES.name),
        links={
            entry["name"]: link(artifact_key(job_id, entry["name"]), entry["name"]) for entry in standing["artifacts"]
        },
        skipped=reading.skipped,
    )


class _Reading:
    """Reads tables of a job, and remembers which are too large."""

    def __init__(self, store: Store, job: JobKeys, standing: dict[str, Any], past: list[PastAttempt]) -> None:
        self._store = store
        self._job = job
        self._kept = {entry["name"] for entry in standing["artifacts"]}
        self._past = past
        self.skipped: list[str] = []

    def artifact(self, name: str) -> Rows:
        """Return the rows of what the job has kept."""
        return self._rows(self._job.artifact(name), name) if name in self._kept else []

    def newest(self, name: str) -> Rows:
        """Return the rows of what the newest attempt has sent."""
        return self._rows(self._past[-1].keys.file(name), name) if self._past else []

    def of_all(self, name: str) -> Rows:
        """Return the rows of all attempts, as far as a later one has not taken over; or what was made of them."""
        if name in self._kept:
            return self.artifact(name)
        rows: Rows = []
        for attempt, _ in history.chain(self._past):
            if new := self._rows(attempt.keys.file(name), name):
                first = int(new[0]["step"])
                rows = [row for row in rows if int(row["step"]) < first] + new
        return rows

    def _rows(self, key: str, name: str) -> Rows:
        try:
            if self._store.stat(key).size_bytes > MAX_READ_BYTES:
                self.skipped.append(name)
                return []
            return list(csv.DictReader(self._store.get_bytes(key).decode().splitlines()))
        except KeyNotFound:
            return []


def _training_curves(spec: JobSpec, reading: _Reading) -> list[Curve]:
    rows = reading.of_all(METRICS.name)
    tags = [tag for tag in (rows[-1] if rows else {}) if tag not in ("step", "wall_time")]
    chosen = choose_curves(tags, get_library(spec.library).reward_tag)
    found = [Curve(title=tag, unit=_unit(tag), axis="step", points=_points(rows, "step", tag)) for tag in chosen]
    return [curve for curve in found if curve.points]


def _sweep(summary: dict[str, Any] | None) -> list[Curve]:
    """Return the figures of several checkpoints over the iterations that they had seen."""
    several = (summary or {}).get("sweep") or []
    measured = {
        "mean return": [(one["checkpoint"]["iteration"], one["return"]["mean"]) for one in several],
        "success rate": [(one["checkpoint"]["iteration"], one["success"]["rate"]) for one in several],
    }
    found = {title: [point for point in points if None not in point] for title, points in measured.items()}
    return [
        Curve(title=title, axis="iteration of the checkpoint", points=points)
        for title, points in found.items()
        if points
    ]


def _machine_curves(rows: Rows) -> list[Curve]:
    found = [
        Curve(title=title, unit=unit, axis="s", points=[(x, y * scale) for x, y in _points(rows, "time_s", column)])
        for column, title, unit, scale in _MACHINE
    ]
    return [curve for curve in found if curve.points]


def _points(rows: Iterable[dict[str, str]], axis: str, column: str) -> list[tuple[float, float]]:
    points = [(float(row[axis]), float(row[column])) for row in rows if row.get(column)]
    return [point for point in points if math.isfinite(point[1])]


def _unit(tag: str) -> str:
    return next((unit for word, unit in _UNITS if word in tag.lower()), "")


def as_json(value: Any) -> str:
    """Return JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)
