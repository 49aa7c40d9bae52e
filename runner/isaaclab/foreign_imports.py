"""Explain a task package that was written for an older Isaac Lab or for Kit, or whose tasks nobody registers.

Isaac Lab 3.0 has moved most modules of its tasks, and an installation without Kit has none of Isaac Sim's. A name's new
place is looked up in what is installed, by the name itself and by the end of its path; files are read, not imported.
"""

from __future__ import annotations

import ast
import difflib
import importlib.metadata
import importlib.util
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError, listed

_RENAMED = (
    ("omni.isaac.orbit", "isaaclab"),  # and `omni.isaac.orbit_tasks`, which is `isaaclab_tasks`
    ("omni.isaac.lab", "isaaclab"),
)
_PACKAGES = ("isaaclab", "isaaclab_tasks", "isaaclab_rl", "isaaclab_assets", "isaaclab_mimic", "isaaclab_contrib")
"""Packages in which names may be now, the likeliest first."""
_NO_API = {"apps", "cli", "examples", "source", "test", "tests", "tools"}
"""Folders of Isaac Lab that nobody imports from."""
_COMMON = {"agents", "assets", "config", "envs", "mdp", "robots", "tasks", "utils"}
"""Parts of a path that say nothing of the module's subject."""
_KIT = ("omni", "carb", "isaacsim", "usdrt")
_REFERENCE = re.compile(r"((?:isaaclab\w*|omni\.isaac)(?:\.\w+)+):(\w+)")
_NO_ATTRIBUTE = re.compile(r"module '(isaaclab[\w.]*)' has no attribute '(\w+)'")
_REGISTERS = re.compile(r"^\s*(?:gym\w*\.)?(?:envs\.registration\.)?register\(", re.MULTILINE)
_DEFINES = re.compile(r"^(?:class|def) (\w+)|^(\w+)\s*[:=]", re.MULTILINE)
_MOST_FILES, _MOST_BYTES = 2000, 1 << 20


@dataclass(frozen=True)
class _Use:
    """One use of a module that is not ours in a source file."""

    file: str
    line: int
    module: str
    names: tuple[str, ...]
    """Names that are taken from it, if any."""


# --- packages that do not import --------------------------------------------------------------------------------------


def explain(error: BaseException) -> RequestError | None:
    """Return the error to raise for a package that does not import; None where another Isaac Lab or Kit is not why."""
    # The line of the package that raised, and everything that the package takes from elsewhere.
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(Path(frame.filename))]
    at = Path(frames[-1].filename) if frames else Path()
    homes = [path for path in map(Path, sys.path) if path.is_absolute() and at.is_relative_to(path)]
    if not homes or not _is_newer():
        return None
    home = max(homes, key=lambda path: len(path.parts))
    uses = [use for file in _sources(home / at.relative_to(home).parts[0]) for use in _uses(file, home)]

    # A name that a module of Isaac Lab no longer has, or a module that is not there.
    file, line = str(at.relative_to(home)), frames[-1].lineno or 0
    gone = list(filter(None, map(_gone, uses)))
    here = [use for use in gone if (use.file, use.line) == (file, line)]
    if named := _NO_ATTRIBUTE.search(str(error)):
        here.insert(0, _Use(file, line, named[1], (named[2],)))
    elif (name := getattr(error, "name_from", None)) and _is_foreign(getattr(error, "name", None) or ""):
        here.insert(0, _Use(file, line, error.name, (name,)))  # type: ignore[attr-defined]
    return _refusal(here[0], [here[0], *gone]) if here else None


def require_references(task: str) -> None:
    """Refuse a registered task whose environment or configuration is named by a module that is not there.

    Raises:
        RequestError: One of them is a module of an older Isaac Lab, or of Kit.
    """
    import gymnasium

    spec = gymnasium.spec(task.split(":")[-1])
    given: Mapping[str, Any] = {"entry_point": spec.entry_point, **(spec.kwargs or {})}
    found = [(key, _REFERENCE.match(value)) for key, value in given.items() if isinstance(value, str)]
    gone = [_Use(f"{task}, {key}", 0, at[1], (at[2],)) for key, at in found if at and _is_missing(at[1])]
    if gone:
        raise _refusal(gone[0], gone)


