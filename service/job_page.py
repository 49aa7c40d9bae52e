"""A job's page: gathered from the store, then prepared as the values that templates/job.html.j2 shows.

While the job runs, it is made of the files that its attempts have sent so far.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from simyard.core.artifacts import CHECKPOINTS, METRICS, TELEMETRY, find, shown_as
from simyard.core.records import ArtifactEntry, JobLabels, JobResult
from simyard.service.job_look import JobLook
from simyard.service.prefect_api import Launches
from simyard.service.status import ENDED, ManifestEntry, artifact_key
from simyard.service.tables import Drawing, Drawings, Tables
from simyard.tasks.kinds import KINDS
from simyard.tasks.pages.charts import Curve, Plot, plot
from simyard.tasks.pages.compare_page import FILTERS, PAGES, Around
from simyard.tasks.pages.sheets import MOST_ROWS
from simyard.tasks.shared.documents import Templates, moment, span
from simyard.tasks.shared.history import PastAttempt

LOG_LINES = 40
Link = Callable[[str, str], str]
"""From the key and the name of an object to the address it is fetched by."""

MOST_VIDEOS = 100
PARTS = ("attempts", "stages", "machine")
"""Parts of a page that are fetched by themselves, besides the logs."""
LIVE = (
    "top",
    "attempt_table",
    "stage_table",
    "films",
    "results",
    "curve_charts",
    "episode_table",
    "machine_load",
    "files",
)
"""Blocks of the template, and ids of the elements that have them, which change while a job runs."""
RELOAD_MS = 3000
"""Milliseconds between two reloads of a page that waits, where it cannot be told of news."""
_BLAME = {
    "user": "The request, the task or the package is at fault; it is not tried again by itself.",
    "resource": "The job did not fit the machine; it is not tried again as it is.",
    "infra": "The machine, the driver or the network is at fault; the next attempt goes on from the last checkpoint.",
    "canceled": "Somebody stopped the job. What was saved is kept.",
}
_TITLES = {"train": "Training", "evaluate": "Evaluation", "export": "Export", "rollout": "Rollout"}
TEMPLATES = Templates(Path(__file__).parent / "templates", PAGES, **FILTERS)


@dataclass(frozen=True, kw_only=True)
class Viewer:
    """Somebody who looks at a job: the addresses that they are given, and the mark of their page."""

    link: Link
    nonce: str
    """Name of the page's style and script in its policy."""
    until: str
    """Time at which the links of the page expire, for people."""
    token: str
    """Token of the address that they came by, or one as good as the key that they came with."""
    around: Around | None = None
    """Addresses of the other pages; None for somebody who has a link to this one alone."""
    labels_url: str | None = None
    """Address that the job's tags and note are sent to; None for somebody who may not set them."""


def job_page(
    look: JobLook, launches: Launches, drawings: Drawings, labels: JobLabels, viewer: Viewer
) -> tuple[str, Collection[str]]:
    """Return the page of a job, and the addresses that it links to.

    Logs, the load of the machine, stages and attempts are parts that are fetched when somebody wants to see them.

    Args:
        look: What is known of the job.
        launches: Prefect, which knows work that has not begun.
        drawings: Those made of late.
        labels: The job's tags and note.
        viewer: Who looks.
    """
    shown = _Shown(look, launches, drawings, viewer)
    html = TEMPLATES.render("job.html.j2", labels=labels, **shown.values())
    return html, shown.links.values()


def job_sections(look: JobLook, launches: Launches, drawings: Drawings, viewer: Viewer) -> tuple[dict[str, str], bool]:
    """Return what changes of a page while its job runs, by the id of each element, and whether the job has ended."""
    shown = _Shown(look, launches, drawings, viewer)
    given = shown.values() | shown.parts(PARTS)
    template = TEMPLATES.environment.get_template("job.html.j2")
    context = template.new_context(given)
    found = {name: "".join(template.blocks[name](context)).strip() for name in LIVE}
    return found | {"title": str(given["title"])}, bool(given["has_ended"])


def job_part(look: JobLook, name: str, launches: Launches, drawings: Drawings, viewer: Viewer) -> str:
    """Return one part of a job's page as a page of its own: one of `PARTS`, or a log by its name."""
    shown = _Shown(look, launches, drawings, viewer)
    given: dict[str, Any] = {"part": name, "log": None, "reload_ms": None}
    if name in PARTS:
        given |= shown.parts((name,))
    else:
        numbers = look.attempt_numbers
        given["log"] = look.new_lines(numbers[-1], name, None, LOG_LINES)[0] if numbers else []
    return TEMPLATES.render("part.html.j2", **shown.values() | given)


