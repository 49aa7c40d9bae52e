"""The tasks of the site's simulator, read by its own Python: the service imports no simulator."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import cached_property

from simyard.core.errors import RequestError
from simyard.core.task_facts import TaskFacts
from simyard.requests.settings import MachineSettings
from simyard.tasks.sessions.catalog import Catalog, pick

PATIENCE_S = 20.0
"""Seconds that a request waits for the reading: less than clients wait for an answer."""


class TaskBook:
    """The tasks, read once for all who ask at the same time."""

    def __init__(self, machine: MachineSettings) -> None:
        """Read nothing yet."""
        self._machine = machine
        self._lock = threading.Lock()
        self._reading: Future[list[TaskFacts]] | None = None

    def tasks(self) -> list[TaskFacts]:
        """Return all tasks.

        Raises:
            RequestError: There is no simulator here, or it is still being asked.
            WorkloadError: Its process ended or did not answer.
        """
        if (known := self._catalog.known()) is not None:
            return known
        with self._lock:
            if self._reading is None or self._reading.done():
                self._reading = Future()
                threading.Thread(target=self._read, args=(self._reading,), name="tasks", daemon=True).start()
            reading = self._reading
        try:
            return reading.result(PATIENCE_S)
        except TimeoutError as error:
            raise RequestError(
                "The simulator's Python is still reading the tasks, which takes it a minute the first time.",
                code="tasks_being_read",
                advice="Ask again in some seconds.",
            ) from error

    def task(self, task: str) -> TaskFacts:
        """Return one task, by its id or the one that it had in Isaac Lab 2.x.

        Raises:
            RequestError: There is none, or the tasks are not to be had.
            WorkloadError: As for all.
        """
        return pick(self.tasks(), task)

    @cached_property
    def _catalog(self) -> Catalog:
        return Catalog(self._machine)

    def _read(self, reading: Future[list[TaskFacts]]) -> None:
        try:
            reading.set_result(self._catalog.all())
        except BaseException as error:
            reading.set_exception(error)
