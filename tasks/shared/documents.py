"""Documents of a job: its artifacts, result, manifest and report, with the templates and the figures in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from simyard.core.artifacts import ArtifactType
from simyard.core.records import ArtifactEntry, JobResult, Manifest
from simyard.core.specs import JobSpec
from simyard.tasks.kinds import kind_of
from simyard.tasks.kinds.base import Figures
from simyard.tasks.shared.history import PastAttempt
from simyard.tasks.shared.scaling import in_words
from simyard.tasks.shared.templates import REPORTS
from simyard.tasks.shared.verdict import Verdict

if TYPE_CHECKING:
    from jinja2 import Environment

    from simyard.tasks.kinds.base import Kind

DASH = "–"  # noqa: RUF001 - it stands where nothing was measured


def result(spec: JobSpec, verdict: Verdict, url: str, figures: Figures) -> JobResult:
    """Return the result of the job; `artifacts` is filled in when they are kept."""
    outcome = verdict.outcome
    return JobResult(
        job_id=spec.job_id,
        kind=spec.kind,
        status=verdict.status,
        store=url,
        artifacts=(),
        attempts=len(verdict.attempts),
        error=verdict.failure,
        timings=_sums([attempt.timings for attempt in verdict.attempts]),
        done=outcome.done if outcome else 0,
        total=kind.total(spec),
        unit=kind.unit,
        reward=figures.reward,
        summary=figures.summary,
        refused=bool(outcome and outcome.refused),
        notes=outcome.facts.notes if outcome and outcome.facts else (),
        updated_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def manifest(spec: JobSpec, ended: JobResult) -> Manifest:
    """Return the commit marker: every artifact with its size and digest."""
    return Manifest(
        schema_version=1,
        job_id=spec.job_id,
        kind=spec.kind,
        created_at=ended.updated_at,
        artifacts=ended.artifacts,
    )


def report(spec: JobSpec, verdict: Verdict, ended: JobResult, figures: Figures) -> str:
    """Return the report as Markdown, by the template of the kind.

    Args:
        kind: The kind of the job.
        spec: The job.
        verdict: How it ended.
        ended: Its result.
        figures: What its kind has measured.
        gained: The gain of several GPUs; None for one.
    """
    known = verdict.outcome.facts if verdict.outcome else None
    return REPORTS.render(
        f"{spec.kind}.md.j2",
        spec=spec,
        verdict=verdict,
        result=ended,
        figures=figures.summary or figures.metrics,
        facts={"version": known.version if known else "", "device": known.device if known else "unknown"},
        reward_name=kind.reward_name,
        throughput=gained and gained.in_words(),
        attempts=[AttemptRow.of(attempt) for attempt in verdict.attempts],
    )


def _sums(measured: list[dict[str, float | None]]) -> dict[str, float | None]:
    """Add the timings of attempts up; a timing that no attempt measured is None."""
    sums: dict[str, float | None] = {}
    for name in dict.fromkeys(name for timing in measured for name in timing):
        values = [value for timing in measured if (value := timing.get(name)) is not None]
        sums[name] = round(sum(values), 3) if values else None
    return sums
