"""The installation of a user's package for one job, without a network.

The environment that the job runs in is not touched: the package goes to an overlay, and whatever would need more than
that (a dependency that is missing, a module that would hide an installed one) is refused before the job starts.
The workload calls `site.addsitedir(overlay)`, and then finds the modules and the entry points.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PathDistribution
from pathlib import Path, PurePosixPath

from simyard.core.errors import RequestError
from simyard.core.files import OutsideError, open_inside
from simyard.core.wire import Wire
from simyard.runner.assets import archives
from simyard.tasks.packages.source import left_out, listed, top_of, unpack
from simyard.tasks.packages.tools import PackageTools
from simyard.tasks.shared.limited import limited

TASKS_GROUP = "isaaclab.tasks"
"""Entry points that Isaac Lab imports before it looks up a task, each the name of a module."""

SUFFIXES = (".py", ".so", ".pyd")
"""Endings of a module's file."""
_WHEEL = re.compile(r"[^-]+-[^-]+(-\d[^-]*)?-[^-]+-[^-]+-[^-]+\.whl")

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
    left_out: tuple[str, ...] = ()
    """Folders with files that its build had left out of its own packages, and that were taken from the sources."""


def install(
    archive: Path, overlay: Path, *, python: str, scratch: Path, module: str | None = None, timeout_s: float = 600.0
) -> InstalledPackage:
    """Install a package from a `.whl`, `.zip`, `.tar.gz` or `.tgz` into an overlay, and touch nothing else.

    A source archive is built with what is installed; nothing is downloaded. The build runs the user's code, without
    the variables of this process, and its output goes to `scratch/<archive name>.log`. Files of its packages that the
    wheel lacks are added, as if the project had been installed where it lies.

    Args:
        archive: The package; a source archive holds its project at the top or in its single top folder, or the only
            one in `source` or `exts` there.
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
    overlay, scratch, archive = overlay.absolute(), scratch.absolute(), archive.absolute()
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="package-", dir=scratch, ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        source, stage = work / "source", work / "stage"
        tools = PackageTools(python, work, scratch / f"{archive.name}.log", timeout_s)
        if archives.extension(archive.name) == ".whl":
            if not _WHEEL.fullmatch(archive.name):
                raise RequestError(
                    f"{archive.name!r} is not named as a wheel.",
                    code="package_bad_wheel",
                    advice="A wheel keeps the name it was built with: NAME-VERSION-PYTHON-ABI-PLATFORM.whl.",
                )
            found = None
        else:
            found = limited(unpack, archive, source, module)
        if found and found.modules is not None:
            wheel, content = None, _stage_modules(source / found.modules, stage, archive.name, found.sha256)
        else:
            wheel = tools.build(source / found.project, found.requires) if found else archive
            content = limited(_read_wheel, wheel)
        added = left_out(found.files, content.modules, content.files) if found else {}
        content = replace(content, files=(*content.files, *added))
        # The overlay is touched when nothing is left that could be refused.
        _check(content, overlay, tools)
        if wheel:
            tools.install(wheel, stage)
        if found:
            _add(added, work, source / found.project, stage)
        _merge(stage, overlay)
    return InstalledPackage(
        name=content.name,
        version=content.version,
        sha256=found.sha256 if found else content.sha256,
        modules=content.top_modules,
        task_entry_points=content.task_entry_points,
        left_out=tuple(sorted({str(PurePosixPath(place).parent) for place in added})),
    )


def registering_module(package: InstalledPackage) -> str:
    """Return the module whose import registers the tasks of a package without an `isaaclab.tasks` entry point."""
    if len(package.modules) == 1:
        return package.modules[0]
    raise RequestError(
        f"Package {package.name!r} does not say which of its modules registers the task.",
        code="package_entry_point",
        advice="Add an `isaaclab.tasks` entry point, or set customEnvironmentCallback to one of: "
        + ", ".join(package.modules),
    )


# Modules as they are, without a build.


def _stage_modules(modules: Path, stage: Path, archive_name: str, sha256: str) -> _Content:
    """Copy all modules of a folder, with the files in their packages, and say what they are."""
    stage.mkdir()
    for path in top_of(modules):
        if path.is_dir() and path.name != "__pycache__":
            shutil.copytree(path, stage / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.suffix in (*SUFFIXES, ".pth"):
            shutil.copy(path, stage)
    files = tuple(str(path.relative_to(stage)) for path in stage.rglob("*") if path.is_file())
    return _Content(
        sha256=sha256,
        name=archive_name,
        version=sha256[:12],
        requires=(),
        requires_python=None,
        modules=_modules(files),
        task_entry_points={},
        files=files,
    )


# What a wheel says and holds.


@dataclass(frozen=True, kw_only=True)
class _Content(Wire):
    sha256: str
    """Hex digest of the wheel or the archive."""
    name: str
    version: str
    requires: tuple[str, ...]
    requires_python: str | None
    modules: tuple[str, ...]
    """Dotted names of the outermost modules and packages; more than one part below a namespace."""
    task_entry_points: dict[str, str]
    files: tuple[str, ...]
    """Paths of its files in the overlay."""

    @property
    def top_modules(self) -> tuple[str, ...]:
        return tuple(sorted({module.partition(".")[0] for module in self.modules}))


def _read_wheel(wheel: Path) -> _Content:
    """Read a wheel, be it the user's or what the user's build has made."""
    info = archives.inspect(wheel)
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
    files = tuple(filter(None, map(_place, names)))
    return _Content(
        sha256=info.sha256,
        name=metadata["Name"],
        version=metadata["Version"],
        requires=tuple(requires or ()),
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
    """Refuse a package that needs, hides or promises something that is not there, minutes before a job would fail."""
    title = f"The package {content.name!r} {content.version}"
    if not content.modules:
        raise RequestError(
            f"{title} has no Python module in it.",
            code="package_empty",
            advice="Check which packages its pyproject.toml or setup.py lists; for a src folder, see setuptools' "
            "'package discovery'.",
        )
    if hooks := sorted(file for file in content.files if file.endswith(".pth") and "/" not in file):
        raise RequestError(
            f"{title} brings {listed(hooks)}, which Python would run at every start.",
            code="package_startup_hook",
            advice="Leave .pth files out, and do the work when the package is imported.",
        )
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
    if answer["installed"]:
        raise RequestError(
            f"{title} is installed already: {answer['installed']}.",
            code="package_shadows",
            advice="Send each package once; to replace an installed one, change the name of yours.",
        )
    reserved = {module: "simyard's own or Python's start" for module in content.top_modules if module in RESERVED}
    if clashes := answer["clashes"] | reserved:
        shown = ", ".join(f"{name!r} ({where})" for name, where in sorted(clashes.items()))
        raise RequestError(
            f"{title} has modules that exist already, and one would hide the other: {shown}.",
            code="package_shadows",
            advice="Put its modules below one top-level name of its own, and leave tests and tools out of the package.",
        )
    _check_entry_points(title, content, answer["absent"])


def _check_entry_points(title: str, content: _Content, absent: list[str]) -> None:
    """Refuse an entry point to no module: it would end every job that has this package."""
    for name, value in content.task_entry_points.items():
        module = value.partition(":")[0].strip().replace(".", "/")
        is_own = _root(value) in content.top_modules
        exists = any(file.startswith((f"{module}/", f"{module}.")) for file in content.files)
        if (is_own and not exists) or (not is_own and _root(value) in absent):
            raise RequestError(
                f"{title} has the entry point {name!r} in the group {TASKS_GROUP!r}, and no module {value!r} for it.",
                code="package_entry_point",
                advice=f"Its modules: {listed(content.modules)}. Name one that registers the tasks when imported.",
            )


def _root(entry_point: str) -> str:
    return re.split("[.:]", entry_point.strip())[0]


# Into the overlay.


def _add(added: Mapping[str, str], work: Path, project: Path, stage: Path) -> None:
    """Copy files of a project to their places among the installed ones; none that the build took away or linked."""
    for place, file in added.items():
        try:
            original = open_inside(work, (project / file).relative_to(work))
        except (FileNotFoundError, OutsideError):
            continue
        with original:
            (stage / place).parent.mkdir(parents=True, exist_ok=True)
            with (stage / place).open("xb") as copy:
                shutil.copyfileobj(original, copy)


def _merge(stage: Path, overlay: Path) -> None:
    """Move the staged files into the overlay; none that is there is replaced."""
    (stage / ".lock").unlink(missing_ok=True)  # uv's
    files = [path.relative_to(stage) for path in stage.rglob("*") if not path.is_dir()]
    # A place must be free, and what is above it no file.
    places = {file: [overlay / file, *(overlay / above for above in file.parents)] for file in files}
    taken = [file for file, (own, *above) in places.items() if os.path.lexists(own) or any(p.is_file() for p in above)]
    if taken:
        raise RequestError(
            f"Another package of this job has these files already: {listed(sorted(map(str, taken)))}.",
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
