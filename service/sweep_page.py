"""The pages of sweeps, prepared as the values that templates/sweep.html.j2 and sweeps.html.j2 show."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from simyard.core.sweep_records import Setting, SweepProgress, SweepResult
from simyard.service.job_page import RELOAD_MS, TEMPLATES
from simyard.service.prefect_api import Launches
from simyard.service.status import ENDED, SweepAnswer, sweep_answer
from simyard.store.keys import SweepKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.pages.compare_page import Around
from simyard.tasks.pages.comparison import MOST as MOST_COMPARED
from simyard.tasks.shared.documents import moment, span
from simyard.tasks.sweeps import pictures, record
from simyard.tasks.sweeps.plan import load_sweep
from simyard.tasks.sweeps.verdict import values_in_words

MOST_SWEEPS = 100
"""Sweeps of the list, the newest."""
MOST_ROWS = 200
"""Settings of a page's table, the best of them; the API has all."""
MOST_EVENTS = 30
MOST_BYTES = 2_000_000
"""A picture larger than this is not shown."""
_SAID = {
    pictures.CURVES: "Curves: a line a setting, its band from the lowest seed to the highest",
    pictures.PARALLEL: "Settings and what they reached, one line each",
    pictures.FRONT: "The Pareto front: settings by their objectives, with 95 % intervals",
    pictures.IMPORTANCE: "Importance of the parameters",
}


@dataclass(frozen=True)
class SweepLinks:
    """Addresses that a sweep's page links to."""

    all: str
    """The list of sweeps."""
    job: Callable[[str], str]
    """Returns the address of a job's page."""
    comparison: Callable[[Sequence[str]], str] | None = None
    """Returns the address of jobs side by side; None for somebody who has a link to the sweep alone."""
    around: Around | None = None
    """Addresses of the other pages; None for the same."""


def sweep_page(store: Store, sweep_id: str, launches: Launches, links: SweepLinks, nonce: str) -> str:
    """Return the page of a sweep.

    Args:
        store: The sweep's store.
        sweep_id: The sweep.
        launches: Prefect, which knows work that has not begun.
        links: Addresses.
        nonce: Name of the page's style and script in its policy.

    Raises:
        RequestError: There is no such sweep.
    """
    answer, asked = sweep_answer(store, sweep_id, launches), load_sweep(store, sweep_id).asked
    known, has_ended = answer.known, answer.status in ENDED
    settings = {one.number: one for one in record.settings(store, sweep_id)}

    # The table at the top.
    metrics = asked.metrics
    facts = [
        *(
            ("objective", f"{metric}, {'more' if one.mode == 'max' else 'less'} is better")
            for metric, one in zip(metrics, asked.sweep.objectives, strict=True)
        ),
        ("seeds", ", ".join(map(str, asked.seeds[:10])) + (" …" if len(asked.seeds) > 10 else "")),
        ("sampler", asked.sweep.sampler),
        ("scheduler", asked.sweep.scheduler.kind),
        *_progress(known, metrics),
        ("GPU time", span(known.cost.gpu_seconds if known.cost else None)),
        ("cost, USD", known.cost.usd if known.cost else None),
        ("sent", moment(known.created_at)),
        ("last heartbeat" if isinstance(known, SweepProgress) else "ended", moment(known.updated_at)),
    ]

    # The ranking, and the trainings of each setting.
    table = known.verdict.table if known.verdict else ()
    runs = [(row, settings[row.number]) for row in table[:MOST_ROWS] if row.number in settings]
    numbers = record.event_numbers(store, sweep_id)[-MOST_EVENTS:]
    return TEMPLATES.render(
        "sweep.html.j2",
        title=f"{known.name}: {answer.status}", nonce=nonce, reload_ms=None if has_ended else RELOAD_MS,
        answer=answer, known=known, facts=facts, metrics=metrics, description=asked.description,
        most=known.most_settings if isinstance(known, SweepProgress) else None,
        runs=runs, hidden=len(table) - len(runs), names={row.number: values_in_words(row.values) for row, _ in runs},
        pictures=_shown_pictures(store, sweep_id), settings=json.dumps(asked.model_dump(
            mode="json", by_alias=True, exclude_unset=True), indent=2, ensure_ascii=False),
        events=record.read_events(store, sweep_id, numbers)[::-1], links=links,
        comparisons=_comparisons([setting for _, setting in runs], links),
    )  # fmt: skip


def _comparisons(ranked: Sequence[Setting], links: SweepLinks) -> list[tuple[str, str]]:
    """Return what of a sweep is worth a look side by side, in words, with the address of the page that has it so.

    Settings are compared by their first seed that was measured: it is the same for all of them wherever it can be.
    """
    if links.comparison is None:
        return []
    measured = [[run for run in setting.runs if run.jobs and run.value is not None] for setting in ranked]
    best = [runs[0] for runs in measured if runs][:MOST_COMPARED]
    groups = [
        (f"the best {len(best)} settings", [run.jobs[-1] for run in best]),
        (f"evaluations of the best {len(best)} settings", [run.evaluation for run in best if run.evaluation]),
        ("the seeds of the best setting", [run.jobs[-1] for run in (measured or [[]])[0][:MOST_COMPARED]]),
    ]
    # Two settings of equal content are one job, which is compared with no job but others.
    alone = [(said, list(dict.fromkeys(jobs))) for said, jobs in groups]
    return [(said, links.comparison(jobs)) for said, jobs in alone if len(jobs) > 1]


def _progress(known: SweepProgress | SweepResult, metrics: Sequence[str]) -> list[tuple[str, object]]:
    """Return what tells how far a sweep has come, or how it ended."""
    if isinstance(known, SweepResult):
        return [("settings", known.settings), ("ended by", known.ended_by), ("jobs that ran", known.jobs)]
    return [
        ("settings", f"{known.settings} of {known.most_settings}"), ("running", known.running),
        ("pruned", known.pruned), (f"best {metrics[0]} so far" if metrics[1:] else "best so far", known.best),
        ("time left", span(known.seconds_left)),
    ]  # fmt: skip


def _shown_pictures(store: Store, sweep_id: str) -> list[tuple[str, str]]:
    """Return each picture that there is: its content as an address, and what it shows."""
    found = []
    for name in pictures.NAMES:
        key = SweepKeys(sweep_id).artifact(name)
        with suppress(KeyNotFound):
            if store.stat(key).size_bytes <= MOST_BYTES:
                found.append((f"data:image/png;base64,{base64.b64encode(store.get_bytes(key)).decode()}", _SAID[name]))
    return found


def sweeps_page(
    found: Sequence[SweepAnswer], links: Mapping[str, str], nonce: str, around: Around | None = None
) -> str:
    """Return the list of sweeps.

    Args:
        found: The newest sweeps.
        links: Address of the page of each.
        nonce: Name of the page's style and script in its policy.
        around: Addresses of the other pages; None for somebody who has a link to this one alone.
    """
    is_live = any(one.status not in ENDED for one in found)
    rows = [(one, moment(one.known.created_at)) for one in found]
    return TEMPLATES.render(
        "sweeps.html.j2",
        title="Sweeps", nonce=nonce, reload_ms=RELOAD_MS if is_live else None, rows=rows, links=links, most=MOST_SWEEPS,
        around=around,
    )  # fmt: skip
