"""The tables of an evaluation: one row an episode, one row a checkpoint."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from simyard.core.files import write_atomic
from simyard.core.specs import PolicyFile
from simyard.runner.evaluation.episode_statistics import Episode

INTERVAL_S = 5.0
"""Seconds by which `episodes.csv` may lag: it is written whole every time."""


class EpisodeTable:
    """`episodes.csv`, which grows while the evaluation runs."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        self._seed = seed
        self._rows: list[dict[str, Any]] = []
        self._written = time.monotonic()

    def add(self, policy: PolicyFile, episode: Episode) -> None:
        """Add a row; an empty cell is a value nobody measured."""
        self._rows.append(
            {
                "checkpoint": policy.checkpoint.name,
                "iteration": policy.iteration,
                "episode": episode.number,
                "env": episode.env,
                "seed": self._seed,
                "return": repr(episode.total),
                "length": episode.length,
                "ended": episode.ended,
                "term": episode.term,
                "success": None if episode.success is None else int(episode.success),
                **{f"reward.{name}": repr(value) for name, value in episode.rewards.items()},
            }
        )
        if time.monotonic() - self._written > INTERVAL_S:
            self.write()

    def forget_success(self, policy: PolicyFile) -> None:
        """Empty the cells of a metric that turned out to say nothing of single episodes."""
        for row in self._rows:
            if row["checkpoint"] == policy.checkpoint.name:
                row["success"] = None

    def write(self) -> None:
        """Write all rows."""
        write_rows(self._path, self._rows)
        self._written = time.monotonic()


def write_metrics(path: Path, summaries: Iterable[dict[str, Any]]) -> None:
    """Write `metrics.csv`: one row a checkpoint."""
    rows = []
    for summary in summaries:
        low, high = summary["return"]["interval_95"] or (None, None)
        success_low, success_high = summary["success"]["interval_95"] or (None, None)
        rows.append(
            {
                "step": summary["checkpoint"]["iteration"],
                "checkpoint": summary["checkpoint"]["name"],
                "episodes": summary["episodes"],
                "return_mean": summary["return"]["mean"],
                "return_std": summary["return"]["std"],
                "return_median": summary["return"]["median"],
                "return_low_95": low,
                "return_high_95": high,
                "length_mean": summary["length"]["mean"],
                "success_rate": summary["success"]["rate"],
                "success_low_95": success_low,
                "success_high_95": success_high,
                **{f"reward.{name}": value for name, value in summary["reward_terms"].items()},
            }
        )
    write_rows(path, rows)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of the same keys as CSV, whole."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())
