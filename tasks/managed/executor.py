"""Who does the work of a managed training run: this process, or flow runs of a work pool."""

from __future__ import annotations

from typing import Any, Protocol

from simyard.core.specs import JobSpec
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import Observer
from simyard.tasks.launch import launch_inline
from simyard.tasks.managed.run import RunSpec
from simyard.tasks.managed.trainer import TrainerAttempt, TrainerObserver, check_trainer, run_trainer
from simyard.tasks.sessions.pool import Sessions


class Crew(Protocol):
    """Does one attempt at a rollout, or one call of the trainer, and returns when it has ended."""

    def prepare(self) -> None:
        """Check what can be checked before the first rollout.

        Raises:
            RequestError: If the trainer could not be called.
        """

    def roll_out(self, slot: int, spec: JobSpec, observer: Observer) -> None:
        """Make one attempt at a staged rollout.

        Args:
            slot: Which of the side by side it is, counted from 0.
            spec: The job.
            observer: Who hears of it.

        Raises:
            WorkloadError: If it failed.
        """

    def call_trainer(self, attempt: TrainerAttempt, observer: TrainerObserver) -> None:
        """Call the trainer once.

        Raises:
            WorkloadError: If it failed.
        """

    def dismiss(self) -> None:
        """The run is over, or this process is: whoever works for it alone may go."""


class InlineCrew:
    """This process, with the warm simulators that it has: one for each slot after the first iteration."""

    def __init__(self, run: RunSpec, store: Store, sessions: Sessions) -> None:
        self._run = run
        self._store = store
        self._sessions = sessions

    def prepare(self) -> None:
        """Check the trainer on this machine."""
        check_trainer(self._run, self._sessions.site)

    def roll_out(self, slot: int, spec: JobSpec, observer: Observer) -> None:
        """Make an attempt in whichever simulator is free."""
        launch_inline(spec, self._store, self._sessions, observer)

    def call_trainer(self, attempt: TrainerAttempt, observer: TrainerObserver) -> None:
        """Call it here."""
        run_trainer(attempt, self._run, self._store, self._sessions.site, observer)

    def dismiss(self) -> None:
        """Nothing: whoever gave the simulators ends them."""


def summary(result: dict[str, Any]) -> str:
    """Return how a run ended in one line."""
    top = result["best"]
    best = ""
    if top:
        best = f", best {top['checkpoint_id']}"
        best += "" if top["metric"] is None else f" ({top['metric']:.4g})"
    count = result["iterations"]["succeeded"]
    return f"{count} iteration{'s' * (count != 1)} ({result['ended_by']}){best}"
