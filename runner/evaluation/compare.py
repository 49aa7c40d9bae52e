"""Policies of one training side by side: the same episodes for each, by environment and seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from simyard.core.specs import Facts, JobSpec
from simyard.core.stages import Compared
from simyard.runner.evaluation.episode_statistics import Episode, EpisodeMeter
from simyard.runner.evaluation.summary import summarize
from simyard.runner.isaaclab.environment import fresh_environment, settle
from simyard.runner.progress import say_activity
from simyard.runner.rl import get_library
from simyard.runner.rl.inference import load_policy

EPISODES = 64
"""Of each policy, each in an environment of its own: the first ones begin alike."""
_NO_LIMIT = 10**9


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A policy to compare."""

    role: str
    """`teacher`, `student` or `final`."""
    job: JobSpec
    """The training that made it."""
    facts: Facts
    """Those of it."""
    stage: str | None
    """Name of its stage; None for one from outside."""
    checkpoint: Path
    iteration: int | None


def compare(contenders: list[Contender], steps_done: int) -> tuple[Compared, ...]:
    """Play policies in the environment of the last one, from the same starts.

    Args:
        contenders: At least one.
        steps_done: Steps that the environment of their training has counted.
    """
    last = contenders[-1]
    place = [override for override in last.facts.overrides if not override.startswith("agent.")]
    return tuple(
        _play(replace(one, facts=replace(one.facts, overrides=(*place, *_own(one)))), steps_done) for one in contenders
    )


def _own(contender: Contender) -> list[str]:
    return [override for override in contender.facts.overrides if override.startswith("agent.")]


def _play(one: Contender, steps_done: int) -> Compared:
    """Play one policy until every environment has completed an episode."""
    job, library = one.job, get_library(one.job.library)
    with fresh_environment(
        job.task, library, one.facts.overrides, num_envs=EPISODES, seed=job.seed, device=one.facts.device,
        steps_done=steps_done, agent=job.agent, order=job.order,
    ) as (env, agent_cfg):  # fmt: skip
        policy = load_policy(job.library, env, agent_cfg, one.checkpoint)
        episodes: list[Episode] = []
        meter = EpisodeMeter(
            env, episodes=EPISODES, longest=_NO_LIMIT, seed=job.seed, success_termination=None, undisturbed=True,
            before_step=lambda steps: None, on_episode=episodes.append,
        )  # fmt: skip
        say_activity(f"playing {EPISODES} episodes of the {one.role}")
        settle(env, job.seed)
        policy.begin()
        while not meter.done:
            policy.step()
        source = meter.success_source
    figures = summarize(episodes, source)
    bounds = figures["return"]["interval_95"]
    return Compared(
        role=one.role, stage=one.stage, checkpoint=one.checkpoint.name, iteration=one.iteration, episodes=len(episodes),
        mean_return=figures["return"]["mean"], interval_95=(bounds[0], bounds[1]) if bounds else None,
        success_rate=figures["success"]["rate"],
    )  # fmt: skip
