"""Install a user's package for one job alone, into a folder of the job's own, without a network.

The environment that the job runs in is not touched: the package goes to an overlay, and whatever would need more than
that (a dependency that is missing, a module that would hide an installed one) is refused before the job starts.
The workload calls `site.addsitedir(overlay)`, and then finds the modules and the entry points.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PathDistribution
from pathlib import Path, PurePosixPath
from typing import Any

from simyard.core.errors import RequestError
from simyard.runner.assets import archives
from simyard.tasks.packages.modules import SUFFIXES, find_root, require_module
from simyard.tasks.packages.probe import Answer
from simyard.tasks.packages.tools import PackageTools

__all__ = ["InstalledPackage", "install", "require_module"]

TASKS_GROUP = "isaaclab.tasks"
"""Entry points that Isaac Lab imports before it looks up a task, each the name of a module."""

RESERVED = ("simyard", "sitecustomize", "usercustomize")
"""Top-level modules that a package may not have even where they are not installed."""


@dataclass(frozen=True, kw_only=True)
class InstalledPackage:
    """A package as it lies in the overlay."""

    name: str
    """Name of the distribution; of modules as they are, the archive's."""
    version: str
    """Its version; of modules as they are, the beginning of the archive's digest."""
    sha256: str
    """Hex digest of the archive that it came from."""
    modules: tuple[str, ...]
    """Its top-level modules, sorted."""
    task_entry_points: dict[str, str]
    """Its entry points of the group `isaaclab.tasks`: name to module; without any, nothing imports its tasks."""


def install(
    archive: Path, overlay: Path, *, python: str, scratch: Path, module: str | None = None, timeout_s: float = 600.0
) -> InstalledPackage:
    """Install a package from a `.whl`, `.zip`, `.tar.gz` or `.tgz` into an overlay, and touch nothing else.

    A source archive is built with what is installed; nothing is downloaded. The build runs the user's code, without
    the variables of this process, and its output goes to `scratch/<archive name>.log`.

    Args:
        archive: The package; a source archive holds its project at the top or in its single top folder.
        overlay: Folder of this job's packages, made if need be. Packages can be added one after another.
        python: The workload's Python: its packages are what the package meets.
        scratch: Folder for the build and its log, made if need be.
        module: A module that the job imports. With one, an archive without a project is taken too: the modules at its
            top, in its single top folder or in `src`, wherever this one is, go into the overlay as they are.
        timeout_s: Seconds for everything together.

    Returns:
        What was installed.

    Raises:
        RequestError: The archive is bad, it holds no package, the build fails or takes too long, dependencies are
            missing, or it clashes with what is installed. The overlay is as it was.
        OSError: A file could not be read or written. The overlay is as it was.
    """
    overlay, scratch = overlay.absolute(), scratch.absolute()
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="package-", dir=scratch, ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        tools = PackageTools(python, work, scratch / f"{archive.name}.log", timeout_s)
        stage = work / "stage"
        source = _unpack(archive.absolute(), work)
        if (modules := _find_modules(source, module)) is not None:
            content = _stage_modules(modules, stage, archive.name, source.sha256)
            _check(content, overlay, tools)
        else:
            wheel = _get_wheel(source, archive.absolute(), tools)
            content = _read_wheel(wheel)
            _check(content, overlay, tools)
            tools.install(wheel, stage)
        _merge(stage, overlay)
    return InstalledPackage(
        name=content.name,
        version=content.version,
        sha256=source.sha256,
        modules=content.top_modules,
        task_entry_points=content.task_entry_points,
    )


# From the archive to a wheel.


@dataclass(frozen=True)
class _Source:
    folder: Path | None
    """Folder it was unpacked into; None for a wheel, which is installed as it is."""
    sha256: str


def _unpack(archive: Path, work: Path) -> _Source:
    if archives.extension(archive.name) != ".whl":
        return _Source(work / "source", archives.unpack(archive, work / "source").sha256)
    if not re.fullmatch(r"[^-]+-[^-]+(-\d[^-]*)?-[^-]+-[^-]+-[^-]+\.whl", archive.name):
        raise RequestError(
            f"{archive.name!r} is not named as a wheel.",
            code="package_bad_wheel",
            advice="A wheel keeps the name it was built with: NAME-VERSION-PYTHON-ABI-PLATFORM.whl.",
        )
    return _Source(None, archives.inspect(archive).sha256)


def _get_wheel(source: _Source, archive: Path, tools: PackageTools) -> Path:
    if source.folder is None:
        return archive
    project = _find_project(source.folder, archive.name)
    return tools.build(project, _build_requires(project))


def _find_project(source: Path, archive_name: str) -> Path:
    """Return the folder of the project: the top, or the single folder there."""
    if projects := _projects(source):
        return projects[0]
    top, folders = _top(source), _places(source)
    places = " or ".join(["at its top", *(f"in {folder.name!r}" for folder in folders[1:])])
    files = [*source.rglob("setup.py"), *source.rglob("pyproject.toml")]
    deeper = sorted({str(file.parent.relative_to(source)) for file in files if _is_project(file.parent)})
    hint = f"There is one in {_names(deeper)}: pack that folder alone." if deeper else "Pack the folder that has it."
    raise RequestError(
        f"{archive_name!r} holds no Python project: neither setup.py nor a pyproject.toml with [build-system] or "
        f"[project] was found {places}; found there: {_names(path.name for path in top) or 'nothing'}.",
        code="package_no_project",
        advice=hint,
    )


