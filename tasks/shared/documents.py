"""What a job says of itself: the result, the manifest and the report."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from simyard.core.specs import JobSpec
from simyard.tasks.kinds import kind_of
from simyard.tasks.shared.history import PastAttempt
from simyard.tasks.shared.scaling import in_words
from simyard.tasks.shared.templates import REPORTS
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
    """Return the report as Markdown, by the template of the kind.

    Args:
        spec: The job.
        verdict: How it ended.
        ended: Its result.
        figures: What its kind has measured.
    """
    known = verdict.outcome.get("facts") or {}
    return REPORTS.render(
        f"{spec.kind}.md.j2",
        spec=spec,
        verdict=verdict,
        result=ended,
        figures=figures,
        facts={"version": known.get("version", ""), "device": known.get("device", "unknown")},
        reward_name=kind_of(spec).reward_name,
        throughput=in_words(ended["summary"]["scaling"]) if spec.ranks > 1 else None,
        attempts=[_attempt(attempt) for attempt in verdict.attempts],
    )


def _attempt(attempt: PastAttempt) -> dict[str, Any]:
    """Return a row of the table of attempts."""
    known = attempt.outcome or attempt.status or {}
    failure = known.get("failure")
    ending = failure["message"] if failure else known.get("status", "unknown") if attempt.outcome else "died unheard"
    start, done = known.get("start_iteration"), known.get("done")
    return {"number": attempt.number, "start": start, "done": done, "ending": ending}


def _timings(verdict: Verdict) -> dict[str, float | None]:
    """Add the attempts up; what no attempt measured is null."""
    measured = [(attempt.outcome or {}).get("timings") or {} for attempt in verdict.attempts]
    sums: dict[str, float | None] = {}
    for name in dict.fromkeys(name for timing in measured for name in timing):
        values = [timing[name] for timing in measured if timing.get(name) is not None]
        sums[name] = round(sum(values), 3) if values else None
    return sums
