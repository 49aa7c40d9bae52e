"""The content of a package's archive: a project to build, or modules as they are, told by files that nobody runs."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from simyard.core import errors
from simyard.core.errors import RequestError, unknown
from simyard.core.wire import Wire
from simyard.runner.assets import archives
from simyard.tasks.shared.limited import limited

_EXTENSIONS = ("source", "exts")
"""Folders in which repositories of Isaac Lab extensions keep their projects."""
_PROJECT_FILE = re.compile(rf"(({'|'.join(_EXTENSIONS)})/[^/]+/)?(setup\.py|pyproject\.toml)")
_NAMED_BY = {"poetry", "flit"}
"""Build tools whose older projects have their name in a table of the tool."""
_MOST_PROJECT_BYTES = 64 << 10
_MOST_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class Source(Wire):
    """What an archive has at its top, or in the single folder there: a project, or modules as they are."""

    sha256: str
    """Hex digest of the archive."""
    project: str = ""
    """Folder of the project."""
    files: tuple[str, ...] = ()
    """Files of the project, by their paths in it."""
    requires: tuple[str, ...] = ()
    """Requirements of its build."""
    modules: str | None = None
    """Folder of the modules, where there is no project."""


# --- from the archive to its project, or to its modules --------------------------------------------------------------


def unpack(archive: Path, source: Path, module: str | None) -> Source:
    """Unpack an archive, and find the project in it, or the modules that are wanted.

    Args:
        archive: The archive.
        source: The folder to make.
        module: A module that is wanted: with one, modules without a project are taken.

    Raises:
        RequestError: The archive is bad, or has neither.
    """
    info = archives.unpack(archive, source)
    if project := _find_project(source):
        system = _pyproject(project).get("build-system", {})
        requires = system.get("requires", ["setuptools"]) if isinstance(system, dict) else None
        if not isinstance(requires, list):
            raise _bad_project(project, "[build-system] has no list 'requires'")
        folder = project.relative_to(source).as_posix()
        below = "" if folder == "." else f"{folder}/"
        files = tuple(file.removeprefix(below) for file in info.files if file.startswith(below))
        return Source(sha256=info.sha256, project=folder, files=files, requires=tuple(map(str, requires)))
    if module is not None and (root := find_root(info.files, module)) is not None:
        return Source(sha256=info.sha256, modules=root)
    found = [*source.rglob("setup.py"), *source.rglob("pyproject.toml")]
    deeper = sorted({str(file.parent.relative_to(source)) for file in found if _is_project(file.parent)})
    places = " or ".join(["at its top", *(f"in {folder.name!r}" for folder in _places(source)[1:])])
    advice = f"There is one in {listed(deeper)}: pack that folder alone." if deeper else "Pack the folder that has it."
    raise RequestError(
        f"{archive.name!r} holds no Python project: neither setup.py nor a pyproject.toml with [build-system] or "
        f"[project] was found {places}; found there: {listed(path.name for path in top_of(source)) or 'nothing'}.",
        code="package_no_project",
        advice=advice,
    )


def _find_project(source: Path) -> Path | None:
    """Return the folder of the project: the top, the single folder there, or the only extension in one of these.

    A repository of an Isaac Lab extension configures linters at its top, and often has a [build-system] there that
    would build an empty package. So a project that says its name counts first, then an extension.
    """
    places = _places(source)
    named = next(filter(_is_named, places), None)
    found = (folder for place in places for group in _EXTENSIONS for folder in (place / group).glob("*/"))
    extensions = sorted(filter(_is_project, found))
    if named is None and len(extensions) > 1:
        raise RequestError(
            f"The archive holds {len(extensions)} projects: "
            f"{listed(folder.relative_to(source).as_posix() for folder in extensions)}.",
            code="package_no_project",
            advice="Pack the folder of one of them alone.",
        )
    return named or next(iter(extensions), None) or next(filter(_is_project, places), None)


def _places(source: Path) -> list[Path]:
    """Return possible folders of a project: the top, or the single folder there."""
    top = top_of(source)
    return [source, *(path for path in top if len(top) == 1 and path.is_dir())]


def top_of(folder: Path) -> list[Path]:
    """Return what is in a folder and was not left there by an operating system, sorted."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))