def _projects(source: Path) -> list[Path]:
    return [folder for folder in _places(source) if _is_project(folder)]


def _places(source: Path) -> list[Path]:
    """Return possible folders of a project: the top, or the single folder there."""
    top = _top(source)
    return [source, *(path for path in top if len(top) == 1 and path.is_dir())]


def _top(source: Path) -> list[Path]:
    return sorted(path for path in source.iterdir() if not path.name.startswith((".", "__MACOSX")))


def _is_project(folder: Path) -> bool:
    # Isaac Lab's older project template has a pyproject.toml at its top that only configures linters.
    return (folder / "setup.py").is_file() or bool({"build-system", "project"} & _pyproject(folder).keys())


def _build_requires(project: Path) -> list[str]:
    requires = _pyproject(project).get("build-system", {}).get("requires", ["setuptools"])
    return [str(requirement) for requirement in requires]


def _pyproject(folder: Path) -> dict[str, Any]:
    path = folder / "pyproject.toml"
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{path.parent.name}/pyproject.toml cannot be read: {error}.",
            code="package_build_failed",
            advice="Correct it; 'python -m build' finds the same error.",
        ) from error


# Modules as they are.


def _find_modules(source: _Source, module: str | None) -> Path | None:
    """Return the folder that has the module at its top; None where it is not wanted, not there, or in a project."""
    if module is None or source.folder is None or _projects(source.folder):
        return None
    files = [str(path.relative_to(source.folder)) for path in source.folder.rglob("*") if path.is_file()]
    root = find_root(files, module)
    return None if root is None else source.folder / root


