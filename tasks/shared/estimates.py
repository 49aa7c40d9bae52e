"""Estimates of time, price and GPU memory: from what jobs of this store took, else from a measured table.

One reckoning serves every kind of work. A job takes what the newest measurement of its kind, task, device and count of
environments says, in proportion to its own length; sweeps and managed runs take the sum of theirs (`in_sum`). While a
training runs, its own first iterations tell more (`guess`). Afterwards `usage.cost` says what it took.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from simyard.core.artifacts import TELEMETRY
from simyard.core.records import Estimate
from simyard.core.specs import Evaluation, JobSpec
from simyard.core.wire import ABSENT, Wire
from simyard.runner.isaaclab.physics import engine_of
from simyard.store import keys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.attempt.supervise import gpu_count
from simyard.tasks.shared import usage
from simyard.tasks.shared.history import PastAttempt

TABLE = Path(__file__).with_name("measured.json")
"""Measurements that come with simyard, made by `benchmarks/measured.py`: a list of them."""
FIRST = 20
"""Iterations of a training that tell how long the others will take."""


@dataclass(frozen=True, kw_only=True)
class Measurement(Wire):
    """Duration and GPU memory of one job; a store keeps the newest of each kind, task, device and count."""

    task: str
    library: str
    """The library of a training, else the kind of the job; behind it the engine where that is another than Newton."""
    device: str
    """`cpu`, or the GPU's model."""
    num_envs: int
    iteration_s: float
    """Seconds of an iteration, the first one left out; of other kinds of jobs of all their work, the start included."""
    start_s: float | None = field(default=None, metadata=ABSENT)
    """Seconds of a training besides its iterations: start-up and end; None where they were not measured."""
    work: int | None = field(default=None, metadata=ABSENT)
    """Of other kinds: their length, as `_work` counts it; None of a training."""
    gpu_memory_bytes: int | None
    """The most that was in use on the GPU, whoever used it; None on a CPU, and where it was not measured."""
    source: str
    """The job's id; in the table the day, and the machine where the device does not say it."""


def estimate(spec: JobSpec, store: Store, usd_per_gpu_hour: float | None) -> Estimate:
    """Return the estimate of a job.

    Its count of environments was measured, or the next larger one that was, or else the largest, in proportion. Time
    and memory grow with the count and the length, and no faster: from others comes an upper bound, which says so.

    Args:
        spec: The job.
        store: Its store, whose measurements count before those of the table.
        usd_per_gpu_hour: Price of a GPU hour; None where the site names none.
    """
    if not (like := _in_store(spec, store) or _in_table(spec)):
        group = f" with {_group(spec)!r}" if spec.kind == "train" else ""
        how = f"Nothing is known: no {KINDS[spec.kind]} of {spec.task!r} was measured{group} on such a device."
        after = f" Its first {FIRST} iterations will tell." if spec.kind == "train" else ""
        return known(None, 0.0 if spec.gpus == 0 else None, usd_per_gpu_hour, how=f"{how}{after}")
    best = like[_nearest(spec, [one.num_envs for one in like])]

    # Time: of a training by its iterations, of other jobs by their whole length.
    factor = max(1.0, spec.num_envs / best.num_envs)
    longer = 1.0 if best.work is None else max(1.0, _work(spec) / best.work)
    iteration_s = best.iteration_s * factor * longer
    train_s = iteration_s * spec.max_iterations if best.work is None else None
    seconds = iteration_s if train_s is None else train_s + (best.start_s or 0.0)
    gpus = 0 if best.device == "cpu" else spec.ranks

    # The reckoning in words, with all that makes it less than exact.
    device = "a CPU" if best.device == "cpu" else f"one {best.device}"
    how = f"measured with {best.num_envs:,} environments on {device} ({best.source})"
    how += ", in proportion" if max(factor, longer) > 1 else ""
    how += "" if best.num_envs == spec.num_envs else f"; with {spec.num_envs:,} it is at most that"
    how += "; several GPUs gain less than their number" if spec.ranks > 1 else ""
    how += "; the simulator's start comes on top" if best.work is None and best.start_s is None else ""
    return replace(
        known(seconds, seconds * gpus, usd_per_gpu_hour, how=how),
        iteration_s=None if train_s is None else round(iteration_s, 4),
        train_s=None if train_s is None else round(train_s, 1),
        gpu_memory_bytes=None if best.gpu_memory_bytes is None else int(best.gpu_memory_bytes * factor),
    )


