"""A job's page: gathered from the store, then prepared as the values that templates/job.html.j2 shows.

While the job runs, it is made of the files that its attempts have sent so far.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from simyard.core.artifacts import CHECKPOINTS, find, shown_as
from simyard.core.records import ArtifactEntry, JobResult
from simyard.service.prefect_api import Launches
from simyard.service.status import ENDED, ManifestEntry, artifact_key, job_answer
from simyard.service.tables import Drawing, Drawings, Tables
from simyard.store.store import Store
from simyard.tasks.kinds import KINDS
from simyard.tasks.pages.charts import Curve, Plot, plot
from simyard.tasks.pages.compare_page import FILTERS, PAGES, Around
from simyard.tasks.pages.sheets import MOST_ROWS
from simyard.tasks.shared import history, labels
from simyard.tasks.shared.documents import Templates, moment, span
from simyard.tasks.shared.history import PastAttempt
from simyard.tasks.shared.logs import last_lines

LOG_LINES = 40
Link = Callable[[str, str], str]
"""From the key and the name of an object to the address it is fetched by."""

MOST_VIDEOS = 100
RELOAD_MS = 3000
"""Milliseconds between two reloads of a live page."""
_BLAME = {
    "user": "The request, the task or the package is at fault; it is not tried again by itself.",
    "resource": "The job did not fit the machine; it is not tried again as it is.",
    "infra": "The machine, the driver or the network is at fault; the next attempt goes on from the last checkpoint.",
    "canceled": "Somebody stopped the job. What was saved is kept.",
}
_TITLES = {"train": "Training", "evaluate": "Evaluation", "export": "Export", "rollout": "Rollout"}
TEMPLATES = Templates(Path(__file__).parent / "templates", PAGES, **FILTERS)


def job_page(
    store: Store,
    job_id: str,
    launches: Launches,
    drawings: Drawings,
    link: Link,
    nonce: str,
    until: str,
    around: Around | None = None,
    labels_url: str | None = None,
) -> tuple[str, Collection[str]]:
    """Return the page of a job, and the addresses that it links to.

    Args:
        store: The job's store.
        job_id: The job.
        launches: Prefect, which knows work that has not begun.
        drawings: Those made of late.
        link: Returns the address of an object.
        nonce: Name of the page's style and script in its policy.
        until: Time at which the links of the page expire, for people.
        around: Addresses of the other pages; None for somebody who has a link to this one alone.
        labels_url: Address that the job's tags and note are sent to; None for somebody who may not set them.

    Raises:
        RequestError: There is no such job.
    """
    job = job_answer(store, job_id, launches)
    spec, known, summary, has_ended = job.spec, job.known, job.summary, job.status in ENDED
    past = history.attempts(store, job_id)
    tables = Tables(store, spec, {entry.name for entry in job.artifacts}, past, drawings)

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
    training = tables.training() if spec.kind == "train" else Drawing(plots=_plots(_sweep(summary)))
    machine, episodes = tables.machine(), tables.episodes()
    drawn = (training, machine, episodes)

    # The files; some are shown: videos, with why they were filmed, and the ends of logs.
    entries = _in_order(job.artifacts)
    videos = [entry.name for entry in entries if (row := find(entry.name)) and row.page == "video"][:MOST_VIDEOS]
    linked = dict.fromkeys([*(entry.name for entry in entries[:MOST_ROWS]), *videos])
    links = {name: link(artifact_key(job_id, name), name) for name in linked}
    filmed = {video["file"]: video for video in summary.get("videos") or []}
    names = [row.name for row in shown_as("log")] if past else []
    logs = {name: last_lines(store, job_id, past[-1].number, name, LOG_LINES) for name in names}

    html = TEMPLATES.render(
        "job.html.j2",
        title=f"{spec.name}: {job.status}", nonce=nonce, reload_ms=None if has_ended else RELOAD_MS, until=until,
        around=around, labels_url=labels_url, labels=labels.read(store, job_id),
        spec=spec, job=job, known=known, summary=summary, facts=facts,
        kind_title=_TITLES.get(spec.kind, spec.kind),
        blame=_BLAME.get(job.failure.category, "") if job.failure else "",
        settings=json.dumps(spec.request, indent=2, ensure_ascii=False),
        attempts=[(attempt, _ending(attempt, is_newest=attempt is past[-1])) for attempt in past],
        stages=tables.stages(), curves=training.plots, machine=machine.plots, episodes=episodes,
        videos=[(name, filmed.get(name)) for name in videos],
        logs={name: lines for name, lines in logs.items() if lines}, log_lines=LOG_LINES,
        artifacts=entries, links=links, most_rows=MOST_ROWS,
        too_large=sorted(set().union(*(drawing.too_large for drawing in drawn))),
        damaged=sorted(set().union(*(drawing.damaged for drawing in drawn))),
    )  # fmt: skip
    return html, links.values()


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
