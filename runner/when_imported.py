"""Changes to modules of others, made when somebody imports them: a job that does without them does not pay for them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def when_imported(name: str, act: Callable[[], None]) -> None:
    """Call `act` when a module has been imported, at once if it was; of several for one module the last counts."""
    if name in sys.modules:
        act()
        return
    _FINDER.acts[name] = act
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


class _Finder(MetaPathFinder):
    """Finds modules as the others do, and has those that somebody waits for say when they have been executed."""

    def __init__(self) -> None:
        self.acts: dict[str, Callable[[], None]] = {}

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        act = self.acts.pop(name, None)
        if act is None:
            return None
        found = (finder.find_spec(name, path, target) for finder in list(sys.meta_path) if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_act(module: ModuleType) -> None:
            execute(module)
            act()

        setattr(spec.loader, "exec_module", execute_and_act)  # noqa: B010  # a method, for this one module
        return spec


_FINDER = _Finder()
