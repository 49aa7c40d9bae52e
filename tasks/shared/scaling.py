"""Gain of several GPUs: steps a second, and against the newest training of the same kind on one GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from simyard.core.artifacts import VERSIONS
from simyard.core.specs import JobSpec
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.shared import history
from simyard.tasks.shared.history import PastAttempt, load_spec

SHORTEST_S = 3.0
"""Of less training than this nothing is said: the first and the last iteration are seen a few tenths late."""


def scaling(spec: JobSpec, store: Store) -> dict[str, Any]:
    """Return the speed and the efficiency of a training on several GPUs.

    Returns:
        `gpus`; `steps_per_s`, environment steps of all GPUs, from the end of the first iteration to that of the last,
        in the last attempt (null where too little was trained to tell); `one_gpu`: `job_id` and `steps_per_s` of the
        newest training that differs in nothing but its GPUs and how long it was, on the same model of GPU (null where
        the store has none); `efficiency`: the former over so many times the latter (null without).
    """
    last = _last(store, spec.job_id)
    reached = _steps_per_s(spec, last)
    single = _on_one_gpu(spec, _gpu(store, last), store) if reached is not None else None
    efficiency = reached / (spec.ranks * single["steps_per_s"]) if reached and single else None
    return {
        "gpus": spec.ranks,
        "steps_per_s": reached and round(reached),
        "one_gpu": single and {**single, "steps_per_s": round(single["steps_per_s"])},
        "efficiency": efficiency and round(efficiency, 3),
    }


def in_words(found: dict[str, Any]) -> str:
    """Return the same for people."""
    if found["steps_per_s"] is None:
        return f"{found['gpus']} GPUs; too short to say how fast"
    text = f"{found['steps_per_s']:,} steps/s on {found['gpus']} GPUs"
    if found["efficiency"] is None:
        return f"{text}; no training on one GPU to compare with"
    single = found["one_gpu"]
    return f"{text}, efficiency {found['efficiency']:.2f} against {single['steps_per_s']:,} on one ({single['job_id']})"


def _on_one_gpu(spec: JobSpec, own_gpu: str | None, store: Store) -> dict[str, Any] | None:
    for job_id in reversed(store.list_dirs(keys.JOBS)):
        if not store.exists(keys.JobKeys(job_id).manifest):
            continue
        other = load_spec(store, job_id)
        if _essence(other) != _essence(spec) or other.ranks != 1:
            continue
        last = _last(store, job_id)
        speed = _steps_per_s(other, last)
        if speed is not None and last and last.facts and last.facts.device != "cpu" and _gpu(store, last) == own_gpu:
            return {"job_id": job_id, "steps_per_s": speed}
    return None


def _essence(spec: JobSpec) -> JobSpec:
    """Return the part of a spec that must be the same for two trainings to be compared."""
    return replace(
        spec, job_id="", name="", description="", gpus=None, nodes=1, priority="", accepts_eula=False, seed=0,
        max_iterations=0, resume=None, limits=type(spec.limits)(), session=True, retries=0, created_at="",
        from_job=None, request={},
    )  # fmt: skip


def _steps_per_s(spec: JobSpec, attempt: PastAttempt | None) -> float | None:
    outcome = attempt.outcome if attempt else None
    if not outcome or not outcome.facts:
        return None
    seconds = outcome.timings.get("train_s")
    iterations = outcome.done - outcome.start_iteration - 1  # the first one is where the clock begins
    if seconds is None or seconds < SHORTEST_S or iterations < 1:
        return None
    return float(iterations * outcome.facts.rollout * spec.num_envs * spec.ranks / seconds)


def _last(store: Store, job_id: str) -> PastAttempt | None:
    past = history.attempts(store, job_id)
    return past[-1] if past else None


def _gpu(store: Store, attempt: PastAttempt | None) -> str | None:
    versions = store.get_json_or_none(attempt.keys.file(VERSIONS.name)) if attempt else None
    return ((versions or {}).get("gpu") or {}).get("name")
