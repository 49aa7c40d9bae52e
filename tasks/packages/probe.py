"""Describe a Python environment to the installer of packages: run by that Python, JSON in, JSON out.

    python -P probe.py < question.json

This runs under the workload's Python, where simyard is not installed: it imports the standard library alone, and it
imports nothing of what it asks about.

"""

from __future__ import annotations

import importlib
import json
import platform
import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution
from typing import Any, TypedDict


class Question(TypedDict, total=False):
    """Question about an environment; each part may be left out."""

    overlay: str
    """Folder of further packages."""
    name: str
    """Name of a distribution."""
    requires: Sequence[str]
    """Requirements."""
    requires_python: str | None
    modules: Sequence[str]
    """Dotted names of the modules that a package brings."""
    imports: Sequence[str]
    """Top-level names of the modules that it imports."""


class Answer(TypedDict):
    """Answer to a question."""

    python: str
    """Version of Python."""
    python_fits: bool
    missing: list[str]
    """Requirements that are not met, each with the reason."""
    clashes: dict[str, str]
    """Modules that exist already, and where they are."""
    installed: str | None
    """Version and place of a distribution of that name; null for none."""
    absent: list[str]
    """Those of `imports` that nothing provides."""


def main() -> None:
    """Read a question from the standard input and print the answer as the last line."""
    answer = respond(json.load(sys.stdin))
    print()  # a wrapper around Python may have printed something without a line end
    print(json.dumps(answer))


def respond(question: Question) -> Answer:
    """Return the answer to a question."""
    if question.get("overlay"):
        sys.path.append(question["overlay"])
    return {
        "python": platform.python_version(),
        "python_fits": _fits(question.get("requires_python")),
        "missing": [found for found in map(judge, question.get("requires", [])) if found],
        "clashes": dict(filter(None, map(clash, question.get("modules", [])))),
        "installed": _installed(question.get("name")),
        "absent": [name for name in question.get("imports", []) if find(name) is None],
    }


# Requirements.


def _packaging(module: str) -> Any:
    """Return a module of `packaging`, or of the copy that pip or setuptools carries; None without all three."""
    for home in ("packaging", "pip._vendor.packaging", "setuptools._vendor.packaging"):
        try:
            return importlib.import_module(f"{home}.{module}")
        except ImportError:
            continue
    return None


def judge(text: str) -> str | None:
    """Return the reason a requirement is not met here, or None if it is or does not apply.

    Extras are not looked at. A requirement without a version is also met by a module of its name: one Isaac Lab wheel
    holds what are several distributions in its repository, such as `isaaclab_tasks`.
    """
    requirements = _packaging("requirements")
    if requirements is None:  # markers cannot be evaluated, so requirements with one are passed
        name = re.match(r"[A-Za-z0-9._-]+", text)
        return None if ";" in text or (name and _version(name[0]) is not None) else f"{text} (not installed)"
    try:
        wanted = requirements.Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            return None
    except ValueError:  # of which all errors of packaging are
        return f"{text} (cannot be read)"
    shown = f"{wanted.name}{wanted.specifier}"
    version = _version(wanted.name)
    if version is None:
        is_module = not wanted.specifier and not wanted.url and find(wanted.name.replace("-", "_")) is not None
        return None if is_module else f"{shown} (not installed)"
    return None if _holds(wanted.specifier, version) else f"{shown} ({version} is installed)"


def _version(name: str) -> str | None:
    found = next(iter(Distribution.discover(name=name)), None)
    return found.version if found else None


def _installed(name: str | None) -> str | None:
    found = next(iter(Distribution.discover(name=name)), None) if name else None
    return f"{found.version} in {found.locate_file('')}" if found else None


def _fits(wanted: str | None) -> bool:
    specifiers = _packaging("specifiers")
    if not wanted or specifiers is None:
        return True
    try:
        return _holds(specifiers.SpecifierSet(wanted), platform.python_version())
    except ValueError:
        return False


def _holds(specifier: Any, version: str) -> bool:
    try:
        return bool(specifier.contains(version, prereleases=True))
    except ValueError:
        return False


# Modules.


def find(name: str, path: Sequence[str] | None = None) -> ModuleSpec | None:
    """Find a module without importing it or what is above it."""
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path)
        if spec is not None:
            return spec
    return None


def clash(name: str) -> tuple[str, str] | None:
    """Return the module that has this dotted name already, and where it is; sharing a namespace is no clash."""
    parts = name.split(".")
    if parts[0] in sys.stdlib_module_names:
        return parts[0], "the standard library"
    path: Sequence[str] | None = None
    for depth in range(1, len(parts) + 1):
        spec = find(".".join(parts[:depth]), path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
        if spec.origin is not None or path is None:  # a module or a package, not a namespace
            return spec.name, spec.origin or "an importer of its own"
    return name, ", ".join(path or ())


if __name__ == "__main__":
    main()
