"""A job's page: what there is to show of it, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from simyard.service.charts import Curve, chart
from simyard.service.html import DASH, Html, document, folded, join, pairs, section, shown, table, tag
from simyard.service.job_view import LOG_LINES, Look, as_json
from simyard.service.status import ENDED
from simyard.tasks.kinds import KINDS
from simyard.tasks.shared.history import PastAttempt
from simyard.tasks.shared.text import interval, size

MOST_ROWS = 200
"""Of a table; the files have all."""
_OF_CATEGORY = {
    "user": "The request, the task or the package is at fault; it is not tried again by itself.",
    "resource": "The job did not fit the machine; it is not tried again as it is.",
    "infra": "The machine, the driver or the network is at fault; the next attempt goes on from the last checkpoint.",
    "canceled": "Somebody stopped the job. What was saved is kept.",
}
_KINDS = {"train": "Training", "evaluate": "Evaluation", "export": "Export", "rollout": "Rollout"}


def job_page(look: Look, nonce: str, until: str) -> str:
    """Return the page.

    Args:
        look: What to show.
        nonce: What the page's policy knows its style and script by.
        until: How long the links of the page are good, for people.
    """
    status = look.standing["status"]
    live = status not in ENDED
    parts = (
        _head(look),
        _failure(look.standing["failure"]),
        _progress(look),
        _facts(look),
        _settings(look),
        section("Attempts", _attempts(look.attempts)) if len(look.attempts) > 1 else None,
        section("Videos", _videos(look)),
        _summary(look),
        section("Curves", _charts(look.curves)),
        _episodes(look),
        _logs(look),
        section("Machine", folded("machine", "CPU, memory and GPU", _charts(look.machine))) if look.machine else None,
        _artifacts(look),
        tag("p", {"class": "faint"}, f"Too large to show here: {', '.join(look.skipped)}.") if look.skipped else None,
        _foot(look, until, live=live),
    )
    return document(f"{look.spec.name}: {status}", nonce, *parts, live=live)


def error_page(title: str, advice: str, nonce: str) -> str:
    """Return a page that says why there is no other."""
    return document(title, nonce, tag("h1", None, title), tag("p", None, advice))


def _head(look: Look) -> Html:
    standing = look.standing
    kind = _KINDS.get(look.spec.kind, look.spec.kind)
    about = join([f"{kind} of ", tag("code", None, look.spec.task)]) if look.spec.task else kind
    stage = f" {standing['stage']}" if standing["stage"] not in (None, "done") else None
    return join(
        [
            tag("p", {"class": "faint"}, about, " · ", tag("code", None, look.spec.job_id)),
            tag("h1", None, look.spec.name),
            tag("p", None, tag("span", {"class": f"status {standing['status']}"}, standing["status"]), stage),
            tag("p", None, look.spec.description) if look.spec.description else None,
        ]
    )


def _failure(failure: dict[str, Any] | None) -> Html | None:
    if failure is None:
        return None
    kind = "failure canceled" if failure["category"] == "canceled" else "failure"
    return tag(
        "div",
        {"class": kind, "role": "alert"},
        tag("p", None, tag("strong", None, failure["message"])),
        tag("p", None, failure["advice"]) if failure.get("advice") else None,
        tag(
            "p", {"class": "faint"}, _OF_CATEGORY.get(failure["category"], ""), " ", tag("code", None, failure["code"])
        ),
    )


def _progress(look: Look) -> Html:
    done, total, unit = (look.standing[name] for name in ("done", "total", "unit"))
    if done is None or not total:
        return tag("p", {"class": "faint"}, "Not begun yet.") if look.standing["status"] == "queued" else join([])
    return join(
        [
            tag("progress", {"value": done, "max": total, "aria-label": "work done"}),
            tag("p", {"class": "faint"}, f"{done:,} of {total:,} {unit}s"),
        ]
    )


def _facts(look: Look) -> Html:
    spec, standing = look.spec, look.standing
    newest = (look.attempts[-1].outcome or look.attempts[-1].status or {}) if look.attempts else {}
    known = newest.get("facts") or {}
    simulator = f"{known['simulator']} {known['version']}" if known else None
    timings = standing["timings"] or {}
    return pairs(
        [
            (KINDS[spec.kind].reward_name if standing["status"] in ENDED else "reward so far", standing["reward"]),
            ("environments", spec.num_envs),
            ("seed", str(spec.seed)),
            *([("library", spec.library)] if spec.library else []),
            ("simulator", simulator),
            ("device", known.get("device")),
            ("attempts", standing["attempt_count"]),
            ("sent", moment(spec.created_at)),
            ("heard of last", moment(standing["updated_at"])),
            *((name.removesuffix("_s"), span(seconds)) for name, seconds in timings.items()),
        ]
    )


def _settings(look: Look) -> Html:
    return folded("settings", "Settings that were sent", tag("pre", None, as_json(look.spec.request)))


def _attempts(attempts: list[PastAttempt]) -> Html:
    rows = []
    for attempt in attempts:
        known = attempt.outcome or attempt.status or {}
        timings = (attempt.outcome or {}).get("timings") or {}
        cells = (attempt.number, known.get("start_iteration"), known.get("done"), span(timings.get("total_s")))
        rows.append((*cells, _ending(attempt, is_newest=attempt is attempts[-1])))
    return table(("attempt", "from", "to", "took", "how it ended"), rows, numbers=("from", "to", "took"))


def _ending(attempt: PastAttempt, *, is_newest: bool) -> str:
    if attempt.outcome is None:
        return "not ended yet" if is_newest else "died unheard"
    failure = attempt.outcome.get("failure")
    return str(failure["message"] if failure else attempt.outcome["status"])


def _videos(look: Look) -> Html | None:
    told = {video["file"]: video for video in (look.standing["summary"] or {}).get("videos") or []}
    films = [
        tag(
            "figure",
            None,
            tag("video", {"src": look.links[entry["name"]], "controls": True, "preload": "metadata", "muted": True}),
            tag(
                "figcaption",
                None,
                tag("span", None, entry["name"]),
                tag("span", None, _of_film(told[entry["name"]])) if entry["name"] in told else None,
            ),
        )
        for entry in look.standing["artifacts"]
        if entry["kind"] == "video"
    ]
    return tag("div", {"class": "charts"}, *films) if films else None


def _of_film(video: dict[str, Any]) -> str:
    return f"{', '.join(video['why'])}: return {shown(video['return'])}"


def _summary(look: Look) -> Html | None:
    summary = look.standing["summary"]
    if not summary:
        return None
    return section("Results", *_EACH[look.spec.kind](summary)) if look.spec.kind in _EACH else None


def _of_evaluation(summary: dict[str, Any]) -> Iterator[Html | None]:
    several = summary["sweep"] or [summary]
    heads = ("checkpoint", "episodes", "mean return", "95 %", "std", "success", "95 % of it", "mean length")
    rows = [
        (
            one["checkpoint"]["name"],
            one["episodes"],
            one["return"]["mean"],
            _bounds(one["return"]["interval_95"]),
            one["return"]["std"],
            _percent(one["success"]["rate"]),
            _bounds(one["success"]["interval_95"]),
            one["length"]["mean"],
        )
        for one in several
    ]
    yield table(heads, rows, numbers=heads[1:])
    source = summary["success"]["source"]
    ended = summary["ended"]
    yield tag(
        "p",
        {"class": "faint"},
        f"{ended['terminated']} terminated, {ended['truncated']} truncated. ",
        f"Success is said by: {source}." if source else "Nothing says what success is, so it is not measured.",
    )
    if summary["reward_terms"]:
        yield table(("reward term", "mean part of the return"), summary["reward_terms"].items())
    if summary.get("video_problem"):
        yield tag("p", None, f"No video: {summary['video_problem']}")


def _of_export(summary: dict[str, Any]) -> Iterator[Html | None]:
    yield tag("p", None, summary["headline"])
    heads = ("format", "batch", "rows", "largest difference")
    rows = [(one["format"], one["batch"], one["rows"], one["largest"]) for one in summary["parity"]["differences"]]
    yield table(heads, rows, numbers=heads[1:])
    for title, items in (("Failed", summary["failed"]), ("For a person to settle", summary["needs_a_human"])):
        if items:
            yield tag("p", None, f"{title}: {', '.join(items)}.")


def _of_rollout(summary: dict[str, Any]) -> Iterator[Html | None]:
    success, returns = summary["success"], summary["return"]
    yield pairs(
        [
            ("episodes", summary["episodes"]),
            ("recorded steps", summary["recorded_steps"]),
            ("success", _percent(success["rate"])),
            ("95 % of it", _bounds(success["interval_95"])),
            ("mean return", returns["mean"] if returns else None),
        ]
    )
    rows = [(tag("code", None, key), str(about["shape"]), about["dtype"]) for key, about in summary["keys"].items()]
    yield folded("arrays", f"{len(rows)} arrays in rollout.zarr", table(("array", "shape", "type"), rows))


_EACH = {"evaluate": _of_evaluation, "export": _of_export, "rollout": _of_rollout}


def _charts(curves: Iterable[Curve]) -> Html | None:
    drawn = [chart(curve) for curve in curves]
    return tag("div", {"class": "charts"}, *drawn) if drawn else None


def _episodes(look: Look) -> Html | None:
    if not look.episodes:
        return None
    several = len({row["checkpoint"] for row in look.episodes}) > 1
    heads = [*(["checkpoint"] if several else []), "episode", "return", "length", "ended", "term", "success"]
    rows = [[_of_csv(head, row.get(head)) for head in heads] for row in look.episodes[:MOST_ROWS]]
    points = [(float(row["episode"]), float(row["return"])) for row in look.episodes if row["return"]]
    drawn = None if several else _charts([Curve(title="return", axis="episode", points=points, scattered=True)])
    more = len(look.episodes) - MOST_ROWS
    return section(
        "Episodes",
        drawn,
        folded(
            "episodes",
            f"{len(look.episodes):,} episodes",
            table(heads, rows, numbers=("episode", "return", "length")),
            tag("p", None, f"{more:,} more in episodes.csv.") if more > 0 else None,
        ),
    )


def _of_csv(head: str, text: str | None) -> Any:
    if not text:
        return None
    if head == "return":
        return float(text)
    return {"0": "no", "1": "yes"}.get(text, text) if head == "success" else text


def _logs(look: Look) -> Html | None:
    parts = [
        folded(
            f"log-{name.partition('.')[0]}-{number}",
            f"{name}, last {len(lines)} lines" if len(lines) == LOG_LINES else name,
            tag("div", {"class": "tail"}, tag("pre", None, "\n".join(lines))),
            is_open=name == "command.stdout.log",
        )
        for number, (name, lines) in enumerate(look.logs.items())
    ]
    return section("Log", *parts)


def _artifacts(look: Look) -> Html | None:
    entries = look.standing["artifacts"]
    if not entries:
        return None
    files = [entry for entry in entries if entry["kind"] != "checkpoint"]
    saved = sorted(
        (entry for entry in entries if entry["kind"] == "checkpoint"),
        key=lambda entry: entry.get("iteration") or 0,
        reverse=True,
    )
    ordered = [*saved[:3], *files, *saved[3:]]
    rows = [
        (
            tag("a", {"href": look.links[entry["name"]], "download": True}, entry["name"]),
            entry["kind"],
            size(entry["size_bytes"]),
            tag("code", {"title": entry["sha256"]}, entry["sha256"][:12]) if entry["sha256"] else None,
        )
        for entry in ordered[:MOST_ROWS]
    ]
    more = len(ordered) - MOST_ROWS
    return section(
        "Artifacts",
        table(("file", "kind", "size", "SHA-256"), rows, numbers=("size",)),
        tag("p", {"class": "faint"}, f"{more:,} more: simyard jobs download {look.spec.job_id}.") if more > 0 else None,
    )


def _foot(look: Look, until: str, *, live: bool) -> Html:
    says = "This page renews itself every few seconds." if live else f"The links on this page are good until {until}."
    return tag("footer", None, says)


def _percent(rate: float | None) -> str:
    return DASH if rate is None else f"{100 * rate:.1f} %"


def _bounds(bounds: list[float] | None) -> str:
    return DASH if bounds is None else interval(bounds)


def span(seconds: float | None) -> str | None:
    """Return a length of time for people."""
    if seconds is None:
        return None
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def moment(text: str | None) -> str | None:
    """Return a moment for people."""
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC" if text else None
