"""The code that a process has loaded, compared with the files it came from: an edit or an upgrade shows."""

from __future__ import annotations

import os
import sys


class LoadedCode:
    """The files of all imported modules, as they were soon after the import.

    Asking for the status of some thousand files takes about 10 ms.
    """

    def __init__(self) -> None:
        """Remember what is loaded now."""
        self._files: dict[str, tuple[int, int] | None] = {}
        self.remember()

    def remember(self) -> None:
        """Remember what has been imported since the last time, and forget what has been dropped."""
        files = {file for module in list(sys.modules.values()) if isinstance(file := _file(module), str)}
        self._files = {file: self._files[file] if file in self._files else _status(file) for file in files}

    def changed(self) -> str | None:
        """Return the path of a file that is not what it was, or None."""
        return next((file for file, status in self._files.items() if _status(file) != status), None)


def _file(module: object) -> object:
    return getattr(module, "__file__", None)


def _status(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
