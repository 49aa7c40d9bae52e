"""A job's page: gathered from the store, then prepared as the values that templates/job.html.j2 shows.

While the job runs, it is made of the files that its attempts have sent so far.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from simyard.core.artifacts import CHECKPOINTS, EPISODES, METRICS, TELEMETRY, find, shown_as
from simyard.core.records import ArtifactEntry, JobResult
from simyard.core.specs import JobSpec
from simyard.runner.rl import get_library
from simyard.service.charts import Curve, Plot, plot
from simyard.service.prefect_api import Launches
from simyard.service.status import ENDED, JobAnswer, ManifestEntry, artifact_key, job_answer
from simyard.store.keys import JobKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.kinds import KINDS
from simyard.tasks.metrics.table import choose_curves
from simyard.tasks.shared import history
from simyard.tasks.shared.documents import DASH, Templates, interval, moment, shown, size, span
from simyard.tasks.shared.history import PastAttempt
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

RELOAD_MS = 3000
"""Milliseconds between two reloads of a live page."""
MOST_ROWS = 200
"""Of a table; the files have all."""
_BLAME = {
    "user": "The request, the task or the package is at fault; it is not tried again by itself.",
    "resource": "The job did not fit the machine; it is not tried again as it is.",
    "infra": "The machine, the driver or the network is at fault; the next attempt goes on from the last checkpoint.",
    "canceled": "Somebody stopped the job. What was saved is kept.",
}
_TITLES = {"train": "Training", "evaluate": "Evaluation", "export": "Export", "rollout": "Rollout"}
TEMPLATES = Templates(
    Path(__file__).parent / "templates",
    shown=shown,
    size=size,
    span=lambda seconds: shown(span(seconds)),
    percent=lambda rate: DASH if rate is None else f"{100 * rate:.1f} %",
    bounds=lambda bounds: DASH if bounds is None else interval(bounds),
)


def job_page(
    store: Store, job_id: str, launches: Launches, link: Link, nonce: str, until: str
) -> tuple[str, Collection[str]]:
    """Return the page of a job, and the addresses that it links to.

    Args:
        store: The job's store.
        job_id: The job.
        launches: Prefect, which knows work that has not begun.
        link: Returns the address of an object.
        nonce: Name of the page's style and script in its policy.
        until: Time at which the links of the page expire, for people.

    Raises:
        RequestError: There is no such job.
    """
    job = job_answer(store, job_id, launches)
    spec, known, summary, has_ended = job.spec, job.known, job.summary, job.status in ENDED
    past = history.attempts(store, job_id)
    tables = _Tables(store, job, past)

    # The table at the top.
    told = past[-1].facts if past else None
    timings = known.timings if isinstance(known, JobResult) else {}
    facts = [
        (KINDS[spec.kind].reward_name if has_ended else "reward so far", known.reward),
        ("environments", spec.num_envs),
        ("seed", str(spec.seed)),
        *([("library", spec.library)] if spec.library else []),
        ("simulator", f"{told.simulator} {told.version}" if told else None),
        ("device", told.device if told else None),
        ("attempts", known.attempts),
        ("sent", moment(spec.created_at)),
        ("last heartbeat", moment(known.updated_at)),
        *((name.removesuffix("_s"), span(seconds)) for name, seconds in timings.items()),
    ]

    # Curves of the training or the sweep, of the machine, and of the episodes where they are of one checkpoint.
    curves = _training_curves(spec, tables) if spec.kind == "train" else _sweep(summary)
    rows = tables.newest(TELEMETRY.name)
    machine = [
        Curve(title=title, unit=unit, axis="s", points=[(x, y * scale) for x, y in _points(rows, "time_s", column)])
        for column, title, unit, scale in _MACHINE
    ]
    episodes = tables.artifact(EPISODES.name)
    several = len({row["checkpoint"] for row in episodes}) > 1
    points = [] if several else _points(episodes, "episode", "return")
    returns = Curve(title="return", axis="episode", points=points, scattered=True)

    # The files; some are shown: videos, with why they were filmed, and the ends of logs.
    links = {entry.name: link(artifact_key(job_id, entry.name), entry.name) for entry in job.artifacts}
    videos = [name for name in links if (row := find(name)) and row.page == "video"]
    filmed = {video["file"]: video for video in summary.get("videos") or []}
    names = [row.name for row in shown_as("log")] if past else []
    logs = {name: last_lines(store, job_id, past[-1].number, name, LOG_LINES) for name in names}

    html = TEMPLATES.render(
        "job.html.j2",
        title=f"{spec.name}: {job.status}", nonce=nonce, reload_ms=None if has_ended else RELOAD_MS, until=until,
        spec=spec, job=job, known=known, summary=summary, facts=facts,
        kind_title=_TITLES.get(spec.kind, spec.kind),
        blame=_BLAME.get(job.failure.category, "") if job.failure else "",
        settings=json.dumps(spec.request, indent=2, ensure_ascii=False),
        attempts=[(attempt, _ending(attempt, is_newest=attempt is past[-1])) for attempt in past],
        curves=_plots(curves), machine=_plots(machine), returns=_plots([returns]),
        episodes=episodes, several=several,
        videos=[(name, filmed.get(name)) for name in videos],
        logs={name: lines for name, lines in logs.items() if lines}, log_lines=LOG_LINES,
        artifacts=_in_order(job.artifacts), links=links, skipped=tables.skipped, most_rows=MOST_ROWS,
    )  # fmt: skip
    return html, links.values()


def error_page(title: str, advice: str, nonce: str) -> str:
    """Return a page that says why there is no other."""
    return TEMPLATES.render("error.html.j2", title=title, advice=advice, nonce=nonce, reload_ms=None)


def _plots(curves: list[Curve]) -> list[Plot]:
    return [plot(curve) for curve in curves if curve.points]


def _in_order(entries: tuple[ArtifactEntry | ManifestEntry, ...]) -> list[ArtifactEntry | ManifestEntry]:
    """Return the artifacts: the three newest checkpoints, the other files, the older checkpoints."""
    saved = [entry for entry in entries if isinstance(entry, ArtifactEntry) and entry.kind == CHECKPOINTS.kind]
    saved.sort(key=lambda entry: entry.iteration or 0, reverse=True)
    others = [entry for entry in entries if entry.kind != CHECKPOINTS.kind]
    return [*saved[:3], *others, *saved[3:]]


def _ending(attempt: PastAttempt, *, is_newest: bool) -> str:
    if attempt.outcome is None:
        return "not ended yet" if is_newest else "ended without reporting an outcome"
    return attempt.failure.message if attempt.failure else attempt.outcome.status


class _Tables:
    """Reads tables of a job, and remembers which are too large."""

    def __init__(self, store: Store, job: JobAnswer, past: list[PastAttempt]) -> None:
        self._store = store
        self._job = JobKeys(job.spec.job_id)
        self._kept = {entry.name for entry in job.artifacts}
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


def _training_curves(spec: JobSpec, tables: _Tables) -> list[Curve]:
    rows = tables.of_all(METRICS.name)
    tags = [tag for tag in (rows[-1] if rows else {}) if tag not in ("step", "wall_time")]
    chosen = choose_curves(tags, get_library(spec.library).reward_tag)
    return [Curve(title=tag, unit=_unit(tag), axis="step", points=_points(rows, "step", tag)) for tag in chosen]


def _sweep(summary: dict[str, Any]) -> list[Curve]:
    """Return the figures of several checkpoints over the iterations that they had seen."""
    several = summary.get("sweep") or []
    measured = {
        "mean return": [(one["checkpoint"]["iteration"], one["return"]["mean"]) for one in several],
        "success rate": [(one["checkpoint"]["iteration"], one["success"]["rate"]) for one in several],
    }
    axis = "iteration of the checkpoint"
    found = {title: [point for point in points if None not in point] for title, points in measured.items()}
    return [Curve(title=title, axis=axis, points=points) for title, points in found.items()]


def _points(rows: Iterable[dict[str, str]], axis: str, column: str) -> list[tuple[float, float]]:
    points = [(float(row[axis]), float(row[column])) for row in rows if row.get(column)]
    return [point for point in points if math.isfinite(point[1])]


def _unit(tag: str) -> str:
    return next((unit for word, unit in _UNITS if word in tag.lower()), "")
