"""Counts and measures episodes from inside the environment, whatever library drives it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from simyard.core.errors import RequestError
from simyard.runner.rl.inference import keeping_random_numbers

CAPPED = "stepsPerEpisode"
"""Reason given for an episode that the job's own limit cut off."""
TIME_OUT = "time_out"
"""The name of a direct task's time-out, which it does not name itself."""
TERMINATED = "terminated"
"""The name of a direct task's termination."""
_METRIC = re.compile(r"(?:^|/)Metrics/(?:.*[_/])?success(?:_rate)?$")


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One completed episode."""

    number: int
    """In order of completion, counted from 1."""
    env: int
    """Index of the environment that played it."""
    total: float
    """Sum of the rewards: the return, undiscounted."""
    length: int
    """Steps taken."""
    ended: str
    """`terminated` or `truncated`."""
    term: str | None
    """Termination that fired; None if the task does not name them."""
    success: bool | None
    """Whether the episode succeeded; None if the task does not say, or if a time limit would pass for success."""
    rewards: dict[str, float] = field(default_factory=dict)
    """Part of the return of each reward term, or of each of several agents; empty where the task names neither."""


def failed(episode: Episode) -> bool:
    """Return whether an episode did not succeed; where nobody says what success is, whether it was terminated."""
    return episode.ended == "terminated" if episode.success is None else not episode.success


@dataclass
class _Ending:
    """State of an episode that the environment forgets when it resets."""

    term: str | None = None
    success: bool | None = None
    rewards: dict[str, float] = field(default_factory=dict)


def simulated(env: Any) -> Any:
    """Return the environment that simulates: the one inside, where Isaac Lab has made one agent of several."""
    base = env.unwrapped
    inside = getattr(base, "env", None)
    return inside if hasattr(inside, "possible_agents") else base


def together(values: Any) -> Any:
    """Return a value of the whole team, as Isaac Lab makes one agent of several: rewards add up, endings are common."""
    import torch

    if not isinstance(values, Mapping):
        return values
    each = torch.stack([*values.values()])
    return each.all(dim=0) if each.dtype == torch.bool else each.sum(dim=0)


def success_metric(log: Mapping[str, Any]) -> str | None:
    """Return the tag of a task's success metric in `extras["log"]`, if it logs just one."""
    tags = [tag for tag in log if _METRIC.search(tag)]
    if "Metrics/success_rate" in tags:
        return "Metrics/success_rate"
    return tags[0] if len(tags) == 1 else None


def quotas(episodes: int, envs: int, seed: int) -> list[int]:
    """Return the number of episodes that each environment has to complete.

    All of it is fixed beforehand: taking whichever episodes end first would favour the short ones. The environments
    that play one more, or the only ones that count where there are more of them than episodes, are drawn by the seed:
    neighbours are alike, since terrains are laid out in the order of the environments.
    """
    each, rest = divmod(episodes, envs)
    chosen = set(random.Random(seed).sample(range(envs), rest))
    return [each + (index in chosen) for index in range(envs)]


