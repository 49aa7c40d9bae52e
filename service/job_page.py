"""A job's page: the values that templates/job.html.j2 shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simyard.core.artifacts import CHECKPOINTS, find
from simyard.service.charts import Curve, plot
from simyard.service.job_view import LOG_LINES, Look, as_json
from simyard.service.status import ENDED
from simyard.tasks.kinds import KINDS
from simyard.tasks.shared.documents import DASH, Templates, interval, moment, shown, size, span
from simyard.tasks.shared.history import PastAttempt

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
        settings=as_json(spec.request),
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
