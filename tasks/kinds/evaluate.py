"""Evaluation: counted episodes, and what they say together."""

from __future__ import annotations

import csv
import json
from typing import Any

from simyard.core.specs import JobSpec
from simyard.store.store import Store
from simyard.tasks.kinds import evaluation_plots as plots
from simyard.tasks.kinds.base import Kind
from simyard.tasks.shared.artifact_writer import Keeper
from simyard.tasks.shared.text import interval, number
from simyard.tasks.shared.verdict import Artifact, Verdict


class EvaluationKind(Kind):
    """Policies are measured."""

    name = "evaluate"
    unit = "episode"
    reward_name = "mean return"
    config_name = "evaluation-config.json"
    promised = ("summary.json", "episodes.csv", "metrics.csv", "params/env.yaml", "params/agent.yaml", "versions.json")

    def total(self, spec: JobSpec) -> int:
        """Return the episodes of all policies."""
        assert spec.evaluation is not None
        return spec.evaluation.num_episodes * len(spec.policies)

    def keep(self, spec: JobSpec, verdict: Verdict, keeper: Keeper) -> dict[str, Any]:
        """Draw the returns; return the summary."""
        summary = read_output(keeper.store, verdict.artifacts, "summary.json")
        if not summary:
            return {}
        episodes = read_rows(keeper.store, verdict.artifacts, "episodes.csv")
        plots.draw_returns(episodes, summary, spec.name, keeper.scratch / "returns.png")
        keeper.add("returns.png", "plot", keeper.scratch / "returns.png")
        return summary

    def reward(self, spec: JobSpec, figures: dict[str, Any]) -> float | None:
        """Return the mean return, of several policies the best one's."""
        return float(figures["return"]["mean"]) if figures else None

    def headline(self, result: dict[str, Any]) -> str:
        """Return the figures that matter."""
        summary = result["summary"]
        if not summary:
            return f"{result['done']} of {result['total']} episodes"
        returns, success = summary["return"], summary["success"]
        rate = "not measured" if success["rate"] is None else f"{100 * success['rate']:.1f} %"
        best = f", best of {len(summary['sweep'])}: {summary['checkpoint']['name']}" if summary["sweep"] else ""
        return (
            f"{result['done']} of {result['total']} episodes, mean return {number(returns['mean'])} "
            f"{interval(returns['interval_95'])}, success {rate}{best}"
        )

    def report(self, spec: JobSpec, figures: dict[str, Any]) -> list[str]:
        """Return one row a checkpoint, the endings, the reward terms and the videos of the best."""
        if not figures:
            return []
        lines = [
            "",
            "| checkpoint | episodes | mean return | 95 % | std | success | 95 % | mean length |",
            "|---" * 8 + "|",
        ]
        lines += [_row(summary) for summary in figures["sweep"] or [figures]]
        ended = figures["ended"]
        terms = "".join(f", {name} {count}" for name, count in ended["terms"].items())
        lines += ["", f"`{figures['checkpoint']['name']}` (sha256 `{figures['checkpoint']['sha256']}`): "]
        lines[-1] += f"{ended['terminated']} terminated, {ended['truncated']} truncated{terms}."
        lines += [f"Success is said by: {figures['success']['source'] or 'nothing, so it is not measured'}."]
        if figures["reward_terms"]:
            lines += ["", "| reward term | mean part of the return |", "|---|---|"]
            lines += [f"| {name} | {number(value)} |" for name, value in figures["reward_terms"].items()]
        lines += ["", "![returns](returns.png)"]
        if figures["video_problem"]:
            lines += ["", f"No video: {figures['video_problem']}"]
        lines += [
            f"- [{video['file']}]({video['file']}): {', '.join(video['why'])}, return {number(video['return'])}, "
            f"{video['length']} steps"
            for video in figures["videos"] or []
        ]
        return lines


def _row(summary: dict[str, Any]) -> str:
    returns, success = summary["return"], summary["success"]
    rate = "not measured" if success["rate"] is None else f"{success['rate']:.3f}"
    cells = (
        summary["checkpoint"]["name"],
        str(summary["episodes"]),
        number(returns["mean"]),
        interval(returns["interval_95"]),
        number(returns["std"]),
        rate,
        interval(success["interval_95"]),
        number(summary["length"]["mean"]),
    )
    return f"| {' | '.join(cells)} |"


def read_output(store: Store, artifacts: tuple[Artifact, ...], name: str) -> dict[str, Any]:
    """Return a JSON file that the workload left; empty when it left none."""
    key = next((artifact.key for artifact in artifacts if artifact.name == name), None)
    return dict(json.loads(store.get_bytes(key))) if key else {}


def read_rows(store: Store, artifacts: tuple[Artifact, ...], name: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file that the workload left."""
    key = next((artifact.key for artifact in artifacts if artifact.name == name), None)
    return list(csv.DictReader(store.get_bytes(key).decode().splitlines())) if key else []
