"""Waits for work that a flow run does on another machine: by the record that it leaves, and by the flow run's state.

The record counts. The flow run and the heartbeats only tell whether there is still somebody who could leave it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import httpx

from simyard.core.errors import StoreError
from simyard.core.records import Heartbeat
from simyard.tasks.launch import AUTO_RESUME
from simyard.tasks.shared.heartbeat import Patience

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

Record = TypeVar("Record")


@dataclass(frozen=True)
class Ending(Generic[Record]):
    """End of the wait for a flow run's work."""

    reason: Literal["recorded", "final", "withdrawn", "lost", "timeout"]
    """The record is there; or it is not, and the flow run is in a final state, was canceled before it began, had no
    heartbeat for too long, or took too long altogether."""
    state: State[Any] | None
    """Of the flow run, when it was last read; None where the record was there before that."""
    record: Record | None = None
    """The record that the work left; None where it left none."""


@dataclass(frozen=True, kw_only=True)
class FlowRunWatch(Generic[Record]):
    """Waits for the work of one flow run. Its callbacks may raise; a `StoreError` is one of an outage."""

    client: SyncPrefectClient
    run: FlowRun
    record: Callable[[], Record | None]
    """Reads the record that the work leaves at its end; None before that."""
    heartbeat: Callable[[], Heartbeat | None] = lambda: None
    """Reads the newest heartbeat of the work; None before the first one."""
    patience: Patience
    """Limits of the wait for a heartbeat, and for an answer from the store or the server."""
    is_canceled: Callable[[], bool] = lambda: False
    """Whether somebody wants the work to end."""
    cancel: Callable[[], None] = lambda: None
    """Asks the work to end; called once."""
    on_look: Callable[[State[Any], Heartbeat | None], None] = lambda state, heartbeat: None
    """Called with the flow run's state and the newest heartbeat, each time that they are read."""
    timeout_s: float = math.inf
    """Seconds to wait at most, whatever the heartbeats."""
    poll_s: Callable[[float], float] = lambda waited_s: 1.0
    """Returns the seconds to sleep until the next read of the record, from the seconds waited so far."""
    look_s: float = 0.0
    """Seconds between two reads of flow run and heartbeat, at least."""

    def wait(self) -> Ending[Record]:
        """Wait until the work has ended, or nobody does it any more; a flow run that is lost is crashed.

        Raises:
            StoreError: If the store does not answer for longer than `patience.silence_s`.
            HTTPError: If the Prefect server does not.
        """
        # This machine's clock alone: that of the machine that writes the heartbeats may be minutes away from it.
        began = heard = reached = time.monotonic()
        looked = -math.inf
        state: State[Any] | None = None
        newest: object = None
        has_asked = False
        while True:
            is_due = time.monotonic() - looked >= self.look_s
            try:
                # The record is read after the state: work that has ended left its record before its flow run ended.
                if is_due:
                    beat, state = self.heartbeat(), self._read_state()
                record = self.record()
                is_canceled = record is None and self.is_canceled()
                if is_canceled and not has_asked:
                    self.cancel()
                    has_asked = True
                if is_canceled and is_due and _is_waiting(state) and withdraw(self.client, self.run):
                    return Ending("withdrawn", state)
                reached = time.monotonic()
            except (StoreError, httpx.HTTPError):
                # The store or the server restarts, say. The work goes on meanwhile, so this waits; and what cannot
                # be asked is not taken for dead.
                if time.monotonic() - reached > self.patience.silence_s:
                    raise
                heard = time.monotonic()
                time.sleep(self.poll_s(heard - began))
                continue

            # Judge what was read.
            if is_due:
                assert state is not None
                looked = reached
                self.on_look(state, beat)
            if record is not None:
                return Ending("recorded", state, record)
            if is_due and state is not None:
                if state.is_final():
                    return Ending("final", state)
                latest = (state.id, beat and beat.updated_at)
                if latest != newest or state.is_scheduled():
                    newest, heard = latest, reached
                if reached - heard > (self.patience.silence_s if beat else self.patience.starting_s):
                    self._crash()
                    return Ending("lost", state)
                if reached - began > self.timeout_s:
                    return Ending("timeout", state)
            time.sleep(self.poll_s(reached - began))

    def _read_state(self) -> State[Any]:
        state = self.client.read_flow_run(self.run.id).state
        assert state is not None
        return state

    def _crash(self) -> None:
        from prefect.states import Crashed

        self.client.set_flow_run_state(self.run.id, Crashed(message="It writes no heartbeat."), force=True)


def withdraw(client: SyncPrefectClient, run: FlowRun) -> bool:
    """Cancel a flow run that has not begun; return whether it had not."""
    from prefect.states import Cancelled

    if not _is_waiting(client.read_flow_run(run.id).state):
        return False
    client.set_flow_run_state(run.id, Cancelled(), force=True)
    return True


def crash_killed(own_id: str) -> None:
    """Crash the flow runs of a job or a managed run that were killed: this one goes on, and nobody would end them.

    Those of the service are its own to end.

    Args:
        own_id: Of the job or the run; its flow runs have it as a tag.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
    from prefect.runtime import flow_run
    from prefect.states import Crashed

    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[own_id]))):
            under_way = run.state is not None and (run.state.is_running() or run.state.is_pending())
            if under_way and str(run.id) != flow_run.id and AUTO_RESUME not in run.tags:
                client.set_flow_run_state(
                    run.id, Crashed(message="Its process was killed; another goes on."), force=True
                )


def _is_waiting(state: State[Any] | None) -> bool:
    return state is not None and (state.is_scheduled() or state.is_pending())
