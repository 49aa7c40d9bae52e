"""What work has cost: GPU seconds, measured or, of what died without a word, taken from its last sign of life."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from simyard.store.store import Store
from simyard.tasks.shared import history


def rollout_gpu_seconds(store: Store, job_id: str, gpus: int | None) -> float:
    """Return the GPU seconds of a rollout, all its attempts together.

    Args:
        store: The job's store.
        job_id: The job; one that was never begun cost nothing.
        gpus: As its frozen spec says; None takes one where there is one.
    """
    return sum(_attempt_seconds(past, gpus) for past in history.attempts(store, job_id))


def _attempt_seconds(past: history.PastAttempt, gpus: int | None) -> float:
    told = past.outcome or past.status or {}
    device = (told.get("facts") or {}).get("device", "")
    if gpus == 0 or not device.startswith("cuda"):
        return 0.0
    if past.outcome:
        return float(past.outcome["timings"]["total_s"] or 0.0) * (gpus or 1)
    began, heard = told.get("began_at"), told.get("updated_at")
    if began is None or heard is None:
        return 0.0
    return (datetime.fromisoformat(heard) - datetime.fromisoformat(began)).total_seconds() * (gpus or 1)


def in_credits(gpu_seconds: float, usd_per_gpu_hour: float) -> float:
    """Return GPU seconds as credits: one is one USD."""
    return gpu_seconds / 3600.0 * usd_per_gpu_hour


def total(iterations: list[dict[str, Any]]) -> float:
    """Return the GPU seconds of iterations that have ended."""
    return float(sum(record["gpu_seconds"] for record in iterations))
