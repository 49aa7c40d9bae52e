"""Config files: read, changed by settings, checked against a request model with every problem named at once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic.alias_generators import to_camel, to_snake
from pydantic_core import ErrorDetails

from simyard.core.errors import LONGEST_NAME, RequestError, unknown
from simyard.core.foreign import MAX_DEPTH, require_plain
from simyard.requests.base import Physics
from simyard.requests.jobs import (
    UNKNOWN,
    Body,
    EvaluateRequest,
    ExportRequest,
    JobRequest,
    TaskRequest,
    TrainRequest,
    section_fields,
)
from simyard.runner.rl import require_library

MAX_CONFIG_BYTES = 1_000_000
MOST_PROBLEMS = 20
"""Problems of one request that are explained; of the others the number is said."""

Request = TypeVar("Request", bound=Body)


def read_config(path: Path | None, model: type[Body], settings: Iterable[str] = ()) -> dict[str, JsonValue]:
    """Read a config file and apply `key=value` settings to it.

    Args:
        path: A JSON file with one object; None for an empty one.
        model: What the config is for.
        settings: `dotted.key=value`; a key that begins with `env.` or `agent.`, or is `physics`, is a Hydra override,
            a field of the model's own section, if it has one (`trainingConfig`), needs no prefix. Values are JSON, or
            else text.

    Raises:
        RequestError: If the file cannot be read or is not an object.
    """
    config: dict[str, JsonValue] = {}
    if path is not None:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_CONFIG_BYTES + 1)  # no further: /dev/zero has no end
        except OSError as error:
            raise RequestError(
                f"Cannot read {str(path)!r}: {error.strerror}.", code="no_config", advice="Name a JSON file."
            ) from error
        config = parse_config(data, repr(str(path)))
    for setting in settings:
        _apply(config, setting, model)
    return config


def check_config(config: Mapping[str, object], model: type[Request]) -> Request:
    """Turn a config into a request.

    Raises:
        RequestError: Naming the first problems: the field, what was given, what is allowed.
    """
    try:
        request = model.model_validate(config)
    except ValidationError as error:
        problems, others = first_problems(error)
        explained = "; ".join([*(explain(problem, model) for problem in problems), *others])
        raise RequestError(f"{explained}.", code="bad_config", advice="Mend the config and send it again.") from None
    check_library(request)
    return request


def check_library(request: Body) -> None:
    """Raise `RequestError` for a request that names a library there is not."""
    if request.library is not None:
        require_library(request.library)


def model_of(config: Mapping[str, object]) -> type[JobRequest]:
    """Return the model of a config, told by the fields that no other kind has.

    Raises:
        RequestError: If it is none of them.
    """
    section = config.get("trainingConfig", config.get("training_config"))
    if isinstance(section, Mapping):
        return EvaluateRequest if section.get("mode") == "evaluate" else TrainRequest
    if "exportConfig" in config or "export_config" in config:
        return ExportRequest
    if "execution" in config:
        from simyard.requests.rollout import RolloutRequest

        return RolloutRequest
    raise RequestError(
        f"It is not clear what kind of job this is: the config has the fields {_cut(repr(sorted(config)), 500)}.",
        code="bad_config",
        advice="A training and an evaluation have trainingConfig, an export exportConfig, a rollout execution.",
    )


def parse_config(data: bytes, what: str) -> dict[str, JsonValue]:
    """Read a config that somebody wrote or sent.

    Raises:
        RequestError: It is none, it is too large, a key stands twice in one object, or it is not plain.
    """
    if len(data) > MAX_CONFIG_BYTES:
        raise RequestError(
            f"{what} is too large for a config.", code="bad_config", advice=f"Allowed: {MAX_CONFIG_BYTES:,} bytes."
        )
    try:
        config = _load(data.decode("utf-8-sig"))
    except ValueError as error:
        raise RequestError(
            f"{what} is not valid JSON: {error}.", code="bad_config", advice="Mend it; the README has an example."
        ) from error
    if not isinstance(config, dict):
        raise RequestError(
            f"{what} holds {type(config).__name__}, not an object.",
            code="bad_config",
            advice='A config looks like {"trainingConfig": {"task": "Isaac-Cartpole-Direct"}}.',
        )
    return config


def _load(text: str) -> Any:
    """Return JSON that everything behind it can take: every body of the service, and every config, comes by here."""
    try:
        value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from None
    require_plain(value)
    return value


def _no_duplicates(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    seen = dict(pairs)
    if len(seen) != len(pairs):
        repeated = min(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {_cut(repr(repeated))} stands twice in one object")
    return seen


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _apply(config: dict[str, JsonValue], setting: str, model: type[Body]) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise RequestError(f"--set {setting!r} is not key=value.", code="bad_setting", advice="For example numEnvs=64.")
    names_engine = key == "physics" and issubclass(model, TaskRequest) and text in get_args(Physics)
    if key.startswith(("env.", "agent.")) or (key in ("physics", "renderer", "presets") and not names_engine):
        overrides = config.setdefault("overrides", [])
        if not isinstance(overrides, list):
            raise RequestError(
                f"overrides is {overrides!r}, not a list.", code="bad_config", advice='Write ["key=value"].'
            )
        overrides.append(setting)
        return
    try:
        value = _load(text)
    except ValueError:
        value = text
    first, *rest = key.split(".")
    known = {spelling for name in section_fields(model) for spelling in (name, to_camel(name))}
    path = [first, *rest]
    if model.SECTION is not None and first in known:
        path = [model.SECTION if model.SECTION in config else to_camel(model.SECTION), *path]
    node = config
    for part in path[:-1]:
        inner = node.setdefault(_as_there(node, part), {})
        if not isinstance(inner, dict):
            raise RequestError(f"--set {setting!r}: {part!r} is no object.", code="bad_setting", advice="Name a field.")
        node = inner
    node[_as_there(node, path[-1])] = value


def _as_there(node: Mapping[str, object], name: str) -> str:
    """Return a field's name as a config spells it already: each may be in snake_case or camelCase."""
    return next((there for there in node if to_camel(there) == to_camel(name)), name)


