"""Estimates of a training's time and GPU memory: from what this store's trainings took, else from a measured table."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from simyard.core.artifacts import TELEMETRY
from simyard.core.specs import JobSpec
from simyard.core.wire import Wire
from simyard.runner.isaaclab.physics import engine_of
from simyard.store import keys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.shared import usage
from simyard.tasks.shared.history import PastAttempt

TABLE = Path(__file__).with_name("measured.json")
"""Measurements that come with simyard, made by `benchmarks/measured.py`: a list of them."""


@dataclass(frozen=True, kw_only=True)
class Measurement(Wire):
    """Speed and GPU memory of one training; a store keeps the newest of each task, library, device and count."""

    task: str
    library: str
    """The library, and behind it the engine where that is another than Newton."""
    device: str
    """`cpu`, or the GPU's model."""
    num_envs: int
    iteration_s: float
    """Seconds of an iteration, the first one left out."""
    gpu_memory_bytes: int | None
    """The most that was in use on the GPU, whoever used it; None on a CPU, and where it was not measured."""
    source: str
    """The job's id; in the table the day, and the machine where the device does not say it."""


@dataclass(frozen=True, kw_only=True)
class Estimate(Wire):
    """Estimate of a training, in the answer to its submission; None for what nothing measured tells."""

    iteration_s: float | None
    """Seconds of an iteration."""
    train_s: float | None
    """Seconds of all iterations; the simulator's start comes before them."""
    gpu_memory_bytes: int | None
    """Memory of each GPU."""
    how: str
    """The reckoning, in words."""

    def in_words(self, iterations: int) -> str:
        """Return the same for people; of an estimate that has a time."""
        assert self.train_s is not None
        memory = "" if self.gpu_memory_bytes is None else f", {self.gpu_memory_bytes / 2**30:.1f} GiB of GPU memory"
        return f"{iterations:,} iterations in {_duration(self.train_s)}{memory}: {self.how}"


def estimate(spec: JobSpec, store: Store) -> Estimate | None:
    """Return the estimate of a training; None for other kinds of jobs.

    Its count of environments was measured, or the next larger one that was, or else the largest, in proportion. Time
    and memory grow with the count, and no faster than it: from another count comes an upper bound, which says so.
    """
    if spec.kind != "train":
        return None
    if not (like := _in_store(spec, store) or _in_table(spec)):
        how = f"Nothing is known: {spec.task!r} was never measured with {_trainer(spec)!r}"
        return Estimate(iteration_s=None, train_s=None, gpu_memory_bytes=None, how=f"{how} on such a device.")
    best = like[_nearest(spec, [one.num_envs for one in like])]
    factor = max(1.0, spec.num_envs / best.num_envs)
    bound = "" if best.num_envs == spec.num_envs else f"; with {spec.num_envs:,} it is at most that"
    several = "; several GPUs gain less than their number" if spec.ranks > 1 else ""
    device = "a CPU" if best.device == "cpu" else f"one {best.device}"
    iteration_s = best.iteration_s * factor
    return Estimate(
        iteration_s=round(iteration_s, 4),
        train_s=round(iteration_s * spec.max_iterations, 1),
        gpu_memory_bytes=None if best.gpu_memory_bytes is None else int(best.gpu_memory_bytes * factor),
        how=f"measured with {best.num_envs:,} environments on {device} ({best.source})"
        f"{', in proportion' if factor > 1 else ''}{bound}{several}",
    )


def keep_measurement(spec: JobSpec, store: Store) -> None:
    """Keep the speed of a training that has succeeded on one device, if it took long enough to tell."""
    if spec.kind != "train" or spec.ranks > 1 or spec.stages:
        return
    last = usage.last_attempt(store, spec.job_id)
    iteration_s = usage.iteration_s(last)
    if last is None or last.facts is None or iteration_s is None:
        return
    device = "cpu" if last.facts.device == "cpu" else usage.gpu_model(store, last) or "GPU"
    measured = Measurement(
        task=spec.task,
        library=_trainer(spec),
        device=device,
        num_envs=spec.num_envs,
        iteration_s=round(iteration_s, 5),
        gpu_memory_bytes=None if device == "cpu" else _most_gpu_memory(store, last),
        source=spec.job_id,
    )
    store.put_record(keys.measurement(spec.task, _trainer(spec), _kind(device), spec.num_envs), measured)


def _in_store(spec: JobSpec, store: Store) -> list[Measurement]:
    """Return the measurement of this store that tells most of a training, if there is one."""
    places = {}
    for entry in store.list(keys.measurements(spec.task, _trainer(spec))):
        *_, kind, name = entry.key.split("/")
        if kind in _kinds(spec):
            places[kind, int(name.removesuffix(".json"))] = entry
    if not places:
        return []
    # A job that takes what is there runs where the last one did.
    last, _ = max(places, key=lambda place: places[place].modified)
    counts = [count for kind, count in places if kind == last]
    best = store.get_record_or_none(places[last, counts[_nearest(spec, counts)]].key, Measurement)
    return [best] if best else []


def _in_table(spec: JobSpec) -> list[Measurement]:
    """Return the table's rows about a training: those of a GPU first."""
    rows = [row for row in table() if (row.task, row.library) == (spec.task, _trainer(spec))]
    for kind in _kinds(spec):
        if fitting := [row for row in rows if _kind(row.device) == kind]:
            return fitting
    return []


@cache
def table() -> tuple[Measurement, ...]:
    """Return the measurements that come with simyard."""
    return tuple(map(Measurement.from_json, json.loads(TABLE.read_text(encoding="utf-8"))))


def _trainer(spec: JobSpec) -> str:
    """Return the name by which measurements of such trainings are kept."""
    engine = engine_of(spec)
    return spec.library if engine in (None, "newton") else f"{spec.library}-{engine}"


def _nearest(spec: JobSpec, counts: list[int]) -> int:
    """Return the index of the least count that is no less than the job's, else of the largest."""
    return min(
        range(len(counts)), key=lambda index: (counts[index] < spec.num_envs, abs(counts[index] - spec.num_envs))
    )


def _kinds(spec: JobSpec) -> tuple[str, ...]:
    """Return the devices that a job may run on, likelier ones first."""
    return ("gpu", "cpu") if spec.gpus is None else ("gpu",) if spec.gpus else ("cpu",)


def _kind(device: str) -> str:
    return "cpu" if device == "cpu" else "gpu"


def _most_gpu_memory(store: Store, attempt: PastAttempt) -> int | None:
    try:
        rows = csv.DictReader(io.StringIO(store.get_bytes(attempt.keys.file(TELEMETRY.name)).decode()))
    except KeyNotFound:
        return None
    return max((int(row["gpu_memory_bytes"]) for row in rows if row["gpu_memory_bytes"]), default=None)


def _duration(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 1:
        return "less than 1 s"
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
