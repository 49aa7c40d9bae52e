"""The commands of `simyard sweep` that read: show, watch and best."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simyard.cli.driven import POLL_S
from simyard.cli.live import LiveLine
from simyard.cli.shared import EXITS, JSON, STORE, Command, emit, open_site_store, reckoned, text_table
from simyard.core.errors import EXIT_SUCCEEDED

if TYPE_CHECKING:
    from simyard.core.sweep_records import Interval, Setting, SweepResult, SweepState, SweepVerdict
    from simyard.store.store import Store
    from simyard.tasks.sweeps.best import BestOfSweep

MOST_SHOWN = 50
"""Settings in the table of `sweep show`, the best of them; `--json` has all."""
MOST_AT_END = 10
"""The same of a sweep that has just ended; `sweep show` has more."""
_SWEEP = click.argument("sweep_id")


@click.command(cls=Command)
@_SWEEP
@STORE
@JSON
def show(sweep_id: str, store: str | None, as_json: bool) -> None:
    """Show a sweep's status, its settings ranked, and the verdict so far."""
    from simyard.tasks.sweeps import record

    opened = open_site_store(store)
    known, settings = record.sweep_status(opened, sweep_id), record.settings(opened, sweep_id)
    found = {"all_settings": [one.to_json() for one in settings]}
    emit(known.to_json() | reckoned(known.estimate) | found, as_json, lambda _: _described(known, settings))


def _described(known: SweepState, settings: Sequence[Setting]) -> str:
    from simyard.tasks.shared.estimates import as_told
    from simyard.tasks.shared.usage import cost_in_words

    lines = [f"{known.sweep_id}  {known.status}", f"name        {known.name}", f"store       {known.store}"]
    ended_by, error = getattr(known, "ended_by", None), getattr(known, "error", None)
    if ended_by:
        lines.append(f"ended by    {ended_by}")
    if error:
        lines += [f"error       {error.message}", f"advice      {error.advice}"]
    lines.append(f"settings    {_counted(settings)}")
    if known.cost:
        lines.append(f"cost        {cost_in_words(known.cost)}")
    if known.estimate:
        lines.append(f"estimate    {as_told(known.estimate)}")
    if known.verdict and known.verdict.table:
        lines += ["", ranking(known.verdict, MOST_SHOWN), "", known.verdict.sentence]
    return "\n".join(lines)


def _counted(settings: Sequence[Setting]) -> str:
    states = [one.state for one in settings]
    parts = [
        f"{states.count(state)} {state}" for state in ("complete", "running", "pruned", "failed") if state in states
    ]
    return f"{len(settings)}: {', '.join(parts)}" if parts else "none yet"


def ranking(verdict: SweepVerdict, most: int) -> str:
    """Return the verdict's table as text: the best settings, a column for each parameter and two for each objective."""
    rows = verdict.table[:most]
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    short = [name.rpartition(".")[2] for name in names]
    titles = [name if short.count(end) > 1 else end for name, end in zip(names, short, strict=True)]
    metrics = verdict.metrics or ("MEAN",)
    cells = []
    for row in rows:
        means = [part for one in row.measured for part in (f"{one.mean:.4g}", _bounds(one))]
        failed = f", {row.failed} failed" if row.failed else ""
        cells.append([
            row.rank, row.number, *(_cell(row.values.get(name)) for name in names),
            *(means or ["not measured", *[""] * (2 * len(metrics) - 1)]),
            *(["yes" if row.on_front else ""] if verdict.metrics else []),
            f"{row.value.n if row.value else 0} of {row.seeds}{failed}", row.iterations or "", row.state,
        ])  # fmt: skip
    heads = [
        ">RANK", ">SETTING", *(f">{title}" for title in titles),
        *(head for metric in metrics for head in (f">{metric}", "95 %")),
        *(["FRONT"] if verdict.metrics else []), "SEEDS", ">ITERATIONS", "STATE",
    ]  # fmt: skip
    more = len(verdict.table) - len(rows)
    return text_table(heads, cells) + (f"\nand {more} more: --json has all" if more else "")


def _bounds(value: Interval) -> str:
    return "" if value.low is None else f"[{value.low:.4g}, {value.high:.4g}]"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


@click.command(cls=Command)
@_SWEEP
@STORE
@JSON
def watch(sweep_id: str, store: str | None, as_json: bool) -> None:
    """Follow a sweep until it has ended. Exits as the sweep does."""
    known = follow(open_site_store(store), sweep_id, quiet=as_json)
    if as_json:
        click.echo(json.dumps(known.to_json() | reckoned(known.estimate)))
    sys.exit(EXITS.get(known.status, EXIT_SUCCEEDED))


