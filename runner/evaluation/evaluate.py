"""Evaluation: each policy in a fresh environment, over a fixed number of completed episodes, and its tables."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simyard.core.artifacts import EPISODES, METRICS, SUMMARY
from simyard.core.errors import Category, Failure, WorkloadError
from simyard.core.files import AttemptPaths, write_atomic, write_json
from simyard.core.specs import AttemptSpec, Facts, JobSpec, PolicyFile
from simyard.runner.evaluation.episode_statistics import Episode, EpisodeMeter
from simyard.runner.evaluation.summary import CheckpointName, Figures, summarize
from simyard.runner.isaaclab.environment import fresh_environment, settle
from simyard.runner.progress import say_activity, say_count
from simyard.runner.rl import Library, get_library
from simyard.runner.rl.base import Policy
from simyard.runner.rl.inference import load_policy
from simyard.runner.step_clock import StepClock, StepFigures
from simyard.runner.video.films import EpisodeVideo, EvaluationFilm

SAY_EVERY_S = 1.0
WRITE_EVERY_S = 5.0
"""Seconds by which `episodes.csv` may lag: it is written whole every time."""


class PolicySummary(Figures, StepFigures):
    """Figures of one policy, with all that they depend on."""

    checkpoint: CheckpointName
    task: str
    library: str
    seed: int
    num_envs: int
    steps_per_episode: int
    """Steps after which an episode was cut off."""
    videos: list[EpisodeVideo] | None
    """None if none were asked for, or could be made."""
    video_problem: str | None
    tags: dict[str, float]
    """The same figures under the tags that the task and the library log in training."""


class Summary(PolicySummary):
    """An evaluation's `summary.json`: the figures of the best policy by its mean return."""

    sweep: list[PolicySummary] | None
    """Those of every policy, fewest iterations first; None for a single one."""


