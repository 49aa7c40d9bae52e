"""The reinforcement-learning libraries that simyard knows: a file each in this folder.

To add one, write its file as `base.py` says; it is found by being there.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator, Mapping

from simyard.core.errors import RequestError, unknown
from simyard.runner.rl.base import Library, Progress, Resumption, Scale

DEFAULT_LIBRARY = "rsl_rl"
"""The library of requests that name none: Isaac Lab's own default."""
_OTHERS = ("agents", "base", "checkpoints", "inference", "networks")
"""The files of this folder that are no library."""


class _Libraries(Mapping[str, Library]):
    """The libraries by name, the default first. A library's file is imported when the library is asked for."""

    def __iter__(self) -> Iterator[str]:
        return iter(_names(tuple(__path__)))

    def __len__(self) -> int:
        return len(_names(tuple(__path__)))

    def __getitem__(self, name: str) -> Library:
        if name not in _names(tuple(__path__)):
            raise KeyError(name)
        library: Library = importlib.import_module(f"{__name__}.{name}").LIBRARY
        return library


@functools.cache
def _names(folders: tuple[str, ...]) -> tuple[str, ...]:
    """List the files that are libraries."""
    names = {module.name for module in pkgutil.iter_modules(folders)}.difference(_OTHERS)
    return tuple(sorted(names, key=lambda name: (name != DEFAULT_LIBRARY, name)))


LIBRARIES: Mapping[str, Library] = _Libraries()


_NOT_DRIVEN = {
    "torchrl": "Isaac Lab's training with torchrl takes no checkpoint, so that a job could not go on after a failure",
}
"""Libraries that Isaac Lab has configurations for and simyard does not drive, with the reason."""


def require_library(name: str) -> None:
    """Raise `RequestError` for a library that there is not, with the names there are."""
    if name in _NOT_DRIVEN:
        raise RequestError(
            f"rlLibrary {name!r} is not taken: {_NOT_DRIVEN[name]}.",
            code="unknown_library",
            advice=f"Allowed: {', '.join(map(repr, LIBRARIES))}.",
        )
    if name not in LIBRARIES:
        raise unknown("rlLibrary", name, LIBRARIES, code="unknown_library")


def get_library(name: str) -> Library:
    """Return a library by name, or raise `RequestError` with the names there are."""
    require_library(name)
    return LIBRARIES[name]


__all__ = [
    "DEFAULT_LIBRARY",
    "LIBRARIES",
    "Library",
    "Progress",
    "Resumption",
    "Scale",
    "get_library",
    "require_library",
]
