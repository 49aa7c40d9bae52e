"""Evaluation: counted episodes, and what they say together."""

from __future__ import annotations

import csv
import json
from typing import Any

from simyard.core.artifacts import EPISODES, EVALUATION_CONFIG, RETURNS, SUMMARY
from simyard.core.records import JobResult
from simyard.core.specs import JobSpec
from simyard.store.store import Store
from simyard.tasks.kinds import evaluation_plots as plots
from simyard.tasks.kinds.base import Kind
from simyard.tasks.shared.documents import Keeper, interval, number
from simyard.tasks.shared.history import Artifact, Verdict


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

    def keep(self, spec: JobSpec, verdict: Verdict, keeper: Keeper) -> dict[str, Any]:
        """Draw the returns; return the summary."""
        summary = read_output(keeper.store, verdict.artifacts, SUMMARY.name)
        if not summary:
            return {}
        episodes = read_rows(keeper.store, verdict.artifacts, EPISODES.name)
        plots.draw_returns(episodes, summary, spec.name, keeper.scratch / RETURNS.name)
        keeper.add(RETURNS)
        return summary

    def reward(self, spec: JobSpec, figures: dict[str, Any]) -> float | None:
        """Return the mean return, of several policies the best one's."""
        return float(figures["return"]["mean"]) if figures else None

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


def read_output(store: Store, artifacts: tuple[Artifact, ...], name: str) -> dict[str, Any]:
    """Return a JSON file that the workload left; empty when it left none."""
    key = next((artifact.key for artifact in artifacts if artifact.name == name), None)
    return dict(json.loads(store.get_bytes(key))) if key else {}


def read_rows(store: Store, artifacts: tuple[Artifact, ...], name: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file that the workload left."""
    key = next((artifact.key for artifact in artifacts if artifact.name == name), None)
    return list(csv.DictReader(store.get_bytes(key).decode().splitlines())) if key else []
