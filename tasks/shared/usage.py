"""GPU time that jobs have used, and its price: the one formula that budgets of API keys and managed runs count by."""

from __future__ import annotations

from datetime import datetime

from simyard.core.specs import JobSpec
from simyard.store.store import Store
from simyard.tasks.shared import history


def gpu_seconds(spec: JobSpec, store: Store) -> float:
    """Return the GPU seconds of a job: the duration of every attempt, times its ranks.

    - Failed and canceled attempts count like others; one that has not ended, or died without an outcome, counts from
      its beginning to its last heartbeat.
    - A rank is one GPU of one machine: `gpusPerNode` times `numNodes`, 1 where the request leaves the GPUs open.
    - An attempt counts 0 where the request asks for no GPU, or its simulator reported that it runs on the CPU. One that
      never reported its device counts as if it had the GPUs that were asked for: they were held for it.

    Args:
        spec: The job; one that was never begun has used nothing.
        store: Its store.
    """
    if spec.gpus == 0:
        return 0.0
    return sum(_duration_s(attempt) for attempt in history.attempts(store, spec.job_id)) * spec.ranks


def in_usd(gpu_seconds: float, usd_per_gpu_hour: float) -> float:
    """Return the price of GPU seconds in USD; a credit is one USD."""
    return gpu_seconds / 3600.0 * usd_per_gpu_hour


def _duration_s(attempt: history.PastAttempt) -> float:
    """Return the seconds for which an attempt held its GPUs."""
    if attempt.facts is not None and attempt.facts.device.startswith("cpu"):
        return 0.0
    total_s = attempt.timings.get("total_s")
    if total_s is None and attempt.outcome is None and attempt.status is not None:
        began, updated = map(datetime.fromisoformat, (attempt.status.began_at, attempt.status.updated_at))
        total_s = (updated - began).total_seconds()
    return total_s or 0.0