def first_problems(error: ValidationError) -> tuple[list[ErrorDetails], list[str]]:
    """Return the first problems of a request, and the number of the others in words where there are any."""
    problems = error.errors(include_url=False)
    others = len(problems) - MOST_PROBLEMS
    return problems[:MOST_PROBLEMS], [f"and {others:,} more problem{'s' * (others != 1)}"] * (others > 0)


def explain(problem: ErrorDetails, model: type[Body]) -> str:
    """Return one validation problem in words."""
    where = ".".join(place_of(problem)) or "config"
    if problem["type"] == "extra_forbidden":
        fields = _fields(problem["loc"][:-1], model)
        error = unknown("key", problem["loc"][-1], fields, code="bad_config")
        return f"{where}: {error.failure.message} {error.failure.advice}".rstrip(".")
    if problem["type"] == "missing":
        return f"{to_snake(where) if model.SECTION is None else where} is missing"
    if problem["type"] == UNKNOWN:
        return f"{where}: {problem['msg']}".rstrip(".")
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error" and isinstance(problem["input"], (dict, BaseModel)):
        return f"{where}: {message}"  # of a whole model: its fields are in the message already
    return f"{where}: {message}, not {_cut(repr(problem['input']))}"


def place_of(problem: ErrorDetails) -> list[str]:
    """Return the path of the field that is wrong; a key that is no name is cut off."""
    return [_cut(str(part), LONGEST_NAME) for part in problem["loc"]]


def _cut(text: str, most: int = 78) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _fields(location: tuple[Any, ...], request: type[Body]) -> list[str]:
    model: Any = request
    for part in location:
        field = next((f for name, f in model.model_fields.items() if part in (name, to_camel(name))), None)
        annotation = field.annotation if field else None
        arms = [arm for arm in getattr(annotation, "__args__", (annotation,)) if isinstance(arm, type)]
        model = next((arm for arm in arms if issubclass(arm, BaseModel)), model)
    # The documents of each request write its names in one way.
    return [name if request.SECTION is None else to_camel(name) for name in model.model_fields]
