"""Evaluation: each policy in a fresh environment, over a fixed number of completed episodes, and its tables."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from simyard.core.artifacts import EPISODES, METRICS, SUMMARY
from simyard.core.errors import Category, Failure, WorkloadError
from simyard.core.files import AttemptPaths, write_json
from simyard.core.specs import AttemptSpec, Facts, InputFile, JobSpec, PolicyFile
from simyard.runner.evaluation.across import Comparison, Played, Report, traced
from simyard.runner.evaluation.episode_statistics import Episode, EpisodeMeter, quotas, simulated
from simyard.runner.evaluation.failures import FailureRecording, Recorded
from simyard.runner.evaluation.robustness import ArmPlayed, Robustness, RobustnessReport
from simyard.runner.evaluation.sequential import Rounds, Sequential
from simyard.runner.evaluation.summary import CheckpointName, Figures, summarize
from simyard.runner.evaluation.tables import EpisodeTable, write_metrics
from simyard.runner.evaluation.traces import Tracer, replay
from simyard.runner.evaluation.unlearned import Unlearned
from simyard.runner.isaaclab.arms import CONTROL, Arms
from simyard.runner.isaaclab.conditions import set_conditions
from simyard.runner.isaaclab.environment import fresh_environment, settle
from simyard.runner.isaaclab.lookup import overrides_under
from simyard.runner.progress import say_activity, say_count
from simyard.runner.rl import Library, get_library
from simyard.runner.rl.base import Policy
from simyard.runner.rl.inference import load_policy
from simyard.runner.step_clock import StepClock, StepFigures
from simyard.runner.video.films import EpisodeVideo, EvaluationFilm, RobustnessFilm
from simyard.runner.video.pairs import film_pairs

SAY_EVERY_S = 1.0


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
    agents: list[str] | None
    """Agents of the task, whose rewards add up to the return; None for a task of one."""
    across: Comparison | None
    """The policy in every engine, of which the figures above are the first one's; None where one was asked for."""
    robustness: Robustness | None
    """The policy under other conditions, beside the figures above, its control arm's; None where none were varied."""
    sequential: Sequential | None
    """How it ended, where a precision was to be reached; None where the episodes were fixed beforehand."""
    recorded: Recorded | None
    """The failed episodes that were kept as data; None where none were asked for."""


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
    job, wanted = attempt.job, attempt.job.evaluation
    assert wanted is not None
    table = EpisodeTable(paths.output / EPISODES.name, job.seed)
    policies = job.policies or tuple(map(_nobodys, wanted.actions or ()))
    progress = _Progress(wanted.num_episodes * len(policies) * wanted.times)
    measure = _Measurement(attempt, facts, paths, table, progress)
    play = measure.across if wanted.across else measure.varied if wanted.arms else measure.alone
    summaries = [play(policy) for policy in policies]
    table.write()
    write_metrics(paths.output / METRICS.name, summaries)
    best = max(summaries, key=lambda summary: summary["return"]["mean"])
    summary: Summary = {**best, "sweep": summaries if len(summaries) > 1 else None}
    write_json(paths.output / SUMMARY.name, summary)
    print(f"Evaluation time: {time.monotonic() - began:.2f} seconds")


def _nobodys(actions: str) -> PolicyFile:
    """Return what stands for actions that nobody has learned, where policies have their checkpoint."""
    return PolicyFile(checkpoint=InputFile(name=actions, key="", sha256="", size_bytes=0))


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
        agent=job.agent,
        order=job.order or facts.physics,
    ) as (env, agent_cfg):
        if not (paths.output / "params").exists():
            from isaaclab_rl.entrypoints.common import dump_train_configs

            dump_train_configs(str(paths.output), env.unwrapped.cfg, agent_cfg)
        if job.evaluation and job.evaluation.actions:
            yield env, Unlearned(env, policy.checkpoint.name, job.seed)
            return
        normalizer = paths.inputs / policy.normalizer.name if policy.normalizer else None
        yield env, load_policy(job.library, env, agent_cfg, paths.inputs / policy.checkpoint.name, normalizer)


