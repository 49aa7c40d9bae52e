"""The client's methods about tasks: those that can be trained, and what each of them needs."""

from __future__ import annotations

from typing import Any, TypedDict

from simyard.client.async_http import AsyncHttp, many, one, segment


class TaskRow(TypedDict):
    """A task in a list."""

    task: str
    """Registered id."""
    kind: str | None
    """`direct`, `manager-based` or `multi-agent`."""
    libraries: list[str]
    """Libraries that train it."""
    agents: list[str]
    """Its agents besides each library's own."""
    physics: list[str]
    """Its engines."""
    runnable: bool
    """Whether it can be trained on the service's machine."""
    why_not: list[str]
    """Reasons that it cannot."""


class TaskRecord(TypedDict):
    """A task."""

    task: str
    """Registered id."""
    former_ids: list[str]
    """Its ids in Isaac Lab 2.x."""
    title: str | None
    """First line of its description."""
    kind: str | None
    """`direct`, `manager-based` or `multi-agent`."""
    agents: list[dict[str, Any]]
    """Agents: `library`, `name`, `key` and whether the library is `installed`."""
    other_agents: list[str]
    """Keys of agents of other libraries."""
    engines: list[dict[str, Any]]
    """Physics engines: `name`, `presets` and what each is `missing`."""
    engine: str | None
    """The engine that a job takes if it names none."""
    asset_root: str | None
    """Folder or address that assets are looked for below."""
    assets: list[dict[str, Any]]
    """Models and networks: `path`, and whether each is `here`."""
    observations: list[dict[str, Any]]
    """Observation groups: `name`, `size` and `terms`."""
    actions: list[dict[str, Any]]
    """Action terms: `name` and `size`."""
    control_period_s: float | None
    """Seconds between two actions."""
    episode_s: float | None
    """Seconds of an episode."""
    num_envs: int | None
    """Environments that its configuration has."""
    success: str | None
    """Term or metric that says whether an episode succeeded."""
    measured: bool
    """Whether its environment was made to see; until then what only that tells is None."""
    runnable: bool
    """Whether it can be trained on the service's machine."""
    why_not: list[str]
    """Reasons that it cannot."""
    page_url: str
    """Address of its page for a browser."""


class AsyncTasks:
    """The methods about tasks."""

    _http: AsyncHttp

    async def list_tasks(
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
        return await self._http.send("GET", "/v1/tasks", many(TaskRow, "tasks"), query=query)

    async def get_task(self, task: str) -> TaskRecord:
        """Return a task, by its id or the one that it had in Isaac Lab 2.x."""
        return await self._http.send("GET", f"/v1/tasks/{segment('task', task)}", one(TaskRecord, "task"))
