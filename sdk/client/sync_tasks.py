# Generated from async_tasks.py by `make client`: change that one.
"""The client's methods about tasks: those that can be trained, and what each of them needs."""

from __future__ import annotations

from simyard.client.async_http import many, one, segment
from simyard.client.async_tasks import TaskRecord, TaskRow
from simyard.client.sync_http import Http


class Tasks:
    """The methods about tasks."""

    _http: Http

    def list_tasks(
        self,
        *,
        text: str | None = None,
        runnable: bool = False,
        library: str | None = None,
        physics: str | None = None,
    ) -> list[TaskRow]:
        """Return the tasks, sorted by id.

        Args:
            text: Part of an id or of the description.
            runnable: Whether they must be trainable on the service's machine.
            library: A library that trains them.
            physics: An engine that they have.
        """
        wanted = {"text": text, "runnable": "true" if runnable else None, "library": library, "physics": physics}
        query = {name: value for name, value in wanted.items() if value is not None}
        return self._http.send("GET", "/v1/tasks", many(TaskRow, "tasks"), query=query)

    def get_task(self, task: str) -> TaskRecord:
        """Return a task, by its id or the one that it had in Isaac Lab 2.x."""
        return self._http.send("GET", f"/v1/tasks/{segment('task', task)}", one(TaskRecord, "task"))
