"""What jobs have used: GPU time, and its price."""

from __future__ import annotations

from datetime import datetime

from simyard.core.specs import JobSpec
from simyard.store.store import Store
from simyard.tasks.shared import history


def gpu_seconds(spec: JobSpec, store: Store) -> float:
    """Return how long all attempts of a job together held GPUs, counted once for each GPU.

    An attempt that has not ended, or that died unheard, counts from its first word to its last.
    """
    if spec.gpus == 0:
        return 0.0
    return sum(_held_s(attempt) for attempt in history.attempts(store, spec.job_id)) * spec.ranks


def _held_s(attempt: history.PastAttempt) -> float:
    known = attempt.outcome or attempt.status or {}
    if str((known.get("facts") or {}).get("device", "")).startswith("cpu"):
        return 0.0
    total_s = (known.get("timings") or {}).get("total_s")
    if total_s is None and {"began_at", "updated_at"} <= known.keys():
        began, heard = (datetime.fromisoformat(known[name]) for name in ("began_at", "updated_at"))
        total_s = (heard - began).total_seconds()
    return float(total_s or 0.0)
