"""A task's sheet: the facts about it in words, the same on a terminal and on its page."""

from __future__ import annotations

from collections.abc import Sequence

from simyard.core.task_facts import TaskEngine, TaskFacts, TaskTerm

UNKNOWN = "only known when it runs"


def sheet(facts: TaskFacts) -> dict[str, list[str]]:
    """Return the lines of a task's sheet by their headings; one that has nothing to say is left out."""
    places = {True: "here", False: "not here", None: f"fetched from {facts.asset_root}"}
    sizes = [term.size for term in facts.actions if term.size is not None]
    episode = [_seconds(facts.episode_s)]
    if facts.episode_s is not None and facts.control_period_s:
        episode.append(f"{round(facts.episode_s / facts.control_period_s):,} steps")
    success = "nothing says it" if facts.measured else UNKNOWN
    if facts.success is not None:
        success = f"said by: {facts.success}"
    lines = {
        "why not": facts.why_not,
        "about": [facts.title] if facts.title else [],
        "in Isaac Lab 2.x": facts.former_ids,
        "kind": [facts.kind or UNKNOWN],
        "agents": [
            f"{agent.library} {agent.name} ({agent.key}{'' if agent.installed else '; not installed'})"
            for agent in facts.agents
        ],
        "other agents": facts.other_agents,
        "physics": [_engine(engine, facts.engine) for engine in facts.engines],
        "assets": [f"{asset.path}: {places[asset.here]}" for asset in facts.assets],
        "observations": [f"{group.name}: {_numbers(group.size, group.terms)}" for group in facts.observations],
        "actions": [_numbers(sum(sizes) if len(sizes) == len(facts.actions) else None, facts.actions)],
        "control period": [_seconds(facts.control_period_s)],
        "episode": [", ".join(episode)],
        "environments": [UNKNOWN if facts.num_envs is None else f"{facts.num_envs:,} in its configuration"],
        "success": [success],
    }
    return {heading: said for heading, found in lines.items() if (said := list(found))}


def _engine(engine: TaskEngine, taken: str | None) -> str:
    presets = f" ({', '.join(engine.presets)})" if engine.presets else ""
    lacks = f": needs {' and '.join(engine.missing)}" if engine.missing else ""
    default = ", the default here" if engine.name == taken and not lacks else ""
    return f"{engine.name}{presets}{default}{lacks}"


def _numbers(size: int | None, terms: Sequence[TaskTerm]) -> str:
    """Return the size of several terms, and their names with the size of each."""
    named = [f"{term.name} {'?' if term.size is None else term.size}" for term in terms if term.name is not None]
    counted = f"size {UNKNOWN}" if size is None else f"{size:,}"
    return f"{counted} ({', '.join(named)})" if named else counted


def _seconds(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4g} s"
