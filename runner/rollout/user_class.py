"""The class of a user's task package: found, and checked against the arguments it is to be made with."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import traceback
from collections.abc import Iterable, Mapping
from inspect import Parameter
from pathlib import Path
from types import ModuleType
from typing import Any

from simyard.core.errors import RequestError
from simyard.runner.isaaclab.foreign_imports import explain

_CONSTRUCTOR = "'def __init__(self, context, **task_args)'"


def import_module(name: str) -> ModuleType:
    """Import the task's module.

    Raises:
        RequestError: If it is not there, does not import, or imports what is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if explained := explain(error):
            raise explained from error
        missing = error.name or str(error)
        if name == missing or name.startswith(f"{missing}."):
            raise RequestError(
                f"There is no module {name!r} for {sys.executable!r}.",
                code="task_module_missing",
                advice="Send the package that has it, or correct isaac_lab.task_module.",
            ) from error
        if missing.partition(".")[0] == name.partition(".")[0]:
            raise RequestError(
                f"The task's package has no module {missing!r}, which it imports{_place(error)}.",
                code="task_package_import",
                advice="Put the file into the package.",
            ) from error
        raise RequestError(
            f"The task's module {name!r} needs {missing!r}, which is not installed for {sys.executable!r}"
            f"{_place(error)}.",
            code="missing_dependency",
            advice=f"Put {missing!r} into the package, or install it for that Python: nothing is downloaded for a job.",
        ) from error
    except (Exception, SystemExit) as error:
        raise explain(error) or RequestError(
            f"The task's module {name!r} does not import: {type(error).__name__}: {error}{_place(error)}.",
            code="task_package_import",
            advice=f"Mend the package; 'python -c \"import {name}\"' in its folder shows the same.",
        ) from error


def find_class(module: ModuleType, name: str) -> type | None:
    """Return a class of a module, or None where the module has nothing of that name.

    Raises:
        RequestError: If what has that name is no class.
    """
    found = getattr(module, name, None)
    if found is None or isinstance(found, type):
        return found
    raise RequestError(
        f"{module.__name__}.{name} is a {type(found).__name__}, not a class.",
        code="unknown_task_class",
        advice=f"Name a class. {_allowed(class_names(module))}",
    )


def class_names(module: ModuleType) -> list[str]:
    """Return the names of the classes that a module defines itself, or takes from its own package."""
    root = module.__name__.partition(".")[0]
    own = {
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and not name.startswith("_") and value.__module__.partition(".")[0] == root
    }
    return sorted(own)


def check_class(task_class: type, task_args: Mapping[str, Any]) -> None:
    """Check that a class takes a context and exactly these arguments, and that it can be run.

    Raises:
        RequestError: If it does not; names the arguments that are allowed.
    """
    name = task_class.__qualname__
    if inspect.isabstract(task_class):
        missing = ", ".join(sorted(getattr(task_class, "__abstractmethods__", ())))
        raise _bad_class(f"{name} is abstract: it lacks {missing}", "Name the class that has them.")

    # It is run without arguments.
    run = getattr(task_class, "run", None)
    if not callable(run):
        raise _bad_class(f"{name} has no method run", f"Add 'def run(self) -> None' to {name}.")
    if inspect.iscoroutinefunction(run):
        raise _bad_class(f"{name}.run is a coroutine, which nobody would await", "Make it a plain function.")
    try:
        inspect.signature(run).bind(None)
    except (TypeError, ValueError) as error:
        what = f"{name}.run cannot be called without arguments: {error}"
        raise _bad_class(what, "What it needs is in the context.") from error

    # It is made with a context first.
    template = f"The constructor is {_CONSTRUCTOR} of {name}; docs/task-packages.md has a template."
    try:
        parameters = list(inspect.signature(task_class).parameters.values())
    except (TypeError, ValueError) as error:
        raise _bad_class(f"{name} does not say what it is made with: {error}", template) from error
    kinds = {parameter.kind for parameter in parameters}
    if parameters and parameters[0].kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD):
        parameters = parameters[1:]
    elif Parameter.VAR_POSITIONAL not in kinds:
        raise _bad_class(f"{name} does not take a context as its first argument", template)

    # The task_args follow by name: none that is unknown, and all that are needed.
    by_name = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    allowed = {parameter.name: parameter.default for parameter in parameters if parameter.kind in by_name}
    for given in task_args:
        if given not in allowed and Parameter.VAR_KEYWORD not in kinds:
            near = difflib.get_close_matches(given, allowed, n=1, cutoff=0.5)
            guess = f" Did you mean {near[0]!r}?" if near else ""
            raise RequestError(
                f"{name} takes no argument {given!r}.{guess}", code="unknown_task_argument", advice=_allowed(allowed)
            )
    if lacking := [arg for arg, default in allowed.items() if default is Parameter.empty and arg not in task_args]:
        raise RequestError(
            f"{name} needs {', '.join(map(repr, lacking))} in task_args.",
            code="missing_task_argument",
            advice=_allowed(allowed),
        )
    try:
        inspect.signature(task_class).bind(None, **task_args)
    except TypeError as error:
        raise _bad_class(f"{name} cannot be called with a context and these task_args: {error}", template) from error


def _place(error: BaseException) -> str:
    """Return the line of the user's code that raised, in parentheses; a syntax error says it itself."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    if isinstance(error, SyntaxError) or not frames or frames[-1].filename == __file__:
        return ""
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"


def _allowed(names: Iterable[str]) -> str:
    return f"Allowed: {', '.join(map(repr, names)) or 'none'}."


def _bad_class(what: str, advice: str) -> RequestError:
    return RequestError(f"{what}.", code="bad_task_class", advice=advice)
