"""Robustness: every arm of an evaluation compared with its control arm, pair by pair, and what follows for each factor.

An arm is the control arm's episodes under other conditions: the same starts, commands and noise. So what is compared
are differences of pairs, and what is said of many arms is corrected for their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from simyard.core.artifacts import ARM_EPISODES, ROBUSTNESS
from simyard.core.files import write_json
from simyard.core.specs import Arm, Evaluation, Level
from simyard.runner.evaluation import factors
from simyard.runner.evaluation.across import RateDifference
from simyard.runner.evaluation.episode_statistics import Episode
from simyard.runner.evaluation.paired_statistics import holm, mcnemar, rank_correlation, sign_flips
from simyard.runner.evaluation.summary import (
    CheckpointName,
    Figures,
    Spread,
    paired_difference_of_rates,
    spread,
    summarize,
)
from simyard.runner.evaluation.tables import write_rows

CONTROL = "control"
"""Name of the control arm."""


class Difference(TypedDict):
    """An arm less the control arm, by pairs of episodes."""

    returns: Spread
    """Of the differences of returns."""
    returns_p: float
    """Of the sign-flip test."""
    returns_p_holm: float
    """The same, corrected for the number of arms."""
    success: RateDifference | None
    """None where nothing says what success is, as what follows."""
    success_p: float | None
    """Of McNemar's exact test."""
    success_p_holm: float | None


class ArmFigures(TypedDict):
    """An arm."""

    name: str
    levels: dict[str, Level]
    figures: Figures
    difference: Difference
    score: float
    """Success rate; where nobody says what success is, the share of the control arm's return that is kept."""
    holds: bool
    """Whether the score is not below the floor."""


class Margin(TypedDict):
    """Range of a factor in which the policy holds, as far as it was tried, all other factors at their neutral level."""

    factor: str
    unit: str
    neutral: float
    holds: list[float]
    """Lowest and highest level up to which every one that was tried holds."""
    falls: list[float | None]
    """The next level below and above, which does not; None where none was tried."""


class Influence(TypedDict):
    """Influence of a factor that was varied together with others."""

    factor: str
    correlation: float | None
    """Spearman's, of the scores with the distance from the neutral level; None where one of the two never changes."""


class Robustness(TypedDict):
    """A policy under all conditions."""

    checkpoint: CheckpointName
    control: Figures
    control_score: float
    arms: list[ArmFigures]
    """In the order of the design."""
    margins: list[Margin]
    """Of each factor that was varied alone."""
    worst: str
    """Arm with the lowest score."""
    sensitivity: list[Influence]
    """The most influential first; empty where factors were varied one at a time."""


class Document(TypedDict):
    """`robustness.json`."""

    schema_version: int
    design: str
    floor: float
    score: str
    """`success_rate`, or `return_kept` where nobody says what success is."""
    pairs: int
    """Episodes of each arm."""
    policies: list[Robustness]


@dataclass(frozen=True, kw_only=True)
class ArmPlayed:
    """The episodes of an arm, in the order of their pairs."""

    arm: Arm
    episodes: list[Episode]


def compare(
    checkpoint: CheckpointName, control: list[Episode], arms: Sequence[ArmPlayed], source: str | None, floor: float
) -> Robustness:
    """Compare every arm with the control arm.

    Args:
        checkpoint: The policy's.
        control: Episodes of the control arm, in the order of their pairs.
        arms: All others.
        source: Source of the success of episodes; None if there is none.
        floor: Score below which an arm has failed.
    """
    base = summarize(sorted(control, key=lambda one: one.number), source)  # to the bit as a plain evaluation adds up
    found: list[ArmFigures] = []
    for one in arms:
        figures = summarize(one.episodes, source)
        score = _score(figures, base)
        found.append({
            "name": one.arm.name, "levels": dict(one.arm.levels), "figures": figures,
            "difference": _difference(control, one.episodes, source), "score": score, "holds": score >= floor,
        })  # fmt: skip

    # Of many comparisons some would look like a difference by chance.
    for index, p in enumerate(holm([arm["difference"]["returns_p"] for arm in found])):
        found[index]["difference"]["returns_p_holm"] = p
    for index, success_p in enumerate(holm([arm["difference"]["success_p"] for arm in found])):
        found[index]["difference"]["success_p_holm"] = success_p
    return {
        "checkpoint": checkpoint,
        "control": base,
        "control_score": _score(base, base),
        "arms": found,
        "margins": _margins(found, _score(base, base) >= floor),
        "worst": min(found, key=lambda arm: (arm["score"], arm["figures"]["return"]["mean"]))["name"],
        "sensitivity": _sensitivity(found),
    }


