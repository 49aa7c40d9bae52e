"""The report of a managed training run: what it reached and cost, where time went, which checkpoint is best."""

from __future__ import annotations

import tempfile
from pathlib import Path

from simyard.core.records import IterationRecord, LineageRecord, RunResult
from simyard.store.keys import RunKeys
from simyard.store.store import Store
from simyard.tasks.managed.run import RunSpec
from simyard.tasks.metrics.events import Series
from simyard.tasks.metrics.table import draw_curves
from simyard.tasks.shared.documents import REPORTS

REPORT, CURVES = "report.md", "curves.png"


def write(
    run: RunSpec, result: RunResult, iterations: list[IterationRecord], lineage: list[LineageRecord], store: Store
) -> None:
    """Write the report and the curves into the store.

    Args:
        run: The run.
        result: How it ended.
        iterations: Its iterations, in order.
        lineage: Its checkpoints, oldest first.
        store: Its store.
    """
    keys = RunKeys(run.run_id)
    with tempfile.TemporaryDirectory(prefix="simyard-report-") as folder:
        picture = Path(folder) / CURVES
        if draw_curves(_columns(run, iterations), run.asked.success_criteria.metric, run.asked.name, picture):
            store.put_file(keys.file(CURVES), picture)
    text = REPORTS.render(
        "managed_run.md.j2",
        name=run.asked.name,
        run_id=run.run_id,
        metric=run.asked.success_criteria.metric,
        curves=CURVES,
        result=result,
        iterations=iterations,
        lineage=lineage,
    )
    store.put_bytes(keys.file(REPORT), text.encode())


def _columns(run: RunSpec, iterations: list[IterationRecord]) -> dict[str, Series]:
    """Return the rollouts' mean return, and every number of the trainer's, over iterations."""
    columns: dict[str, Series] = {}
    for ended in iterations:
        values = {"mean_return": ended.mean_return, "success_rate": ended.success_rate, **ended.metrics}
        for name, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                series = columns.setdefault(name, Series())
                series.steps.append(ended.iteration)
                series.values.append(float(value))
    return columns


def summary(result: RunResult) -> str:
    """Return the result of a run in one line."""
    top = result.best
    best = ""
    if top:
        best = f", best {top.checkpoint_id}"
        best += "" if top.metric is None else f" ({top.metric:.4g})"
    count = result.iterations.succeeded
    return f"{count} iteration{'s' * (count != 1)} ({result.ended_by}){best}"
