"""The agent of a job: the configuration that its task registers for a library, and the user's classes that it names."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError, unknown
from simyard.core.files import sha256_of
from simyard.core.specs import CustomClass
from simyard.runner.isaaclab.foreign_imports import explain
from simyard.runner.rl import LIBRARIES, Library

FROM_FILE = "+agentConfig"
"""End of the key of an agent whose configuration a file of the job changes: it is registered while that job uses it."""


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
    if agent is not None and agent.endswith(FROM_FILE) and agent in registered:
        return agent
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


def custom_classes(library: Library, agent: Mapping[str, Any]) -> tuple[CustomClass, ...]:
    """Import every class of the user's that an agent's configuration names, and return them as they are kept.

    Nothing but the job's own configuration names them: what a checkpoint says of classes is never asked.

    Raises:
        RequestError: One does not import, or is no class.
    """
    found = []
    for key, name in sorted(library.custom_classes(agent).items()):
        try:
            cls = library.import_class(name)
            file = Path(inspect.getfile(cls))
        except Exception as error:
            raise explain(error) or RequestError(
                f"agent.{key} is {name!r}, which does not import: {type(error).__name__}: {error}",
                code="custom_class_import",
                advice="Write package.module:Class, of the job's own package (customEnvironmentPath) or an installed "
                "one; an import that fails is mended there.",
            ) from error
        found.append(
            CustomClass(key=f"agent.{key}", name=f"{cls.__module__}:{cls.__qualname__}", sha256=sha256_of(file))
        )
    return tuple(found)
