"""The report of a managed training run: what it reached and cost, where time went, which checkpoint is best."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from simyard.store.keys import RunKeys
from simyard.store.store import Store
from simyard.tasks.managed.run import RunSpec
from simyard.tasks.metrics import curves
from simyard.tasks.metrics.events import Series
from simyard.tasks.shared.text import number

REPORT, CURVES = "report.md", "curves.png"


def write(
    run: RunSpec, result: dict[str, Any], iterations: list[dict[str, Any]], lineage: list[dict[str, Any]], store: Store
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
        if curves.draw(_columns(run, iterations), run.asked.success_criteria.metric, run.asked.name, picture):
            store.put_file(keys.file(CURVES), picture)
    store.put_bytes(keys.file(REPORT), _text(run, result, iterations, lineage).encode())


def _columns(run: RunSpec, iterations: list[dict[str, Any]]) -> dict[str, Series]:
    """Return the rollouts' mean return, and every number of the trainer's, over iterations."""
    columns: dict[str, Series] = {}
    for ended in iterations:
        values = {"mean_return": ended["mean_return"], "success_rate": ended["success_rate"], **ended["metrics"]}
        for name, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                series = columns.setdefault(name, Series())
                series.steps.append(ended["iteration"])
                series.values.append(float(value))
    return columns


def _text(run: RunSpec, result: dict[str, Any], iterations: list[dict[str, Any]], lineage: list[dict[str, Any]]) -> str:
    asked, best = run.asked, result["best"]
    metric = asked.success_criteria.metric
    lines = [f"# {asked.name}: {result['status']}", "", f"Ended by `{result['ended_by']}`."]
    if result["error"]:
        lines += ["", f"**{result['error']['message']}** {result['error']['advice']}"]
    lines += [
        "", "| | |", "|---|---|",
        f"| run | `{run.run_id}` |",
        f"| iterations | {result['iterations']['succeeded']} good, {result['iterations']['failed']} failed |",
        f"| best checkpoint | {_best(best, metric)} |",
        f"| cost | {result['credits']:.4g} credits |",
        f"| store | `{result['store']}` |",
        "", f"![curves]({CURVES})",
        "", "## Iterations", "",
        f"| | {metric} | episodes | steps | rollouts, s | trainer, s | all, s |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for ended in iterations:
        if ended["failure"]:
            lines.append(f"| {ended['iteration']} | failed: {ended['failure']['message']} | | | | | |")
            continue
        cells = [
            str(ended["iteration"]), number(ended["metric"]), str(ended["episodes"]), str(ended["recorded_steps"]),
            number(ended["rollouts_seconds"]), number(ended["trainer_seconds"]), number(ended["seconds"]),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Lineage", "", "| checkpoint | parent | dataset | sha256 |", "|---|---|---|---|"]
    for record in lineage:
        dataset = (record["dataset_sha256"] or "")[:12]
        lines.append(
            f"| `{record['checkpoint_id']}` | {record['parent'] or 'none'} | {dataset} | `{record['sha256'][:16]}` |"
        )
    return "\n".join(lines) + "\n"


def _best(best: dict[str, Any] | None, metric: str) -> str:
    if best is None:
        return "none"
    return f"`{best['checkpoint_id']}`, iteration {best['iteration']}, {metric} {number(best['metric'])}"
