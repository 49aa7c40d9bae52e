"""A user's file of an agent's configuration: read, and merged into the registered one, or put in its place.

While a job uses one, its task has a further entry in the registry of this process, made of both: everything that asks
for the job's agent, Isaac Lab's own training too, finds it there. Overrides come on top of it, as of any other.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError, unknown
from simyard.core.foreign import parse_json, require_plain
from simyard.core.specs import InputFile, JobSpec
from simyard.runner.isaaclab.agents import FROM_FILE, registered_agent
from simyard.runner.isaaclab.overrides import check_type, owned_keys
from simyard.runner.rl import Library, get_library

MAX_BYTES = 256 * 1024
ENDINGS = (".yaml", ".yml", ".json")
_FIELD = "trainingConfig.agentConfig"
_NUMBER = re.compile(r"[-+]?(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+")
"""Numbers that YAML 1.1 takes for text where they have no dot, or no sign: `1e-3`."""


def read_agent_file(path: Path) -> dict[str, Any]:
    """Return the configuration in a file; only plain JSON and YAML are read, and nothing of it is run.

    Raises:
        RequestError: It is none.
    """
    if not path.name.lower().endswith(ENDINGS):
        raise _bad(path, "is named otherwise", f"Allowed: {', '.join(ENDINGS)}.")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise _bad(path, "is too large", f"Allowed: {MAX_BYTES:,} bytes.")
    try:
        content = parse_json(data) if path.suffix.lower() == ".json" else _parse_yaml(data)
        require_plain(content)
    except ValueError as error:
        raise _bad(path, f"cannot be read: {' '.join(str(error).split())[:500]}") from error
    if not isinstance(content, dict) or not content:
        raise _bad(path, f"holds {content!r:.50}", "Write keys and values, as in 'num_steps_per_env: 24'.")
    return content


def _bad(
    path: Path, why: str, advice: str = "Mend it; params/agent.yaml of a training is such a file."
) -> RequestError:
    return RequestError(f"{_FIELD}: {path.name!r} {why}.", code="bad_agent_config", advice=advice)


def _parse_yaml(data: bytes) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Plain values alone, and no aliases: a short file of those may stand for any number of values."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it has an alias, which is not taken: write the value again")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]
            if repeated := next((key for key in keys if keys.count(key) > 1), None):
                raise ValueError(f"key {repeated!r} stands twice in one object")
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, [*"-+.0123456789"])
    try:
        return yaml.load(data, Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError:
        raise ValueError("it is nested too deep") from None


# --- in the registry ------------------------------------------------------------------------------------------------


@contextmanager
def used(job: JobSpec, find: Callable[[InputFile], Path | None]) -> Iterator[JobSpec]:
    """Have the job's file count while the body runs, and yield the job under the key that stands for both.

    Args:
        job: The job; one without a file is yielded as it is.
        find: Returns where an input lies here; None where it does not.

    Raises:
        RequestError: The file cannot be read, or has a key that the configuration does not.
    """
    path = find(job.agent_config.file) if job.agent_config else None
    if job.agent_config is None or path is None:
        yield job
        return
    import gymnasium
    from isaaclab_tasks.utils.parse_cfg import load_cfg_from_registry

    content, library = read_agent_file(path), get_library(job.library)
    name = job.task.split(":")[-1]
    origin = registered_agent(job.task, library, job.agent)
    assert origin is not None
    key, replaces = f"{origin}{FROM_FILE}", job.agent_config.mode == "replace"

    def configuration() -> Any:
        return combined(load_cfg_from_registry(name, origin), content, library, replaces=replaces)

    configuration()  # it is refused here, in the words of the file
    spec = gymnasium.registry[name]
    with_file = copy.copy(spec)
    with_file.kwargs = {**spec.kwargs, key: configuration}
    gymnasium.registry[name] = with_file
    try:
        yield replace(job, agent=key)
    finally:
        gymnasium.registry[name] = spec


def notes(job: JobSpec, find: Callable[[InputFile], Path | None]) -> tuple[str, ...]:
    """Return what is to be said of the job's file, in words: of its keys that simyard sets itself."""
    path = find(job.agent_config.file) if job.agent_config else None
    if path is None:
        return ()
    given = [f"agent.{key}" for key in _leaves(read_agent_file(path))]
    ours = [key for key in given if key in owned_keys()]
    return (f"agentConfig: {', '.join(ours)} not used: simyard sets them",) if ours else ()


def _leaves(content: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in content.items():
        yield f"{path}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")


# --- combined -------------------------------------------------------------------------------------------------------