def as_placed(spec: JobSpec, pool: str | None) -> JobSpec:
    """Return a job with the GPUs that it will find: without a pool it runs here, and takes none where none is."""
    return replace(spec, gpus=0) if pool is None and spec.gpus is None and not gpu_count() else spec


def guess(
    told: Estimate | None, spec: JobSpec, *, on_cpu: bool, spent_s: float, work_s: float, seen: int, left: int
) -> Estimate | None:
    """Return the estimate of a training by its own first iterations; None while they are too few.

    Args:
        told: The estimate of its submission; None for a job that was staged without one.
        spec: The job.
        on_cpu: Whether it runs on the CPU.
        spent_s: Seconds of its attempts so far.
        work_s: Seconds from the first iteration of this attempt to the newest.
        seen: Iterations of this attempt.
        left: Iterations that are still to be done.
    """
    if spec.kind != "train" or seen < FIRST:
        return None
    iteration_s = work_s / (seen - 1)  # the first one is where the clock begins
    seconds = spent_s + iteration_s * left
    how = f"guessed from the {seen:,} iterations that this job has made"
    rate = told.usd_per_gpu_hour if told else None
    return replace(
        known(seconds, seconds * (0 if on_cpu else spec.ranks), rate, how=how),
        iteration_s=round(iteration_s, 4),
        train_s=round(iteration_s * spec.max_iterations, 1),
        gpu_memory_bytes=told.gpu_memory_bytes if told else None,
    )


def in_sum(parts: Sequence[tuple[Estimate, int]], side_by_side: int = 1, *, of: str) -> Estimate:
    """Return the estimate of work that is made of other work; nothing is known of it where a part is not.

    Args:
        parts: Estimates, each with the number of times that such a part is done.
        side_by_side: Parts that are done at once; time is shared by so many, GPU seconds are not.
        of: The parts in words, such as `12 trainings`.
    """
    rate = parts[0][0].usd_per_gpu_hour if parts else None
    hows = list(dict.fromkeys(part.how for part, times in parts if times))
    more = f"; and {len(hows) - 3} more" if len(hows) > 3 else ""
    how = f"the sum of {of}: {'; '.join(hows[:3])}{more}"
    how += f"; {side_by_side} at once" if side_by_side > 1 else ""
    if any(part.seconds is None and times for part, times in parts):
        gpu_free = all(part.gpu_seconds == 0 for part, times in parts if times)
        return known(None, 0.0 if gpu_free else None, rate, how=how)
    # The longest part bounds it from below, however many are done at once.
    seconds = sum((part.seconds or 0.0) * times for part, times in parts) / side_by_side
    longest = max((part.seconds or 0.0 for part, times in parts if times), default=0.0)
    gpu_seconds = [None if part.gpu_seconds is None else part.gpu_seconds * times for part, times in parts if times]
    held = None if None in gpu_seconds else float(sum(one or 0.0 for one in gpu_seconds))
    return known(max(seconds, longest), held, rate, how=how)


def known(seconds: float | None, gpu_seconds: float | None, usd_per_gpu_hour: float | None, *, how: str) -> Estimate:
    """Return an estimate with its price; of a time that is not known, None."""
    usd = None if gpu_seconds is None else usage.in_usd(gpu_seconds, usd_per_gpu_hour)
    return Estimate(
        seconds=None if seconds is None else round(seconds, 1),
        gpu_seconds=None if gpu_seconds is None else round(gpu_seconds, 1),
        usd=None if usd is None else round(usd, 4),
        usd_per_gpu_hour=usd_per_gpu_hour,
        how=how,
    )


def within(
    made: Estimate, *, max_wallclock_hours: float | None, max_credits: float | None, max_gpu_hours: float | None = None
) -> Estimate:
    """Return an estimate with the end that budgets put to the work; None for no budget."""
    rate = made.usd_per_gpu_hour
    limits = [("max_wallclock_hours", max_wallclock_hours, made.seconds, 3600.0)]
    limits += [("max_gpu_hours", max_gpu_hours, made.gpu_seconds, 3600.0), ("max_credits", max_credits, made.usd, 1.0)]
    shares = {
        name: most * unit / value
        for name, most, value, unit in limits
        if most is not None and value is not None and value > most * unit
    }
    if not shares:
        return made
    name = min(shares, key=lambda one: shares[one])
    seconds, gpu_seconds = (
        None if value is None else value * shares[name] for value in (made.seconds, made.gpu_seconds)
    )
    return known(seconds, gpu_seconds, rate, how=f"{made.how}; {name} ends it before that")


