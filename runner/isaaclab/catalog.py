"""The registered tasks and the facts about them, from their configurations: no simulator starts.

Sizes of a manager-based task's terms are known to its environment alone, which is made only to `measure` them.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from simyard.core.errors import RequestError
from simyard.core.specs import JobSpec
from simyard.core.task_facts import TaskAgent, TaskAsset, TaskEngine, TaskFacts, TaskGroup, TaskTerm
from simyard.runner.adapter import device_of
from simyard.runner.evaluation.episode_statistics import success_metric
from simyard.runner.isaaclab import kit, lookup
from simyard.runner.isaaclab.environment import fresh_environment
from simyard.runner.isaaclab.foreign_imports import require_references
from simyard.runner.isaaclab.overrides import TaskConfig
from simyard.runner.isaaclab.physics import (
    SLOW_ON_A_CPU,
    absent,
    choose,
    engine_in,
    engine_of_preset,
    engines_of,
    presets_of,
)
from simyard.runner.rl import LIBRARIES
from simyard.runner.rl.agents import ENTRY

_LONGEST = 500
"""Characters of a text that a configuration brings."""
_MARKUP = re.compile(":[a-z]+:(?=`)|`")
"""Of reStructuredText, in which Isaac Lab describes its configurations."""
_MEASURED_ENVS = 2


def registrations() -> dict[str, Any]:
    """Return Isaac Lab's tasks in gymnasium's registry, each with its registration."""
    import gymnasium

    return {name: gymnasium.registry[name] for name in lookup.registered_tasks()}


def describe(names: Iterable[str]) -> tuple[TaskFacts, ...]:
    """Return the facts about registered tasks; one whose configuration does not resolve says why."""
    device = device_of(None)
    return tuple(_describe(name, device) for name in names)


def _describe(name: str, device: str) -> TaskFacts:
    import gymnasium

    # The registration alone tells the agents.
    kwargs: Mapping[str, Any] = gymnasium.registry[name].kwargs
    agents = tuple(_agents(kwargs))
    known = {agent.key for agent in agents}
    others = sorted(key for key in kwargs if key.endswith(ENTRY) and key not in known and key != f"env{ENTRY}")
    facts = TaskFacts(task=name, agents=agents, other_agents=tuple(others))
    why_not = []
    if not any(agent.installed for agent in agents):
        why_not.append(
            f"no library of its agents is installed: {', '.join(facts.libraries)}"
            if agents
            else f"it has no agent of {', '.join(LIBRARIES)}"
        )

    # The configuration that a job here gets: whatever it raises is the task's, and no other one's trouble.
    job = stand_in(name)
    try:
        from isaaclab_tasks.utils import resolve_task_config

        require_references(name)
        presets = presets_of(name)
        try:
            preset = choose(job, device, kit_less=not kit.is_installed())
        except RequestError as error:
            preset = None
            why_not.append(error.failure.message.rstrip("."))
        env_cfg, _ = resolve_task_config(name, None, overrides=[f"physics={preset}"] if preset else [])
        config = TaskConfig(dict(env_cfg.to_dict()), {}, kit.parts_on_it(env_cfg))
        facts = _of_config(facts, env_cfg, config, tuple(_engines(presets, device)))
    except (Exception, SystemExit) as error:
        said = error.failure.message if isinstance(error, RequestError) else f"{type(error).__name__}: {error}"
        return replace(facts, why_not=(*why_not, f"its configuration does not resolve: {said[:_LONGEST]}"))
    if config.kit and not kit.is_installed():
        why_not.append(f"it needs Isaac Sim for {' and '.join(config.kit)}")
    else:
        try:
            kit.require(name, config.kit)
            lookup.require_renderer(name, config)
        except RequestError as error:
            why_not.append(error.failure.message.rstrip("."))
    return replace(facts, why_not=tuple(why_not))


def stand_in(task: str) -> JobSpec:
    """Return a job that stands for all on a task, where functions ask for one."""
    return JobSpec(job_id="", kind="train", name="", simulator="isaaclab", task=task, library="", num_envs=1, seed=0)


def _agents(kwargs: Mapping[str, Any]) -> Iterator[TaskAgent]:
    for library in LIBRARIES.values():
        installed = importlib.util.find_spec(library.module) is not None
        for short, key in library.agents(kwargs).items():
            yield TaskAgent(library=library.name, name=short, key=key, installed=installed)


def _of_config(facts: TaskFacts, env_cfg: Any, config: TaskConfig, engines: tuple[TaskEngine, ...]) -> TaskFacts:
    """Add the facts that a resolved configuration tells."""
    from isaaclab.utils import assets

    root: str = assets.NUCLEUS_ASSET_ROOT_DIR
    wanted = sorted(path.removeprefix(root).lstrip("/") for path in lookup.needed_assets(config, root))
    here = {path: None if "://" in root else os.path.exists(f"{root}/{path}") for path in wanted}
    engine = engine_in(config.env)
    # Without presets there is one engine; where nothing says which, it is that of Isaac Sim.
    own = TaskEngine(name=engine or "physx", presets=(), missing=tuple(absent("isaacsim_physx") if config.kit else ()))
    dt, decimation = _number(env_cfg, "sim", "dt"), _number(env_cfg, "decimation")
    num_envs = _number(env_cfg, "scene", "num_envs")
    kind, observations, actions = _spaces(env_cfg)
    terminations = config.env.get("terminations") or {}
    return replace(
        facts,
        title=_title(type(env_cfg)),
        kind=kind,
        engines=engines or (own,),
        engine=engine,
        asset_root=root,
        assets=tuple(TaskAsset(path=path, here=there) for path, there in here.items()),
        observations=observations,
        actions=actions,
        control_period_s=None if dt is None or decimation is None else dt * decimation,
        episode_s=_number(env_cfg, "episode_length_s"),
        num_envs=None if num_envs is None else int(num_envs),
        success="termination success" if terminations.get("success") is not None else None,
    )


def _title(config: type) -> str | None:
    text = (config.__doc__ or "").strip()
    if not text or text.startswith(f"{config.__name__}("):  # a dataclass's own
        return None
    return _MARKUP.sub("", text.partition("\n")[0])[:_LONGEST]


def _number(config: Any, *names: str) -> float | None:
    """Return a number of a configuration; None where it is missing, or left open."""
    for name in names:
        config = getattr(config, name, None)
    is_number = isinstance(config, int | float) and not isinstance(config, bool) and math.isfinite(config)
    return float(config) if is_number else None


def _engines(presets: list[str], device: str) -> Iterator[TaskEngine]:
    for name in engines_of(presets):
        brings = tuple(preset for preset in presets if engine_of_preset(preset) == name)
        lacks = min((absent(preset) for preset in brings if preset != name), key=len, default=[])
        if name == SLOW_ON_A_CPU and device == "cpu":
            lacks = [*lacks, "a GPU"]
        yield TaskEngine(name=name, presets=brings, missing=tuple(lacks))


# --- observations and actions ---------------------------------------------------------------------------------------


def _spaces(env_cfg: Any) -> tuple[str, tuple[TaskGroup, ...], tuple[TaskTerm, ...]]:
    """Return a task's kind, its observation groups and its action terms, with the sizes that its configuration has."""
    from isaaclab.managers import ActionTermCfg, ObservationTermCfg

    if hasattr(env_cfg, "possible_agents"):
        seen = {str(name): _size(spec) for name, spec in dict(env_cfg.observation_spaces or {}).items()}
        acts = {str(name): _size(spec) for name, spec in dict(env_cfg.action_spaces or {}).items()}
        terms = tuple(TaskTerm(name=name, size=size) for name, size in acts.items())
        return "multi-agent", tuple(_unnamed(name, size) for name, size in seen.items()), terms
    if not hasattr(env_cfg, "observations"):
        groups = [_unnamed("policy", _size(env_cfg.observation_space))]
        if getattr(env_cfg, "state_space", 0):
            groups.append(_unnamed("critic", _size(env_cfg.state_space)))
        return "direct", tuple(groups), (TaskTerm(name=None, size=_size(env_cfg.action_space)),)
    named = [
        TaskGroup(name=name, size=None, terms=tuple(_terms(group, ObservationTermCfg)))
        for name, group in _items(env_cfg.observations)
    ]
    return "manager-based", tuple(named), tuple(_terms(env_cfg.actions, ActionTermCfg))


