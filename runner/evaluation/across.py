"""One policy in several physics engines: pairs of episodes that begin alike, and how far each engine is from the first.

Every pair has an environment of its own, so that both of its episodes have the same start and the same noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from simyard.core.artifacts import ACROSS, DIVERGENCE, PAIRS
from simyard.core.files import write_json
from simyard.runner.evaluation.episode_statistics import Episode
from simyard.runner.evaluation.failures import Recorded
from simyard.runner.evaluation.sequential import Sequential
from simyard.runner.evaluation.summary import (
    CheckpointName,
    Figures,
    Spread,
    paired_difference_of_rates,
    spread,
    summarize,
)
from simyard.runner.evaluation.tables import write_rows
from simyard.runner.evaluation.traces import APART, REPLAYED_STEPS, Divergence, Trace, apart
from simyard.runner.step_clock import StepFigures


class RateDifference(TypedDict):
    """Difference of two success rates in pairs."""

    mean: float
    interval_95: list[float]
    lost: int
    """Pairs that succeed in the first engine alone."""
    gained: int
    """Pairs that succeed in the other alone."""


class Gap(TypedDict):
    """An engine compared with the first, by pairs of episodes."""

    physics: str
    returns: Spread
    """Of the return in this engine less that in the first, pair by pair."""
    kept: float | None
    """Mean return as a share of the first engine's; None where that is 0."""
    kept_interval_95: list[float] | None
    success: RateDifference | None
    """None where nothing says what success is."""
    closed_loop: Divergence
    """The policy acts on what it sees in each engine."""
    open_loop: Divergence
    """The first engine's actions are replayed."""


class Comparison(TypedDict):
    """A policy in every engine."""

    checkpoint: CheckpointName
    engines: dict[str, Figures]
    """By the engine, the first one first."""
    gaps: list[Gap]


class Document(TypedDict):
    """`across.json`."""

    schema_version: int
    reference: str
    """The engine that the others are compared with."""
    apart_by: float
    """Share of a quantity's standard deviation beyond which two motions are apart."""
    replayed_steps: int
    policies: list[Comparison]


@dataclass(frozen=True, kw_only=True)
class Played:
    """One policy played in one engine."""

    physics: str = ""
    """The engine; empty for the job's own."""
    episodes: list[Episode]
    success_source: str | None
    speed: StepFigures
    longest_s: float
    """Seconds of the task's longest episode."""
    agents: list[str] | None = None
    """Agents of the task; None for a task of one."""
    sequential: Sequential | None = None
    """How it ended, where a precision was to be reached."""
    recorded: Recorded | None = None
    """Failed episodes that were kept as data."""
    trace: Trace | None = None
    """Motion of the episodes; None where one engine was asked for."""
    replayed: Trace | None = None
    """Motion under the first engine's actions; None in the first engine."""

    @property
    def pairs(self) -> list[Episode]:
        """The episodes in the order of their environments."""
        return sorted(self.episodes, key=lambda episode: episode.env)


def traced(played: Played) -> Trace:
    """Return the motion of what was played in several engines."""
    assert played.trace is not None
    return played.trace


def compare(checkpoint: CheckpointName, played: Sequence[Played]) -> tuple[Comparison, list[dict[str, Any]]]:
    """Compare engines with the first.

    Args:
        checkpoint: The policy's.
        played: It in every engine, the first one first.

    Returns:
        The figures, and the rows of `divergence.csv`.
    """
    reference, *others = played
    engines = {one.physics: summarize(one.episodes, one.success_source) for one in played}
    gaps, rows = [], []
    for other in others:
        gap, curves = _gap(reference, other)
        gaps.append(gap)
        rows += [{"checkpoint": checkpoint["name"], "physics": other.physics, **curve} for curve in curves]
    return {"checkpoint": checkpoint, "engines": engines, "gaps": gaps}, rows


