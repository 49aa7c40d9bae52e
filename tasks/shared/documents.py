"""Documents of a job: its artifacts, result, manifest and report, with the templates and the figures in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from simyard.core.artifacts import ArtifactType
from simyard.core.records import ArtifactEntry, JobResult, Manifest, Outcome
from simyard.core.specs import JobSpec
from simyard.core.wire import now
from simyard.store.keys import JobKeys
from simyard.store.store import Store, sha256_file
from simyard.tasks.shared import usage
from simyard.tasks.shared.estimates import as_told
from simyard.tasks.shared.history import Artifact, PastAttempt, Verdict
from simyard.tasks.shared.usage import Scaling

if TYPE_CHECKING:
    from jinja2 import Environment

    from simyard.tasks.kinds.base import Figures, Kind

DASH = "–"  # noqa: RUF001 - it stands where nothing was measured


# --- figures in words -------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Return four digits, or that it was not measured."""
    return "not measured" if value is None else f"{value:.4g}"


def size(count: int) -> str:
    """Return a number of bytes."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def interval(bounds: tuple[float, float] | None) -> str:
    """Return an interval as `[low, high]`."""
    return "not measured" if bounds is None else f"[{bounds[0]:.4g}, {bounds[1]:.4g}]"


def shown(value: Any) -> str:
    """Return a value for a table: four digits of a fraction, a dash for None."""
    if value is None or value == "":
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def span(seconds: float | None) -> str | None:
    """Return a length of time."""
    if seconds is None:
        return None
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def moment(text: str | None) -> str | None:
    """Return a moment that is written in ISO 8601."""
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC" if text else None


# --- templates --------------------------------------------------------------------------------------------------------


class Templates:
    """The templates of folders; Jinja2 is imported when the first one is rendered.

    Args:
        folders: Where they lie; of two of one name that of the first folder counts.
        filters: Functions that format a value, by the name that templates use.
    """

    def __init__(self, *folders: Path, **filters: Callable[..., str]) -> None:
        self._folders = folders
        self._filters = filters

    @cached_property
    def environment(self) -> Environment:
        """The environment, in which a name that is not given is an error."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(self._folders),
            autoescape=lambda name: name is None or not name.endswith(".md.j2"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        environment.filters.update(self._filters)
        return environment

    def render(self, template: str, /, **given: Any) -> str:
        """Return the text of a template."""
        return self.environment.get_template(template).render(given)


REPORTS = Templates(
    Path(__file__).parents[1] / "templates",
    number=number,
    interval=interval,
    rate=lambda value: "not measured" if value is None else f"{value:.3f}",
    cost=usage.cost_in_words,
)
"""The reports: one template for each kind of job, for managed runs and for retrainings."""


# --- artifacts --------------------------------------------------------------------------------------------------------


@dataclass
class ArtifactWriter:
    """Writer of a job's artifacts: it keeps files below `artifacts/`, and remembers each for the manifest."""

    store: Store
    job: JobKeys
    scratch: Path
    entries: list[ArtifactEntry] = field(default_factory=list)
    fetched: dict[str, Path] = field(default_factory=dict)

    def fetch(self, key: str) -> Path:
        """Return a local copy of an object; each is read from the store once."""
        if key not in self.fetched:
            local = self.scratch / f"fetched-{len(self.fetched)}"
            self.store.get_file(key, local)
            self.fetched[key] = local
        return self.fetched[key]

    def copy(self, artifact: Artifact) -> ArtifactEntry:
        """Keep a file that an attempt left, and return its entry; one without a digest is read to get it."""
        digest = artifact.sha256 or sha256_file(self.fetch(artifact.key))
        self.store.copy(artifact.key, self.job.artifact(artifact.name))
        entry = ArtifactEntry(
            name=artifact.name, kind=artifact.kind, size_bytes=artifact.size_bytes, sha256=digest,
            iteration=artifact.iteration, parent=artifact.parent, stage=artifact.stage,
        )  # fmt: skip
        self.entries.append(entry)
        return entry

    def add(self, made: ArtifactType) -> None:
        """Keep a file that was made in the scratch folder under its artifact name."""
        path = self.scratch / made.name
        self.store.put_file(self.job.artifact(made.name), path)
        size = path.stat().st_size
        self.entries.append(ArtifactEntry(name=made.name, kind=made.kind, size_bytes=size, sha256=sha256_file(path)))


# --- result, manifest, report -----------------------------------------------------------------------------------------


def result(kind: Kind, spec: JobSpec, verdict: Verdict, url: str, figures: Figures) -> JobResult:
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
        total=outcome.total if outcome else kind.total(spec),
        unit=kind.unit,
        reward=figures.reward,
        summary=figures.summary,
        refused=bool(outcome and outcome.refused),
        notes=(*(spec.notes or ()), *_notes(outcome), *figures.notes),
        updated_at=now(),
    )


def _notes(outcome: Outcome | None) -> tuple[str, ...]:
    """Return what else is to be said of the attempt that counts."""
    if outcome is None:
        return ()
    early = f"ended at {outcome.unit} {outcome.done} of {outcome.total}: {outcome.ended_early}"
    known = outcome.facts.notes if outcome.facts else ()
    return (*known, *(outcome.notes or ()), *([early] if outcome.ended_early else []))


def manifest(spec: JobSpec, ended: JobResult) -> Manifest:
    """Return the commit marker: every artifact with its size and digest."""
    return Manifest(
        schema_version=1,
        job_id=spec.job_id,
        kind=spec.kind,
        created_at=ended.updated_at,
        artifacts=ended.artifacts,
    )


class AttemptRow(NamedTuple):
    """A row of the report's table of attempts; None where the attempt has not said."""

    number: int
    start: int | None
    done: int | None
    ending: str

    @classmethod
    def of(cls, attempt: PastAttempt) -> AttemptRow:
        """Return the row of an attempt."""
        known, ending = attempt.latest, "ended without reporting an outcome"
        if attempt.outcome:
            ending = attempt.failure.message if attempt.failure else attempt.outcome.status
        start, done = (known.start_iteration, known.done) if known else (None, None)
        return cls(attempt.number, start, done, ending)


def report(
    kind: Kind, spec: JobSpec, verdict: Verdict, ended: JobResult, figures: Figures, gained: Scaling | None
) -> str:
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
        figures=figures.metrics or figures.summary or {},
        stages=figures.stages,
        evaluations=figures.evaluations,
        facts={"version": known.version if known else "", "device": known.device if known else "unknown"},
        reward_name=kind.reward_name,
        throughput=gained and gained.in_words(),
        estimate=ended.estimate and as_told(ended.estimate, spec),
        attempts=[AttemptRow.of(attempt) for attempt in verdict.attempts],
    )


def _sums(measured: list[dict[str, float | None]]) -> dict[str, float | None]:
    """Add the timings of attempts up; a timing that no attempt measured is None."""
    sums: dict[str, float | None] = {}
    for name in dict.fromkeys(name for timing in measured for name in timing):
        values = [value for timing in measured if (value := timing.get(name)) is not None]
        sums[name] = round(sum(values), 3) if values else None
    return sums
