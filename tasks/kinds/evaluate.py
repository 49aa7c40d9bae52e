"""Evaluation: counted episodes, and what they say together."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from simyard.core.artifacts import (
    ACROSS,
    ACROSS_PLOT,
    ARM_EPISODES,
    DIVERGENCE,
    EPISODES,
    EVALUATION_CONFIG,
    PAIRS,
    RETURNS,
    ROBUSTNESS,
    ROBUSTNESS_PLOT,
    ROLLOUT,
)
from simyard.core.records import JobResult, Outcome
from simyard.core.specs import JobSpec
from simyard.runner.evaluation.traces import APART
from simyard.tasks.kinds.base import Figures, Kind, lacking, read_file
from simyard.tasks.kinds.robustness_picture import draw_robustness
from simyard.tasks.shared.documents import ArtifactWriter, interval, number
from simyard.tasks.shared.history import Artifact, Verdict


class EvaluationKind(Kind):
    """Policies are measured."""

    name = "evaluate"
    unit = "episode"
    reward_name = "mean return"
    config = EVALUATION_CONFIG

    def total(self, spec: JobSpec) -> int:
        """Return the episodes of all policies in all engines and arms."""
        assert spec.evaluation is not None
        played = spec.policies or spec.evaluation.actions or ()
        return spec.evaluation.num_episodes * len(played) * spec.evaluation.times

    def missing(self, spec: JobSpec, outcome: Outcome, artifacts: tuple[Artifact, ...]) -> list[str]:
        """Return what is lacking; the comparison of engines or conditions and the recording too, where promised."""
        wanted = spec.evaluation
        assert wanted is not None
        across = (ACROSS.name, PAIRS.name, DIVERGENCE.name) if wanted.across else ()
        varied = (ROBUSTNESS.name, ARM_EPISODES.name) if wanted.arms else ()
        recorded = (ROLLOUT.name,) if wanted.record else ()
        return [*super().missing(spec, outcome, artifacts), *lacking((*across, *varied, *recorded), artifacts)]

    def keep(self, spec: JobSpec, verdict: Verdict, writer: ArtifactWriter) -> Figures:
        """Draw the returns; return the summary's figures."""
        figures = super().keep(spec, verdict, writer)
        if figures.summary:
            rows = read_file(writer.store, verdict.artifacts, EPISODES.name) or ""
            episodes = list(csv.DictReader(rows.splitlines()))
            draw_returns(episodes, figures.summary, spec.name, writer.scratch / RETURNS.name)
            writer.add(RETURNS)
        if figures.summary and figures.summary.get("across"):
            pairs, curves = (
                list(csv.DictReader((read_file(writer.store, verdict.artifacts, name) or "").splitlines()))
                for name in (PAIRS.name, DIVERGENCE.name)
            )
            draw_across(pairs, curves, figures.summary, writer.scratch / ACROSS_PLOT.name)
            writer.add(ACROSS_PLOT)
        if figures.summary and figures.summary.get("robustness"):
            document = json.loads(read_file(writer.store, verdict.artifacts, ROBUSTNESS.name) or "")
            draw_robustness(figures.summary["robustness"], document, writer.scratch / ROBUSTNESS_PLOT.name)
            writer.add(ROBUSTNESS_PLOT)
        return figures

    def headline(self, result: JobResult) -> str:
        """Return the figures that matter."""
        summary = result.summary
        if not summary:
            return f"{result.done} of {result.total} episodes"
        returns, success = summary["return"], summary["success"]
        rate = "not measured" if success["rate"] is None else f"{100 * success['rate']:.1f} %"
        elsewhere = "".join(map(_elsewhere, summary["across"]["gaps"])) if summary.get("across") else ""
        varied = _worst(summary["robustness"]) if summary.get("robustness") else ""
        best = f", best of {len(summary['sweep'])}: {summary['checkpoint']['name']}" if summary["sweep"] else ""
        return (
            f"{result.done} of {result.total} episodes, mean return {number(returns['mean'])} "
            f"{interval(returns['interval_95'])}, success {rate}{best}{elsewhere}{varied}"
        )


