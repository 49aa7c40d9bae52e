"""Export: a policy in two formats, its contract, and the checklist."""

from __future__ import annotations

from typing import Any

from simyard.core.artifacts import EXPORT_CONFIG, SUMMARY
from simyard.core.records import JobResult
from simyard.core.specs import JobSpec
from simyard.runner.exporting import STEPS
from simyard.tasks.kinds.base import Kind
from simyard.tasks.kinds.evaluate import read_output
from simyard.tasks.shared.documents import Keeper
from simyard.tasks.shared.history import Verdict


class ExportKind(Kind):
    """A policy is exported and checked."""

    name = "export"
    unit = "check"
    reward_name = "mean return"
    config = EXPORT_CONFIG

    def total(self, spec: JobSpec) -> int:
        """Return the number of steps of an export."""
        return len(STEPS)

    def keep(self, spec: JobSpec, verdict: Verdict, keeper: Keeper) -> dict[str, Any]:
        """Return the summary that the workload left."""
        return read_output(keeper.store, verdict.artifacts, SUMMARY.name)

    def reward(self, spec: JobSpec, figures: dict[str, Any]) -> float | None:
        """Return the mean return of the rollouts that the checks were made on."""
        return float(figures["return"]["mean"]) if figures else None

    def headline(self, result: JobResult) -> str:
        """Return the proof in a few words."""
        summary = result.summary
        if not summary:
            return f"{result.done} of {result.total} checks"
        return str(summary["headline"])