def _score(figures: Figures, control: Figures) -> float:
    rate, mean = figures["success"]["rate"], control["return"]["mean"]
    if rate is not None and control["success"]["rate"] is not None:
        return rate
    # Of a negative mean the loss counts in its magnitude, as across engines.
    return 1 + (figures["return"]["mean"] - mean) / abs(mean) if mean else 1.0


def _difference(control: list[Episode], episodes: list[Episode], source: str | None) -> Difference:
    changes = [other.total - one.total for one, other in zip(control, episodes, strict=True)]
    returns_p = sign_flips(changes)
    pairs = [(one.success, other.success) for one, other in zip(control, episodes, strict=True)]
    known = [(one, other) for one, other in pairs if one is not None and other is not None]
    success: RateDifference | None = None
    if known and source is not None:
        ours, theirs = [one for one, _ in known], [other for _, other in known]
        success = {
            "mean": (sum(theirs) - sum(ours)) / len(known),
            "interval_95": list(paired_difference_of_rates(theirs, ours)),
            "lost": sum(one and not other for one, other in known),
            "gained": sum(other and not one for one, other in known),
        }
    return {
        "returns": spread(changes), "returns_p": returns_p, "returns_p_holm": returns_p, "success": success,
        "success_p": mcnemar(success["lost"], success["gained"]) if success else None, "success_p_holm": None,
    }  # fmt: skip


def curve(arms: Sequence[ArmFigures], factor: str) -> list[tuple[float, ArmFigures]]:
    """Return the arms that vary one factor alone, by its level; an event's levels have no order."""
    alone = [(arm["levels"][factor], arm) for arm in arms if list(arm["levels"]) == [factor]]
    return sorted(((level, arm) for level, arm in alone if isinstance(level, int | float)), key=lambda item: item[0])


def varied(arms: Sequence[ArmFigures]) -> list[str]:
    """Return the factors that arms vary, in the order of the request."""
    return list(dict.fromkeys(name for arm in arms for name in arm["levels"]))


def _margins(arms: Sequence[ArmFigures], control_holds: bool) -> list[Margin]:
    found: list[Margin] = []
    for factor in varied(arms):
        middle = factors.neutral(factor)
        if middle is None or not (points := curve(arms, factor)) or not control_holds:
            continue
        holds, falls = [middle, middle], list[float | None]([None, None])
        for side, levels in enumerate(
            (
                [point for point in reversed(points) if point[0] < middle],
                [point for point in points if point[0] > middle],
            )
        ):
            for level, arm in levels:
                if not arm["holds"]:
                    falls[side] = level
                    break
                holds[side] = level
        unit = factors.FACTORS[factors.split(factor)[0]].unit
        found.append({"factor": factor, "unit": unit, "neutral": middle, "holds": holds, "falls": falls})
    return found


def _sensitivity(arms: Sequence[ArmFigures]) -> list[Influence]:
    if all(len(arm["levels"]) == 1 for arm in arms):
        return []
    found: list[Influence] = []
    for factor in varied(arms):
        middle = factors.neutral(factor)
        if middle is None:
            continue
        levels = [arm["levels"].get(factor, middle) for arm in arms]
        away = [abs(level - middle) for level in levels if isinstance(level, int | float)]
        found.append({"factor": factor, "correlation": rank_correlation(away, [arm["score"] for arm in arms])})
    return sorted(found, key=lambda one: -abs(one["correlation"] or 0.0))


class RobustnessReport:
    """`robustness.json` and `robustness.csv`, filled policy by policy."""

    def __init__(self, output: Path, wanted: Evaluation) -> None:
        self._output, self._floor = output, factors.FLOOR if wanted.floor is None else wanted.floor
        self._rows: list[Mapping[str, object]] = []
        self.document: Document = {
            "schema_version": 1,
            "design": wanted.design or factors.DESIGNS[0],
            "floor": self._floor,
            "score": "success_rate",
            "pairs": wanted.num_episodes,
            "policies": [],
        }
        """The content of `robustness.json` so far."""

    def add(
        self, checkpoint: CheckpointName, control: list[Episode], arms: Sequence[ArmPlayed], source: str | None
    ) -> Robustness:
        """Add a policy, and write both files."""
        found = compare(checkpoint, control, arms, source, self._floor)
        if found["control"]["success"]["rate"] is None:
            self.document["score"] = "return_kept"
        self.document["policies"].append(found)
        for arm, episodes in ((CONTROL, control), *((one.arm.name, one.episodes) for one in arms)):
            for pair, episode in enumerate(episodes):
                self._rows.append({
                    "checkpoint": checkpoint["name"], "arm": arm, "pair": pair + 1, "return": repr(episode.total),
                    "length": episode.length, "ended": episode.ended, "term": episode.term,
                    "success": None if episode.success is None else int(episode.success),
                })  # fmt: skip
        write_json(self._output / ROBUSTNESS.name, self.document)
        write_rows(self._output / ARM_EPISODES.name, self._rows)
        return found
