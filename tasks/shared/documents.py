"""Documents about a job: the result, the manifest and the report."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from simyard.core.records import JobResult, Manifest
from simyard.core.specs import JobSpec
from simyard.tasks.kinds import kind_of
from simyard.tasks.shared.history import PastAttempt
from simyard.tasks.shared.scaling import in_words
from simyard.tasks.shared.templates import REPORTS
from simyard.tasks.shared.verdict import Verdict

MANIFEST_SCHEMA = 1


def result(spec: JobSpec, verdict: Verdict, url: str, figures: dict[str, Any]) -> JobResult:
    """Return the result of the job; `artifacts` is filled in when they are kept."""
    kind, outcome = kind_of(spec), verdict.outcome
    return JobResult(
        job_id=spec.job_id,
        kind=spec.kind,
        status=verdict.status,
        store=url,
        artifacts=(),
        attempts=len(verdict.attempts),
        error=verdict.failure,
        timings=_timings(verdict),
        done=outcome.done if outcome else 0,
        total=kind.total(spec),
        unit=kind.unit,
        reward=kind.reward(spec, figures),
        summary=kind.summary(figures),
        refused=bool(outcome and outcome.refused),
        notes=outcome.facts.notes if outcome and outcome.facts else (),
        updated_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def manifest(spec: JobSpec, ended: JobResult) -> Manifest:
    """Return the commit marker: every artifact with its size and digest."""
    return Manifest(
        schema_version=MANIFEST_SCHEMA,
        job_id=spec.job_id,
        kind=spec.kind,
        created_at=ended.updated_at,
        artifacts=ended.artifacts,
    )


def report(spec: JobSpec, verdict: Verdict, ended: JobResult, figures: dict[str, Any]) -> str:
    """Return the report as Markdown, by the template of the kind.

    Args:
        spec: The job.
        verdict: How it ended.
        ended: Its result.
        figures: What its kind has measured.
    """
    known = verdict.outcome.facts if verdict.outcome else None
    return REPORTS.render(
        f"{spec.kind}.md.j2",
        spec=spec,
        verdict=verdict,
        result=ended,
        figures=figures,
        facts={"version": known.version if known else "", "device": known.device if known else "unknown"},
        reward_name=kind_of(spec).reward_name,
        throughput=in_words(ended.summary["scaling"]) if spec.ranks > 1 and ended.summary else None,
        attempts=[_attempt(attempt) for attempt in verdict.attempts],
    )


def _attempt(attempt: PastAttempt) -> dict[str, Any]:
    """Return a row of the table of attempts."""
    known, outcome = attempt.latest, attempt.outcome
    if outcome is None:
        ending = "ended without reporting an outcome"
    else:
        ending = outcome.failure.message if outcome.failure else outcome.status
    start, done = (known.start_iteration, known.done) if known else (None, None)
    return {"number": attempt.number, "start": start, "done": done, "ending": ending}


def _timings(verdict: Verdict) -> dict[str, float | None]:
    """Add the attempts up; what no attempt measured is null."""
    measured = [attempt.timings for attempt in verdict.attempts]
    sums: dict[str, float | None] = {}
    for name in dict.fromkeys(name for timing in measured for name in timing):
        values = [value for timing in measured if (value := timing.get(name)) is not None]
        sums[name] = round(sum(values), 3) if values else None
    return sums