class EpisodeMeter:
    """Stands in the environment's own `step` and `_reset_idx`, and changes nothing but when episodes are cut off.

    `_reset_idx` is where an environment forgets an episode: it is the one place in which the sums of the reward terms,
    the termination that fired and the task's own success metric are those of the episode that ends.
    """

    def __init__(
        self,
        env: Any,
        *,
        episodes: int,
        longest: int,
        seed: int,
        success_termination: str | None = None,
        undisturbed: bool = False,
        before_step: Callable[[Any], None] = lambda steps: None,
        on_episode: Callable[[Episode], None] = lambda episode: None,
    ) -> None:
        """Take the place.

        Args:
            env: A gymnasium environment of Isaac Lab.
            episodes: How many to count in all.
            longest: Steps after which an episode is cut off.
            seed: Seed that says which environments count more episodes than others; see `quotas`.
            success_termination: The termination that means success; by default the task's own metric says.
            undisturbed: Whether episodes that begin later leave the random numbers of those that run as they are.
            before_step: Called with the steps each environment's episode has taken, before every step.
            on_episode: Called with each counted episode, in order, before its environment steps on.
        """
        import torch

        self._base = simulated(env)
        device, count = self._base.device, self._base.num_envs
        self._left = quotas(episodes, count, seed)
        self._longest = longest
        self._success_termination = success_termination
        self._undisturbed = undisturbed
        self._before_step = before_step
        self._on_episode = on_episode
        self._returns = torch.zeros(count, dtype=torch.float64, device=device)
        agents = getattr(self._base, "possible_agents", ())
        self._parts = {agent: torch.zeros_like(self._returns) for agent in agents}
        self._lengths = torch.zeros(count, dtype=torch.long, device=device)
        self._cut_off = torch.zeros(count, dtype=torch.bool, device=device)
        self._endings: dict[int, _Ending] = {}
        self._counted = 0
        self._metric: str | None = None
        self._is_no_rate = False
        self._stepping = False
        # By name now: the environment forgets its managers when it closes.
        manager = getattr(self._base, "termination_manager", None)
        self._terms: list[str] = [] if manager is None else list(manager.active_terms)
        self.steps = 0
        """Steps the whole environment has taken."""
        self._step, self._reset_idx = self._base.step, self._base._reset_idx
        self._base.step, self._base._reset_idx = self._measure_step, self._measure_reset

    @property
    def done(self) -> bool:
        """Whether every environment has completed its share."""
        return not any(self._left)

    @property
    def success_source(self) -> str | None:
        """Source of the success of episodes; None if there is none."""
        if self._success_termination:
            return f"termination {self._success_termination}"
        if self._metric:
            return None if self._is_no_rate else f"metric {self._metric}"
        return "termination success" if "success" in self._terms else None

    def _measure_step(self, action: Any) -> Any:
        self._before_step(self._lengths)
        last = self._lengths + 1 >= self._longest
        if self._longest < self._base.max_episode_length:
            # The task's own time-out then ends the episode in this very step, by its own rules.
            self._cut_off = last
            self._base.episode_length_buf[last] = self._base.max_episode_length
        self._stepping = True
        try:
            answer = self._step(action)
        finally:
            self._stepping = False
        _, reward, terminated, truncated, _ = answer
        for agent, part in self._parts.items():
            part += reward[agent]
        reward, terminated, truncated = map(together, (reward, terminated, truncated))
        self._returns += reward
        self._lengths += 1
        self.steps += 1
        ended = terminated | truncated
        if bool((last & ~ended).any()):
            raise RequestError(
                f"The task's episodes do not end after {self._longest} steps: it has no time-out of its own to cut "
                "them off with.",
                code="no_time_out",
                advice="Add a time-out to the task that looks at `episode_length_buf`.",
            )
        if bool(ended.any()):
            self._finish(ended.nonzero().flatten().tolist(), terminated)
        return answer

    def _finish(self, envs: list[int], terminated: Any) -> None:
        for env in envs:
            ending = self._endings.pop(env, _Ending())
            if self._left[env]:
                self._left[env] -= 1
                self._counted += 1
                by_itself = bool(terminated[env])
                self._on_episode(
                    Episode(
                        number=self._counted,
                        env=env,
                        total=float(self._returns[env]),
                        length=int(self._lengths[env]),
                        ended="terminated" if by_itself else "truncated",
                        term=CAPPED if bool(self._cut_off[env]) and not by_itself else ending.term,
                        success=ending.success,
                        rewards=ending.rewards or {agent: float(part[env]) for agent, part in self._parts.items()},
                    )
                )
            for total in (self._returns, *self._parts.values()):
                total[env] = 0.0
            self._lengths[env] = 0

    def _measure_reset(self, env_ids: Any) -> Any:
        index = env_ids.long() if hasattr(env_ids, "long") else slice(None) if env_ids is None else env_ids
        if not self._stepping:
            answer = self._reset_idx(env_ids)
            self._metric = success_metric(self._base.extras.get("log", {}))
            for total in (self._returns, *self._parts.values()):
                total[index] = 0.0
            self._lengths[index] = 0
        else:
            for env in map(int, env_ids):
                self._endings[env] = _Ending(self._term(env), self._said_success(env), self._reward_terms(env))
            with keeping_random_numbers(self._base.device) if self._undisturbed else nullcontext():
                # Isaac Lab's tasks of several agents log none before the first step.
                if (self._metric is None and not self._parts) or self._success_termination:
                    answer = self._reset_idx(env_ids)
                else:
                    # The task logs the mean over those it resets together: each by itself, it is the episode's own.
                    for place, env in enumerate(map(int, env_ids)):
                        answer = self._reset_idx(env_ids[place : place + 1])
                        self._metric = self._metric or success_metric(self._base.extras.get("log", {}))
                        if self._metric is None:
                            continue
                        value = float(self._base.extras.get("log", {}).get(self._metric, float("nan")))
                        if value not in (0.0, 1.0):
                            # A share of goals, or a mean over the past: its zeros alone would make a rate of 0.
                            self._is_no_rate = True
                        elif not bool(self._cut_off[env]):
                            self._endings[env].success = bool(value)
        # Some tasks begin episodes in their middle, to spread resets in training.
        self._base.episode_length_buf[index] = 0
        return answer

    def _term(self, env: int) -> str | None:
        """Return the name of what ended the episode, a termination before a time-out."""
        if not self._terms:
            timed_out = self._flags(TIME_OUT)[env] and not self._flags(TERMINATED)[env]
            return TIME_OUT if bool(timed_out) else None
        manager = self._base.termination_manager
        fired = [name for name in self._terms if bool(manager.get_term(name)[env])]
        return min(fired, key=lambda name: manager.get_term_cfg(name).time_out, default=None)

    def _said_success(self, env: int) -> bool | None:
        """Return the success that a termination states, before the metric is asked."""
        wanted = self._success_termination
        if wanted is None and self._metric is None and "success" in self._terms:
            wanted = "success"
        if wanted is None:
            return None
        if self._terms:
            manager = self._base.termination_manager
            times_out, fired = manager.get_term_cfg(wanted).time_out, manager.get_term(wanted)
        else:
            times_out = wanted == TIME_OUT
            fired = self._flags(TIME_OUT if times_out else TERMINATED)
        return None if times_out and bool(self._cut_off[env]) else bool(fired[env])

    def _flags(self, name: str) -> Any:
        """Return whether the episode of each environment times out, or is terminated, in a direct task."""
        if self._parts:
            return together(getattr(self._base, f"{name}_dict"))
        return self._base.reset_time_outs if name == TIME_OUT else self._base.reset_terminated

    def _reward_terms(self, env: int) -> dict[str, float]:
        sums = getattr(getattr(self._base, "reward_manager", self._base), "_episode_sums", None)
        return {name: float(values[env]) for name, values in sums.items()} if isinstance(sums, dict) else {}
