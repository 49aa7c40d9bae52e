"""Retries of tasks by Prefect: after a failure of the machine or the network, never after one of the request.

The rule is `simyard.tasks.launch.worth_another`. It has two answers to an error that names no category. An attempt, or
a step that may hold one, is not repeated: a bug costs a simulation each time. A stage is: it costs a moment, and what
it meets is mostly the connection of a client library.
"""

from __future__ import annotations

from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from simyard.tasks import launch


def worth_another(task: object, run: TaskRun, state: State[Any]) -> bool:
    """Return whether a failure is one of the machine; an unknown error is not."""
    return launch.worth_another(state.result(raise_on_failure=False))


def worth_another_or_unknown(task: object, run: TaskRun, state: State[Any]) -> bool:
    """Return whether a failure is one of the machine; an unknown error is taken for one."""
    return launch.worth_another(state.result(raise_on_failure=False), unknown=True)


PLAIN: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}
"""Options of a task that is not repeated, and whose result stays in its process."""
RETRYING: dict[str, Any] = {
    "retries": 3, "retry_delay_seconds": [1, 5, 20], "retry_condition_fn": worth_another, **PLAIN,
}  # fmt: skip
"""The same of one that is repeated."""
RETRYING_UNKNOWN: dict[str, Any] = RETRYING | {"retry_condition_fn": worth_another_or_unknown}
"""The same of one that is repeated after an unknown error too."""