def _refusal(failed: _Use, gone: Sequence[_Use]) -> RequestError:
    """Return the error for what failed, with the new name of everything that would fail after it."""
    version = importlib.metadata.version("isaaclab")
    place = f"{failed.file}, line {failed.line}" if failed.line else failed.file
    name = repr(failed.module) if _is_missing(failed.module) else f"{failed.names[0]!r} of {failed.module!r}"
    news = list(dict.fromkeys(_told(use) for use in gone if not _is_kit(use.module)))
    kits = sorted({use.module for use in gone if _is_kit(use.module)})
    told = listed(news, most=8, between="; ")
    if _is_kit(failed.module):
        also = f" It is written for Isaac Lab 2.x or older, too: {told}." if news else ""
        return RequestError(
            f"The task package needs Kit (Isaac Sim), which is not installed for {sys.executable!r}: it uses {name} "
            f"({place}).",
            code="package_needs_kit",
            advice="Leave that out where only a window needs it, or take an image with Kit (docs/images.md)." + also,
        )
    return RequestError(
        f"The task package is written for Isaac Lab 2.x or older: it uses {name} ({place}), which {version} does not "
        "have.",
        code="package_for_older_isaaclab",
        advice=f"In {version}: {told}." + (f" It needs Kit, too, for {', '.join(map(repr, kits))}." if kits else ""),
    )


# --- packages that register nothing ----------------------------------------------------------------------------------


def require_registered(
    task: str, overlay: Path | None, tasks: Iterable[str], field: str = "customEnvironmentCallback"
) -> None:
    """Refuse a task that is not registered because nothing imports the module that does it.

    Args:
        task: Its id.
        overlay: Folder of the job's own packages, if it has any.
        tasks: All that is registered.
        field: The field of the request that names a module to import.

    Raises:
        RequestError: The package has such a module; it is named.
    """
    name = task.split(":")[-1]
    if overlay is None or name in tasks:
        return
    texts = {_module(file, overlay): _text(file) for file in _sources(overlay)}
    registering = [module for module, text in texts.items() if "gym" in text and _REGISTERS.search(text)]
    unseen = [module for module in registering if module not in sys.modules]
    own = [module for module in unseen if f'"{name}"' in texts[module] or f"'{name}'" in texts[module]]
    if not own and len(unseen) < len(registering):  # others of its modules were imported
        return
    if modules := own or unseen:
        loaded = sorted({module.partition(".")[0] for module in modules} & sys.modules.keys())
        when = f" when {' and '.join(map(repr, loaded))} is imported" if loaded else ""
        raise RequestError(
            f"Unknown task {task!r}: the package registers {'nothing' if unseen == registering else 'others'}{when}.",
            code="package_registers_nothing",
            advice=f"Set {field} to the module that does: {' or '.join(map(repr, modules[:8]))}. Or let the package "
            f'say so, in its pyproject.toml: [project.entry-points."isaaclab.tasks"] mine = "{modules[0]}".',
        )


# --- what the sources say ---------------------------------------------------------------------------------------------


def _sources(folder: Path) -> list[Path]:
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.py"))
    return [file for file in files[:_MOST_FILES] if file.is_file() and file.stat().st_size <= _MOST_BYTES]


def _text(file: Path) -> str:
    return file.read_text("utf-8", errors="replace")


def _module(file: Path, home: Path) -> str:
    return ".".join(file.relative_to(home).with_suffix("").parts).removesuffix(".__init__")


