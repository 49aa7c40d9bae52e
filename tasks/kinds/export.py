"""Export: a policy in two formats, its contract, and the checklist."""

from __future__ import annotations

from simyard.core.artifacts import EXPORT_CONFIG
from simyard.core.records import JobResult
from simyard.core.specs import JobSpec
from simyard.runner.exporting import STEPS
from simyard.tasks.kinds.base import Kind


class ExportKind(Kind):
    """A policy is exported and checked."""

    name = "export"
    unit = "check"
    reward_name = "mean return"
    config = EXPORT_CONFIG

    def total(self, spec: JobSpec) -> int:
        """Return the number of steps of an export."""
        return len(STEPS)

    def headline(self, result: JobResult) -> str:
        """Return the proof in a few words."""
        summary = result.summary
        if not summary:
            return f"{result.done} of {result.total} checks"
        return str(summary["headline"])
