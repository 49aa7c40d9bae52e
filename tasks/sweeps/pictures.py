"""Pictures of a sweep: curves of its settings, parallel coordinates, the Pareto front, importance of its parameters.

They are drawn from the record, while the sweep runs and at its end. Functions import Optuna and Matplotlib.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from simyard.core.artifacts import METRICS
from simyard.core.sweep_records import Decision, Interval, RankedSetting, Setting, SweepVerdict
from simyard.requests.sweeps import SweepRequest
from simyard.runner.rl import get_library
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.pages.sheets import Faults, joined, read
from simyard.tasks.shared import history
from simyard.tasks.sweeps.verdict import comparable, values_in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES, PARALLEL, FRONT, IMPORTANCE = "curves.png", "parallel.png", "front.png", "importance.png"
NAMES = (CURVES, PARALLEL, FRONT, IMPORTANCE)
MOST_COLOURED = 8
"""The best settings, which have a colour, a band and a name; the others are grey."""
MOST_LINES = 200
"""Settings that are drawn at all, the best of them."""
MOST_POINTS = 500
"""Of a curve; a longer one is thinned."""
LEAST_SETTINGS = 5
"""Measured settings without which nothing is said of a parameter's importance."""
_NAME = 100
"""Characters of a name in a picture."""
_LINE = 0.05
"""Share of an axis that a line of text has: marks closer than that are left out, but for those of both ends."""
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#1a1a1a")
"""Okabe and Ito's, which people who confuse colours tell apart."""

Curve = Mapping[int, float]
"""A metric by step."""


# --- what is drawn ----------------------------------------------------------------------------------------------------


class Curves:
    """Curves of trainings, read from the store; those that have ended are read once."""

    def __init__(self, store: Store, request: SweepRequest) -> None:
        """Read nothing yet.

        Args:
            store: The sweep's.
            request: The sweep's: the curves are of its metric, or of the mean reward where evaluations measure that.
        """
        self._store = store
        own = request.sweep.main
        self.tag = (
            request.metric if own.measurement is None else get_library(request.training_config.rl_library).reward_tag
        )
        """Column of metrics.csv."""
        self._ended: dict[str, Curve] = {}

    def of(self, setting: Setting) -> dict[int, Curve]:
        """Return the curve of each seed, as far as it has come; a seed that failed has none."""
        found = {run.seed: self._joined(run.jobs) for run in setting.runs if run.status != "failed"}
        return {seed: curve for seed, curve in found.items() if curve}

    def _joined(self, jobs: Sequence[str]) -> Curve:
        """Return the curve of jobs each of which went on from the one before; the later one counts."""
        found: dict[int, float] = {}
        for job_id in jobs:
            curve = self._ended.get(job_id) or self._read(job_id)
            first = min(curve, default=math.inf)
            found = {step: value for step, value in found.items() if step < first} | dict(curve)
        return found

    def _read(self, job_id: str) -> Curve:
        """Return the curve of one job: of its table, or of those of its attempts while it has none."""
        job, faults = JobKeys(job_id), Faults()
        whole = read(self._store, job.artifact(METRICS.name), METRICS.name, faults)
        past = history.chain(history.attempts(self._store, job_id)) if whole is None else ()
        tables = (read(self._store, attempt.keys.file(METRICS.name), METRICS.name, faults) for attempt, _ in past)
        curve = {int(step): value for step, value in joined([whole] if whole else [*filter(None, tables)], self.tag)}
        if whole:
            self._ended[job_id] = curve
        return curve


@dataclass(frozen=True, kw_only=True)
class Band:
    """The mean of a setting over its seeds, with the lowest and the highest of them at each step."""

    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]

    @classmethod
    def of(cls, curves: Sequence[Curve]) -> Band:
        """Return the band of curves, over the steps that all of them have."""
        common = sorted(set.intersection(*(set(curve) for curve in curves)))
        steps = common[:: math.ceil(len(common) / MOST_POINTS) or 1]
        rows = [[curve[step] for curve in curves] for step in steps]
        return cls(steps=steps, mean=[*map(fmean, rows)], low=[*map(min, rows)], high=[*map(max, rows)])


# --- drawing ----------------------------------------------------------------------------------------------------------


