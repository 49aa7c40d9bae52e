"""Jobs side by side: their figures with the differences, curves, episodes, settings, environments, cost and films.

A job is named by its id; `ID@CHECKPOINT` is one checkpoint of a training, or of an evaluation that measured several.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from simyard.core.artifacts import CHECKPOINTS, EPISODES, METRICS, VERSIONS, find
from simyard.core.errors import RequestError
from simyard.core.records import ArtifactEntry, Cost, JobLabels, JobResult, JobState
from simyard.core.specs import Facts, JobSpec
from simyard.runner.evaluation.across import paired_returns
from simyard.runner.evaluation.summary import difference, difference_of_rates, paired_difference_of_rates
from simyard.runner.rl import get_library
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.metrics.table import choose_curves
from simyard.tasks.pages.charts import Overlay, Points, overlay
from simyard.tasks.pages.sheets import LONGEST, MOST_ROWS, Faults, Sheet, joined, read, tags_of
from simyard.tasks.shared import history, labels, usage
from simyard.tasks.shared.history import PastAttempt

FEWEST, MOST = 2, 8
"""Jobs of a comparison."""
MOST_TERMS = 16
"""Reward terms that are drawn."""
MOST_SAMPLED = 1000
"""Episodes of which the parts of the return get an interval too: it is resampled 9,999 times for each part."""
MOST_DIFFERENT = 200
"""Settings that are shown as different."""
MAX_VERSIONS_BYTES = 200_000
REWARD, LENGTH = "mean reward", "mean episode length"
"""Curves that every library has, under whatever tag."""
_TERM = "Episode_Reward/"
"""Part of the tags that Isaac Lab gives the terms of the reward."""
_OWN = ("job_id", "created_at", "request", "notes", "name", "description", "schema_version", "session", "from_job")
"""Fields of a job that make no difference to what it does, or stand elsewhere on the page."""

Pair = tuple[str, ...]
"""What an episode is known by in another evaluation with the same seeds."""


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """The episodes of an evaluation, as far as they were read."""

    values: dict[str, list[float | None]]
    """Numbers of each column, episode by episode; `success` is 0 or 1, None where it is not known."""
    pairs: list[Pair] | None
    """Names of the episodes; None where two have the same one."""
    rows: list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the jobs that are compared."""

    reference: str
    """Its id, with the checkpoint where one was named."""
    spec: JobSpec
    state: JobState
    labels: JobLabels
    facts: Facts | None
    gpu: str | None
    """The GPU's model."""
    cost: Cost
    """At the price that held when it was submitted."""
    curves: dict[str, Points]
    """Points of each curve, by its title, in the order in which the job's own page would draw them."""
    measured: Mapping[str, Any]
    """The evaluation's figures of the checkpoint; empty for other jobs."""
    episodes: Episodes | None
    films: list[str]
    """Names of its films, those of the same reason at the same place where it is known."""
    faults: Faults = field(default_factory=Faults)

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.spec.job_id

    @property
    def timings(self) -> Mapping[str, float | None]:
        """Seconds of the job, once it has ended."""
        return self.state.timings if isinstance(self.state, JobResult) else {}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A figure of a job less that of the first."""

    mean: float
    interval_95: tuple[float, float] | None
    """None where one of them has a single value."""
    pairs: int | None
    """Pairs of episodes with the same seed; None where the episodes are independent samples."""

    @property
    def is_beyond_noise(self) -> bool:
        """Return whether the interval has no zero in it."""
        return self.interval_95 is not None and not self.interval_95[0] <= 0 <= self.interval_95[1]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table that has a column for each job."""

    name: str
    cells: list[Any]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that is shown of jobs side by side."""

    sides: list[Side]
    figures: list[Row]
    differences: list[Row]
    """Cells are `Difference`, None for the first job and where nothing was compared."""
    curves: list[Overlay]
    terms: list[Overlay]
    settings: list[Row]
    """Those that differ."""
    environment: list[Row]
    """Likewise, of versions and machines."""
    cost: list[Row]
    films: list[list[tuple[int, str]]]
    """Films to be seen together: place of the job and name."""
    episodes: list[Row]
    """Returns of the episodes side by side: pairs where the seeds match."""
    episode_count: int
    faults: Faults


def compare(store: Store, references: Sequence[str]) -> Comparison:
    """Compare jobs of a store.

    Args:
        store: Where they all are.
        references: Two to eight of them; what differs is told against the first.

    Raises:
        RequestError: These are too few or too many, one is named twice, or there is no such job or checkpoint.
    """
    if not FEWEST <= len(references) <= MOST or len(set(references)) < len(references):
        twice = [reference for reference, count in Counter(references).items() if count > 1]
        given = f"{twice[0][:LONGEST]!r} is named twice" if twice else f"These are {len(references)} jobs"
        raise RequestError(
            f"{given}; {FEWEST} to {MOST} different ones are compared.",
            code="bad_comparison",
            advice="Name each by its id, a checkpoint of it as ID@model_50.pt.",
        )
    with ThreadPoolExecutor(len(references), "compare") as pool:
        sides = list(pool.map(lambda reference: _side(store, reference), references))

    titles = list(dict.fromkeys(title for side in sides for title in side.curves))
    rows, count = _episodes_together(sides)
    faults = Faults()
    for side in sides:
        faults.too_large |= side.faults.too_large
        faults.damaged |= side.faults.damaged
    return Comparison(
        sides=sides,
        figures=_figures(sides),
        differences=_differences(sides),
        curves=_overlays(sides, [title for title in titles if not title.startswith(_TERM)]),
        terms=_overlays(sides, [title for title in titles if title.startswith(_TERM)]),
        settings=_different([_flat(_settings(side.spec)) for side in sides]),
        environment=_different([_environment(side) for side in sides]),
        cost=_cost(sides),
        films=[
            [(place, side.films[number]) for place, side in enumerate(sides) if number < len(side.films)]
            for number in range(max(len(side.films) for side in sides))
        ],
        episodes=rows,
        episode_count=count,
        faults=faults,
    )


# One job


def _side(store: Store, reference: str) -> Side:
    """Read one job, from a listing of what it has and the few objects that are shown."""
    job_id, _, checkpoint = reference.partition("@")
    spec = history.load_spec(store, job_id)
    job = JobKeys(job_id)
    there = {entry.key for entry in store.list(job.prefix)}
    past = history.attempts(store, job_id, there)
    result = history.result_of(store, job_id) if job.result in there else None
    state = history.state_of(store, job_id, result, past, lambda: job.manifest in there)
    artifacts = [entry for entry in state.artifacts if isinstance(entry, ArtifactEntry)]
    last, faults = past[-1] if past else None, Faults()

    # A checkpoint of a training ends its curves; one of an evaluation chooses figures and episodes.
    until: int | None = None
    measured: Mapping[str, Any] = {}
    if spec.kind == "train":
        saved = {entry.name.rpartition("/")[2]: entry for entry in artifacts if entry.kind == CHECKPOINTS.kind}
        if checkpoint and checkpoint not in saved:
            raise _no_checkpoint(reference, checkpoint, saved)
        until = saved[checkpoint].iteration if checkpoint else None
    elif spec.kind == "evaluate" and result and result.summary:  # of several the one that is named, or the best
        several: list[Mapping[str, Any]] = result.summary.get("sweep") or [result.summary]
        named = [one for one in several if one["checkpoint"]["name"] == checkpoint]
        if checkpoint and not named:
            raise _no_checkpoint(reference, checkpoint, [one["checkpoint"]["name"] for one in several])
        measured = named[0] if named else result.summary
    elif checkpoint:
        raise _no_checkpoint(reference, checkpoint, [])
    keys = [attempt.keys.file(METRICS.name) for attempt, _ in history.chain(past)]
    if (kept := job.artifact(METRICS.name)) in there:
        keys = [kept]
    sheets = [sheet for key in keys if key in there and (sheet := read(store, key, METRICS.name, faults))]
    curves = _curves(spec, sheets, until) if spec.kind == "train" else {}
    told = {film["file"]: film for film in measured.get("videos") or []}
    films = [name for entry in artifacts if (row := find(name := entry.name)) and row.page == "video"]
    return Side(
        reference=reference, spec=spec, state=state, labels=labels.read(store, job_id),
        facts=last.facts if last else None, gpu=_gpu(store, last, there),
        cost=(state.cost if isinstance(state, JobResult) else None) or usage.cost(spec, store, past),
        curves=curves, measured=measured,
        episodes=_episodes(store, job.artifact(EPISODES.name), measured, faults)
        if job.artifact(EPISODES.name) in there
        else None,
        films=sorted(films, key=lambda name: (", ".join(told.get(name, {}).get("why", ["~"])), name)),
        faults=faults,
    )  # fmt: skip


def _no_checkpoint(reference: str, checkpoint: str, names: Iterable[str]) -> RequestError:
    known = ", ".join(list(names)[:20])
    return RequestError(
        f"{reference.partition('@')[0]} has no checkpoint {checkpoint[:LONGEST]!r}.",
        code="unknown_checkpoint",
        advice=f"There are: {known}." if known else "Name the job alone.",
    )


def _gpu(store: Store, last: PastAttempt | None, there: set[str]) -> str | None:
    key = last.keys.file(VERSIONS.name) if last else ""
    if key not in there or store.stat(key).size_bytes > MAX_VERSIONS_BYTES:
        return None
    return usage.gpu_model(store, last)


def _curves(spec: JobSpec, sheets: list[Sheet], until: int | None) -> dict[str, Points]:
    """Return the curves of a training: the reward and the length of episodes under names that all libraries share."""
    if not sheets:
        return {}
    library, tags = get_library(spec.library), tags_of(sheets)
    names = {library.reward_tag: REWARD, library.length_tag: LENGTH}
    terms = [tag for tag in tags if _TERM in tag][:MOST_TERMS]
    chosen = [tag for tag in choose_curves(tags, library.reward_tag) if tag not in terms]
    found = {}
    for tag in (*chosen, *terms):
        points = [point for point in joined(sheets, tag) if until is None or point[0] < until]
        if points:
            term = f"{_TERM}{tag.rpartition(_TERM)[2]}" if tag in terms else tag
            found[names.get(tag, term)[:LONGEST]] = points
    return found


def _episodes(store: Store, key: str, measured: Mapping[str, Any], faults: Faults) -> Episodes | None:
    sheet = read(store, key, EPISODES.name, faults)
    if sheet is None or not sheet.names:
        return None
    of = (measured.get("checkpoint") or {}).get("name")
    rows = [dict(zip(sheet.names, row, strict=False)) for row in sheet.rows]
    rows = [row for row in rows if row.get("checkpoint") == of]
    columns = ["return", "success", "length", *(name for name in sheet.names if name.startswith("reward."))]
    values = {column: [_number(row.get(column, "")) for row in rows] for column in columns if column in sheet.names}
    seeds = [row.get("seed", "") for row in rows]
    # One seed for each episode names it; otherwise the first episode of an environment begins as its seed says.
    pairs: list[Pair] = [(seed,) for seed in seeds] if len(set(seeds)) == len(rows) > 1 else []
    pairs = pairs or [(row.get("seed", ""), row.get("env", "")) for row in rows]
    return Episodes(values=values, pairs=pairs if len(set(pairs)) == len(rows) else None, rows=rows)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < 1e300 else None  # NaN is not


# Side by side


def _figures(sides: list[Side]) -> list[Row]:
    """Return the figures of every job, as they were measured."""

    def of(side: Side, *path: str) -> Any:
        found: Any = side.measured
        for name in path:
            found = (found or {}).get(name)
        return found

    def curve(side: Side, choose: Any) -> float | None:
        points = side.curves.get(REWARD)
        return choose(y for _, y in points) if points else None

    rows: dict[str, list[Any]] = {
        "status": [side.state.status for side in sides],
        "done": [f"{side.state.done or 0:,} of {side.state.total or 0:,} {side.state.unit or ''}s" for side in sides],
        "best mean reward": [curve(side, max) for side in sides],
        "last mean reward": [side.curves[REWARD][-1][1] if REWARD in side.curves else None for side in sides],
        "mean return": [of(side, "return", "mean") for side in sides],
        "95 % of it": [of(side, "return", "interval_95") for side in sides],
        "success": [
            (None if of(side, "success", "rate") is None else f"{100 * of(side, 'success', 'rate'):.1f} %")
            for side in sides
        ],
        "95 % of that": [_bounds(of(side, "success", "interval_95")) for side in sides],
        "episodes": [of(side, "episodes") for side in sides],
        "steps/s of all environments": [
            (side.state.summary or {}).get("environment_steps_per_second")
            if isinstance(side.state, JobResult)
            else None
            for side in sides
        ],
    }
    return [Row(name=name, cells=cells) for name, cells in rows.items() if any(cell is not None for cell in cells)]


def _bounds(bounds: Sequence[float] | None) -> str | None:
    return None if bounds is None else f"[{100 * bounds[0]:.1f} %, {100 * bounds[1]:.1f} %]"


def _differences(sides: list[Side]) -> list[Row]:
    """Return what each job measured less the first, with intervals: of return, success, length and reward terms."""
    first = sides[0].episodes
    if first is None:
        return []
    rows = []
    for column in first.values:
        cells = [None, *(_difference(column, first, side.episodes) for side in sides[1:])]
        if any(cells):
            name = column.removeprefix("reward.")
            rows.append(Row(name=f"reward term {name}" if name != column else column, cells=cells))
    return rows


def _difference(column: str, first: Episodes, other: Episodes | None) -> Difference | None:
    if other is None or column not in other.values:
        return None
    ours = [value for value in first.values[column] if value is not None]
    theirs = [value for value in other.values[column] if value is not None]
    if not ours or not theirs:
        return None
    mean = statistics.fmean(theirs) - statistics.fmean(ours)
    if min(len(ours), len(theirs)) < 2 or (column.startswith("reward.") and max(len(ours), len(theirs)) > MOST_SAMPLED):
        return Difference(mean=mean, interval_95=None, pairs=None)

    # Pairs, where every episode of one has its like in the other, and both were measured.
    bounds: Sequence[float] | None
    both = _paired(column, first, other)
    if both:
        ours, theirs = [one for one, _ in both], [two for _, two in both]
        if column == "success":
            bounds = paired_difference_of_rates([value > 0 for value in theirs], [value > 0 for value in ours])
        else:
            bounds = paired_returns(ours, theirs)["interval_95"]
    elif column == "success":
        bounds = difference_of_rates(round(sum(theirs)), len(theirs), round(sum(ours)), len(ours))
    else:
        bounds = difference(theirs, ours)
    interval = (bounds[0], bounds[1]) if bounds else None
    return Difference(mean=mean, interval_95=interval, pairs=len(both) if both else None)


def _paired(column: str, first: Episodes, other: Episodes) -> list[tuple[float, float]]:
    """Return the values of the pairs of episodes; none where one of them has none, or its like was not measured."""
    if first.pairs is None or other.pairs is None or set(first.pairs) != set(other.pairs):
        return []
    theirs = dict(zip(other.pairs, other.values[column], strict=True))
    both = [(one, theirs[pair]) for pair, one in zip(first.pairs, first.values[column], strict=True)]
    return [] if any(one is None or two is None for one, two in both) else both  # type: ignore[return-value]


def _overlays(sides: list[Side], titles: list[str]) -> list[Overlay]:
    """Draw curves, each of the jobs that have it."""
    drawn = []
    for title in titles:
        found = {number: side.curves[title] for number, side in enumerate(sides) if title in side.curves}
        drawn.append(overlay(title.removeprefix(_TERM), "iteration", found))
    return drawn


def _episodes_together(sides: list[Side]) -> tuple[list[Row], int]:
    """Return the first episodes of all jobs, pairs in one line where the seeds match, and the count of lines."""
    measured = [side.episodes for side in sides if side.episodes]
    if not measured:
        return [], 0
    named = all(one.pairs is not None and set(one.pairs) == set(measured[0].pairs or ()) for one in measured)
    tables: list[dict[Pair, dict[str, str]]] = []
    for side in sides:
        rows = side.episodes.rows if side.episodes else []
        names = (side.episodes.pairs or []) if named and side.episodes else [(str(n + 1),) for n in range(len(rows))]
        tables.append(dict(zip(names, rows, strict=True)))
    order = list(dict.fromkeys(name for table in tables for name in table))
    shown = [
        Row(name=("seed " if named else "") + ", environment ".join(name), cells=[table.get(name) for table in tables])
        for name in order[:MOST_ROWS]
    ]
    return shown, len(order)


def _settings(spec: JobSpec) -> dict[str, Any]:
    """Return the settings of a job as a tree; overrides by the key that they set."""
    fields = {key: value for key, value in spec.to_json().items() if key not in _OWN}
    set_by = [override.partition("=") for override in fields.pop("overrides", [])]
    return fields | {"override": {key: value for key, _, value in set_by}}


def _flat(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            key: text
            for name, one in items
            for key, text in _flat(one, f"{path}.{name}" if path else f"{name}").items()
        }
    return {path: "" if value is None or value in ([], {}) else str(value)}


def _environment(side: Side) -> dict[str, str]:
    facts = side.facts
    if facts is None:
        return {}
    known = {
        "simulator": f"{facts.simulator} {facts.version}", "device": facts.device, "physics": facts.physics or "",
        "GPU": side.gpu or "", "Kit": "yes" if facts.kit else "no",
    }  # fmt: skip
    return known | facts.versions


def _different(columns: list[dict[str, str]]) -> list[Row]:
    """Return the rows in which not all columns have the same; None stands where one has nothing."""
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [Row(name=name[:LONGEST], cells=[_cut(column.get(name)) for column in columns]) for name in names]
    return [row for row in rows if len(set(row.cells)) > 1][:MOST_DIFFERENT]


def _cut(text: str | None) -> str | None:
    return None if not text else text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _cost(sides: list[Side]) -> list[Row]:
    seconds = [side.timings.get("total_s") for side in sides]
    return [
        Row(name="seconds of all attempts", cells=seconds),
        Row(name="GPU seconds", cells=[side.cost.gpu_seconds for side in sides]),
        Row(name="USD", cells=[side.cost.usd for side in sides]),
        Row(name="attempts", cells=[side.state.attempts for side in sides]),
    ]
