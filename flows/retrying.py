"""When a step is repeated: after what the machine or the network did, never after what the request did."""

from __future__ import annotations

from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from simyard.tasks import launch


def worth_another(task: object, run: TaskRun, state: State[Any]) -> bool:
    """Return whether a task's failure is one of the machine, as Prefect asks it."""
    return launch.worth_another(state.result(raise_on_failure=False))


PLAIN: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}
"""Options of a task that is not repeated, and whose result stays in its process."""
RETRYING: dict[str, Any] = {
    "retries": 3, "retry_delay_seconds": [1, 5, 20], "retry_condition_fn": worth_another, **PLAIN,
}  # fmt: skip
"""The same of one that is repeated."""
