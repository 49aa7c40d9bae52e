"""What a job says of itself: the result, the manifest and the report."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from simyard.core.specs import JobSpec
from simyard.tasks.kinds import kind_of
from simyard.tasks.shared.scaling import in_words
from simyard.tasks.shared.text import number
from simyard.tasks.shared.verdict import Verdict

MANIFEST_SCHEMA = 1


def result(spec: JobSpec, verdict: Verdict, url: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Return how the job ended; `artifacts` is filled in when they are kept."""
    kind = kind_of(spec)
    return {
        "job_id": spec.job_id,
        "kind": spec.kind,
        "status": verdict.status,
        "store": url,
        "artifacts": [],
        "attempts": len(verdict.attempts),
        "error": None if verdict.failure is None else verdict.failure.to_json(),
        "timings": _timings(verdict),
        "done": verdict.outcome.get("done", 0),
        "total": kind.total(spec),
        "unit": kind.unit,
        "reward": kind.reward(spec, figures),
        "summary": kind.summary(figures),
        "refused": bool(verdict.outcome.get("refused")),
        "notes": list((verdict.outcome.get("facts") or {}).get("notes", [])),
        "updated_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def manifest(spec: JobSpec, ended: dict[str, Any]) -> dict[str, Any]:
    """Return the commit marker: every artifact with its size and digest."""
    return {
        "schema_version": MANIFEST_SCHEMA,
        "job_id": spec.job_id,
        "kind": spec.kind,
        "created_at": ended["updated_at"],
        "artifacts": ended["artifacts"],
    }


def report(spec: JobSpec, verdict: Verdict, ended: dict[str, Any], figures: dict[str, Any]) -> str:
    """Return the report as Markdown: the verdict first."""
    known = verdict.outcome.get("facts") or {}
    library = f" with {spec.library}" if spec.library else ""
    rows = [
        ("job", f"`{spec.job_id}`"),
        ("task", f"`{spec.task}`{library}, {spec.num_envs} environments, seed {spec.seed}"),
        ("simulator", f"{spec.simulator} {known.get('version', '')} on {known.get('device', 'unknown')}"),
        (f"{ended['unit']}s", f"{ended['done']} of {ended['total']}"),
        (kind_of(spec).reward_name, number(ended["reward"])),
        ("attempts", str(ended["attempts"])),
        *((name.removesuffix("_s"), f"{number(value)} s") for name, value in ended["timings"].items()),
        *([("throughput", in_words(ended["summary"]["scaling"]))] if spec.ranks > 1 else []),
        ("store", f"`{ended['store']}`"),
    ]
    lines = [f"# {spec.name}: {verdict.status}", ""]
    if verdict.failure:
        lines += [f"**{verdict.failure.message}** {verdict.failure.advice}", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows), ""]
    lines += [f"- {note}" for note in ended["notes"]]
    lines += _attempt_table(verdict) if len(verdict.attempts) > 1 else []
    lines += kind_of(spec).report(spec, figures)
    return "\n".join(lines) + "\n"


def _attempt_table(verdict: Verdict) -> list[str]:
    lines = ["", "| attempt | from | to | ended |", "|---|---|---|---|"]
    for attempt in verdict.attempts:
        known = attempt.outcome or attempt.status or {}
        failure = known.get("failure")
        end = failure["message"] if failure else known.get("status", "unknown") if attempt.outcome else "died unheard"
        lines.append(f"| {attempt.number} | {known.get('start_iteration')} | {known.get('done')} | {end} |")
    return lines


def _timings(verdict: Verdict) -> dict[str, float | None]:
    """Add the attempts up; what no attempt measured is null."""
    measured = [(attempt.outcome or {}).get("timings") or {} for attempt in verdict.attempts]
    sums: dict[str, float | None] = {}
    for name in dict.fromkeys(name for timing in measured for name in timing):
        values = [timing[name] for timing in measured if timing.get(name) is not None]
        sums[name] = round(sum(values), 3) if values else None
    return sums
