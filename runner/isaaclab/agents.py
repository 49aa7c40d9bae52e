"""The agent of a job: the configuration that its task registers for a library, by the key that stands for its name."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from simyard.core.errors import RequestError, unknown
from simyard.runner.rl import LIBRARIES, Library


def find_agent(task: str, library: Library, agent: str | None, registered: Collection[str]) -> str:
    """Return the key of an agent as its task registers it: all that read an agent's configuration ask here.

    Args:
        task: The task's id.
        library: The library.
        agent: A key, as `Library.named_agent` returns it; None for the library's own.
        registered: The keys of the task's registration.

    Raises:
        RequestError: The task has no such agent; its nearest ones are named.
    """
    if found := library.find_agent(agent, registered):
        return found
    own = library.agents(registered)
    if agent is not None and own:
        short = next(iter(library.agents([agent])))
        raise unknown(f"agent of {library.name!r} for task {task!r}:", short, own, code="unknown_agent")
    having = [other.name for other in LIBRARIES.values() if other.agents(registered)]
    agents = f" Its agents for {library.name!r}: {', '.join(map(repr, own))}; name one as agent." if own else ""
    raise RequestError(
        f"Task {task!r} has no configuration for rlLibrary {library.name!r}.",
        code="library_without_config",
        advice=f"It has one for: {', '.join(map(repr, sorted(having))) or 'none of those simyard knows'}.{agents}",
    )


def registered_agent(task: str, library: Library | None, agent: str | None) -> str | None:
    """Return the key of an agent in the registry of this process; None without a library."""
    if library is None:
        return None
    import gymnasium

    registered: Mapping[str, object] = gymnasium.spec(task.split(":")[-1]).kwargs
    return find_agent(task, library, agent, registered.keys())
