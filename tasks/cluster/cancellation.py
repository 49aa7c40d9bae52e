"""Reads from Prefect why a flow run is to stop: somebody asked for it, or its machine goes away."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, Literal
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run

from simyard.core.errors import Category, Failure
from simyard.tasks.attempt.attempt import CANCELED

ASK_S = 3.0
"""Seconds between two requests to Prefect for the state that a flow run's buttons ask for."""
INTERRUPTED = Failure(
    code="interrupted",
    category=Category.INFRA,
    message="The attempt's process was asked to end (SIGTERM), and nobody had canceled the job.",
    advice="Machines that go away do that; the next attempt goes on from the last checkpoint in the store.",
)


def why_stopped(error: BaseException) -> Failure:
    """Return the failure that a signal stands for; a SIGTERM is a cancel only where the Prefect server says so."""
    if isinstance(error, TerminationSignal) and not _is_canceled(_state(str(flow_run.id))):
        return INTERRUPTED
    return CANCELED


class PrefectButtons:
    """The buttons of a flow run in Prefect's UI: pause, resume and cancel set its state, which is read now and then."""

    def __init__(self, flow_run_id: str) -> None:
        self._flow_run_id = flow_run_id
        self._read_at = 0.0
        self._desired: Literal["run", "pause", "cancel"] = "run"

    def __call__(self) -> Literal["run", "pause", "cancel"]:
        """Return the state that they ask for; the last one known while the server does not answer."""
        if time.monotonic() - self._read_at > ASK_S:
            self._read_at = time.monotonic()
            if (state := _state(self._flow_run_id)) is not None:
                self._desired = "cancel" if _is_canceled(state) else "pause" if state.is_paused() else "run"
        return self._desired


def _is_canceled(state: State[Any] | None) -> bool:
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def _state(flow_run_id: str) -> State[Any] | None:
    """Return the state of a flow run; None where the server does not answer, which is no cancel."""
    with suppress(Exception), get_client(sync_client=True) as client:
        return client.read_flow_run(UUID(flow_run_id)).state
    return None