def combined(registered: Any, content: Mapping[str, Any], library: Library, *, replaces: bool) -> Any:
    """Return a configuration made of the registered one and a file's content; neither is changed.

    Args:
        registered: A configuration object, or a dictionary where the task registers a YAML file.
        content: Of the file.
        library: Whose configuration it is.
        replaces: Whether what the file leaves out is left out, or has the library's own default; else it stays.

    Raises:
        RequestError: A key does not exist, a value has the wrong type, or one is missing that has no default.
    """
    config = copy.deepcopy(registered)
    if not replaces:
        return _merge(config, content, library, "agent")
    if isinstance(config, dict):
        # What simyard sets stays: the library expects some of it.
        result = copy.deepcopy(dict(content))
        for key in owned_keys():
            _keep(result, config, key.split(".")[1:] if key.startswith("agent.") else [])
        return result
    result = _merge(_bare(config), content, library, "agent")
    for key in owned_keys():
        name = key.removeprefix("agent.")
        if hasattr(config, name):
            setattr(result, name, getattr(config, name))
    if missing := sorted(_missing(result, config, "agent")):
        raise RequestError(
            f"{_FIELD} replaces the agent's configuration, and lacks {', '.join(missing[:8])}.",
            code="bad_agent_config",
            advice="Give them: nothing has a default for them. Or merge it: leave agentConfigMode out.",
        )
    return result


def _keep(result: dict[str, Any], config: Mapping[str, Any], path: list[str]) -> None:
    """Give a result the value that a configuration has at a path, if it has one there."""
    for name in path[:-1]:
        if not isinstance(config.get(name), Mapping) or not isinstance(result.get(name), dict):
            return
        result, config = result[name], config[name]
    if path and path[-1] in config:
        result[path[-1]] = copy.deepcopy(config[path[-1]])


def _merge(config: Any, content: Mapping[str, Any], library: Library, path: str) -> Any:
    """Set every value of a file in a configuration, and return it: another object where its class is another one."""
    config = _of_class(config, content.get("class_name"))
    fields = config if isinstance(config, dict) else vars(config)
    for key, value in content.items():
        name = f"{path}.{key}"
        if name in owned_keys():
            continue
        if key not in fields:
            raise unknown(f"key in {_FIELD}:", name, [f"{path}.{field}" for field in fields], code="bad_agent_config")
        old = fields[key]
        is_node = isinstance(old, dict) or dataclasses.is_dataclass(old)
        if isinstance(value, Mapping) and is_node and (old or not isinstance(old, dict)):
            value = _merge(old, value, library, name)
        elif is_node and value is not None and not isinstance(old, dict):
            raise RequestError(
                f"{_FIELD}: {name} is {value!r:.50}, and it is an object.",
                code="bad_agent_config",
                advice=f"It has {', '.join(vars(old))}.",
            )
        elif not _is_missing(old) and not is_node:
            check_type(f"{_FIELD}: {name}", name, old, value, library, code="bad_agent_config")
        if isinstance(config, dict):
            config[key] = value
        else:
            setattr(config, key, value)
    return config


def _of_class(config: Any, class_name: Any) -> Any:
    """Return a configuration as that of the class of rsl_rl that a file names, with what both have; or as it is."""
    if not dataclasses.is_dataclass(config) or class_name in (None, getattr(config, "class_name", None)):
        return config
    import isaaclab_rl.rsl_rl as classes

    known = [getattr(classes, name) for name in classes.__all__ if name.startswith("RslRl") and name.endswith("Cfg")]
    fitting = [cls for cls in known if getattr(cls(), "class_name", None) == class_name]
    if not fitting or isinstance(config, fitting[0]):
        return config
    other = fitting[0]()
    for name in vars(config).keys() & vars(other).keys() - {"class_name"}:
        setattr(other, name, getattr(config, name))
    return other


def _bare(config: Any) -> Any:
    """Return a configuration object with the library's own defaults, and nothing of the task's."""
    own = next(cls for cls in type(config).__mro__ if cls.__module__.startswith("isaaclab_rl."))
    bare = own()
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value) and hasattr(bare, name):
            setattr(bare, name, _bare(value))
    return bare


def _missing(result: Any, config: Any, path: str) -> Iterator[str]:
    """Yield the keys that have no value, and had one."""
    for name, value in vars(result).items():
        had = getattr(config, name, dataclasses.MISSING)
        if _is_missing(value) and not _is_missing(had):
            yield f"{path}.{name}"
        elif dataclasses.is_dataclass(value) and dataclasses.is_dataclass(had):
            yield from _missing(value, had, f"{path}.{name}")


def _is_missing(value: Any) -> bool:
    """Return whether a value is the one that stands for none, or a copy of it."""
    return isinstance(value, type(dataclasses.MISSING))
