"""Imported modules: the files they came from, which may change; and changes made to modules of others."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

Status = tuple[int, int] | None
"""Time of a file's last write, in nanoseconds, and its size; None for a file that is gone."""


class LoadedCode:
    """The files of all imported modules, as they were soon after the import.

    Asking for the status of some thousand files takes about 10 ms.
    """

    def __init__(self) -> None:
        """Remember the modules loaded now."""
        self._files: dict[str, Status] = {}
        self._folders: dict[str, Status] = {}
        self.remember()

    def remember(self) -> None:
        """Remember modules imported since the last call, and forget those dropped."""
        files = {file for module in list(sys.modules.values()) if isinstance(file := _file(module), str)}
        self._files = _statuses(files, self._files)
        self._folders = _statuses({os.path.dirname(file) for file in files}, self._folders)

    def changed(self) -> str | None:
        """Return the path of a file that is not what it was, or None."""
        return next((file for file, status in self._files.items() if status_of(file) != status), None)

    def evidence(self) -> dict[str, Status]:
        """Return files and their folders as they were: while all are the same, an import finds the same code."""
        return self._files | self._folders


def installed() -> dict[str, Status]:
    """Return the status of all that says which distributions this Python has, and which entry points."""
    own = os.getcwd()  # the first place of a module that is run is the folder it is run in
    places = [place for place in sys.path if place and place != own]
    listed = [path for place in places for path in Path(place).glob("*.pth")]
    listed += [path for place in places for path in Path(place).glob("*-info/entry_points.txt")]
    return _statuses({sys.executable, *places, *map(str, listed)}, {})


def unchanged(evidence: Mapping[str, Status]) -> bool:
    """Return whether all files and folders are what they were."""
    return all(status_of(path) == (tuple(was) if was else None) for path, was in evidence.items())


def status_of(path: str) -> Status:
    """Return the status of a file or folder."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _statuses(paths: set[str], known: Mapping[str, Status]) -> dict[str, Status]:
    return {path: known[path] if path in known else status_of(path) for path in paths}


def _file(module: object) -> object:
    return getattr(module, "__file__", None)


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
