"""Objects of the engines that hold a job's memory: none may be reachable after it, whoever keeps it.

They are found by type among all that the collector knows. The usual keeper is a cache on a method: `functools` keeps
`self` among its keys for good, and with it all that `self` refers to.
"""

from __future__ import annotations

import functools
import gc
import sys
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

KINDS = (
    ("newton", "Model"),
    ("gymnasium", "Env"),
    ("isaaclab.envs.manager_based_env", "ManagerBasedEnv"),
    ("warp", ARRAY := "array"),
)
"""Modules and their types. One of them has the memory of a whole job, save an array, which may be a constant."""
MAX_ARRAYS = 64
"""Arrays that jobs may leave in all: libraries keep some, a leak has no end. Those that are a type have no memory."""


class EngineObjects:
    """The objects of these kinds that jobs have left so far, and the caches in which they are looked for."""

    def __init__(self) -> None:
        self._modules: set[str] = set()
        self._caches: list[tuple[weakref.ref[Any], weakref.ref[type]]] = []
        self._left: dict[int, weakref.ref[Any]] = {}

    def clear_caches(self) -> None:
        """Empty every cache on a method that keeps an object of the method's class."""
        for name in set(sys.modules) - self._modules:
            self._caches += _method_caches(name)
        self._modules = set(sys.modules)
        for cache, owner in self._caches:
            found, cls = cache(), owner()
            if found is not None and cls is not None and _keeps_self(found, cls):
                found.cache_clear()

    def left_over(self) -> str | None:
        """Describe the objects that the last job has left, after a collection; None if there are none to speak of."""
        kinds = {name: _subtypes(module, name) for module, name in KINDS}
        wanted = frozenset[type]().union(*kinds.values())
        alive = [item for item in gc.get_objects() if type(item) in wanted]
        new = [item for item in alive if self._left.get(id(item), _nothing)() is not item]
        self._left |= {id(item): weakref.ref(item) for item in new}
        self._left = {key: item for key, item in self._left.items() if item() is not None}

        count = {name: sum(type(item) in types for item in new) for name, types in kinds.items() if name != ARRAY}
        left = [item() for item in self._left.values()]
        arrays = sum(bool(getattr(item, "capacity", 0)) for item in left if type(item) in kinds[ARRAY])
        count[ARRAY] = arrays if arrays > MAX_ARRAYS else 0
        said = ", ".join(f"{number} of {name}" for name, number in count.items() if number)
        return f"the job left objects of the simulator: {said}" if said else None


def _nothing() -> None:
    """Stand for the reference to an object that was never seen."""


def _method_caches(name: str) -> Iterator[tuple[weakref.ref[Any], weakref.ref[type]]]:
    """Yield the caches on methods of a module's classes.

    Types alone are asked, never objects: to ask one of those that stand for a module imports it.
    """
    with suppress(AttributeError, KeyError):  # whatever stands among the modules
        for cls in list(object.__getattribute__(sys.modules[name], "__dict__").values()):
            if issubclass(type(cls), type) and vars(cls).get("__module__") == name:
                for value in list(vars(cls).values()):
                    is_wrapped = type(value) in (classmethod, staticmethod)
                    function = value.__func__ if is_wrapped else value.fget if type(value) is property else value
                    if type(function) is functools._lru_cache_wrapper:
                        yield weakref.ref(function), weakref.ref(cls)


def _keeps_self(cache: Any, cls: type) -> bool:
    """Return whether a key of a cache begins with an object of the class on which it stands."""
    kept = (part for part in gc.get_referents(cache) if type(part) is dict)
    return any(type(key) is tuple and key and cls in type(key[0]).__mro__ for keys in kept for key in keys)


def _subtypes(module: str, name: str) -> frozenset[type]:
    """Return a type with all that inherit from it; none where nobody has imported it."""
    base = getattr(sys.modules.get(module), name, None)
    found = set[type]()
    new: list[type] = [base] if isinstance(base, type) else []
    while new:
        found.add(cls := new.pop())
        new += set(cls.__subclasses__()) - found
    return frozenset(found)
