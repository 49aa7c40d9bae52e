"""Rows of all jobs of a project: what lists, the home page and monitors show. Each copy of the service keeps its own.

A job that has ended is read once, and now and then again, since it may have been resumed; others at every look. Looks
are taken two seconds apart at most often, however many ask.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from simyard.core.errors import Failure, SimyardError
from simyard.core.records import JobLabels, JobResult
from simyard.service.prefect_api import Launches
from simyard.service.settings import Settings
from simyard.service.status import ENDED, JobAnswer, settled, stored_job
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.shared import usage
from simyard.tasks.shared.listing import Unreadable, read_each, shown

KNOWN_S = 2.0
MOST_JOBS = 2000
"""The newest jobs of a project that have rows; `simyard jobs list --limit` has all."""
READ_AGAIN = 10
"""Jobs that have ended and are read again at a look, those first that were read longest ago."""


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """A job in a list."""

    job_id: str
    kind: str
    name: str
    task: str
    library: str
    status: str
    stage: str | None
    done: int | None
    total: int | None
    unit: str | None
    reward: float | None
    success: float | None
    """Success rate of an evaluation or a rollout; None where none was measured."""
    steps_per_s: float | None
    """Of all environments together; None where it was not measured."""
    seconds: float | None
    """Of all attempts together; None until the job has ended."""
    gpus: int
    """That an attempt holds; 0 on the CPU."""
    gpu_seconds: float
    usd: float | None
    """None where the site names no price."""
    attempts: int
    created_at: str
    updated_at: str | None
    failure: Failure | None
    tags: tuple[str, ...] = ()
    note: str = ""

    @property
    def has_ended(self) -> bool:
        """Return whether nothing more is done for it."""
        return self.status in ENDED


def price_of(rows: Iterable[JobRow]) -> float | None:
    """Return the price of several jobs together, in USD; None where one of them has none."""
    prices = [row.usd for row in rows]
    known = [price for price in prices if price is not None]
    return sum(known) if len(known) == len(prices) else None


@dataclass
class _Known:
    """What is known of one project."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    looked: float = -1e9
    rows: dict[str, JobRow] = field(default_factory=dict)
    read_at: dict[str, float] = field(default_factory=dict)
    labels: dict[str, tuple[datetime, JobLabels]] = field(default_factory=dict)
    listed: list[JobRow] = field(default_factory=list)
    count: int = 0


class JobRows:
    """The rows of the jobs of every project that was asked for."""

    def __init__(self, settings: Settings, launches: Launches) -> None:
        self._settings = settings
        self._launches = launches
        self._known: dict[str, _Known] = {}
        self.store_errors = 0
        """Looks that failed because the store did not answer."""

    def of(self, project: str) -> list[JobRow]:
        """Return the rows of a project, the newest first.

        Raises:
            StoreError: The store cannot be reached or read at all.
        """
        known = self._known.setdefault(project, _Known())
        with known.lock:
            if time.monotonic() - known.looked > KNOWN_S:
                try:
                    self._look(known, self._settings.open(project))
                except SimyardError:
                    self.store_errors += 1
                    raise
                known.looked = time.monotonic()
            return known.listed

    def count(self, project: str) -> int:
        """Return how many jobs there were at the last look, those without a row among them."""
        return self._known[project].count

    def forget_labels(self, project: str) -> None:
        """Have the next look see labels that were written this moment."""
        if known := self._known.get(project):
            known.looked = -1e9

    def _look(self, known: _Known, store: Store) -> None:
        names = sorted((name for name in store.list_dirs(keys.JOBS) if name.startswith("job-")), reverse=True)
        known.count, names = len(names), names[:MOST_JOBS]

        # Jobs that are new, that go on, or that were read longest ago.
        ended = [name for name in names if name in known.rows and known.rows[name].has_ended]
        again = sorted(ended, key=lambda name: known.read_at[name])[:READ_AGAIN]
        wanted = [name for name in names if name not in known.rows or not known.rows[name].has_ended] + again
        found = read_each(wanted, lambda name: shown(stored_job(store, name)))
        answers = [one for one in found if one is not None and not isinstance(one, Unreadable)]
        now = time.monotonic()
        for answer in settled(answers, self._launches.find_all):
            known.rows[answer.id] = self._row(answer, store)
            known.read_at[answer.id] = now
        there = set(names)
        known.rows = {name: row for name, row in known.rows.items() if name in there}

        # Labels that have changed since.
        self._read_labels(known, store)
        known.listed = []
        for row in (known.rows[name] for name in names if name in known.rows):
            _, given = known.labels.get(row.job_id, (None, None))
            known.listed.append(replace(row, tags=given.tags, note=given.note) if given else row)

    def _read_labels(self, known: _Known, store: Store) -> None:
        entries = {entry.key.rpartition("/")[2].removesuffix(".json"): entry for entry in store.list(keys.LABELS)}
        new = [
            name
            for name, entry in entries.items()
            if name in known.rows and (name not in known.labels or known.labels[name][0] != entry.modified)
        ]
        read: Sequence[JobLabels | Unreadable | None] = read_each(
            new, lambda name: store.get_record_or_none(keys.labels(name), JobLabels)
        )
        for name, labels in zip(new, read, strict=True):
            if isinstance(labels, JobLabels):
                known.labels[name] = (entries[name].modified, labels)
        known.labels = {name: kept for name, kept in known.labels.items() if name in entries}

    def _row(self, answer: JobAnswer, store: Store) -> JobRow:
        spec, known, summary = answer.spec, answer.known, answer.summary
        cost = (known.cost if isinstance(known, JobResult) else None) or usage.cost(spec, store)
        success = summary.get("success")
        return JobRow(
            job_id=spec.job_id, kind=spec.kind, name=spec.name, task=spec.task, library=spec.library,
            status=answer.status, stage=answer.stage, done=known.done, total=known.total, unit=known.unit,
            reward=known.reward, success=success.get("rate") if isinstance(success, dict) else None,
            steps_per_s=summary.get("environment_steps_per_second"),
            seconds=known.timings.get("total_s") if isinstance(known, JobResult) else None,
            gpus=0 if spec.gpus == 0 else spec.ranks, gpu_seconds=cost.gpu_seconds,
            usd=cost.usd, attempts=known.attempts,
            created_at=spec.created_at, updated_at=known.updated_at, failure=answer.failure,
        )  # fmt: skip
