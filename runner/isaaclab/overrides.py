"""Hydra overrides, checked against the configuration they change: Isaac Lab 3.0 takes unknown keys without an error."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from simyard.core.errors import RequestError, unknown
from simyard.runner.isaaclab.agents import FROM_FILE, registered_agent
from simyard.runner.isaaclab.kit import parts_on_it
from simyard.runner.rl import LIBRARIES, Library

_ASSIGNMENT = re.compile(r"(env|agent)(\.[A-Za-z_0-9]+)+=.*", re.DOTALL)
_PRESET = re.compile(r"(physics|renderer|presets)=[A-Za-z_0-9,]+")

_OWNED = {
    "env.scene.num_envs": "trainingConfig.numEnvs",
    "env.seed": "trainingConfig.seed",
    "env.sim.device": "computeConfig.gpusPerNode",
    "env.log_dir": None,
}
"""Keys of every environment that simyard sets, as `Library.owned_keys` has those of the agents."""

Keys = dict[str, bool | int | float | None]
"""The keys of a configuration, with the values of those that are numbers or truth values; None stands for all else."""

KEYS: dict[str, Keys] = {}
"""Those of every configuration that this process has resolved, before the user's overrides, by `_name`."""
_WORD = re.compile(r"(?!(?:true|false|yes|no|on|off|null|inf|nan)$)[a-z]+", re.IGNORECASE)
"""A value that Hydra reads as text, whatever it is for."""


@dataclass(frozen=True)
class TaskConfig:
    """A task's configuration as Isaac Lab resolves it, as plain dictionaries."""

    env: dict[str, Any]
    """The environment's."""
    agent: dict[str, Any]
    """The agent's; empty without a library."""
    kit: tuple[str, ...]
    """Parts of the environment's that need Kit, in words."""
    notes: tuple[str, ...] = ()
    """Overrides that do nothing, in words for the report."""

    def flat(self) -> dict[str, Any]:
        """Return every value by its dotted key, inner nodes too."""
        return dict(flatten({"env": self.env, "agent": self.agent}))


def owned_keys() -> dict[str, str | None]:
    """Return the keys that simyard sets, each with the field of the request that is meant, or None where it decides.

    Those of all libraries: a key of another one is refused with the better advice.
    """
    owned: dict[str, str | None] = dict(_OWNED)
    for library in LIBRARIES.values():
        owned |= library.owned_keys
    return owned


def resolve(
    task: str,
    library: Library | None,
    own: Sequence[str],
    given: Sequence[str],
    *,
    physics: str | None = None,
    agent: str | None = None,
) -> TaskConfig:
    """Return a task's configuration with every override applied.

    Args:
        task: The task's id.
        library: The library whose agent configuration is meant; None for no agent.
        own: The adapter's overrides, not checked.
        given: The user's, applied one after another and each checked.
        physics: The engine that the job names, whose preset is among `own`: each has keys of its own.
        agent: The agent that the job names; each has keys of its own too.

    Raises:
        RequestError: If an override does not parse, names an unknown key or has the wrong type.
    """
    # Before the user's overrides: its keys are kept, for the checks of later jobs. With a preset it is another one.
    applied = list(own)
    config = _load(task, library, applied, agent)
    known = config.flat()
    if not _has_preset(given) and not (agent or "").endswith(FROM_FILE):
        KEYS[_name(task, library, physics, agent)] = {
            key: value if _is_number(value) else None for key, value in known.items()
        }

    # One override after another, so that what it does can be seen. A value may be the default: one member of every
    # sweep is.
    notes = []
    for override in given:
        _check_form(override)
        key, _, _ = override.partition("=")
        is_preset = "." not in key
        if not is_preset:
            _check_key(key, known)
        applied.append(override)
        config = _load(task, library, applied, agent)
        before, known = known, config.flat()
        if is_preset:
            continue
        check_type(f"Override {override!r}", key, before[key], known.get(key), library)
        if repr(before) == repr(known):
            notes.append(f"override {override!r} changes nothing: it is {before[key]!r} already")
    return replace(config, notes=tuple(notes))


def agent_of(task: str, library: Library, overrides: Sequence[str], agent: str | None = None) -> dict[str, Any]:
    """Return the agent's configuration of a task with every override, which were checked before."""
    return _load(task, library, overrides, agent).agent