def draw(
    folder: Path,
    request: SweepRequest,
    settings: Sequence[Setting],
    verdict: SweepVerdict,
    curves: Curves,
    decisions: Sequence[Decision] = (),
) -> list[Path]:
    """Draw what there is to draw; return the files.

    Args:
        folder: Where the pictures go.
        request: The sweep's.
        settings: All of the sweep, as they are now.
        verdict: On them.
        curves: Theirs.
        decisions: Of the sweep so far: they tell what was measured at earlier rungs.
    """
    by_number = {one.number: one for one in settings}
    bands = {}
    for row in verdict.table[:MOST_LINES]:
        if (found := curves.of(by_number[row.number])) and (band := Band.of([*found.values()])).steps:
            bands[row.number] = band
    ranked = [row for row in verdict.table if row.value is not None]
    parameters = parameters_of(settings)
    importance = importance_of(request, settings, comparable(settings, decisions))
    drawn: dict[str, Callable[[Path], None]] = {}
    if bands:
        drawn[CURVES] = lambda path: draw_curves(path, request, verdict.table, bands, curves.tag)
    if len(ranked) > 1 and parameters:
        drawn[PARALLEL] = lambda path: draw_parallel(path, request, ranked, parameters)
    if verdict.metrics and ranked:
        drawn[FRONT] = lambda path: draw_front(path, request, ranked)
    if importance:
        drawn[IMPORTANCE] = lambda path: draw_importance(path, request, importance)
    for name, to in drawn.items():
        to(folder / name)
    return [folder / name for name in drawn]


def draw_curves(
    path: Path, request: SweepRequest, table: Sequence[RankedSetting], bands: Mapping[int, Band], tag: str
) -> None:
    """Draw one line a setting with a band over its seeds; the best are coloured."""
    figure, axes = _figure(7.2, 4.6, f"{request.name}: {tag}")
    rows = [row for row in table if row.number in bands]
    for place, row in reversed([*enumerate(rows)]):  # the best last, on top
        band, is_best = bands[row.number], place < MOST_COLOURED
        colour = _COLOURS[place] if is_best else "0.8"
        if is_best and row.seeds > 1:
            axes.fill_between(band.steps, band.low, band.high, color=colour, alpha=0.15, linewidth=0)
        name = f"{row.number}: {values_in_words(row.values)}"
        few = "." if len(band.steps) < 3 else ""
        axes.plot(
            band.steps, band.mean, color=colour, linewidth=1.6 if is_best else 0.8, marker=few,
            label=_plain(name) if is_best else None, zorder=3 if is_best else 1,
        )  # fmt: skip
    seeds = max((row.seeds for row in rows), default=1)
    over = f"mean over {seeds} seeds, band from the lowest to the highest" if seeds > 1 else "one seed"
    axes.set_xlabel(f"step   ({over})", fontsize=8)
    handles, labels = axes.get_legend_handles_labels()
    legend = axes.legend(handles[::-1], labels[::-1], fontsize=7, title="setting, best first", title_fontsize=7,
                         loc="upper left", bbox_to_anchor=(0, -0.13), frameon=False, ncols=1)  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    others = len(rows) - MOST_COLOURED
    if others > 0:
        axes.text(1, -0.16, f"grey: {others} others", fontsize=7, ha="right", va="top", transform=axes.transAxes)
    _save(figure, path)


