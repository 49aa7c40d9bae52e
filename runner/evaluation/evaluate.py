"""Evaluation: each policy in a fresh environment, over a fixed number of completed episodes."""

from __future__ import annotations

import math
import time
from typing import Any

from simyard.core.artifacts import EPISODES, METRICS, SUMMARY
from simyard.core.errors import Category, Failure, WorkloadError
from simyard.core.files import AttemptPaths, write_json
from simyard.core.specs import AttemptSpec, Facts, PolicyFile
from simyard.runner.evaluation.episode_statistics import Episode, EpisodeMeter
from simyard.runner.evaluation.summary import summarize
from simyard.runner.evaluation.tables import EpisodeTable, write_metrics
from simyard.runner.isaaclab.environment import fresh_environment, settle
from simyard.runner.progress import say_activity, say_count
from simyard.runner.rl import get_library
from simyard.runner.rl.inference import load_policy
from simyard.runner.video.evaluation_videos import Film

SAY_EVERY_S = 1.0


def evaluate(attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
    """Measure every policy of the job, and leave tables, summary and videos in the output folder.

    Raises:
        WorkloadError: If a return is not finite, or a required video cannot be made.
    """
    began = time.monotonic()
    job = attempt.job
    assert job.evaluation is not None
    table = EpisodeTable(paths.output / EPISODES.name, job.seed)
    counter = _Counter(job.evaluation.num_episodes * len(job.policies))
    summaries = [_measure(attempt, policy, facts, paths, table, counter) for policy in job.policies]
    table.write()
    write_metrics(paths.output / METRICS.name, summaries)
    best = max(summaries, key=lambda summary: summary["return"]["mean"])
    write_json(paths.output / SUMMARY.name, best | {"sweep": summaries if len(summaries) > 1 else None})
    print(f"Evaluation time: {time.monotonic() - began:.2f} seconds")


def _measure(
    attempt: AttemptSpec, policy: PolicyFile, facts: Facts, paths: AttemptPaths, table: EpisodeTable, counter: _Counter
) -> dict[str, Any]:
    job, wanted = attempt.job, attempt.job.evaluation
    assert wanted is not None
    episodes: list[Episode] = []
    with fresh_environment(
        job.task, get_library(job.library), facts.overrides, num_envs=job.num_envs, seed=job.seed, device=facts.device
    ) as (env, agent_cfg):
        _keep_configuration(env, agent_cfg, paths)
        film = Film(env, wanted, paths, policy.label if len(job.policies) > 1 else "")

        def count(episode: Episode) -> None:
            _require_finite(episode)
            episodes.append(episode)
            table.add(policy, episode)
            film.consider(episode)
            counter.count(episode)

        meter = EpisodeMeter(
            env,
            episodes=wanted.num_episodes,
            longest=wanted.steps_per_episode,
            success_termination=wanted.success_termination,
            before_step=film.capture,
            on_episode=count,
        )
        normalizer = paths.inputs / policy.normalizer.name if policy.normalizer else None
        actor = load_policy(job.library, env, agent_cfg, paths.inputs / policy.checkpoint.name, normalizer)
        say_activity(f"playing {wanted.num_episodes} episodes")
        settle(env, job.seed)
        actor.begin()
        started = time.monotonic()
        while not meter.done:
            actor.step()
            counter.alive()
        counter.say()
        seconds = time.monotonic() - started
        if meter.success_source is None:
            table.forget_success(policy)
        table.write()  # a crash in a graphics driver takes the process along, and not what was measured
        videos, problem = film.develop(counter.alive)
    if wanted.require_video and not videos:
        raise WorkloadError(_no_video(problem))
    identity = {"name": policy.checkpoint.name, "sha256": policy.checkpoint.sha256, "iteration": policy.iteration}
    return {
        "checkpoint": identity,
        "task": job.task,
        "library": job.library,
        "seed": job.seed,
        "num_envs": job.num_envs,
        "steps_per_episode": wanted.steps_per_episode,
        **summarize(episodes, meter.success_source),
        "environment_steps_per_second": round(meter.steps * job.num_envs / seconds, 1),
        "videos": videos,
        "video_problem": problem,
    }


class _Counter:
    """Prints progress: every second, and nothing that anybody measures depends on it."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._signs = 0
        self._sum = 0.0
        self._said = 0.0

    def count(self, episode: Episode) -> None:
        self._done += 1
        self._sum += episode.total

    def alive(self) -> None:
        """Print the progress, if the last line is a while ago."""
        self._signs += 1
        if time.monotonic() - self._said > SAY_EVERY_S:
            self.say()

    def say(self) -> None:
        """Print the progress."""
        mean = self._sum / self._done if self._done else None
        say_count("episode", self._done, self._total, step=self._signs, reward=mean)
        self._said = time.monotonic()


def _require_finite(episode: Episode) -> None:
    if not math.isfinite(episode.total):
        raise WorkloadError(
            Failure(
                code="return_not_finite",
                category=Category.USER,
                message=f"The return of episode {episode.number} (environment {episode.env}) is {episode.total}.",
                advice="The physics or a reward term gives NaN with this policy; nothing can be averaged.",
            )
        )


def _no_video(problem: str | None) -> Failure:
    return Failure(
        code="video_impossible",
        category=Category.USER,
        message=f"The video that the request requires cannot be made: {problem}",
        advice="Set requireVideo to false to evaluate without it; the episodes are in episodes.csv.",
    )


def _keep_configuration(env: Any, agent_cfg: Any, paths: AttemptPaths) -> None:
    """Write the configurations of environment and agent, as training does."""
    from isaaclab_rl.entrypoints.common import dump_train_configs

    if not (paths.output / "params").exists():
        dump_train_configs(str(paths.output), env.unwrapped.cfg, agent_cfg)