class _Shown:
    """The values of a job's page."""

    def __init__(self, look: JobLook, launches: Launches, drawings: Drawings, viewer: Viewer) -> None:
        self._look = look
        self._drawings = drawings
        self._viewer = viewer
        self._job = look.answer(launches)
        self.links: dict[str, str] = {}

    def _tables(self, past: list[PastAttempt]) -> Tables:
        kept = {entry.name for entry in self._job.artifacts}
        return Tables(self._look.store, self._job.spec, kept, past, self._drawings, self._look.entries)

    def parts(self, names: Collection[str]) -> dict[str, Any]:
        """Return the values of parts."""
        past = self._look.past()
        tables, found = self._tables(past), dict[str, Any]()
        if "attempts" in names:
            found["attempts"] = [(attempt, _ending(attempt, is_newest=attempt is past[-1])) for attempt in past]
        if "stages" in names:
            found["stages"] = tables.stages()
        if "machine" in names:
            drawn = tables.machine()
            found |= {"machine": drawn.plots, "told": past[-1].facts if past else None}
            found |= {"damaged_part": sorted(drawn.damaged), "too_large_part": sorted(drawn.too_large)}
        return found

    def values(self) -> dict[str, Any]:
        """Return the values of the page itself."""
        look, job, viewer = self._look, self._job, self._viewer
        spec, known, summary, has_ended = job.spec, job.known, job.summary, job.status in ENDED

        # The table at the top. What ran is known from the heartbeat; of a job that has ended its machine's part tells.
        numbers = look.attempt_numbers
        is_kept = any(entry.name == METRICS.name for entry in job.artifacts)
        past = [] if has_ended and (is_kept or spec.kind != "train") else look.past()
        told = past[-1].facts if past else None
        timings = known.timings if isinstance(known, JobResult) else {}
        facts = [
            (KINDS[spec.kind].reward_name if has_ended else "reward so far", known.reward),
            ("environments", spec.num_envs),
            ("seed", str(spec.seed)),
            *([("library", spec.library)] if spec.library else []),
            *([("simulator", f"{told.simulator} {told.version}"), ("device", told.device)] if told else []),
            ("attempts", known.attempts),
            ("sent", moment(spec.created_at)),
            ("last heartbeat", moment(known.updated_at)),
            *((name.removesuffix("_s"), span(seconds)) for name, seconds in timings.items()),
        ]

        # Curves of the training or the sweep, and the episodes where they are of one checkpoint.
        tables = self._tables(past)
        training = tables.training() if spec.kind == "train" else Drawing(plots=_plots(_sweep(summary)))
        episodes = tables.episodes()
        drawn = (training, episodes)

        # The files; films are shown, with the reason that they were filmed.
        entries = _in_order(job.artifacts)
        videos = [entry.name for entry in entries if (row := find(entry.name)) and row.page == "video"][:MOST_VIDEOS]
        linked = dict.fromkeys([*(entry.name for entry in entries[:MOST_ROWS]), *videos])
        self.links = {name: viewer.link(artifact_key(job.id, name), name) for name in linked}
        filmed = {video["file"]: video for video in summary.get("videos") or []}
        logs = [row.name for row in shown_as("log")]
        newest = look.keys.attempt(numbers[-1]) if numbers else None
        there = [name for name in logs if newest and look.has(newest.file(name))]

        return {
            "title": f"{spec.name}: {job.status}", "nonce": viewer.nonce, "until": viewer.until,
            "reload_ms": None if has_ended else RELOAD_MS, "has_ended": has_ended,
            "around": viewer.around, "labels_url": viewer.labels_url,
            "address": f"{job.id}/%s?token={quote(viewer.token)}",
            "spec": spec, "job": job, "known": known, "summary": summary, "facts": facts,
            "kind_title": _TITLES.get(spec.kind, spec.kind),
            "blame": _BLAME.get(job.failure.category, "") if job.failure else "",
            "settings": json.dumps(spec.request, indent=2, ensure_ascii=False),
            "attempt_count": len(numbers),
            "curves": training.plots, "episodes": episodes,
            "videos": [(name, filmed.get(name)) for name in videos],
            "logs": logs if not has_ended else there, "log_lines": LOG_LINES,
            "has_machine": bool(newest and look.has(newest.file(TELEMETRY.name))),
            "artifacts": entries, "links": self.links, "most_rows": MOST_ROWS,
            "too_large": sorted(set().union(*(drawing.too_large for drawing in drawn))),
            "damaged": sorted(set().union(*(drawing.damaged for drawing in drawn))),
            "attempts": None, "stages": None, "machine": None, "told": None,
            "damaged_part": [], "too_large_part": [],
        }  # fmt: skip


def error_page(title: str, advice: str, nonce: str, *, live: bool = False) -> str:
    """Return a page that says why there is no other; a live one looks for it by itself."""
    reload_ms = RELOAD_MS if live else None
    return TEMPLATES.render("error.html.j2", title=title, advice=advice, nonce=nonce, reload_ms=reload_ms)


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