def _uses(file: Path, home: Path) -> Iterator[_Use]:
    """Yield what a file takes from Isaac Lab and Kit, by imports and by references such as `module:Class`."""
    try:
        tree = ast.parse(_text(file))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    name = str(file.relative_to(home))
    for node in ast.walk(tree):
        found: list[tuple[str, tuple[str, ...]]] = []
        if isinstance(node, ast.Import):
            found = [(alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found = [(node.module, tuple(alias.name for alias in node.names if alias.name != "*"))]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = [(at[1], (at[2],)) for at in [_REFERENCE.fullmatch(node.value)] if at]
        for module, names in found:
            if _is_foreign(module):
                yield _Use(name, getattr(node, "lineno", 0), module, names)


def _is_users(file: Path) -> bool:
    """Tell whether a file of a traceback is the package's, not ours, Python's or a library's."""
    outside = [Path(__file__).parents[1], *(Path(sysconfig.get_path(key)) for key in ("stdlib", "purelib", "platlib"))]
    return file.is_absolute() and not any(map(file.is_relative_to, outside))


# --- what is installed ------------------------------------------------------------------------------------------------


def _renamed(module: str) -> str:
    for old, new in _RENAMED:
        if module == old or module.startswith((f"{old}.", f"{old}_")):
            return f"{new}{module.removeprefix(old)}"
    return module


def _is_kit(module: str) -> bool:
    return _renamed(module).partition(".")[0] in _KIT


def _is_foreign(module: str) -> bool:
    package = module.partition(".")[0]
    return package in _KIT or package == "isaaclab" or package.startswith("isaaclab_")


def _is_missing(module: str) -> bool:
    """Tell whether a module is not there; where Kit is installed, its own come when it starts."""
    return not _exists(module) and not (_is_kit(module) and _root("isaacsim"))


def _gone(use: _Use) -> _Use | None:
    """Return what is gone of a use: its module, or those of its names that no file of the module has."""
    if _is_missing(use.module):
        return use
    words = _words(use.module)
    names = tuple(name for name in use.names if words and name not in words)
    return replace(use, names=names) if names else None


@cache
def _words(module: str) -> set[str]:
    """Return every word in the files of a module of Isaac Lab; none of one that takes what other packages have."""
    path = _path(module)
    if path is None or not module.startswith("isaaclab"):
        return set()
    files = [path, *path.rglob("*")] if path.is_dir() else [path.with_suffix(".py"), path.with_suffix(".pyi")]
    text = "\n".join(_text(file) for file in files if file.suffix in (".py", ".pyi") and file.is_file())
    if re.search(r"^from isaaclab[\w.]* import \*", text, re.MULTILINE):
        return set()
    return {file.stem for file in files} | set(re.findall(r"\w+", text))


def _exists(module: str) -> bool:
    return _path(module) is not None


def _path(module: str) -> Path | None:
    """Return the folder of a package, or the file of a module without its ending; None where there is neither."""
    package, *below = module.split(".")
    root = _root(package)
    path = root.joinpath(*below) if root else None
    if path is not None and (path.is_dir() or any(path.with_suffix(end).is_file() for end in (".py", ".so"))):
        return path
    return None


def _root(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def _is_newer() -> bool:
    """Tell whether Isaac Lab is here, and 3.0 or newer: of an older one nothing is known to have moved."""
    try:
        return int(importlib.metadata.version("isaaclab").partition(".")[0]) >= 3
    except importlib.metadata.PackageNotFoundError:
        return False


@cache
def _installed() -> tuple[tuple[str, Path], ...]:
    """Return every module of Isaac Lab that can be imported from, the core's before contributions."""
    found = [
        (f"{package}.{_module(file, root)}".removesuffix(".__init__").removesuffix("."), file)
        for package in _PACKAGES
        if (root := _root(package))
        for file in sorted(root.rglob("*.py"))
        if not _NO_API & set(file.relative_to(root).parts)
    ]
    return tuple(sorted(found, key=lambda item: (".core." not in item[0], len(item[0].split(".")))))


@cache
def _definitions() -> dict[str, list[str]]:
    """Return the modules of Isaac Lab that define a name, by the name."""
    found: dict[str, list[str]] = {}
    for module, file in _installed():
        for kinds in set(_DEFINES.findall(_text(file))):
            found.setdefault("".join(kinds), []).append(module)
    return found


def _told(use: _Use) -> str:
    """Say where a module, or the names that are taken from it, are now."""
    new, names = _renamed(use.module), ", ".join(map(repr, use.names))
    if new != use.module and _exists(new):
        package, _, below = new.partition(".")
        return f"{use.module.removesuffix(f'.{below}')!r} is {package!r}"
    if homes := sorted({home for name in use.names if (home := _home_of(name, new))}):
        return f"{names} of {use.module!r} is in {' and '.join(map(repr, homes))}"
    if _exists(use.module):
        there = [name for name, homes in _definitions().items() if any(home.startswith(use.module) for home in homes)]
        near = [guess for name in use.names for guess in difflib.get_close_matches(name, there, n=1)]
        return f"{names} of {use.module!r} is gone" + (f", it has {', '.join(map(repr, near))}" if near else "")
    place = _place_of(new)
    return f"{use.module!r} is {place!r}" if place else f"{use.module!r} is gone"


def _place_of(module: str) -> str | None:
    """Return the installed module whose path ends most like that of an older one; None where none does."""
    parts = module.split(".")

    def likeness(other: str) -> tuple[int, int, bool]:
        others = other.split(".")
        same = 0
        while same < min(len(parts), len(others)) and parts[-1 - same] == others[-1 - same]:
            same += 1
        return same, len(set(parts[1:]) & set(others) - _COMMON), parts[0] == others[0]

    best = max((name for name, _ in _installed()), key=likeness, default="")
    end, subjects, _ = likeness(best)
    return best if end and subjects else None


def _home_of(name: str, module: str) -> str | None:
    """Return the installed module that defines a name, and is most like an older module; None where none does."""

    def words(path: str) -> set[str]:
        return set(path.replace("_", ".").split("."))

    found = _definitions().get(name, [])
    return max(found, key=lambda other: len(words(other) & words(module)), default=None)