def draw_parallel(
    path: Path, request: SweepRequest, ranked: Sequence[RankedSetting], parameters: Sequence[str]
) -> None:
    """Draw one line a setting over an axis for each parameter and each objective, coloured by the first of these."""
    from matplotlib import colormaps

    # An axis: the place of each value from 0 to 1, and labels.
    places: list[list[float]] = []
    labels: list[list[tuple[float, str]]] = []
    for name in parameters:
        own = request.sweep.parameters.get(name)
        place, marks = _axis([row.values.get(name) for row in ranked], log=bool(own and own.log))
        places.append(place)
        labels.append(marks)
    for means in zip(*(row.measured for row in ranked), strict=True):
        place, marks = _axis([mean.mean for mean in means], log=False)
        places.append(place)
        labels.append(marks)

    # The lines, the best last; of several objectives all of the front are the best.
    first = places[len(parameters)]
    thick = [index for index, row in enumerate(ranked) if row.on_front] or [0]
    longest = max(row.iterations for row in ranked)
    figure, axes = _figure(max(6.0, 1.5 * len(places) + 1.5), 4.2, f"{request.name}: settings and what they reached")
    axes.set_axis_off()
    colours = colormaps["viridis"]
    best_is_high = request.sweep.main.mode == "max"
    for index in reversed(range(len(ranked))):
        goodness = first[index] if best_is_high else 1 - first[index]
        axes.plot(
            range(len(places)), [axis[index] for axis in places], color=colours(0.95 * goodness),
            linewidth=2.2 if index in thick else 1.0, alpha=1.0 if index in thick else 0.7, clip_on=False,
            linestyle="-" if ranked[index].iterations == longest else "--",
        )  # fmt: skip
    names = [*(name.rpartition(".")[2] for name in parameters), *request.metrics]
    for across, marks in enumerate(labels):
        axes.plot([across, across], [0, 1], color="0.3", linewidth=0.8)
        for at, said in marks:
            axes.text(
                across - 0.03, at, _plain(said, 18), fontsize=7, ha="right", va="center", parse_math=False, zorder=4,
                bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5},
            )  # fmt: skip
        axes.text(across, 1.06, _plain(names[across], 24), fontsize=8, ha="center", va="bottom", parse_math=False)
    if len(request.sweep.objectives) > 1:
        said = f"yellow is better by {request.metric}; thick lines are the Pareto front"
    else:
        said = f"yellow is better; the thick line is setting {ranked[0].number}, the best"
    if any(row.iterations < longest for row in ranked):
        said += "; dashed ones were trained less"
    axes.text(0, -0.08, _plain(said), fontsize=7, va="top", parse_math=False)
    axes.set_xlim(-0.4, len(places) - 0.8)
    axes.set_ylim(-0.02, 1.2)
    _save(figure, path)


def _axis(values: Sequence[Any], *, log: bool) -> tuple[list[float], list[tuple[float, str]]]:
    """Return the place of each value on an axis from 0 to 1, and its marks; what is no number has one place a value."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values) and (not log or min(numbers) > 0):
        across = [math.log(value) if log else float(value) for value in numbers]
        low, high = min(across), max(across)
        size = high - low or 1.0
        place = [(value - low) / size if high > low else 0.5 for value in across]
        shown = sorted(set(zip(place, numbers, strict=True)))
        if len(shown) > 6:
            ends = [low + part / 4 * (high - low) for part in range(5)]
            return place, [(part / 4, f"{math.exp(end) if log else end:.4g}") for part, end in enumerate(ends)]
        marks = [(at, f"{value:.4g}") for at, value in shown]
        kept = marks[:1]
        for mark in marks[1:-1]:
            if mark[0] - kept[-1][0] > _LINE and marks[-1][0] - mark[0] > _LINE:
                kept.append(mark)
        return place, kept + marks[1:][-1:]
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    kinds = sorted(set(texts))
    at = {text: index / (len(kinds) - 1) if len(kinds) > 1 else 0.5 for index, text in enumerate(kinds)}
    return [at[text] for text in texts], [(at[text], text) for text in kinds]


def draw_front(path: Path, request: SweepRequest, ranked: Sequence[RankedSetting]) -> None:
    """Draw the settings by their first objective and each other one, with their intervals; the front is coloured."""
    from matplotlib.figure import Figure

    objectives, metrics = request.sweep.objectives, request.metrics
    figure = Figure(figsize=(5.2 * (len(metrics) - 1) + 1.0, 4.4))
    figure.suptitle(_plain(f"{request.name}: Pareto front", 90), fontsize=9, parse_math=False)
    for index in range(1, len(metrics)):
        axes = figure.add_subplot(1, len(metrics) - 1, index)
        for row in reversed(ranked):  # the front last, on top
            across, up = row.measured[0], row.measured[index]
            colour, order = (_COLOURS[0], 3) if row.on_front else ("0.7", 1)
            axes.errorbar(
                across.mean, up.mean, xerr=_arms(across), yerr=_arms(up), fmt="o", color=colour, markersize=5,
                elinewidth=0.6, zorder=order,
            )  # fmt: skip
            axes.annotate(str(row.number), (across.mean, up.mean), (4, 4), textcoords="offset points", fontsize=7,
                          color=colour, zorder=order)  # fmt: skip
        for name, label in ((0, axes.set_xlabel), (index, axes.set_ylabel)):
            label(_plain(f"{metrics[name]} ({objectives[name].mode})", 60), fontsize=8, parse_math=False)
        _plainly(axes)
    figure.text(0.02, -0.02, "a number is a setting; blue are those of the front; lines are 95 % intervals", fontsize=7)
    _save(figure, path)


def _arms(value: Interval) -> list[list[float]] | None:
    """Return how far an interval reaches below its mean and above it; None where there is none."""
    return None if value.low is None or value.high is None else [[value.mean - value.low], [value.high - value.mean]]


def draw_importance(path: Path, request: SweepRequest, importance: Mapping[str, float]) -> None:
    """Draw a bar for each parameter."""
    names = [*importance][::-1]
    figure, axes = _figure(7.2, 1.2 + 0.32 * len(names), f"{request.name}: importance for {request.metric}")
    bars = axes.barh([_plain(name) for name in names], [importance[name] for name in names], color=_COLOURS[0])
    axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=3)
    axes.set_xlim(0, 1.12 * max(importance.values()) or 1)
    axes.set_xlabel("share (PED-ANOVA)", fontsize=8)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    _save(figure, path)


def _figure(wide: float, high: float, title: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(wide, high))
    axes = figure.add_subplot()
    axes.set_title(_plain(title, 90), fontsize=9, parse_math=False)
    _plainly(axes)
    return figure, axes


def _plainly(axes: Axes) -> None:
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, bbox_inches="tight", pad_inches=0.12)


def _plain(text: str, most: int = _NAME) -> str:
    """Return a user's text as a picture can hold it."""
    text = "".join(one if one.isprintable() else " " for one in text).lstrip("_")
    return text if len(text) <= most else f"{text[: most - 1]}…"


