"""What a job says of itself: the result, the manifest and the report."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from simyard.runner.libraries import get_library
from simyard.runner.spec import JobSpec
from simyard.tasks.collect import Verdict

MANIFEST_SCHEMA = 1


def result(spec: JobSpec, verdict: Verdict, url: str, summary: dict[str, Any]) -> dict[str, Any]:
    """Return how the job ended; `artifacts` is filled in when they are kept."""
    reward = summary.get(get_library(spec.library).reward_tag)
    return {
        "job_id": spec.job_id,
        "status": verdict.status,
        "store": url,
        "artifacts": [],
        "attempts": len(verdict.attempts),
        "error": None if verdict.failure is None else verdict.failure.to_json(),
        "timings": _timings(verdict),
        "iteration": verdict.outcome.get("iteration", 0),
        "last_iteration": spec.last_iteration,
        "reward": reward["final"]["value"] if reward else None,
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


def report(spec: JobSpec, verdict: Verdict, ended: dict[str, Any], summary: dict[str, Any]) -> str:
    """Return the report as Markdown: the verdict first."""
    known = verdict.outcome.get("facts") or {}
    rows = [
        ("job", f"`{spec.job_id}`"),
        ("task", f"`{spec.task}` with {spec.library}, {spec.num_envs} environments, seed {spec.seed}"),
        ("simulator", f"{spec.simulator} {known.get('version', '')} on {known.get('device', 'unknown')}"),
        ("iterations", f"{ended['iteration']} of {spec.last_iteration}"),
        ("final reward", _number(ended["reward"])),
        ("attempts", str(ended["attempts"])),
        *((name.removesuffix("_s"), f"{_number(value)} s") for name, value in ended["timings"].items()),
        ("store", f"`{ended['store']}`"),
    ]
    lines = [f"# {spec.name}: {verdict.status}", ""]
    if verdict.failure:
        lines += [f"**{verdict.failure.message}** {verdict.failure.advice}", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows), ""]
    lines += [f"- {note}" for note in ended["notes"]]
    lines += _attempt_table(verdict) if len(verdict.attempts) > 1 else []
    if summary:
        lines += ["", "| metric | final | best |", "|---|---|---|"]
        for tag, fact in summary.items():
            final, best = fact["final"]["value"], fact["best"]
            lines.append(f"| {tag} | {_number(final)} | {_number(best['value'])} at {best['step']} |")
        lines += ["", "![learning curves](curves.png)"]
    return "\n".join(lines) + "\n"


def _attempt_table(verdict: Verdict) -> list[str]:
    lines = ["", "| attempt | from | to | ended |", "|---|---|---|---|"]
    for attempt in verdict.attempts:
        known = attempt.outcome or attempt.status or {}
        failure = known.get("failure")
        end = failure["message"] if failure else known.get("status", "unknown") if attempt.outcome else "died unheard"
        lines.append(f"| {attempt.number} | {known.get('start_iteration')} | {known.get('iteration')} | {end} |")
    return lines


def _timings(verdict: Verdict) -> dict[str, float | None]:
    """Add the attempts up; what no attempt measured is null."""
    names = ("startup_s", "train_s", "total_s")
    measured = [(attempt.outcome or {}).get("timings") or {} for attempt in verdict.attempts]
    sums: dict[str, float | None] = {}
    for name in names:
        values = [timing[name] for timing in measured if timing.get(name) is not None]
        sums[name] = round(sum(values), 3) if values else None
    return sums


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"
