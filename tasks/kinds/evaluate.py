"""Evaluation: counted episodes, and what they say together."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from simyard.core.artifacts import EPISODES, EVALUATION_CONFIG, RETURNS
from simyard.core.records import JobResult
from simyard.core.specs import JobSpec
from simyard.tasks.kinds.base import Figures, Kind, read_file
from simyard.tasks.shared.documents import ArtifactWriter, interval, number
from simyard.tasks.shared.history import Verdict


class EvaluationKind(Kind):
    """Policies are measured."""

    name = "evaluate"
    unit = "episode"
    reward_name = "mean return"
    config = EVALUATION_CONFIG

    def total(self, spec: JobSpec) -> int:
        """Return the episodes of all policies."""
        assert spec.evaluation is not None
        return spec.evaluation.num_episodes * len(spec.policies)

    def keep(self, spec: JobSpec, verdict: Verdict, writer: ArtifactWriter) -> Figures:
        """Draw the returns; return the summary's figures."""
        figures = super().keep(spec, verdict, writer)
        if figures.summary:
            rows = read_file(writer.store, verdict.artifacts, EPISODES.name) or ""
            episodes = list(csv.DictReader(rows.splitlines()))
            draw_returns(episodes, figures.summary, spec.name, writer.scratch / RETURNS.name)
            writer.add(RETURNS)
        return figures

    def headline(self, result: JobResult) -> str:
        """Return the figures that matter."""
        summary = result.summary
        if not summary:
            return f"{result.done} of {result.total} episodes"
        returns, success = summary["return"], summary["success"]
        rate = "not measured" if success["rate"] is None else f"{100 * success['rate']:.1f} %"
        best = f", best of {len(summary['sweep'])}: {summary['checkpoint']['name']}" if summary["sweep"] else ""
        return (
            f"{result.done} of {result.total} episodes, mean return {number(returns['mean'])} "
            f"{interval(returns['interval_95'])}, success {rate}{best}"
        )


def draw_returns(episodes: list[dict[str, str]], summary: dict[str, Any], title: str, path: Path) -> None:
    """Draw the spread of the episodes' returns; of several checkpoints also the mean over their iterations.

    Args:
        episodes: Rows of `episodes.csv`.
        summary: `summary.json`.
        title: Above the picture.
        path: Where to write it.
    """
    from matplotlib.figure import Figure

    sweep = summary["sweep"] or []
    figure = Figure(figsize=(9.2 if sweep else 5.6, 3.6))
    margins = {"left": 0.07, "right": 0.93, "wspace": 0.22} if sweep else {"left": 0.11, "right": 0.97}
    figure.subplots_adjust(bottom=0.14, top=0.83, **margins)  # to find them out takes longer than to draw
    figure.suptitle(title, parse_math=False)
    spread = figure.add_subplot(1, 2 if sweep else 1, 1)
    name = summary["checkpoint"]["name"]
    groups: dict[str, list[float]] = {}
    for row in episodes:
        if row["checkpoint"] == name:
            groups.setdefault(_group(row), []).append(float(row["return"]))
    labels = sorted(groups)
    colors = [_COLORS[label] for label in labels]
    spread.hist([groups[label] for label in labels], bins=20, stacked=True, label=labels, color=colors)
    mean = summary["return"]["mean"]
    spread.axvline(mean, color="black", linewidth=1.2, label=f"mean {mean:.4g}")
    if bounds := summary["return"]["interval_95"]:
        spread.axvspan(*bounds, color="black", alpha=0.15, label="95 % of the mean")
    spread.set(xlabel="return", ylabel="episodes")
    spread.set_title(name, parse_math=False)
    spread.legend(fontsize=8)
    if sweep:
        _draw_sweep(figure.add_subplot(1, 2, 2), sweep)
    figure.savefig(path, dpi=110)


_COLORS = {"success": "#2a9d5c", "no success": "#c8553d", "terminated": "#c8553d", "truncated": "#3f72af"}


def _group(row: dict[str, str]) -> str:
    """Tell episodes apart by success, where it is known, else by how they ended."""
    return {"1": "success", "0": "no success"}.get(row["success"], row["ended"])


def _draw_sweep(axes: Any, sweep: list[dict[str, Any]]) -> None:
    steps = [summary["checkpoint"]["iteration"] for summary in sweep]
    means = [summary["return"]["mean"] for summary in sweep]
    bounds = [summary["return"]["interval_95"] or [mean, mean] for summary, mean in zip(sweep, means, strict=True)]
    axes.fill_between(steps, [low for low, _ in bounds], [high for _, high in bounds], alpha=0.25, label="95 %")
    axes.plot(steps, means, marker="o", label="mean return")
    axes.set(xlabel="iteration", ylabel="return", title="by checkpoint")
    axes.grid(alpha=0.3)
    handles = [*axes.collections, *axes.lines]
    rates = [summary["success"]["rate"] for summary in sweep]
    if all(rate is not None for rate in rates):
        other = axes.twinx()
        other.plot(steps, rates, color="#2a9d5c", marker="s", linestyle="--", label="success rate")
        other.set(ylabel="success rate", ylim=(-0.03, 1.03))
        handles += other.lines
    axes.legend(handles=handles, fontsize=8, loc="best")