def evaluate(attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
    """Measure every policy of the job, and leave tables, summary and videos in the output folder.

    Raises:
        WorkloadError: If a return is not finite, or a required video cannot be made.
    """
    began = time.monotonic()
    job = attempt.job
    assert job.evaluation is not None
    table = EpisodeTable(paths.output / EPISODES.name, job.seed)
    progress = _Progress(job.evaluation.num_episodes * len(job.policies))
    summaries = [_measure(attempt, policy, facts, paths, table, progress) for policy in job.policies]
    table.write()
    write_metrics(paths.output / METRICS.name, summaries)
    best = max(summaries, key=lambda summary: summary["return"]["mean"])
    summary: Summary = {**best, "sweep": summaries if len(summaries) > 1 else None}
    write_json(paths.output / SUMMARY.name, summary)
    print(f"Evaluation time: {time.monotonic() - began:.2f} seconds")


@contextmanager
def open_policy(
    job: JobSpec,
    policy: PolicyFile,
    facts: Facts,
    paths: AttemptPaths,
    *,
    overrides: Sequence[str] | None = None,
    num_envs: int | None = None,
    change: Callable[[Any], None] = lambda env_cfg: None,
    drawn: bool = False,
) -> Iterator[tuple[Any, Policy]]:
    """Open a policy in a fresh environment, both made as training made them, and close the environment in the end.

    The first one of an attempt also leaves their configurations in the output folder. `overrides` and `num_envs` take
    the place of the job's own; `change` and `drawn` are those of `fresh_environment`.

    Yields:
        The gymnasium environment and the policy, which drives it.
    """
    with fresh_environment(
        job.task,
        get_library(job.library),
        facts.overrides if overrides is None else overrides,
        num_envs=num_envs or job.num_envs,
        seed=job.seed,
        device=facts.device,
        steps_done=(policy.iteration or 0) * facts.rollout,
        change=change,
        drawn=drawn,
    ) as (env, agent_cfg):
        if not (paths.output / "params").exists():
            from isaaclab_rl.entrypoints.common import dump_train_configs

            dump_train_configs(str(paths.output), env.unwrapped.cfg, agent_cfg)
        normalizer = paths.inputs / policy.normalizer.name if policy.normalizer else None
        yield env, load_policy(job.library, env, agent_cfg, paths.inputs / policy.checkpoint.name, normalizer)


def _measure(
    attempt: AttemptSpec,
    policy: PolicyFile,
    facts: Facts,
    paths: AttemptPaths,
    table: EpisodeTable,
    progress: _Progress,
) -> PolicySummary:
    """Play one policy until every environment has completed its share, then draw the episodes asked for."""
    job, wanted = attempt.job, attempt.job.evaluation
    assert wanted is not None
    episodes: list[Episode] = []
    with open_policy(job, policy, facts, paths, drawn=bool(wanted.videos)) as (env, actor):
        film = EvaluationFilm(env, wanted, paths, policy.label if len(job.policies) > 1 else "")

        def count(episode: Episode) -> None:
            _require_finite(episode)
            episodes.append(episode)
            table.add(policy, episode)
            film.consider(episode)
            progress.count(episode)

        meter = EpisodeMeter(
            env,
            episodes=wanted.num_episodes,
            longest=wanted.steps_per_episode,
            seed=job.seed,
            success_termination=wanted.success_termination,
            before_step=film.capture,
            on_episode=count,
        )
        longest_s = float(env.unwrapped.max_episode_length_s)
        say_activity(f"playing {wanted.num_episodes} episodes")
        settle(env, job.seed)
        actor.begin()
        clock = StepClock(job.num_envs)
        while not meter.done:
            actor.step()
            clock.note(meter.steps)
            progress.alive()
        progress.say()
        if meter.success_source is None:
            table.forget_success(policy)
        table.write()  # a crash in a graphics driver takes the process along, and not what was measured
        videos, problem = film.develop(progress.alive)
    if wanted.require_video and not videos:
        raise WorkloadError(
            Failure(
                code="video_impossible",
                category=Category.USER,
                message=f"The video that the request requires cannot be made: {problem}",
                advice="Set requireVideo to false to evaluate without it; the episodes are in episodes.csv.",
            )
        )
    checkpoint = policy.checkpoint
    figures = summarize(episodes, meter.success_source)
    return {
        "checkpoint": {"name": checkpoint.name, "sha256": checkpoint.sha256, "iteration": policy.iteration},
        "task": job.task,
        "library": job.library,
        "seed": job.seed,
        "num_envs": job.num_envs,
        "steps_per_episode": wanted.steps_per_episode,
        **figures,
        **clock.figures(),
        "videos": videos,
        "video_problem": problem,
        "tags": logged(figures, get_library(job.library), longest_s),
    }


def logged(figures: Figures, library: Library, longest_s: float) -> dict[str, float]:
    """Return figures under the tags of TensorBoard that training logs them by.

    Args:
        figures: Those of a policy.
        library: Its library, which has its own names for return and length.
        longest_s: Seconds of the task's longest episode: managers divide the sums of reward terms by it.
    """
    rate, count = figures["success"]["rate"], figures["episodes"]
    return {
        library.reward_tag: figures["return"]["mean"],
        library.length_tag: figures["length"]["mean"],
        **{f"Episode_Reward/{name}": total / longest_s for name, total in figures["reward_terms"].items()},
        **{f"Episode_Termination/{name}": times / count for name, times in figures["ended"]["terms"].items()},
        **({} if rate is None else {"Metrics/success_rate": rate}),
    }


class _Progress:
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


# --- tables -----------------------------------------------------------------------------------------------------------


class EpisodeTable:
    """`episodes.csv`, which grows while the evaluation runs."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        self._seed = seed
        self._rows: list[dict[str, object]] = []
        self._written = time.monotonic()

    def add(self, policy: PolicyFile, episode: Episode) -> None:
        """Add a row; an empty cell is a value nobody measured."""
        self._rows.append(
            {
                "checkpoint": policy.checkpoint.name,
                "iteration": policy.iteration,
                "episode": episode.number,
                "env": episode.env,
                "seed": self._seed,
                "return": repr(episode.total),
                "length": episode.length,
                "ended": episode.ended,
                "term": episode.term,
                "success": None if episode.success is None else int(episode.success),
                **{f"reward.{name}": repr(value) for name, value in episode.rewards.items()},
            }
        )
        if time.monotonic() - self._written > WRITE_EVERY_S:
            self.write()

    def forget_success(self, policy: PolicyFile) -> None:
        """Empty the cells of a metric that turned out to say nothing of single episodes."""
        for row in self._rows:
            if row["checkpoint"] == policy.checkpoint.name:
                row["success"] = None

    def write(self) -> None:
        """Write all rows."""
        write_rows(self._path, self._rows)
        self._written = time.monotonic()


def write_metrics(path: Path, summaries: Iterable[PolicySummary]) -> None:
    """Write `metrics.csv`: one row a checkpoint, whose last columns are tags of TensorBoard."""
    rows = []
    for summary in summaries:
        returns, success = summary["return"], summary["success"]
        low, high = returns["interval_95"] or (None, None)
        success_low, success_high = success["interval_95"] or (None, None)
        rows.append(
            {
                "step": summary["checkpoint"]["iteration"],
                "checkpoint": summary["checkpoint"]["name"],
                "episodes": summary["episodes"],
                "return_mean": returns["mean"],
                "return_std": returns["std"],
                "return_median": returns["median"],
                "return_low_95": low,
                "return_high_95": high,
                "length_mean": summary["length"]["mean"],
                "success_rate": success["rate"],
                "success_low_95": success_low,
                "success_high_95": success_high,
                **{f"reward.{name}": value for name, value in summary["reward_terms"].items()},
                **summary["tags"],
            }
        )
    write_rows(path, rows)


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as CSV, whole; what a row does not have is an empty cell."""
    text = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())