def _gap(reference: Played, other: Played) -> tuple[Gap, list[dict[str, Any]]]:
    pairs = list(zip(reference.pairs, other.pairs, strict=True))
    returns = paired_returns([one.total for one, _ in pairs], [two.total for _, two in pairs])
    kept = share_kept(returns, [one.total for one, _ in pairs])

    # Success of the pairs in which both engines tell.
    known = [(one.success, two.success) for one, two in pairs if one.success is not None and two.success is not None]
    success: RateDifference | None = None
    if known and reference.success_source and other.success_source:
        ours, theirs = [one for one, _ in known], [two for _, two in known]
        low, high = paired_difference_of_rates(theirs, ours)
        success = {
            "mean": (sum(theirs) - sum(ours)) / len(known),
            "interval_95": [low, high],
            "lost": sum(one and not two for one, two in known),
            "gained": sum(two and not one for one, two in known),
        }

    # Where the motions come apart.
    assert other.replayed is not None
    closed, closed_rows = apart(traced(reference), traced(other))
    opened, open_rows = apart(traced(reference), other.replayed)
    rows = [{"loop": loop, **row} for loop, found in (("closed", closed_rows), ("open", open_rows)) for row in found]
    gap: Gap = {
        "physics": other.physics,
        "returns": returns,
        "kept": kept[0] if kept else None,
        "kept_interval_95": list(kept[1]) if kept and kept[1] else None,
        "success": success,
        "closed_loop": closed,
        "open_loop": opened,
    }
    return gap, rows


def paired_returns(reference: Sequence[float], other: Sequence[float]) -> Spread:
    """Return the spread of `other - reference`, pair by pair, with the interval of its mean."""
    return spread([two - one for one, two in zip(reference, other, strict=True)])


def share_kept(gap: Spread, reference: Sequence[float]) -> tuple[float, tuple[float, float] | None] | None:
    """Return the share of the first engine's mean that is kept, with its interval; None where that mean is 0.

    Of a negative mean the loss counts in its magnitude: -12 instead of -10 keeps 0.8 of it.
    """
    mean = abs(sum(reference) / len(reference))
    if mean == 0:
        return None
    bounds = gap["interval_95"]
    return 1 + gap["mean"] / mean, (1 + bounds[0] / mean, 1 + bounds[1] / mean) if bounds else None


def pair_rows(checkpoint: str, played: Sequence[Played]) -> list[dict[str, object]]:
    """Return the rows of `across.csv`: one a pair, with columns for each engine."""
    rows: list[dict[str, object]] = []
    for index, episodes in enumerate(zip(*(one.pairs for one in played), strict=True)):
        row: dict[str, object] = {"checkpoint": checkpoint, "pair": index + 1}
        for one, episode in zip(played, episodes, strict=True):
            row |= {
                f"{one.physics}.return": repr(episode.total),
                f"{one.physics}.length": episode.length,
                f"{one.physics}.ended": episode.ended,
                f"{one.physics}.success": None if episode.success is None else int(episode.success),
            }
        rows.append(row)
    return rows


class Report:
    """`across.json`, `across.csv` and `divergence.csv`, filled policy by policy."""

    def __init__(self, output: Path, reference: str) -> None:
        self._output = output
        self._pairs: list[Mapping[str, object]] = []
        self._curves: list[Mapping[str, object]] = []
        self.document: Document = {
            "schema_version": 1,
            "reference": reference,
            "apart_by": APART,
            "replayed_steps": REPLAYED_STEPS,
            "policies": [],
        }
        """The content of `across.json` so far."""

    def add(self, checkpoint: CheckpointName, played: Sequence[Played]) -> Comparison:
        """Add a policy, and write all three files."""
        found, curves = compare(checkpoint, played)
        self.document["policies"].append(found)
        self._pairs += pair_rows(checkpoint["name"], played)
        self._curves += curves
        write_json(self._output / ACROSS.name, self.document)
        write_rows(self._output / PAIRS.name, self._pairs)
        write_rows(self._output / DIVERGENCE.name, self._curves)
        return found