def _unnamed(name: str, size: int | None) -> TaskGroup:
    return TaskGroup(name=name, size=size, terms=(TaskTerm(name=None, size=size),))


def _items(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a manager's configuration that are not switched off."""
    parts = config.items() if isinstance(config, Mapping) else vars(config).items()
    yield from ((name, part) for name, part in parts if part is not None)


def _terms(config: Any, kind: type) -> Iterator[TaskTerm]:
    yield from (TaskTerm(name=name, size=None) for name, term in _items(config) if isinstance(term, kind))


def _size(spec: Any) -> int | None:
    """Return the numbers of a space as a configuration gives it; None for one that the environment has yet to set."""
    from isaaclab.envs.utils.spaces import spec_to_gym_space

    if spec is None or (isinstance(spec, int) and spec <= 0) or type(spec).__name__ == "_MISSING_TYPE":
        return None
    return _count(spec_to_gym_space(spec))


def _count(space: Any) -> int:
    parts = getattr(space, "spaces", None)
    if parts is None:
        return math.prod(space.shape)
    return sum(map(_count, parts.values() if isinstance(parts, Mapping) else parts))


def measure(task: str) -> TaskFacts:
    """Return the facts about a registered task with what only its environment tells, which is made for that.

    Raises:
        RequestError: The task cannot run here.
    """
    from simyard.runner.exporting.describe import action_terms, observation_groups

    job = stand_in(task)
    facts = _describe(task, device_of(None))
    found, _ = lookup.resolve(job, None, {})
    with fresh_environment(task, None, found.overrides, num_envs=_MEASURED_ENVS, seed=0, device=found.device) as (
        env,
        _,
    ):
        base = env.unwrapped
        env.reset()
        env.reset()  # what a task logs of an episode it logs when the next one begins
        if facts.kind != "multi-agent":
            groups = tuple(
                TaskGroup(
                    name=group.name,
                    size=group.size,
                    terms=tuple(TaskTerm(name=term.name, size=term.size) for term in group.terms),
                )
                for group in observation_groups(base, ())
            )
            actions = tuple(TaskTerm(name=term.name, size=term.size) for term in action_terms(base))
            facts = replace(facts, observations=groups, actions=actions)
        metric = success_metric(getattr(base, "extras", {}).get("log") or {})
        success = f"metric {metric}" if metric else facts.success
        return replace(facts, success=success, control_period_s=float(base.step_dt), measured=True)
