"""Figures for monitors, in Prometheus' format: made every ten seconds at most, of what lists and pages know anyway."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

import httpx
from prefect.exceptions import PrefectException
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from simyard.core.artifacts import TELEMETRY
from simyard.core.errors import SimyardError
from simyard.core.records import ApiKey
from simyard.service.home_page import ended_at
from simyard.service.job_look import SHARED_S, JobLooks
from simyard.service.job_rows import JobRow, JobRows, price_of
from simyard.service.live import Streams
from simyard.service.prefect_api import Launches
from simyard.service.settings import DEFAULT_PROJECT, Settings
from simyard.store.keys import PROJECTS
from simyard.tasks.cluster.fleet import Fleet

KNOWN_S = 10.0
"""Seconds that figures are good for; a monitor usually asks every fifteen."""
MOST_PROJECTS = 50
MOST_WATCHED = 20
"""Jobs that run and whose machines are told of, the newest: each costs three reads."""
_TAIL_BYTES = 4096
_MACHINE = {
    "cpu_percent": "use of the CPU, in percent",
    "memory_bytes": "memory in use, in bytes",
    "gpu_percent": "use of the GPU, in percent",
    "gpu_memory_bytes": "memory of the GPU in use, in bytes",
    "gpu_power_watts": "power of the GPU, in watts",
    "gpu_temperature_c": "temperature of the GPU, in degrees Celsius",
}
"""Columns of telemetry.csv, which are the names of the metrics behind `simyard_job_`."""


class Monitor:
    """The figures of projects, as they were some seconds ago."""

    def __init__(
        self, settings: Settings, launches: Launches, rows: JobRows, looks: JobLooks, streams: Streams
    ) -> None:
        self._settings = settings
        self._launches = launches
        self._rows = rows
        self._looks = looks
        self._streams = streams
        self._kept: dict[tuple[str, ...], tuple[float, bytes]] = {}
        self._lock = threading.Lock()

    def text(self, api_key: ApiKey) -> bytes:
        """Return the figures that a key may see: its project's, or those of all for an `admin` of the default one."""
        sees_all = api_key.project == DEFAULT_PROJECT and "admin" in api_key.scopes
        projects = (DEFAULT_PROJECT, *self._others()) if sees_all else (api_key.project,)
        with self._lock:  # one is made at a time
            kept = self._kept.get(projects)
            if kept is None or time.monotonic() - kept[0] > KNOWN_S:
                kept = self._kept[projects] = (time.monotonic(), generate_latest(_Figures(self._metrics(projects))))
            return kept[1]

    def _others(self) -> list[str]:
        try:
            return self._settings.open().list_dirs(PROJECTS)[:MOST_PROJECTS]
        except SimyardError:
            return []

    def _metrics(self, projects: Iterable[str]) -> Iterator[Metric]:
        began = time.monotonic()
        known: dict[str, list[JobRow]] = {}
        for project in projects:
            try:
                known[project] = self._rows.of(project)
            except SimyardError:  # counted in `store_errors`
                continue
        yield from _of_jobs(known)
        yield from self._machines(known)
        try:
            fleet, answers = self._launches.fleet(), 1
        except (httpx.HTTPError, PrefectException):
            fleet, answers = Fleet(), 0
        yield from _of_pools(fleet)

        # The service itself.
        yield _gauge("prefect_up", "1 where the Prefect server answers", answers)
        yield CounterMetricFamily(
            "simyard_store_errors", "looks that the store did not answer", self._rows.store_errors
        )
        yield _gauge("open_streams", "pages that follow a job through this copy of the service", self._streams.open)
        folder = self._settings.open().folder
        if folder is not None:
            use = shutil.disk_usage(folder)
            yield _gauge("disk_free_bytes", "room on the disk of the store", use.free)
            yield _gauge("disk_total_bytes", "size of the disk of the store", use.total)
        yield _gauge("scrape_seconds", "time that making these figures took", time.monotonic() - began)

    def _machines(self, known: dict[str, list[JobRow]]) -> Iterator[Metric]:
        """Yield the load that the newest running jobs reported last."""
        found = {name: _family(f"job_{name}", text, "project", "job") for name, text in _MACHINE.items()}
        running = [(project, row) for project, rows in known.items() for row in rows if row.status == "running"]
        for project, row in sorted(running, key=lambda one: one[1].job_id, reverse=True)[:MOST_WATCHED]:
            for name, value in self._load(project, row.job_id).items():
                found[name].add_metric([project, row.job_id], value)
        yield from found.values()

    def _load(self, project: str, job_id: str) -> dict[str, float]:
        """Return the last row of a job's telemetry, as far as it has numbers; nothing where there is none."""
        store = self._settings.open(project)
        try:
            look = self._looks.of(store, job_id, SHARED_S)
            key = look.keys.attempt(look.attempt_numbers[-1]).file(TELEMETRY.name)
            size = look.entries[key].size_bytes
            head = store.get_range(key, 0, min(size, 1024)).split(b"\n")[0]
            tail = store.get_range(key, max(0, size - _TAIL_BYTES), min(size, _TAIL_BYTES)).rstrip(b"\n")
        except (SimyardError, LookupError):
            return {}
        names, values = (line.decode(errors="replace").strip().split(",") for line in (head, tail.split(b"\n")[-1]))
        cells = dict(zip(names, values, strict=False))
        found = {}
        for name in _MACHINE:
            try:
                found[name] = float(cells[name])
            except (KeyError, ValueError):
                continue
        return found


