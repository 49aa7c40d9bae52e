"""The picture of a robustness evaluation: how a policy degrades along each factor, or what matters among them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from simyard.runner.evaluation import factors
from simyard.runner.evaluation.robustness import curve, varied

MOST_BARS = 30
"""Arms that are drawn as bars: the worst ones."""
_COLUMNS = 3
_FAILED, _HELD, _BAND = "#c8553d", "#2a9d5c", "#3f72af"


def draw_robustness(found: dict[str, Any], document: dict[str, Any], path: Path) -> None:
    """Draw a degradation curve with its band for each factor that was varied alone, and the worst of all other arms.

    Args:
        found: The policy's part of `robustness.json`.
        document: `robustness.json`.
        path: Where to write it.
    """
    from matplotlib.figure import Figure

    arms = found["arms"]
    curves = {name: points for name in varied(arms) if (points := curve(arms, name))}
    drawn = {arm["name"] for points in curves.values() for _, arm in points}
    others = sorted((arm for arm in arms if arm["name"] not in drawn), key=lambda arm: arm["score"])[:MOST_BARS]

    panels = len(curves) + bool(others) + bool(found["sensitivity"])
    columns = min(_COLUMNS, panels)
    rows = math.ceil(panels / columns)
    size = (4.2 * columns + 0.4, max(3.2 * rows, 0.24 * len(others) + 1.2 if others else 0) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    said = "success rate" if document["score"] == "success_rate" else "share of the return kept"
    figure.suptitle(
        f"{found['checkpoint']['name']}: {said}, {document['pairs']} episodes an arm", parse_math=False, fontsize=11
    )
    places = iter(figure.subplots(rows, columns, squeeze=False).flat)
    for name, points in curves.items():
        _draw_curve(next(places), name, points, found, document)
    if found["sensitivity"]:
        _draw_influence(next(places), found["sensitivity"])
    if others:
        _draw_bars(next(places), others, document["floor"], said)
    for rest in places:
        rest.set_axis_off()
    figure.savefig(path, dpi=110)


def _draw_curve(axes: Any, name: str, points: list[Any], found: dict[str, Any], document: dict[str, Any]) -> None:
    """Draw the score by the level, the control arm at the neutral one; the band is its 95 % interval."""
    neutral = factors.neutral(name)
    assert neutral is not None
    control = {"score": found["control_score"], "figures": found["control"], "holds": True}
    points = sorted([*points, (neutral, control)], key=lambda point: point[0])
    levels, scores = [level for level, _ in points], [arm["score"] for _, arm in points]
    bounds = [_interval(arm, found, document) for _, arm in points]
    axes.fill_between(levels, [low for low, _ in bounds], [high for _, high in bounds], color=_BAND, alpha=0.2)
    axes.plot(levels, scores, color=_BAND, linewidth=1.4)
    colors = [_HELD if arm["score"] >= document["floor"] else _FAILED for _, arm in points]
    axes.scatter(levels, scores, color=colors, s=26, zorder=3)
    axes.axhline(document["floor"], color="black", linewidth=0.8, linestyle=":")
    axes.axvline(neutral, color="black", linewidth=0.6, alpha=0.4)
    unit = factors.FACTORS[factors.split(name)[0]].unit
    axes.set_xlabel(f"{name} ({unit})", parse_math=False)
    top = max(1.0, *(high for _, high in bounds))
    axes.set_ylim(min(0.0, *(low for low, _ in bounds)) - 0.03, top + 0.03)
    axes.grid(alpha=0.3)


def _interval(arm: dict[str, Any], found: dict[str, Any], document: dict[str, Any]) -> tuple[float, float]:
    """Return the interval of a score: of the rate itself, or of the mean return as a share of the control arm's."""
    figures, mean = arm["figures"], found["control"]["return"]["mean"]
    if document["score"] == "success_rate":
        low, high = figures["success"]["interval_95"] or (arm["score"], arm["score"])
        return low, high
    bounds = figures["return"]["interval_95"]
    if not bounds or not mean:
        return arm["score"], arm["score"]
    low, high = (1 + (bound - mean) / abs(mean) for bound in bounds)
    return low, high


def _draw_influence(axes: Any, sensitivity: list[dict[str, Any]]) -> None:
    ranked = sensitivity[::-1]
    values = [one["correlation"] or 0.0 for one in ranked]
    axes.barh(range(len(ranked)), values, color=[_FAILED if value < 0 else _HELD for value in values])
    axes.set_yticks(range(len(ranked)), [one["factor"] for one in ranked], fontsize=8, parse_math=False)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlim=(-1, 1), xlabel="rank correlation with the score", title="influence")
    axes.title.set_fontsize(9)
    axes.grid(alpha=0.3, axis="x")


def _draw_bars(axes: Any, arms: list[dict[str, Any]], floor: float, said: str) -> None:
    ranked = arms[::-1]
    scores = [arm["score"] for arm in ranked]
    axes.barh(range(len(ranked)), scores, color=[_HELD if arm["holds"] else _FAILED for arm in ranked])
    labels = [arm["name"] if len(arm["name"]) <= 48 else f"{arm['name'][:45]}…" for arm in ranked]
    axes.set_yticks(range(len(ranked)), labels, fontsize=6, parse_math=False)
    axes.axvline(floor, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel=said, title="the worst arms")
    axes.title.set_fontsize(9)
    axes.grid(alpha=0.3, axis="x")
