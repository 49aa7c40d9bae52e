"""Jobs of a setting -> the number that it is compared by, and how many trainings a machine has room for."""

from __future__ import annotations

import csv
import io
import os

import psutil

from simyard.core.artifacts import METRICS_SUMMARY, TELEMETRY
from simyard.core.errors import RequestError, unknown
from simyard.core.records import JobResult
from simyard.requests.sweeps import Objective
from simyard.runner.rl import get_library
from simyard.store.keys import JobKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.attempt.supervise import gpu_memory
from simyard.tasks.shared import usage
from simyard.tasks.sweeps.plan import UNKNOWN_METRIC

_ROOM = 0.9
"""Share of a machine's memory that trainings may have."""
IN_POOL = 8
"""Trainings side by side in a pool where nobody says how many; those that find no worker wait."""


def logged(objective: Objective, library: str, jobs: tuple[str, ...], store: Store) -> float:
    """Return an objective as a chain of trainings logged it.

    Raises:
        RequestError: If none of them logged it, with the nearest of those that were.
    """
    tag = objective.metric or get_library(library).reward_tag
    tags: set[str] = set()
    found: list[float] = []
    for job_id in jobs if objective.which == "best" else jobs[-1:]:
        summary = store.get_json_or_none(JobKeys(job_id).artifact(METRICS_SUMMARY.name)) or {}
        tags |= set(summary)
        facts = summary.get(tag)
        if facts is not None:
            point = facts[objective.mode] if objective.which == "best" else facts["final"]
            if point["value"] is not None:
                found.append(float(point["value"]))
    if found:
        return max(found) if objective.mode == "max" else min(found)
    if tag in tags or tag == get_library(library).reward_tag:
        raise RequestError(
            f"The training logged no finite {tag!r}.",
            code="not_measured",
            advice="A mean of episodes needs one that ended: train longer before the first comparison "
            "(scheduler.minIterations), or with more environments.",
        )
    raise unknown("objective.metric", tag, tags, code=UNKNOWN_METRIC)


def evaluated(objective: Objective, task: str, result: JobResult) -> float:
    """Return an objective as an evaluation measured it.

    Raises:
        RequestError: If the task says nothing of success.
    """
    summary = result.summary or {}
    value = summary["success"]["rate"] if objective.metric == "success_rate" else summary["return"]["mean"]
    if value is None:
        raise no_success(task)
    return float(value)


def no_success(task: str) -> RequestError:
    """Return the error of an objective that a task says nothing of."""
    return RequestError(
        f"objective.metric 'success_rate': the task {task!r} has no success metric.",
        code=UNKNOWN_METRIC,
        advice="Name the termination that means success in objective.evaluation.successTermination, or take "
        "'mean_return'.",
    )


def room_for(job_id: str, store: Store) -> tuple[int, str]:
    """Return how many trainings like this one go side by side on its machine, and the reckoning in words."""
    attempt = usage.last_attempt(store, job_id)
    cores = len(os.sched_getaffinity(0))
    used, resident = 0, 0
    if attempt is not None:
        try:
            text = store.get_bytes(attempt.keys.file(TELEMETRY.name)).decode()
        except KeyNotFound:
            text = ""
        for row in csv.DictReader(io.StringIO(text)):
            used = max(used, int(row["gpu_memory_bytes"] or 0))
            resident = max(resident, int(row["memory_bytes"] or 0))
    limits = {"processor cores": cores}
    is_on_gpu = attempt is not None and attempt.facts is not None and not attempt.facts.device.startswith("cpu")
    if is_on_gpu and used and (total := gpu_memory()):
        limits[f"GPU memory, {_gib(used)} of {_gib(total)} each"] = int(total * _ROOM / used)
    if resident:
        free = psutil.virtual_memory().available + resident
        limits[f"memory, {_gib(resident)} of {_gib(free)} each"] = int(free * _ROOM / resident)
    what = min(limits, key=lambda name: limits[name])
    return max(1, limits[what]), f"{max(1, limits[what])} side by side, limited by {what}"


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
