"""Parameters of a running environment: found by the path of an override, changed in place, and seen to be read."""

from __future__ import annotations

import dis
import sys
from collections.abc import Mapping
from typing import Any

_MANAGERS = {
    "events": "event_manager", "rewards": "reward_manager", "terminations": "termination_manager",
    "curriculum": "curriculum_manager",
}  # fmt: skip
"""Managers whose terms a manager-based environment keeps; those of commands are objects of their own."""
_COPIES = "/isaaclab/utils/"
"""Part of the path of code that reads configurations to write or copy them: no use of a value."""


class LiveParameter:
    """A value of an environment's configuration, where the running environment looks for it."""

    def __init__(self, env: Any, path: str) -> None:
        """Find it, and begin to watch whether it is read.

        Args:
            env: The innermost environment.
            path: As in an override: `env.events.push.params.velocity_range`.
        """
        self.path = path
        self.is_read = False
        """Whether the environment has read it since it was set last."""
        self._is_used = False
        parts = path.split(".")[1:]
        owner, rest, term = env.cfg, parts, None
        if (manager := getattr(env, _MANAGERS.get(parts[0], ""), None)) is not None:
            owner = term = manager.get_term_cfg(parts[1])
            rest = parts[2:]
        elif parts[0] == "commands" and hasattr(env, "command_manager"):
            owner, rest = env.command_manager.get_term(parts[1]).cfg, parts[2:]

        # The last object on the way, whose attribute is noted, and what holds the value itself.
        noted, attribute = owner, rest[0]
        for part in rest[:-1]:
            owner = owner[part] if isinstance(owner, dict) else getattr(owner, part)
            if not isinstance(owner, dict):
                noted, attribute = owner, rest[rest.index(part) + 1]
        self._owner, self._key = owner, rest[-1]
        if term is not None and rest[0] == "params":
            self._watch_term(term, rest[1])
        else:
            self._watch_attribute(noted, attribute)

    def set(self, value: tuple[float, float]) -> None:
        """Change it; the environment has not read it then."""
        if isinstance(self._owner, dict):
            self._owner[self._key] = type(self._owner[self._key])(value)
        else:
            setattr(self._owner, self._key, type(getattr(self._owner, self._key))(value))
        self.is_read = self._is_used

    def _watch_term(self, term: Any, parameter: str) -> None:
        """Note the calls of a term's function, which gets its parameters anew each time."""
        function = term.func
        if hasattr(function, "__code__"):

            def noting(*arguments: Any, **parameters: Any) -> Any:
                self.is_read = True
                return function(*arguments, **parameters)

            term.func = noting
            return
        # A class may have looked at a parameter when it was made, and never again: then its call does not touch it.
        call = type(function).__call__.__code__
        loaded = {
            instruction.argval
            for instruction in dis.get_instructions(call)
            if instruction.opname.startswith("LOAD_FAST")
        }
        self._is_used = self.is_read = parameter in loaded

    def _watch_attribute(self, owner: Any, name: str) -> None:
        """Note the reads of an attribute, save by what only copies it."""
        parameter, own = self, type(owner)
        look: Any = own.__getattribute__

        def read(self: Any, attribute: str) -> Any:
            if attribute == name and _COPIES not in sys._getframe(1).f_code.co_filename:
                parameter.is_read = True
            return look(self, attribute)

        body = {"__getattribute__": read, "__module__": own.__module__, "__qualname__": own.__qualname__}
        owner.__class__ = type(own.__name__, (own,), body)


def is_range(value: Any) -> bool:
    """Return whether a value of a configuration is a lowest and a highest number."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(one, int | float) and not isinstance(one, bool) for one in value)
    )


def why_not_live(path: str, known: Mapping[str, Any]) -> str | None:
    """Return why a parameter cannot change while an environment runs, as far as its configuration tells; else None.

    Args:
        path: As in an override.
        known: All keys of the configuration, with their values.
    """
    value = known[path]
    if not is_range(value):
        return f"it is {value!r}, no lowest and highest number"
    parts = path.split(".")
    mode = known.get(f"env.events.{parts[2]}.mode") if parts[1] == "events" and len(parts) > 3 else None
    if mode is not None and mode not in ("reset", "interval"):
        return f"its event happens at {mode!r} alone, before training begins; allowed: 'reset', 'interval'"
    return None