class _Figures:
    """What `generate_latest` takes for a registry."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return self._metrics


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"simyard_{name}", text, labels=labels)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"simyard_{name}", text, value=value)


def _of_jobs(known: dict[str, list[JobRow]]) -> Iterator[Metric]:
    """Yield the figures of the jobs of projects."""
    day = datetime.now(UTC) - timedelta(days=1)
    jobs = _family("jobs", "jobs by state, of the newest 2,000 of a project", "project", "kind", "status")
    ended = _family("jobs_ended_last_day", "jobs that ended in the last day", "project", "status")
    failures = _family("failures", "failed jobs by the code of their failure", "project", "code", "category")
    attempts = _family("attempts", "attempts at jobs", "project")
    gpus = _family("gpus_held", "GPUs of jobs that run", "project")
    gpu_seconds = _family("gpu_seconds", "GPU seconds of all attempts", "project")
    usd = _family("cost_usd", "their price", "project")
    steps = _family("environment_steps_per_second", "mean of the jobs that ended in the last day", "project", "kind")
    for project, rows in known.items():
        for (kind, status), count in Counter((row.kind, row.status) for row in rows).items():
            jobs.add_metric([project, kind, status], count)
        lately = [row for row in rows if row.has_ended and ended_at(row) > day]
        for status, count in Counter(row.status for row in lately).items():
            ended.add_metric([project, status], count)
        failed = [row.failure for row in rows if row.status == "failed" and row.failure]
        for (code, category), count in Counter((one.code, one.category.value) for one in failed).items():
            failures.add_metric([project, code, category], count)
        attempts.add_metric([project], sum(row.attempts for row in rows))
        gpus.add_metric([project], sum(row.gpus for row in rows if row.status == "running"))
        gpu_seconds.add_metric([project], sum(row.gpu_seconds for row in rows))
        if (price := price_of(rows)) is not None:
            usd.add_metric([project], price)
        for kind in {row.kind for row in lately}:
            speeds = [row.steps_per_s for row in lately if row.kind == kind and row.steps_per_s]
            if speeds:
                steps.add_metric([project, kind], sum(speeds) / len(speeds))
    yield from (jobs, ended, failures, attempts, gpus, gpu_seconds, usd, steps)


def _of_pools(fleet: Fleet) -> Iterator[Metric]:
    """Yield the figures of pools."""
    runs = _family("pool_flow_runs", "flow runs of a pool that wait or run", "pool", "state")
    workers = _family("pool_workers", "workers of a pool that were heard of late", "pool")
    held = _family("pool_gpus_held", "GPUs of a pool's limit that attempts hold", "pool")
    most = _family("pool_gpus", "GPUs that a pool's limit allows", "pool")
    for pool in fleet.pools:
        runs.add_metric([pool.name, "waiting"], pool.waiting)
        runs.add_metric([pool.name, "running"], pool.running)
        workers.add_metric([pool.name], pool.workers)
        if pool.gpus is not None and pool.gpus_held is not None:
            held.add_metric([pool.name], pool.gpus_held)
            most.add_metric([pool.name], pool.gpus)
    yield from (runs, workers, held, most)