def follow(store: Store, sweep_id: str, *, quiet: bool) -> SweepState:
    """Print a sweep's events as they come, and how it stands, until it has ended or nobody drives it any more."""
    from simyard.core.sweep_records import SweepResult
    from simyard.tasks.sweeps import record

    live, shown = LiveLine(quiet=quiet), 0
    settings: Sequence[Setting] = ()
    while True:
        # Read before the events: what ended it is among them then.
        known = record.sweep_status(store, sweep_id)
        new = [number for number in record.event_numbers(store, sweep_id) if number > shown]
        for event in record.read_events(store, sweep_id, new):
            live.say(f"{event.created_at[11:19]}  {event.message}")
            shown = int(event.event_id.removeprefix("evt-"))
        if new:  # each change of a setting is followed by an event
            settings = record.settings(store, sweep_id)
        if isinstance(known, SweepResult):
            say_ending(known, live)
            return known
        if known.status == "interrupted":
            live.say(f"{sweep_id}: no process drives it any more. Go on: simyard sweep resume {sweep_id}")
            return known
        # On a terminal one line that is rewritten; elsewhere a line now and then: what stands before the colon is new.
        live.stage(f"{known.status}: {standing(known, settings)}")
        time.sleep(POLL_S)


def say_ending(result: SweepResult, live: LiveLine) -> None:
    """Print the result of a sweep: the best settings ranked, the verdict, and where its report is."""
    from simyard.tasks.shared.usage import cost_in_words
    from simyard.tasks.sweeps import record

    if result.verdict and result.verdict.table:
        live.say(ranking(result.verdict, MOST_AT_END))
    live.say(f"{result.status}: {record.summary(result)}")
    if error := result.error:
        live.say(f"error:       {error.message}\nadvice:      {error.advice}")
    live.say(f"sweep:       {result.sweep_id}")
    if result.cost.gpu_seconds:
        live.say(f"cost:        {cost_in_words(result.cost)}")
    live.say(f"report:      {result.store}/artifacts/report.md")


def standing(known: SweepState, settings: Sequence[Setting]) -> str:
    """Return how a running sweep stands, in one line: rungs, running, pruned, best, cost, and what is left of it."""
    from simyard.core.sweep_records import SweepResult
    from simyard.tasks.shared.documents import span
    from simyard.tasks.shared.usage import cost_in_words

    assert not isinstance(known, SweepResult)
    parts = [f"{known.settings} of {known.most_settings} settings"]
    rungs = [one.rung for one in settings]
    if any(rungs):
        parts.append(f"at rungs {'/'.join(str(rungs.count(rung)) for rung in range(max(rungs) + 1))}")
    parts += [f"{known.running} running", f"{known.pruned} pruned"]
    if known.verdict and (front := [row for row in known.verdict.table if row.on_front]):
        parts.append(f"{len(front)} on the Pareto front")
    else:
        parts.append("nothing measured" if known.best is None else f"best {known.best:.4g}")
    if known.cost:
        parts.append(cost_in_words(known.cost))
    if known.seconds_left is not None:
        parts.append(f"{span(known.seconds_left)} left")
        if (usd := _usd_left(known)) is not None:
            parts[-1] += f" for {usd:.2g} USD"
    return ", ".join(parts)


def _usd_left(known: Any) -> float | None:
    """Return the cost of the time that is left, if it goes on as it went so far."""
    if not known.cost or not known.cost.usd or known.updated_at is None:
        return None
    began, now = (datetime.fromisoformat(text) for text in (known.created_at, known.updated_at))
    elapsed_s = (now - began).total_seconds()
    return float(known.cost.usd / elapsed_s * known.seconds_left) if elapsed_s > 0 else None


@click.command(cls=Command)
@_SWEEP
@STORE
@click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), help="File for the config to train it again."
)
@JSON
def best(sweep_id: str, store: str | None, config: Path | None, as_json: bool) -> None:
    """Name the best setting, and write the config to train it again.

    Of several objectives it is the best by the first of them; `sweep show` has the whole Pareto front.
    The config has the setting's values among its overrides, the seed that did best, and the iterations.
    """
    from simyard.core.files import replacing
    from simyard.tasks.sweeps.best import best_of

    found = best_of(open_site_store(store), sweep_id)
    if config is not None:
        with replacing(config) as beside:
            beside.write_text(json.dumps(found.config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    emit(found, as_json, lambda best: _best_in_words(best, config))


def _best_in_words(found: BestOfSweep, config: Path | None) -> str:
    means = [
        f"{one.mean:.4g} over {one.n} seed{'s' * (one.n != 1)}{bounds and f', 95 % interval {bounds}'}"
        for one in (found.value, *(found.others or ()))
        for bounds in (_bounds(one),)
    ]
    if found.metrics:
        means = [f"{metric} {mean}" for metric, mean in zip(found.metrics, means, strict=True)]
    return "\n".join([
        f"setting {found.number}: {means[0]}",
        *(f"  and {mean}" for mean in means[1:]),
        *(f"  {name} = {_cell(value)}" for name, value in found.values.items()),
        found.sentence,
        f"best seed:   {found.seed} ({found.seed_value:.4g}), {found.iterations} iterations",
        f"job:         {found.job_id}",
        f"config:      {config}" if config else "config:      --config FILE writes it",
    ])  # fmt: skip
