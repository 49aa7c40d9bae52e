"""What it means that a flow's process is asked to end: somebody canceled the job, or its machine goes away."""

from __future__ import annotations

from contextlib import suppress

from prefect.client.orchestration import get_client
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run

from simyard.core.errors import Category, Failure
from simyard.tasks.attempt.attempt import CANCELED

INTERRUPTED = Failure(
    code="interrupted",
    category=Category.INFRA,
    message="The attempt's process was asked to end (SIGTERM), and nobody had canceled the job.",
    advice="Machines that go away do that; the next attempt goes on from the last checkpoint in the store.",
)


def why_stopped(error: BaseException) -> Failure:
    """Return the failure that a signal stands for; a SIGTERM is a cancel only where the Prefect server says so."""
    if isinstance(error, TerminationSignal) and not _is_canceled():
        return INTERRUPTED
    return CANCELED


def _is_canceled() -> bool:
    with suppress(Exception), get_client(sync_client=True) as client:  # no answer is no cancel
        state = client.read_flow_run(flow_run.id).state
        return state is not None and (state.is_cancelling() or state.is_cancelled())
    return False