# --- importance -------------------------------------------------------------------------------------------------------


def parameters_of(settings: Sequence[Setting]) -> list[str]:
    """Return the parameters that have several values among settings, in the order of the config."""
    found: dict[str, set[str]] = {}
    for one in settings:
        for name, value in one.values.items():
            found.setdefault(name, set()).add(json.dumps(value, sort_keys=True))
    return [name for name, values in found.items() if len(values) > 1]


def importance_of(request: SweepRequest, settings: Sequence[Setting], means: Mapping[int, float]) -> dict[str, float]:
    """Return each parameter's share of what tells the good settings from the others; empty where too few are measured.

    It is Optuna's PED-ANOVA (Watanabe, Bansal and Hutter 2023): the best quarter against all.

    Args:
        request: The sweep's.
        settings: All of the sweep.
        means: The objective of each by its number, all at the same rung.
    """
    rows = [one for one in settings if one.number in means]
    names = parameters_of(rows)
    if len(rows) < LEAST_SETTINGS or len(names) < 2:
        return {}
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    # Every value of a list is a kind of its own; a range has the distribution that it was drawn from.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spaces: dict[str, Any] = {}
    for name in names:
        own = request.sweep.parameters.get(name)
        if own is not None and own.low is not None and own.high is not None:
            spaces[name] = FloatDistribution(float(own.low), float(own.high), log=own.log)
        else:
            spaces[name] = CategoricalDistribution(sorted({json.dumps(row.values[name]) for row in rows}))
    study = optuna.create_study(direction="maximize" if request.sweep.main.mode == "max" else "minimize")
    for row in rows:
        given = {
            name: float(row.values[name]) if isinstance(space, FloatDistribution) else json.dumps(row.values[name])
            for name, space in spaces.items()
        }
        study.add_trial(optuna.create_trial(params=given, distributions=spaces, value=means[row.number]))
    # Too few, or all alike: Optuna says so by an error of its own.
    with suppress(ValueError, RuntimeError, ZeroDivisionError):
        evaluator = PedAnovaImportanceEvaluator(target_quantile=0.25)
        found = get_param_importances(study, evaluator=evaluator, params=names)
        if all(map(math.isfinite, found.values())) and any(found.values()):
            return found
    return {}