def _is_named(folder: Path) -> bool:
    about = _pyproject(folder)
    tools = about.get("tool", {})
    by_tool = isinstance(tools, dict) and bool(_NAMED_BY & tools.keys())
    return "project" in about or by_tool or any((folder / f"setup.{end}").is_file() for end in ("py", "cfg"))


def _is_project(folder: Path) -> bool:
    return (folder / "setup.py").is_file() or bool({"build-system", "project"} & _pyproject(folder).keys())


def _pyproject(folder: Path) -> dict[str, Any]:
    path = folder / "pyproject.toml"
    if not path.is_file():
        return {}
    if (size := path.stat().st_size) > _MOST_PROJECT_BYTES:
        raise _bad_project(folder, f"it has {size:,} bytes; allowed are {_MOST_PROJECT_BYTES:,}")
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        why = "its values are nested too deep" if isinstance(error, RecursionError) else str(error)
        raise _bad_project(folder, why) from error


def _bad_project(folder: Path, why: str) -> RequestError:
    return RequestError(
        f"{folder.name}/pyproject.toml cannot be read: {why}.",
        code="package_build_failed",
        advice="Correct it; 'python -m build' finds the same error.",
    )


def left_out(files: Collection[str], modules: Iterable[str], wheel: Iterable[str]) -> dict[str, str]:
    """Return files that belong to a wheel's packages and are not in it: their places in the wheel, and in the project.

    `pip install -e` would find them where they are, and so templates name the outermost package alone
    (`packages=["my_ext"]`), and no data.

    Args:
        files: Those of the project, by their paths in it.
        modules: Dotted names of the outermost packages in the wheel.
        wheel: Paths of the files in the wheel.
    """
    have, there, added = set(wheel), set(files), dict[str, str]()
    for module in modules:
        package = f"{module.replace('.', '/')}/"
        root = next((root for root in ("", "src/") if f"{root}{package}__init__.py" in there), None)
        for file in files if root is not None else ():
            place = file.removeprefix(root or "")
            parts = PurePosixPath(place).parts
            is_ours = file.startswith(f"{root}{package}") and not any(part.startswith(".") for part in parts)
            if is_ours and place not in have and "__pycache__" not in parts:
                added[place] = file
    return added


# --- modules as they are ---------------------------------------------------------------------------------------------


def require_module(archive: Path, module: str) -> None:
    """Raise `RequestError` unless an archive has a module, at a place from which it will be importable.

    Args:
        archive: A wheel, modules as they are, or a project that is built to have them.
        module: Its dotted name.

    Raises:
        RequestError: If the module is not there (code `task_module_missing`), or the archive cannot be read.
    """
    files = limited(archives.inspect, archive).files
    if find_root(files, module) is not None:
        return
    tops = {PurePosixPath(file).parts[0] for file in files}
    below = [f"{top}/" for top in tops if len(tops) == 1] + [""]
    is_project = any(
        file.startswith(folder) and _PROJECT_FILE.fullmatch(file.removeprefix(folder))
        for folder in below
        for file in files
    )
    paths = _paths(module)
    if is_project and any(file.endswith(tuple(f"/{path}" for path in paths)) for file in files):
        return  # which of its folders a build takes, only the build knows
    have = {name for root in _roots(files) for name in _names(files, root) if not name.startswith("src.")}
    if have:
        raise unknown(f"module in {archive.name!r}:", module, have, code="task_module_missing")
    raise RequestError(
        f"{archive.name!r} has no Python module in it, so no {module!r}.",
        code="task_module_missing",
        advice="Pack the folder of the package, so that it is at the top of the archive.",
    )


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


def _names(files: Iterable[str], root: str) -> Iterator[str]:
    for file in map(_without_tags, files):
        if file.startswith(root) and file.endswith(".py"):
            parts = PurePosixPath(file.removeprefix(root)).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            if parts and parts != ("setup",) and all(part.isidentifier() for part in parts):
                yield ".".join(parts)


def _without_tags(file: str) -> str:
    """Return a compiled module's name as if it were a source: `a/b.cpython-312-x86_64-linux-gnu.so` is `a/b.py`."""
    path = PurePosixPath(file)
    return str(path.with_name(f"{path.name.partition('.')[0]}.py")) if path.suffix in (".so", ".pyd") else file


def listed(names: Iterable[str]) -> str:
    """Return names as they stand in a message, and how many there are where they are too many."""
    return errors.listed(map(repr, names), _MOST_NAMED)
