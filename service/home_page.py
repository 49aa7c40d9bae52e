"""The first page of a project: what goes on, what failed and why, pools, promotions, schedules, disk and money."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
from prefect.exceptions import PrefectException

from simyard.core.run_records import Promotion
from simyard.service.job_page import TEMPLATES
from simyard.service.job_rows import JobRow, price_of
from simyard.service.prefect_api import Launches
from simyard.service.status import RunAnswer, run_answers
from simyard.store.store import Store
from simyard.tasks.cluster.fleet import Fleet
from simyard.tasks.pages.compare_page import Around
from simyard.tasks.promotion import promotions
from simyard.tasks.shared.documents import DASH, moment, size
from simyard.tasks.shared.listing import read_each

RENEW_MS = 15_000
KNOWN_S = 10.0
"""Seconds that promotions and managed runs are known: both cost a read each."""
MOST_SHOWN = 30
"""Rows of each list; the list of jobs has all."""
MOST_PROMOTIONS = 20
MOST_RUNS = 20


@dataclass(frozen=True)
class Slow:
    """What is read every few seconds, however many look."""

    promotions: list[Promotion]
    runs: list[RunAnswer]


class Homes:
    """What the home pages of projects have in common between two looks."""

    def __init__(self, launches: Launches) -> None:
        self._launches = launches
        self._kept: dict[str, tuple[float, Slow]] = {}
        self._lock = threading.Lock()

    def slow(self, store: Store) -> Slow:
        """Return promotions and managed runs of a store."""
        with self._lock:
            kept = self._kept.get(store.url())
            if kept is None or time.monotonic() - kept[0] > KNOWN_S:
                names = promotions.names(store)[:MOST_PROMOTIONS]
                read = read_each(names, lambda name: promotions.read(store, name))
                found = Slow(
                    promotions=[one for one in read if isinstance(one, Promotion)],
                    runs=run_answers(store, self._launches, MOST_RUNS, None).found,
                )
                kept = self._kept[store.url()] = (time.monotonic(), found)
            return kept[1]

    def fleet(self) -> Fleet | None:
        """Return the site's pools and schedules; None where its Prefect server does not answer."""
        try:
            return self._launches.fleet()
        except (httpx.HTTPError, PrefectException):
            return None


def home_page(
    rows: Sequence[JobRow],
    store: Store,
    homes: Homes,
    project: str,
    link: Callable[[str], str],
    around: Around,
    tasks: str,
    nonce: str,
) -> str:
    """Return the page.

    Args:
        rows: The project's jobs, the newest first.
        store: The project's.
        homes: Keeps what is dear.
        project: Its name.
        link: Returns the address of a job's page.
        around: Addresses of the other pages.
        tasks: Address of the page of tasks.
        nonce: Name of the page's style and script in its policy.
    """
    now = datetime.now(UTC)
    day, week = now - timedelta(days=1), now - timedelta(days=7)
    going_on = [row for row in rows if not row.has_ended]
    failed = [row for row in rows if row.status == "failed" and ended_at(row) > day]
    done = [row for row in rows if row.status == "succeeded"]
    money = {
        "the last day": price_of(row for row in rows if ended_at(row) > day),
        "seven days": price_of(row for row in rows if ended_at(row) > week),
        "all": price_of(rows),
    }
    slow, fleet, disk = homes.slow(store), homes.fleet(), DASH
    if store.folder is not None:
        use = shutil.disk_usage(store.folder)
        disk = f"{size(use.free)} free of {size(use.total)}"
    shown = [*going_on[:MOST_SHOWN], *failed[:MOST_SHOWN], *done[:10]]
    return TEMPLATES.render(
        "home.html.j2",
        title=f"simyard: {len(going_on)} jobs under way", nonce=nonce, reload_ms=RENEW_MS, project=project,
        around=around, tasks=tasks, going_on=going_on[:MOST_SHOWN], going_on_count=len(going_on),
        failed=failed[:MOST_SHOWN], failed_count=len(failed), done=done[:10], money=money, disk=disk,
        gpus=sum(row.gpus for row in rows if row.status == "running"), fleet=fleet,
        promotions=slow.promotions, runs=[run for run in slow.runs if run.status not in ("succeeded", "canceled")],
        links={row.job_id: link(row.job_id) for row in shown}, moment=moment,
    )  # fmt: skip


def ended_at(row: JobRow) -> datetime:
    """Return the time of a job's end, or of its last heartbeat; that of its submission where it has none."""
    return datetime.fromisoformat(row.updated_at or row.created_at or "1970-01-01T00:00:00+00:00")
