"""The desired state of a managed training run: to run, to pause or to end. The process that drives it looks here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from simyard.core.errors import RequestError
from simyard.core.records import DesiredStateMark, RunResult
from simyard.store.keys import RunKeys
from simyard.store.store import Store
from simyard.tasks.managed.run import load_run

DesiredState = Literal["run", "pause", "cancel"]


def set_desired_state(store: Store, run_id: str, desired: DesiredState) -> None:
    """Write the desired state.

    Raises:
        RequestError: If there is no such run, it has ended, or it was canceled and cannot go on.
    """
    load_run(store, run_id)
    if (ended := store.get_record_or_none(RunKeys(run_id).result, RunResult)) is not None:
        raise RequestError(
            f"{run_id} has {ended.status}.", code="run_ended", advice="Begin another: simyard managed start."
        )
    if desired != "cancel" and desired_state(store, run_id) == "cancel":
        raise RequestError(
            f"{run_id} is being canceled.", code="run_ended", advice="Begin another: simyard managed start."
        )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    store.put_record(RunKeys(run_id).desired_state, DesiredStateMark(wanted=desired, requested_at=now))


def desired_state(store: Store, run_id: str) -> DesiredState:
    """Read the desired state; `run` where nobody has set one."""
    found = store.get_record_or_none(RunKeys(run_id).desired_state, DesiredStateMark)
    return found.wanted if found else "run"