class _Measurement:
    """Measurement of policies, in their job's own engine or in several."""

    def __init__(
        self, attempt: AttemptSpec, facts: Facts, paths: AttemptPaths, table: EpisodeTable, progress: _Progress
    ) -> None:
        assert attempt.job.evaluation is not None
        self._job, self._wanted = attempt.job, attempt.job.evaluation
        self._facts, self._paths, self._table, self._progress = facts, paths, table, progress
        self._report = Report(paths.output, self._wanted.across[0]) if self._wanted.across else None
        self._robustness = RobustnessReport(paths.output, self._wanted) if self._wanted.arms else None

    def alone(self, policy: PolicyFile) -> PolicySummary:
        """Play one policy until every environment has completed its share, then draw the episodes asked for."""
        label = policy.label if len(self._job.policies) > 1 else ""
        drawn = bool(self._wanted.videos)
        with open_policy(self._job, policy, self._facts, self._paths, drawn=drawn) as (env, actor):
            film = EvaluationFilm(env, self._wanted, self._paths, label)

            def count(episode: Episode) -> None:
                self._table.add(policy, episode)
                film.consider(episode)

            played = self._play(env, actor, count, before_step=film.capture)
            self._keep(policy, played)
            videos, problem = film.develop(self._progress.alive)
        return self._summary(policy, played, videos, problem)

    def across(self, policy: PolicyFile) -> PolicySummary:
        """Play one policy in every engine from the same starts, compare them, and draw pairs side by side."""
        assert self._wanted.across and self._report
        played: list[Played] = []
        for physics in self._wanted.across:
            overrides = overrides_under(physics, self._job, self._facts.device, self._facts.overrides)
            with open_policy(self._job, policy, self._facts, self._paths, overrides=overrides) as (env, actor):
                tracer = Tracer(env)
                count = (lambda episode: None) if played else partial(self._table.add, policy)
                one = self._play(env, actor, count, undisturbed=True)
                one = replace(one, physics=physics, trace=tracer.close())
                if played:
                    # Open loop: from the same starts once more, with the first engine's actions.
                    actions = traced(played[0]).actions
                    again = replay(env, actions, lambda: self._begin(env, actor), self._progress.alive)
                    one = replace(one, replayed=again)
            if not played:
                self._keep(policy, one)
            played.append(one)
        comparison = self._report.add(self._identity(policy), played)
        label = policy.label if len(self._job.policies) > 1 else ""
        videos, problem = film_pairs(self._job, self._facts, self._paths, played, label, self._progress.alive)
        return self._summary(policy, played[0], videos, problem, comparison)

    def varied(self, policy: PolicyFile) -> PolicySummary:
        """Play one policy under all conditions side by side, and compare each with the control arm pair by pair."""
        wanted, job = self._wanted, self._job
        assert wanted.arms and self._robustness
        arms, counts = Arms(job.num_envs, 1 + len(wanted.arms)), Counter[int]()
        label, drawn = policy.label if len(job.policies) > 1 else "", bool(wanted.videos)
        with (
            arms.matched(job.task),
            open_policy(job, policy, self._facts, self._paths, num_envs=arms.total, drawn=drawn) as (env, actor),
        ):
            set_conditions(env, arms, wanted.arms, job.seed)
            film = RobustnessFilm(env, wanted, self._paths, label, arms.arm_of)

            def count(episode: Episode) -> None:
                # An arm's episodes have its own numbers, so that the control arm's are those of a plain evaluation.
                arm = arms.arm_of(episode.env)
                counts[arm] += 1
                numbered = replace(episode, number=arm * arms.pairs + counts[arm])
                if arm == CONTROL:
                    self._table.add(policy, numbered)
                film.consider(numbered)

            played = self._play(env, actor, count, before_step=film.capture, num_envs=arms.total)
            if played.success_source is None:
                self._table.forget_success(policy)
            control, *others = (played.pairs[first : first + arms.pairs] for first in range(0, arms.total, arms.pairs))
            met = [ArmPlayed(arm=arm, episodes=episodes) for arm, episodes in zip(wanted.arms, others, strict=True)]
            found = self._robustness.add(self._identity(policy), control, met, played.success_source)
            self._table.write()
            film.choose({arm["name"]: arm["score"] for arm in found["arms"]})
            videos, problem = film.develop(self._progress.alive)
        alone = replace(played, episodes=[one for one in played.episodes if arms.arm_of(one.env) == CONTROL])
        return self._summary(policy, alone, videos, problem, robustness=found)

    def _play(
        self,
        env: Any,
        actor: Policy,
        count: Callable[[Episode], None],
        *,
        num_envs: int | None = None,
        before_step: Callable[[Any], None] = lambda steps: None,
        undisturbed: bool = False,
    ) -> Played:
        """Play until every environment has completed its share; of `num_envs` each has one episode."""
        episodes: list[Episode] = []
        recording: FailureRecording | None = None

        def counted(episode: Episode) -> None:
            episodes.append(episode)
            count(episode)
            self._progress.count(episode)
            if recording is not None:
                recording.tell(episode)

        until, rounds = self._wanted.until, None
        if until is not None:
            rounds = Rounds(until, quotas(self._wanted.num_episodes, self._job.num_envs, self._job.seed), counted)

        def on_episode(episode: Episode) -> None:
            _require_finite(episode)
            (rounds.add if rounds else counted)(episode)

        meter = EpisodeMeter(
            env,
            episodes=num_envs or self._wanted.num_episodes,
            longest=self._wanted.steps_per_episode,
            seed=self._job.seed,
            success_termination=self._wanted.success_termination,
            undisturbed=undisturbed,
            before_step=before_step,
            on_episode=on_episode,
        )
        longest_s, longest = float(env.unwrapped.max_episode_length_s), self._wanted.steps_per_episode
        if self._wanted.record:
            recording = FailureRecording(env, self._job, self._facts, self._paths, longest)
        say_activity(f"playing {num_envs or self._wanted.num_episodes} episodes")
        self._begin(env, actor)
        clock = StepClock(num_envs or self._job.num_envs)
        while not meter.done and not (rounds and rounds.is_enough):
            actor.step()
            clock.note(meter.steps)
            self._progress.alive()
        self._progress.say()
        return Played(
            episodes=episodes,
            success_source=meter.success_source,
            speed=clock.figures(),
            longest_s=longest_s,
            agents=list(getattr(simulated(env), "possible_agents", ())) or None,
            sequential=rounds.figures if rounds else None,
            recorded=recording.seal() if recording else None,
        )

    def _begin(self, env: Any, actor: Policy) -> None:
        settle(env, self._job.seed)
        actor.begin()

    def _keep(self, policy: PolicyFile, played: Played) -> None:
        """Write the episodes down before anything is drawn: a graphics driver that crashes takes the process along."""
        if played.success_source is None:
            self._table.forget_success(policy)
        self._table.write()

    def _identity(self, policy: PolicyFile) -> CheckpointName:
        return {"name": policy.checkpoint.name, "sha256": policy.checkpoint.sha256, "iteration": policy.iteration}

    def _summary(
        self,
        policy: PolicyFile,
        played: Played,
        videos: list[EpisodeVideo] | None,
        problem: str | None,
        across: Comparison | None = None,
        robustness: Robustness | None = None,
    ) -> PolicySummary:
        if self._wanted.require_video and not videos:
            raise WorkloadError(
                Failure(
                    code="video_impossible",
                    category=Category.USER,
                    message=f"The video that the request requires cannot be made: {problem}",
                    advice="Set requireVideo to false to evaluate without it; the episodes are in episodes.csv.",
                )
            )
        figures = summarize(played.episodes, played.success_source)
        return {
            "checkpoint": self._identity(policy),
            "task": self._job.task,
            "library": self._job.library,
            "seed": self._job.seed,
            "num_envs": self._job.num_envs,
            "steps_per_episode": self._wanted.steps_per_episode,
            **figures,
            **played.speed,
            "videos": videos,
            "video_problem": problem,
            "tags": logged(figures, get_library(self._job.library), played.longest_s),
            "agents": played.agents,
            "across": across,
            "robustness": robustness,
            "sequential": played.sequential,
            "recorded": played.recorded,
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