def _elsewhere(gap: dict[str, Any]) -> str:
    """Return an engine's difference from the first in a few words."""
    returns = gap["returns"]
    return f"; under {gap['physics']} it differs by {number(returns['mean'])} {interval(returns['interval_95'])}"


def _worst(robustness: dict[str, Any]) -> str:
    """Return the worst arm in a few words."""
    arm = next(arm for arm in robustness["arms"] if arm["name"] == robustness["worst"])
    holding = sum(arm["holds"] for arm in robustness["arms"])
    return f"; holds in {holding} of {len(robustness['arms'])} arms, worst {arm['name']}: {100 * arm['score']:.1f} %"


def draw_returns(episodes: list[dict[str, str]], summary: dict[str, Any], title: str, path: Path) -> None:
    """Draw the spread of the episodes' returns; of several checkpoints also the mean over their iterations.

    Args:
        episodes: Rows of `episodes.csv`.
        summary: `summary.json`.
        title: Above the picture.
        path: Where to write it.
    """
    from matplotlib.figure import Figure

    sweep = [one for one in summary["sweep"] or () if one["checkpoint"]["iteration"] is not None]
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


def draw_across(pairs: list[dict[str, str]], curves: list[dict[str, str]], summary: dict[str, Any], path: Path) -> None:
    """Draw each pair's returns, and how the motions in two engines come apart.

    Args:
        pairs: Rows of `across.csv`.
        curves: Rows of `divergence.csv`.
        summary: `summary.json`: its policy is drawn.
        path: Where to write it.
    """
    from matplotlib.figure import Figure

    name, found = summary["checkpoint"]["name"], summary["across"]
    reference, *others = found["engines"]
    figure = Figure(figsize=(12.6, 3.8), layout="constrained")
    figure.suptitle(f"{name}: {' and '.join(found['engines'])}", parse_math=False)
    returns, closed, opened = figure.subplots(1, 3)

    # A point a pair: below the line the other engine gives less.
    rows = [row for row in pairs if row["checkpoint"] == name]
    ours = [float(row[f"{reference}.return"]) for row in rows]
    for other in others:
        returns.scatter(ours, [float(row[f"{other}.return"]) for row in rows], s=14, alpha=0.7, label=other)
    returns.axline((ours[0], ours[0]), slope=1, color="black", linewidth=0.8)
    returns.set(xlabel=f"return in {reference}", ylabel="return in the other", title="pairs of episodes")
    returns.legend(fontsize=8)

    # The quantities that are furthest apart in the end.
    for axes, loop in ((closed, "closed"), (opened, "open")):
        for other in others:
            steps = [row for row in curves if (row["checkpoint"], row["physics"], row["loop"]) == (name, other, loop)]
            quantities = [key for key in (steps[-1] if steps else {}) if key not in _NO_QUANTITIES]
            lines = {key: [float(row[key] or "nan") for row in steps] for key in quantities}
            for key in sorted(lines, key=lambda key: max(lines[key]), reverse=True)[:_MOST_CURVES]:
                axes.plot([int(row["step"]) for row in steps], lines[key], label=f"{key} ({other})")
        axes.axhline(APART, color="black", linewidth=0.8, linestyle=":")
        axes.set(xlabel="step", ylabel="difference, in standard deviations", title=f"{loop} loop: median of the pairs")
        axes.set_yscale("symlog", linthresh=1e-3)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        if axes.lines:
            for text in axes.legend(fontsize=7).get_texts():
                text.set_parse_math(False)  # joints have the names that users gave them
    figure.savefig(path, dpi=110)


_NO_QUANTITIES = ("checkpoint", "physics", "loop", "step", "pairs")
_MOST_CURVES = 4