def _stage_modules(modules: Path, stage: Path, archive_name: str, sha256: str) -> _Content:
    """Copy all modules of a folder, with the files in their packages, and say what they are."""
    stage.mkdir()
    for path in _top(modules):
        if path.is_dir() and path.name != "__pycache__":
            shutil.copytree(path, stage / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.suffix in (*SUFFIXES, ".pth"):
            shutil.copy(path, stage)
    files = frozenset(str(path.relative_to(stage)) for path in stage.rglob("*") if path.is_file())
    return _Content(
        name=archive_name,
        version=sha256[:12],
        requires=[],
        requires_python=None,
        modules=_modules(files),
        task_entry_points={},
        files=files,
    )


# What a wheel says and holds.


@dataclass(frozen=True, kw_only=True)
class _Content:
    name: str
    version: str
    requires: list[str]
    requires_python: str | None
    modules: tuple[str, ...]
    """Dotted names of the outermost modules and packages; more than one part below a namespace."""
    task_entry_points: dict[str, str]
    files: frozenset[str]
    """Paths of its files in the overlay."""

    @property
    def top_modules(self) -> tuple[str, ...]:
        return tuple(sorted({module.partition(".")[0] for module in self.modules}))


def _read_wheel(wheel: Path) -> _Content:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        infos = {name.partition("/")[0] for name in names if name.partition("/")[0].endswith(".dist-info")}
        if len(infos) != 1:
            raise _bad_wheel(wheel, f"it has {len(infos)} dist-info folders instead of one")
        about = PathDistribution(zipfile.Path(archive, f"{infos.pop()}/"))
        try:
            metadata, requires = about.metadata, about.requires
            entry_points = {point.name: point.value for point in about.entry_points if point.group == TASKS_GROUP}
        except (ValueError, TypeError) as error:
            raise _bad_wheel(wheel, f"its METADATA or entry_points.txt cannot be read ({error})") from error
    if not metadata.get("Name") or not metadata.get("Version"):
        raise _bad_wheel(wheel, "its METADATA has no name or no version")
    files = frozenset(filter(None, map(_place, names)))
    return _Content(
        name=metadata["Name"],
        version=metadata["Version"],
        requires=requires or [],
        requires_python=metadata.get("Requires-Python"),
        modules=_modules(files),
        task_entry_points=entry_points,
        files=files,
    )


def _bad_wheel(wheel: Path, why: str) -> RequestError:
    return RequestError(
        f"{wheel.name!r} cannot be installed: {why}.",
        code="package_bad_wheel",
        advice="Build it again with 'python -m build --wheel'.",
    )


def _place(name: str) -> str:
    """Return the path of a wheel's file in the overlay; empty for a file that is not importable there."""
    found = re.fullmatch(r"[^/]+\.data/([^/]+)/(.+)", name)
    if not found:
        return "" if name.partition("/")[0].endswith(".dist-info") else name
    return found[2] if found[1] in ("purelib", "platlib", "data") else ""


def _modules(files: Iterable[str]) -> tuple[str, ...]:
    """Return the outermost modules and packages of a set of files."""
    sources = [PurePosixPath(file) for file in files if file.endswith(SUFFIXES)]
    packages = {path.parent.parts for path in sources if path.name.partition(".")[0] == "__init__"}
    found = set()
    for path in sources:
        parts = (*path.parent.parts, path.name.partition(".")[0])
        outer = next((parts[:end] for end in range(1, len(parts)) if parts[:end] in packages), parts)
        if all(part.isidentifier() for part in outer):
            found.add(".".join(outer))
    return tuple(sorted(found))


# Checks against the environment.


def _check(content: _Content, overlay: Path, tools: PackageTools) -> None:
    title = f"The package {content.name!r} {content.version}"
    _check_modules(title, content)
    answer = tools.ask(
        name=content.name,
        overlay=str(overlay),
        requires=content.requires,
        requires_python=content.requires_python,
        modules=content.modules,
        imports=[_root(module) for module in content.task_entry_points.values()],
    )
    if not answer["python_fits"]:
        raise RequestError(
            f"{title} wants Python {content.requires_python!r}; the job runs on {answer['python']}.",
            code="package_wrong_python",
            advice="Widen its requires-python, or choose an image with such a Python.",
        )
    if answer["missing"]:
        raise RequestError(
            f"{title} needs what is not installed: {'; '.join(answer['missing'])}.",
            code="package_missing_dependency",
            advice="Nothing is downloaded for a job. Send these as packages before it, choose an image that has them, "
            "or drop them from its dependencies.",
        )
    _check_clashes(title, content, answer)
    _check_entry_points(title, content, answer)


def _check_modules(title: str, content: _Content) -> None:
    if not content.modules:
        raise RequestError(
            f"{title} has no Python module in it.",
            code="package_empty",
            advice="Check which packages its pyproject.toml or setup.py lists; for a src folder, see setuptools' "
            "'package discovery'.",
        )
    hooks = sorted(file for file in content.files if file.endswith(".pth") and "/" not in file)
    if hooks:
        raise RequestError(
            f"{title} brings {_names(hooks)}, which Python would run at every start.",
            code="package_startup_hook",
            advice="Leave .pth files out, and do the work when the package is imported.",
        )


def _check_clashes(title: str, content: _Content, answer: Answer) -> None:
    if answer["installed"]:
        raise RequestError(
            f"{title} is installed already: {answer['installed']}.",
            code="package_shadows",
            advice="Send each package once; to replace an installed one, change the name of yours.",
        )
    reserved = {module: "simyard's own or Python's start" for module in content.top_modules if module in RESERVED}
    clashes = answer["clashes"] | reserved
    if clashes:
        shown = ", ".join(f"{name!r} ({where})" for name, where in sorted(clashes.items()))
        raise RequestError(
            f"{title} has modules that exist already, and one would hide the other: {shown}.",
            code="package_shadows",
            advice="Put its modules below one top-level name of its own, and leave tests and tools out of the package.",
        )


def _check_entry_points(title: str, content: _Content, answer: Answer) -> None:
    """A wrong entry point would end every job that has this package, minutes later and on a GPU."""
    for name, value in content.task_entry_points.items():
        module = value.partition(":")[0].strip().replace(".", "/")
        is_own = _root(value) in content.top_modules
        exists = any(file.startswith((f"{module}/", f"{module}.")) for file in content.files)
        if (is_own and not exists) or (not is_own and _root(value) in answer["absent"]):
            raise RequestError(
                f"{title} has the entry point {name!r} in the group {TASKS_GROUP!r}, and no module {value!r} for it.",
                code="package_entry_point",
                advice=f"Its modules: {_names(content.modules)}. Name one that registers the tasks when imported.",
            )


def _root(entry_point: str) -> str:
    return re.split("[.:]", entry_point.strip())[0]


def _names(names: Iterable[str], most: int = 8) -> str:
    found = list(names)
    return ", ".join(map(repr, found[:most])) + (f", … ({len(found)} in all)" if len(found) > most else "")


# Into the overlay.


def _merge(stage: Path, overlay: Path) -> None:
    """Move the staged files into the overlay; none that is there is replaced."""
    (stage / ".lock").unlink(missing_ok=True)  # uv's
    files = [path.relative_to(stage) for path in stage.rglob("*") if not path.is_dir()]
    taken = [file for file in files if any(map(os.path.lexists, _same_or_above(overlay, file)))]
    if taken:
        raise RequestError(
            f"Another package of this job has these files already: {_names(sorted(map(str, taken)))}.",
            code="package_shadows",
            advice="Give each package files of its own.",
        )
    files.sort(key=lambda file: file.parts[0].endswith(".dist-info"))  # what makes a package known comes last
    overlay.mkdir(parents=True, exist_ok=True)
    try:
        for file in files:
            (overlay / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(stage / file, overlay / file)
    except BaseException:
        for file in files:
            (overlay / file).unlink(missing_ok=True)
        raise


def _same_or_above(overlay: Path, file: Path) -> list[Path]:
    """Return the places that must be free for a file: its own, and those above it that are no folders."""
    return [overlay / file, *(overlay / above for above in file.parents if (overlay / above).is_file())]
