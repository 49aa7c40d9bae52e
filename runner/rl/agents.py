"""The agents of a library: the part of the protocol in `base.py` that names, finds and judges their configurations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from simyard.core.errors import RequestError

ENTRY = "_cfg_entry_point"
"""The end of every key by which a task registers the configuration of an agent."""
DEFAULT_AGENT = "default"
"""Short form of the agent that counts where none is named."""


class Agents:
    """What a library's file says of the configurations that tasks register for it."""

    name: ClassVar[str]
    """Its name in requests, in the folder `logs/` and among Isaac Lab's backends; the file's too."""

    @property
    def agent_key(self) -> str:
        """The task registry's key for the agent configuration of this library that counts where none is named."""
        return f"{self.name}{ENTRY}"

    def named_agent(self, agent: str) -> str:
        """Return the registry's key that an agent's name stands for: `with_symmetry` is its short form.

        Raises:
            RequestError: It is a key of another library.
        """
        if not agent.endswith(ENTRY):
            return self.agent_key if agent == DEFAULT_AGENT else f"{self.name}_{agent}{ENTRY}"
        if not agent.startswith(f"{self.name}_"):
            raise RequestError(
                f"Agent {agent!r} is none of rlLibrary {self.name!r}.",
                code="unknown_agent",
                advice=f"Its keys begin with {self.name!r}: set rlLibrary to the agent's, or name another agent.",
            )
        return agent

    def agents(self, registered: Iterable[str]) -> dict[str, str]:
        """Return the agents of this library among the keys that a task registers, by their short forms."""
        prefix = f"{self.name}_"
        own = sorted(key for key in registered if key.startswith(prefix) and key.endswith(ENTRY))
        return {key[len(prefix) : -len(ENTRY)] if key != self.agent_key else DEFAULT_AGENT: key for key in own}

    def find_agent(self, agent: str | None, registered: Iterable[str]) -> str | None:
        """Return the key of an agent as a task registers it, in upper or lower case; None where it has no such agent.

        Args:
            agent: A key, as `named_agent` returns it; None for the library's own.
            registered: The keys of the task's registration.
        """
        wanted = (agent or self.agent_key).casefold()
        return next((key for key in self.agents(registered).values() if key.casefold() == wanted), None)

    def agent_problem(self, agent: str | None, agent_cfg: Mapping[str, Any]) -> str | None:
        """Return in what a resolved configuration is not the agent that was named, in words; None where it is."""
        return None

    def is_multi_agent(self, agent_cfg: Any) -> bool:
        """Return whether an agent has a policy for each of a task's agents; others have one for all of them."""
        return False

    def custom_classes(self, agent_cfg: Mapping[str, Any]) -> dict[str, str]:
        """Return the names of the user's own classes in an agent's configuration, by their keys."""
        return {}

    def import_class(self, name: str) -> type:
        """Import a class by its name, as the library does."""
        raise NotImplementedError

    def begin_training(self) -> None:
        """Prepare this process for a training: what Isaac Lab's own code for this library lacks."""
