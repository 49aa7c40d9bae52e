"""Modules of an archive of Python code, told by the names of its files: nothing of it is run."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from simyard.core.errors import RequestError, unknown
from simyard.runner.assets import archives

SUFFIXES = (".py", ".so", ".pyd")
"""Endings of a module's file."""
_PROJECT_FILES = ("setup.py", "pyproject.toml")


def require_module(archive: Path, module: str) -> None:
    """Raise `RequestError` unless an archive has a module, at a place from which it will be importable.

    Args:
        archive: A wheel, modules as they are, or a project that is built to have them.
        module: Its dotted name.

    Raises:
        RequestError: If the module is not there (code `task_module_missing`), or the archive cannot be read.
    """
    files = archives.inspect(archive).files
    if find_root(files, module) is not None:
        return
    tops = {PurePosixPath(file).parts[0] for file in files}
    below = [f"{top}/" for top in tops if len(tops) == 1] + [""]
    is_project = any(f"{folder}{name}" in files for folder in below for name in _PROJECT_FILES)
    paths = _paths(module)
    if is_project and any(file.endswith(tuple(f"/{path}" for path in paths)) for file in files):
        return  # which of its folders a build takes, only the build knows
    raise _missing(archive.name, files, module)


def find_root(files: Collection[str], module: str) -> str | None:
    """Return the folder of an archive, empty or with `/` at its end, from which a module can be imported.

    That is its top, its single top folder, or `src` in one of these; None where the module is in none of them.
    """
    sources = {_without_tags(file) for file in files}
    paths = _paths(module)
    return next((root for root in _roots(files) if any(f"{root}{path}" in sources for path in paths)), None)


def _paths(module: str) -> tuple[str, str]:
    path = module.replace(".", "/")
    return f"{path}.py", f"{path}/__init__.py"


def _roots(files: Collection[str]) -> list[str]:
    tops = {PurePosixPath(file).parts[0] for file in files if not file.startswith((".", "__MACOSX"))}
    folders = [f"{top}/" for top in tops if len(tops) == 1 and f"{top}/__init__.py" not in files]
    return [place for folder in ("", *folders) for place in (folder, f"{folder}src/")]


def _names(files: Iterable[str], root: str) -> Iterable[str]:
    for file in map(_without_tags, files):
        if file.startswith(root) and file.endswith(".py"):
            parts = PurePosixPath(file.removeprefix(root)).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            if parts and parts != ("setup",) and all(part.isidentifier() for part in parts):
                yield ".".join(parts)


def _missing(archive_name: str, files: Collection[str], module: str) -> RequestError:
    have = {name for root in _roots(files) for name in _names(files, root) if not name.startswith("src.")}
    if not have:
        return RequestError(
            f"{archive_name!r} has no Python module in it, so no {module!r}.",
            code="task_module_missing",
            advice="Pack the folder of the package, so that it is at the top of the archive.",
        )
    return unknown(f"module in {archive_name!r}:", module, have, code="task_module_missing")


def _without_tags(file: str) -> str:
    """Return a compiled module's name as if it were a source: `a/b.cpython-312-x86_64-linux-gnu.so` is `a/b.py`."""
    path = PurePosixPath(file)
    return str(path.with_name(f"{path.name.partition('.')[0]}.py")) if path.suffix in (".so", ".pyd") else file
