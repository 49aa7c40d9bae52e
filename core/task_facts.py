"""Facts about a registered task, from its configuration: what can train it, what it needs, what it sees and does.

They travel from the simulator's Python to the control side, and are kept there as long as nothing they came from has
changed.
"""

from __future__ import annotations

from dataclasses import dataclass

from simyard.core.wire import Wire


@dataclass(frozen=True, kw_only=True)
class TaskAgent(Wire):
    """Configuration of an agent that a task registers."""

    library: str
    """The library's name, `rsl_rl` say."""
    name: str
    """Short form of the key; `default` for the one that counts where none is named."""
    key: str
    """The registry's key."""
    installed: bool
    """Whether the library is."""


@dataclass(frozen=True, kw_only=True)
class TaskEngine(Wire):
    """Physics engine that a task has."""

    name: str
    """Its name in a request, `newton` say."""
    presets: tuple[str, ...]
    """Presets of the task's that bring it; none where it has no other engine."""
    missing: tuple[str, ...]
    """Modules, or a device, that it needs and this machine does not have; none where it runs."""


@dataclass(frozen=True, kw_only=True)
class TaskAsset(Wire):
    """Model or network that a task loads."""

    path: str
    """Its path below the asset root."""
    here: bool | None
    """Whether it lies on this machine; None where the root is an address, which only a job asks."""


@dataclass(frozen=True, kw_only=True)
class TaskTerm(Wire):
    """Term of an observation group, or of the actions."""

    name: str | None
    """Its name; None where a direct task has one without."""
    size: int | None
    """Its numbers; None where only the environment knows."""


@dataclass(frozen=True, kw_only=True)
class TaskGroup(Wire):
    """Observation group; of a task with several agents one is an agent's."""

    name: str
    size: int | None
    """The numbers of all its terms; None where only the environment knows."""
    terms: tuple[TaskTerm, ...]


@dataclass(frozen=True, kw_only=True)
class TaskFacts(Wire):
    """A registered task; a value that its configuration does not tell is None."""

    task: str
    """Registered id."""
    former_ids: tuple[str, ...] = ()
    """Its ids in Isaac Lab 2.x, which requests may name too."""
    title: str | None = None
    """First line of its configuration's own description."""
    kind: str | None = None
    """`direct`, `manager-based` or `multi-agent`."""
    agents: tuple[TaskAgent, ...] = ()
    """Those of libraries that simyard trains with."""
    other_agents: tuple[str, ...] = ()
    """Keys of those of other libraries."""
    engines: tuple[TaskEngine, ...] = ()
    engine: str | None = None
    """The engine that a job here takes if it names none."""
    asset_root: str | None = None
    """Folder or address that assets are looked for below."""
    assets: tuple[TaskAsset, ...] = ()
    observations: tuple[TaskGroup, ...] = ()
    actions: tuple[TaskTerm, ...] = ()
    control_period_s: float | None = None
    episode_s: float | None = None
    num_envs: int | None = None
    """Environments that its configuration has; a request has a default of its own."""
    success: str | None = None
    """Term or metric that says whether an episode succeeded."""
    measured: bool = False
    """Whether the environment was made to see: then no size is missing, and without a `success` nothing says it."""
    runnable: bool = False
    """Whether a training can run here: libraries, engine and assets are there."""
    why_not: tuple[str, ...] = ()
    """Reasons that it cannot, in words."""

    @property
    def libraries(self) -> tuple[str, ...]:
        """Libraries that simyard trains it with."""
        return tuple(dict.fromkeys(agent.library for agent in self.agents))
