"""Executors of a managed training run: this process, or workers of a work pool (`pool_executor.py`)."""

from __future__ import annotations

import queue
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from simyard.core.run_records import TrainerAttempt
from simyard.core.specs import JobSpec
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import Observer
from simyard.tasks.launch import launch_inline
from simyard.tasks.managed.run import RunSpec
from simyard.tasks.managed.trainer import TrainerObserver, check_trainer, run_trainer
from simyard.tasks.sessions.pool import Sessions


class Executor(ABC):
    """Executes one attempt at a rollout, or one call of the trainer, and returns when it has ended."""

    def __init__(self, run: RunSpec) -> None:
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(run.asked.rollout_template.rollout_parallelism):
            self._free.put(number)

    @contextmanager
    def worker(self) -> Iterator[int]:
        """Hold a worker, counted from 0, while the body runs; wait until one is free."""
        number = self._free.get()
        try:
            yield number
        finally:
            self._free.put(number)

    @abstractmethod
    def check(self) -> None:
        """Check the trainer where it will be called.

        Raises:
            RequestError: If it could not be called.
        """

    @abstractmethod
    def roll_out(self, worker: int, spec: JobSpec, observer: Observer) -> None:
        """Make one attempt at a staged rollout.

        Raises:
            WorkloadError: If it failed.
        """

    @abstractmethod
    def call_trainer(self, attempt: TrainerAttempt, observer: TrainerObserver) -> None:
        """Call the trainer once.

        Raises:
            WorkloadError: If it failed.
        """

    @abstractmethod
    def shutdown(self) -> None:
        """Let the workers go: the run is over."""


class LocalExecutor(Executor):
    """This process, with a warm simulator for each worker after the first iteration."""

    def __init__(self, run: RunSpec, store: Store, sessions: Sessions) -> None:
        super().__init__(run)
        self._run = run
        self._store = store
        self._sessions = sessions

    def check(self) -> None:
        """Check the trainer on this machine."""
        check_trainer(self._run, self._sessions.machine)

    def roll_out(self, worker: int, spec: JobSpec, observer: Observer) -> None:
        """Make an attempt in any simulator that is free."""
        launch_inline(spec, self._store, self._sessions, observer)

    def call_trainer(self, attempt: TrainerAttempt, observer: TrainerObserver) -> None:
        """Call it here."""
        run_trainer(attempt, self._run, self._store, self._sessions.machine, observer)

    def shutdown(self) -> None:
        """Do nothing: the owner of the sessions ends them."""
