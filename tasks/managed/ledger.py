"""The ledger of a managed run: the GPU seconds that it has used, and their price."""

from __future__ import annotations

import threading
from dataclasses import replace

from simyard.core.records import Cost
from simyard.core.run_records import IterationRecord, TrainerOutcome
from simyard.core.specs import JobSpec
from simyard.store.keys import rollout_job_id
from simyard.store.store import Store
from simyard.tasks.managed.run import RunSpec
from simyard.tasks.managed.trainer import gpu_seconds_of_calls
from simyard.tasks.shared import usage


class Ledger:
    """Counts the rollouts and calls of the trainer of one run; its counts may come from several threads."""

    def __init__(self, spec: RunSpec, store: Store, iterations: list[IterationRecord]) -> None:
        """Count the iterations that have ended.

        Args:
            spec: The run.
            store: Its store.
            iterations: The records of its iterations, to which the loop appends.
        """
        self._spec = spec
        self._store = store
        self._iterations = iterations
        self._lock = threading.Lock()
        self._counted: dict[str, float] = {}
        """GPU seconds by rollout, of the iteration in progress."""
        self._calls: dict[int, float] = {}
        """The same by call of the trainer."""
        self._gpu_seconds = self._committed()

    @property
    def credits(self) -> float:
        """The price of the run so far, in credits; 0 where the site names no price."""
        return usage.in_usd(self._gpu_seconds, self._spec.usd_per_gpu_hour) or 0.0

    @property
    def cost(self) -> Cost:
        """The cost of the run so far."""
        return usage.cost_of(self._gpu_seconds, self._spec.usd_per_gpu_hour)

    def begin_iteration(self, number: int) -> None:
        """Count the GPU seconds that a process before this one used for an iteration."""
        self._counted, self._calls = self._rollout_seconds(number), self._call_seconds(number)
        self._gpu_seconds = self._committed() + sum(self._counted.values()) + sum(self._calls.values())

    def count_rollout(self, spec: JobSpec) -> None:
        """Count a rollout of the iteration as it is by now, all its attempts together."""
        seconds = usage.gpu_seconds(spec, self._store)
        with self._lock:
            self._gpu_seconds += seconds - self._counted.get(spec.job_id, 0.0)
            self._counted[spec.job_id] = seconds

    def count_call(self, outcome: TrainerOutcome) -> None:
        """Count a call of the trainer that has ended."""
        with self._lock:
            self._gpu_seconds += outcome.gpu_seconds - self._calls.get(outcome.number, 0.0)
            self._calls[outcome.number] = outcome.gpu_seconds

    def spent(self, number: int) -> float:
        """Return the GPU seconds of an iteration so far, from the store."""
        return sum(self._call_seconds(number).values()) + sum(self._rollout_seconds(number).values())

    def _committed(self) -> float:
        return float(sum(ended.gpu_seconds for ended in self._iterations))

    def _call_seconds(self, number: int) -> dict[int, float]:
        gpus = self._spec.asked.trainer_spec.resources.gpu
        return gpu_seconds_of_calls(self._store, self._spec.run_id, number, gpus)

    def _rollout_seconds(self, number: int) -> dict[str, float]:
        jobs = range(self._spec.asked.rollout_template.jobs)
        specs = (
            replace(self._spec.template, job_id=rollout_job_id(self._spec.run_id, number, index)) for index in jobs
        )
        return {spec.job_id: usage.gpu_seconds(spec, self._store) for spec in specs}
