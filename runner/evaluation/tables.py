"""Tables of an evaluation: a row an episode, a row a checkpoint."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simyard.core.files import write_atomic
from simyard.core.specs import PolicyFile
from simyard.runner.evaluation.episode_statistics import Episode

if TYPE_CHECKING:
    from simyard.runner.evaluation.evaluate import PolicySummary

WRITE_EVERY_S = 5.0
"""Seconds by which `episodes.csv` may lag: it is written whole every time."""


class EpisodeTable:
    """`episodes.csv`, which grows while the evaluation runs."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        self._seed = seed
        self._rows: list[dict[str, object]] = []
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
        if time.monotonic() - self._written > WRITE_EVERY_S:
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


def write_metrics(path: Path, summaries: Iterable[PolicySummary]) -> None:
    """Write `metrics.csv`: one row a checkpoint, whose last columns are tags of TensorBoard."""
    rows = []
    for summary in summaries:
        returns, success = summary["return"], summary["success"]
        low, high = returns["interval_95"] or (None, None)
        success_low, success_high = success["interval_95"] or (None, None)
        rows.append(
            {
                "step": summary["checkpoint"]["iteration"],
                "checkpoint": summary["checkpoint"]["name"],
                "episodes": summary["episodes"],
                "return_mean": returns["mean"],
                "return_std": returns["std"],
                "return_median": returns["median"],
                "return_low_95": low,
                "return_high_95": high,
                "length_mean": summary["length"]["mean"],
                "success_rate": success["rate"],
                "success_low_95": success_low,
                "success_high_95": success_high,
                **{f"reward.{name}": value for name, value in summary["reward_terms"].items()},
                **summary["tags"],
            }
        )
    write_rows(path, rows)


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as CSV, whole; what a row does not have is an empty cell."""
    text = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())
