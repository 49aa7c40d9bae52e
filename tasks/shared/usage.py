"""Use of GPUs: the time that jobs held them and its price, and the speed that several of them gained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from simyard.core.artifacts import VERSIONS
from simyard.core.errors import RequestError
from simyard.core.records import Cost, Estimate
from simyard.core.specs import JobSpec
from simyard.core.wire import Wire
from simyard.requests.settings import MachineSettings, usd_per_gpu_hour
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.shared import history
from simyard.tasks.shared.history import PastAttempt


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
    return 0.0 if spec.gpus == 0 else gpu_seconds_of(spec, history.attempts(store, spec.job_id))


def gpu_seconds_of(spec: JobSpec, past: Iterable[PastAttempt]) -> float:
    """Return the GPU seconds of a job whose attempts are read already."""
    return 0.0 if spec.gpus == 0 else sum(map(_held_s, past)) * spec.ranks


def in_usd(gpu_seconds: float, usd_per_gpu_hour: float | None) -> float | None:
    """Return the price of GPU seconds in USD, a credit each; None where the site names no price, but for nothing."""
    if usd_per_gpu_hour is None:
        return None if gpu_seconds else 0.0
    return gpu_seconds / 3600.0 * usd_per_gpu_hour


def cost_of(gpu_seconds: float, usd_per_gpu_hour: float | None) -> Cost:
    """Return the cost of GPU seconds, rounded to what is shown."""
    usd = in_usd(gpu_seconds, usd_per_gpu_hour)
    return Cost(gpu_seconds=round(gpu_seconds, 3), usd=None if usd is None else round(usd, 6))


def require_price(machine: MachineSettings, max_credits: float | None, field: str) -> None:
    """Refuse a budget in credits where the site names no price.

    Raises:
        RequestError: There is such a budget.
    """
    if machine.usd_per_gpu_hour is None and max_credits is not None:
        raise RequestError(
            f"{field} is {max_credits:g}, and this site names no price.",
            code="no_price",
            advice="Leave it out, or have the site's owner set SIMYARD_USD_PER_GPU_HOUR to what a GPU hour costs.",
        )


def sum_of(costs: Iterable[Cost]) -> Cost:
    """Return several costs as one; without a price where one of them has none."""
    found = list(costs)
    prices = [one.usd for one in found if one.usd is not None]
    usd = round(sum(prices), 6) if len(prices) == len(found) else None
    return Cost(gpu_seconds=round(sum(one.gpu_seconds for one in found), 3), usd=usd)


def cost(spec: JobSpec, store: Store, past: Iterable[PastAttempt] | None = None) -> Cost:
    """Return the cost of a job so far, at the rate of its submission; `past` are its attempts, where they are read."""
    told = store.get_record_or_none(keys.JobKeys(spec.job_id).estimate, Estimate)
    seconds = gpu_seconds(spec, store) if past is None else gpu_seconds_of(spec, past)
    return cost_of(seconds, told.usd_per_gpu_hour if told else usd_per_gpu_hour())


def price_in_words(usd: float) -> str:
    """Return a price for people: cents, and two digits of less."""
    return f"{usd:.2f} USD" if usd >= 1 or usd == 0 else f"{usd:.2g} USD"


def cost_in_words(found: Cost) -> str:
    """Return a cost for people."""
    price = "no price" if found.usd is None else price_in_words(found.usd)
    return f"{found.gpu_seconds:,.0f} GPU seconds, {price}"


def seconds(attempt: PastAttempt) -> float:
    """Return the seconds of an attempt: of one without an end, up to its last heartbeat."""
    total_s = attempt.timings.get("total_s")
    if total_s is None and attempt.outcome is None and attempt.status is not None:
        began, updated = map(datetime.fromisoformat, (attempt.status.began_at, attempt.status.updated_at))
        total_s = (updated - began).total_seconds()
    return total_s or 0.0


def _held_s(attempt: PastAttempt) -> float:
    """Return the seconds for which an attempt held its GPUs."""
    on_cpu = attempt.facts is not None and attempt.facts.device.startswith("cpu")
    return 0.0 if on_cpu else seconds(attempt)


SHORTEST_S = 3.0
"""Of less training than this nothing is said: the first and the last iteration are seen a few tenths late."""


@dataclass(frozen=True, kw_only=True)
class OneGpu(Wire):
    """The training on one GPU that one on several is compared with."""

    job_id: str
    steps_per_s: int


@dataclass(frozen=True, kw_only=True)
class Scaling(Wire):
    """Speed and efficiency of a training on several GPUs, `scaling` in its result's summary."""

    gpus: int
    steps_per_s: int | None
    """Environment steps of all GPUs in the last attempt; None where too little was trained to tell."""
    one_gpu: OneGpu | None
    """The newest training like it on one GPU of the same model; None where the store has none."""
    efficiency: float | None
    """Steps per second over so many times those of one GPU; None without one."""

    def in_words(self) -> str:
        """Return the same for people."""
        if self.steps_per_s is None:
            return f"{self.gpus} GPUs; too short to say how fast"
        text = f"{self.steps_per_s:,} steps/s on {self.gpus} GPUs"
        if self.one_gpu is None:
            return f"{text}; no training on one GPU to compare with"
        beside = f"{self.one_gpu.steps_per_s:,} on one ({self.one_gpu.job_id})"
        return f"{text}, efficiency {self.efficiency:.2f} against {beside}"


