"""How a flow run ends: a final state that holds the record of its work."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed

from simyard.core.errors import Failure
from simyard.core.records import Ended

_STATES = {"succeeded": Completed, "failed": Failed, "canceled": Cancelled}


def ended(status: Ended, data: dict[str, Any], said: str, error: Failure | None = None) -> State[dict[str, Any]]:
    """Return the final state of a flow run.

    Args:
        status: How its work ended.
        data: The record of that.
        said: The state's message where there is no error.
        error: The failure whose message and advice are the state's message.
    """
    message = f"{error.message} {error.advice}".rstrip() if error else said
    return _STATES[status](cls=_Ending, message=message, data=data)


class _Ending(State[dict[str, Any]]):
    """The final state of a flow run, whose result is the record, however it ended.

    Prefect's own raises an exception for data of a failed run, and its engine puts the traceback of that into the log.
    """

    def result(self, raise_on_failure: bool = True, **more: Any) -> Any:  # type: ignore[override]
        """Return the record."""
        return super().result(raise_on_failure=False, **more)
