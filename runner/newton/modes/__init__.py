"""The control modes of the standard profile: one file each, named as its `task_mode`."""

from importlib import import_module
from pkgutil import iter_modules

from simyard.runner.newton.mode import Mode

DEFAULT = "hold"
"""The `task_mode` of a request that names none."""


def _find(name: str) -> type[Mode]:
    """Return the mode that a file of this folder declares."""
    module = import_module(f"{__name__}.{name}")
    (mode,) = (
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, Mode) and item.__module__ == module.__name__
    )
    return mode


MODES: dict[str, type[Mode]] = {
    name: _find(name)
    for name in sorted((found.name for found in iter_modules(__path__)), key=lambda n: (n != DEFAULT, n))
}
"""Every `task_mode`, the default first."""

__all__ = ["DEFAULT", "MODES"]
