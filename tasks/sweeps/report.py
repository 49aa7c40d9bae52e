"""The report of a sweep, and its pictures, in the store: at its end, and now and then while it runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from simyard.core.files import scratch
from simyard.core.sweep_records import Decision, Setting, SweepResult, SweepVerdict
from simyard.store.keys import SweepKeys
from simyard.store.store import Store
from simyard.tasks.shared.documents import REPORTS
from simyard.tasks.sweeps import pictures, record
from simyard.tasks.sweeps.plan import SweepSpec
from simyard.tasks.sweeps.verdict import values_in_words

REPORT = "report.md"
PAUSE = 20.0
"""Times as long as the last drawing took, until the pictures of a running sweep are drawn again."""

logger = logging.getLogger("simyard.sweeps")


class LivePictures:
    """Pictures of a running sweep, for the one process that drives it."""

    def __init__(self, spec: SweepSpec, store: Store) -> None:
        """Draw nothing yet.

        Args:
            spec: The sweep.
            store: Its store.
        """
        self._spec = spec
        self._store = store
        self._curves = pictures.Curves(store, spec.asked)
        self._not_before = 0.0

    def redraw(self, settings: Sequence[Setting], verdict: SweepVerdict) -> None:
        """Draw the pictures, unless they were drawn a moment ago: a hundred trainings may end within one."""
        began = time.monotonic()
        if began < self._not_before:
            return
        try:
            with scratch("sweep") as folder:
                decisions = record.decisions(self._store, self._spec.sweep_id)
                _draw(self._spec, settings, verdict, decisions, self._curves, self._store, folder)
        except Exception as error:  # no picture is worth the sweep
            logger.warning("%s: the pictures could not be drawn: %r", self._spec.sweep_id, error)
        now = time.monotonic()
        self._not_before = now + PAUSE * (now - began)


def report(spec: SweepSpec, result: SweepResult, settings: Sequence[Setting], store: Store, folder: Path) -> None:
    """Write the report and the pictures of a sweep that ends into the store.

    Args:
        spec: The sweep.
        result: How it ended.
        settings: Its settings, in order.
        store: Its store.
        folder: Where files are made.
    """
    asked, decisions = spec.asked, record.decisions(store, spec.sweep_id)
    verdict = result.verdict or SweepVerdict(table=(), comparison=None, sentence="")
    curves = pictures.Curves(store, asked)
    drawn = _draw(spec, settings, verdict, decisions, curves, store, folder)
    text = REPORTS.render(
        "sweep.md.j2",
        asked=asked,
        result=result,
        verdict=verdict,
        settings={one.number: one for one in settings},
        names={one.number: values_in_words(one.values) for one in settings},
        pictures=drawn,
    )
    store.put_bytes(SweepKeys(spec.sweep_id).artifact(REPORT), text.encode())


def _draw(
    spec: SweepSpec, settings: Sequence[Setting], verdict: SweepVerdict, decisions: Sequence[Decision],
    curves: pictures.Curves, store: Store, folder: Path,
) -> list[str]:  # fmt: skip
    """Put the pictures into the store; return their names."""
    made = pictures.draw(folder, spec.asked, settings, verdict, curves, decisions)
    for path in made:
        store.put_file(SweepKeys(spec.sweep_id).artifact(path.name), path)
    return [path.name for path in made]
