"""A job's page: gathered from the store, then prepared as the values that templates/job.html.j2 shows.

While the job runs, it is made of the files that its attempts have sent so far.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simyard.core.artifacts import CHECKPOINTS, EPISODES, METRICS, TELEMETRY, find, shown_as
from simyard.core.specs import JobSpec
from simyard.runner.rl import get_library
from simyard.service.charts import Curve, plot
from simyard.service.prefect_api import Launches
from simyard.service.status import ENDED, artifact_key, job_standing
from simyard.store.keys import JobKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.kinds import KINDS
from simyard.tasks.metrics import curves
from simyard.tasks.shared import history
from simyard.tasks.shared.history import PastAttempt, load_spec
from simyard.tasks.shared.logs import last_lines
from simyard.tasks.shared.templates import Templates
from simyard.tasks.shared.text import DASH, interval, moment, shown, size, span

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
    percent=lambda rate: DASH if rate is None else f"{100 * rate:.1f} %",
    bounds=lambda bounds: DASH if bounds is None else interval(bounds),
)


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
    chosen = curves.choose(tags, get_library(spec.library).reward_tag)
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


def job_page(view: Look, nonce: str, until: str) -> str:
    """Return the page.

    Args:
        view: What to show.
        nonce: What the page's policy knows its style and script by.
        until: How long the links of the page are good, for people.
    """
    spec, standing = view.spec, view.standing
    failure, status = standing["failure"], standing["status"]
    return TEMPLATES.render(
        "job.html.j2",
        title=f"{spec.name}: {status}",
        nonce=nonce,
        reload_ms=None if status in ENDED else RELOAD_MS,
        until=until,
        view=view,
        kind_title=_TITLES.get(spec.kind, spec.kind),
        blame=_BLAME.get(failure["category"], "") if failure else "",
        facts=_facts(view),
        settings=json.dumps(spec.request, indent=2, ensure_ascii=False),
        attempts=[_attempt(attempt, is_newest=attempt is view.attempts[-1]) for attempt in view.attempts],
        videos=_videos(view),
        curves=[plot(curve) for curve in view.curves],
        episodes=_episodes(view),
        log_lines=LOG_LINES,
        machine=[plot(curve) for curve in view.machine],
        artifacts=_in_order(standing["artifacts"]),
        most_rows=MOST_ROWS,
    )


def error_page(title: str, advice: str, nonce: str) -> str:
    """Return a page that says why there is no other."""
    return TEMPLATES.render("error.html.j2", title=title, advice=advice, nonce=nonce, reload_ms=None)


def _facts(view: Look) -> list[tuple[str, Any]]:
    """Return names and values of the table at the top."""
    spec, standing = view.spec, view.standing
    known = view.attempts[-1].facts if view.attempts else None
    return [
        (KINDS[spec.kind].reward_name if standing["status"] in ENDED else "reward so far", standing["reward"]),
        ("environments", spec.num_envs),
        ("seed", str(spec.seed)),
        *([("library", spec.library)] if spec.library else []),
        ("simulator", f"{known.simulator} {known.version}" if known else None),
        ("device", known.device if known else None),
        ("attempts", standing["attempt_count"]),
        ("sent", moment(spec.created_at)),
        ("last heartbeat", moment(standing["updated_at"])),
        *((name.removesuffix("_s"), span(seconds)) for name, seconds in (standing["timings"] or {}).items()),
    ]


def _attempt(attempt: PastAttempt, *, is_newest: bool) -> dict[str, Any]:
    """Return a row of the table of attempts."""
    known = attempt.latest
    if attempt.outcome is None:
        ending = "not ended yet" if is_newest else "ended without reporting an outcome"
    else:
        ending = attempt.failure.message if attempt.failure else attempt.outcome.status
    return {
        "number": attempt.number,
        "start": known.start_iteration if known else None,
        "done": known.done if known else None,
        "took": span(attempt.timings.get("total_s")),
        "ending": ending,
    }


def _videos(view: Look) -> list[tuple[str, dict[str, Any] | None]]:
    """Return each video's name, and what the summary says of it."""
    told = {video["file"]: video for video in (view.standing["summary"] or {}).get("videos") or []}
    rows = {entry["name"]: find(entry["name"]) for entry in view.standing["artifacts"]}
    names = [name for name, row in rows.items() if row and row.page == "video"]
    return [(name, told.get(name)) for name in names]


def _episodes(view: Look) -> dict[str, Any] | None:
    """Return the rows of the table of episodes, and the plot of their returns where they are of one checkpoint."""
    if not view.episodes:
        return None
    several = len({row["checkpoint"] for row in view.episodes}) > 1
    points = [(float(row["episode"]), float(row["return"])) for row in view.episodes if row["return"]]
    returns = Curve(title="return", axis="episode", points=points, scattered=True)
    return {
        "rows": view.episodes[:MOST_ROWS],
        "count": len(view.episodes),
        "more": len(view.episodes) - MOST_ROWS,
        "several": several,
        "plots": [] if several else [plot(returns)],
    }


def _in_order(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the artifacts: the three newest checkpoints, the other files, the older checkpoints."""
    files = [entry for entry in entries if entry["kind"] != CHECKPOINTS.kind]
    saved = [entry for entry in entries if entry["kind"] == CHECKPOINTS.kind]
    saved.sort(key=lambda entry: entry.get("iteration") or 0, reverse=True)
    return [*saved[:3], *files, *saved[3:]]