def scaling(spec: JobSpec, store: Store) -> Scaling:
    """Return the gain of several GPUs over one.

    A training is compared with the newest successful one that differs in nothing but its GPUs and its length.
    """
    last = last_attempt(store, spec.job_id)
    reached = speed(spec, last)
    single = efficiency = None
    if reached is not None:
        gpu = gpu_model(store, last)
        for job_id in reversed(store.list_dirs(keys.JOBS)):
            if not store.exists(keys.JobKeys(job_id).manifest):
                continue
            other = history.load_spec(store, job_id)
            if other.ranks != 1 or _essence(other) != _essence(spec):
                continue
            past = last_attempt(store, job_id)
            alone = speed(other, past)
            if alone and past and past.facts and past.facts.device != "cpu" and gpu_model(store, past) == gpu:
                single = OneGpu(job_id=job_id, steps_per_s=round(alone))
                efficiency = round(reached / (spec.ranks * alone), 3)
                break
    steps_per_s = None if reached is None else round(reached)
    return Scaling(gpus=spec.ranks, steps_per_s=steps_per_s, one_gpu=single, efficiency=efficiency)


def _essence(spec: JobSpec) -> JobSpec:
    """Return the part of a spec that must be the same for two trainings to be compared."""
    return replace(
        spec, job_id="", name="", description="", gpus=None, nodes=1, priority="", accepts_eula=False, seed=0,
        max_iterations=0, resume=None, limits=type(spec.limits)(), session=True, retries=0, created_at="",
        from_job=None, request={},
    )  # fmt: skip


def iteration_s(attempt: PastAttempt | None) -> float | None:
    """Return the seconds of an iteration of a training; None where too little was trained to tell."""
    outcome = attempt.outcome if attempt else None
    if not outcome:
        return None
    seconds = outcome.timings.get("train_s")
    iterations = outcome.done - outcome.start_iteration - 1  # the first one is where the clock begins
    return None if seconds is None or seconds < SHORTEST_S or iterations < 1 else seconds / iterations


def speed(spec: JobSpec, attempt: PastAttempt | None) -> float | None:
    """Return the steps of all environments in a second of training, its first iteration left out; None as above.

    Of a training in stages None too: they may differ in the steps of an iteration, and begin in between.
    """
    if spec.stages:
        return None
    seconds = iteration_s(attempt)
    if seconds is None or attempt is None or attempt.facts is None:
        return None
    return float(attempt.facts.rollout * spec.num_envs * spec.ranks / seconds)


def last_attempt(store: Store, job_id: str) -> PastAttempt | None:
    """Return the newest attempt of a job."""
    past = history.attempts(store, job_id)
    return past[-1] if past else None


def gpu_model(store: Store, attempt: PastAttempt | None) -> str | None:
    """Return the model of the GPU that an attempt had."""
    versions = store.get_json_or_none(attempt.keys.file(VERSIONS.name)) if attempt else None
    return ((versions or {}).get("gpu") or {}).get("name")