def evaluation_of(training: JobSpec, *, num_episodes: int, num_envs: int, steps_per_episode: int) -> JobSpec:
    """Return an evaluation of a training's policy, as far as its estimate needs it: the policy is not there yet."""
    asked = Evaluation(num_episodes=num_episodes, steps_per_episode=steps_per_episode)
    gpus = training.gpus and 1
    return replace(training, kind="evaluate", num_envs=num_envs, evaluation=asked, stages=None, nodes=1, gpus=gpus)


def as_told(estimated: Estimate, spec: JobSpec | None = None) -> str:
    """Return an estimate in words for people; of a training with its iterations."""
    if estimated.seconds is None:
        return estimated.how
    what = f"{spec.max_iterations:,} iterations in " if spec and spec.kind == "train" else ""
    price = "" if estimated.usd is None else f", {usage.price_in_words(estimated.usd)}"
    memory = (
        "" if estimated.gpu_memory_bytes is None else f", {estimated.gpu_memory_bytes / 2**30:.1f} GiB of GPU memory"
    )
    return f"{what}{_duration(estimated.seconds)}{price}{memory}: {estimated.how}"


def keep_measurement(spec: JobSpec, store: Store) -> None:
    """Keep what a job took that has succeeded on one device, if it took long enough to tell."""
    if spec.ranks > 1 or spec.stages:
        return
    last = usage.last_attempt(store, spec.job_id)
    total_s = last.timings.get("total_s") if last else None
    if last is None or last.facts is None or total_s is None:
        return
    is_training = spec.kind == "train"
    iteration_s = usage.iteration_s(last) if is_training else total_s
    if iteration_s is None:
        return
    device = "cpu" if last.facts.device == "cpu" else usage.gpu_model(store, last) or "GPU"
    measured = Measurement(
        task=spec.task,
        library=_group(spec),
        device=device,
        num_envs=spec.num_envs,
        iteration_s=round(iteration_s, 5),
        start_s=round(max(0.0, total_s - (last.timings.get("train_s") or 0.0)), 2) if is_training else None,
        work=None if is_training else _work(spec),
        gpu_memory_bytes=None if device == "cpu" else _most_gpu_memory(store, last),
        source=spec.job_id,
    )
    store.put_record(keys.measurement(spec.task, _group(spec), _kind(device), spec.num_envs), measured)


def job_like(spec: JobSpec, store: Store) -> str | None:
    """Return the job of this store that was measured last and tells most of this one; None where none was."""
    found = _in_store(spec, store)
    return found[0].source if found else None


KINDS = {"train": "training", "evaluate": "evaluation", "export": "export", "rollout": "rollout"}
"""The kinds of jobs in words."""


def _work(spec: JobSpec) -> int:
    """Return the length of a job, in units of its kind: rounds of episodes, steps, or the one export."""
    if spec.evaluation is not None:
        rounds = -(-spec.evaluation.num_episodes // spec.num_envs)
        return rounds * max(1, len(spec.policies)) * len(spec.evaluation.across or ("its own",))
    return spec.rollout.steps if spec.rollout is not None else 1


def _in_store(spec: JobSpec, store: Store) -> list[Measurement]:
    """Return the measurement of this store that tells most of a job, if there is one."""
    places = {}
    for entry in store.list(keys.measurements(spec.task, _group(spec))):
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
    """Return the table's rows about such jobs: those of a GPU first."""
    rows = [row for row in table() if (row.task, row.library) == (spec.task, _group(spec))]
    for kind in _kinds(spec):
        if fitting := [row for row in rows if _kind(row.device) == kind]:
            return fitting
    return []


@cache
def table() -> tuple[Measurement, ...]:
    """Return the measurements that come with simyard."""
    return tuple(map(Measurement.from_json, json.loads(TABLE.read_text(encoding="utf-8"))))


def _group(spec: JobSpec) -> str:
    """Return the name by which measurements of such jobs are kept."""
    engine, group = engine_of(spec), spec.library if spec.kind == "train" else spec.kind
    return group if engine in (None, "newton") else f"{group}-{engine}"


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