def refuse_known(
    task: str,
    library: Library | None,
    given: Sequence[str],
    keys: Mapping[str, Keys],
    *,
    physics: str | None = None,
    agent: str | None = None,
) -> None:
    """Refuse overrides without resolving anything, as `resolve` would.

    Args:
        task: The task's id.
        library: The library whose agent configuration is meant; None for no agent.
        given: The user's overrides.
        keys: What stood in `KEYS` where the same was resolved before; what is not there is not refused.
        physics: The engine that the job names.
        agent: The agent that it names.

    Raises:
        RequestError: If one does not parse, names a key that is unknown or not the user's, or gives a number as a word.
    """
    known = None if _has_preset(given) else keys.get(_name(task, library, physics, agent))
    owned, replaced = owned_keys(), list[str]()
    for override in given:
        _check_form(override)
        key, _, value = override.partition("=")
        if key in owned or (known is not None and "." in key and not key.startswith(tuple(replaced))):
            _check_key(key, known or {})
            if known and known[key] is not None and _WORD.fullmatch(value):
                check_type(f"Override {override!r}", key, known[key], value, library)
        replaced.append(f"{key}.")


def _has_preset(given: Sequence[str]) -> bool:
    return any("." not in override.partition("=")[0] for override in given)


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))


def _name(task: str, library: Library | None, physics: str | None, agent: str | None) -> str:
    """Return the name of a configuration, by all that chooses it."""
    return " ".join([task.split(":")[-1], library.name if library else "", *filter(None, (physics, agent))])


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every (dotted key, value), inner nodes too."""
    if path:
        yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flatten(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from flatten(item, f"{path}.{index}")


def _check_form(override: str) -> None:
    if not _ASSIGNMENT.fullmatch(override) and not _PRESET.fullmatch(override):
        raise RequestError(
            f"Override {override!r} is not understood.",
            code="bad_override",
            advice="Allowed: 'env.<key>=<value>', 'agent.<key>=<value>', 'physics=<preset>', 'renderer=<preset>', "
            "'presets=<name,…>'.",
        )


def _check_key(key: str, known: Collection[str]) -> None:
    owned = owned_keys()
    if key in owned:
        instead = owned[key]
        raise RequestError(
            f"Override {key!r} would do nothing: simyard sets it.",
            code="bad_override",
            advice=f"Set {instead} instead." if instead else "Leave it out.",
        )
    if key not in known:
        raise unknown("override key", key, known, code="bad_override")


def check_type(what: str, key: str, old: Any, new: Any, library: Library | None, *, code: str = "bad_override") -> None:
    """Refuse a value of a type that nobody can mean: Isaac Lab hands it on, and something else fails later.

    Of other types one may stand for another: a number for a dictionary of them, a list of names for a name, a schedule
    of the library's for a number. Nothing is known of None.
    """
    if old is None or new is None:
        return
    advice = f"{key} is a {type(old).__name__}: {old!r} unless overridden."
    if isinstance(new, str) and new.lstrip()[:1] in ("[", "{", "("):
        fits, advice = False, 'Isaac Lab reads it as text: quote the names in it, as in ["a", "b"] or {"a": 1}.'
    elif isinstance(old, bool) or isinstance(new, bool):
        fits = isinstance(old, bool) and isinstance(new, bool)
    elif isinstance(old, int | float):
        schedule = library.schedule if library else None
        is_schedule = schedule and key in schedule.keys and schedule.form.fullmatch(str(new))
        fits = isinstance(new, int | float) or bool(is_schedule)
    elif isinstance(old, str):
        fits = isinstance(new, str | list | tuple) or _reads_as_number(old)
    elif isinstance(old, list | tuple):
        names = bool(old) and all(isinstance(item, str) for item in old)
        fits = isinstance(new, (str, list, tuple, dict) if names else (list, tuple, dict))
    else:
        fits = not isinstance(new, str)
    if not fits:
        raise RequestError(f"{what} gives {new!r}, a {type(new).__name__}.", code=code, advice=advice)


def _reads_as_number(text: str) -> bool:
    """Return whether a text stands for a number: YAML takes `5e-4` for text, and "auto" is one that is found."""
    try:
        return text == "auto" or math.isfinite(float(text))
    except ValueError:
        return False


def _load(task: str, library: Library | None, overrides: Sequence[str], named: str | None) -> TaskConfig:
    from hydra.errors import HydraException
    from isaaclab_tasks.utils import resolve_task_config

    agent_key = registered_agent(task, library, named)
    try:
        configs = resolve_task_config(task, agent_key, overrides=list(overrides))
        # An environment's is an object, an agent's may be a dictionary already, or None.
        env, agent = (
            cfg if isinstance(cfg, dict) else dict(cfg.to_dict()) if cfg is not None else {} for cfg in configs
        )
        kit = parts_on_it(configs[0])
    except (HydraException, ValueError, KeyError, TypeError, AttributeError, SystemExit) as error:
        last = overrides[-1] if overrides else ""
        raise RequestError(
            f"Isaac Lab refuses override {last!r}: {error}", code="bad_override", advice="See the task's configuration."
        ) from error
    return TaskConfig(env, agent, kit)
