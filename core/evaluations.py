"""Evaluations of a training while it goes on, `evaluations.json`, and what follows from them.

Everything here is judged from the records alone, so that an attempt that goes on after a crash judges the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from simyard.core.specs import StopWhen
from simyard.core.wire import ABSENT, Wire

METRICS = ("success_rate", "return")
"""What a checkpoint may be chosen by: the first of them that was measured."""
CLIMBING = 4
"""Evaluated checkpoints over which rewards and success are compared: two or three rise together by chance."""
SOLVED = 0.95
"""Success rate above which more is no longer asked of it."""
BY_ITSELF = 0.5
"""Success rate of actions that nobody has learned from which on success is doubtful."""


@dataclass(frozen=True, kw_only=True)
class Figure(Wire):
    """Mean of an evaluation."""

    value: float
    interval_95: tuple[float, float] | None
    """Confidence interval; None for a single episode."""

    def in_words(self) -> str:
        """Return the mean with its interval."""
        bounds = "" if self.interval_95 is None else " [{:.4g}, {:.4g}]".format(*self.interval_95)
        return f"{self.value:.4g}{bounds}"


@dataclass(frozen=True, kw_only=True)
class EvaluatedCheckpoint(Wire):
    """A checkpoint that is to be evaluated, or was."""

    iteration: int
    checkpoint: str
    """Name of its file."""
    sha256: str
    job_id: str | None = None
    """The evaluation, a job of its own; None until it begins."""
    reward: float | None = None
    """Mean return that the training had logged by then; None where it had logged none."""
    episodes: int | None = None
    """Episodes that were counted; None until it has ended."""
    success_rate: Figure | None = None
    """None where it was not measured."""
    returns: Figure | None = None
    """Return of an episode; None where it was not measured."""
    problem: str | None = field(default=None, metadata=ABSENT)
    """Failure of the evaluation; None where there was none."""

    @property
    def is_waiting(self) -> bool:
        """Whether it has not ended in any way."""
        return self.episodes is None and self.problem is None

    def figure(self, metric: str) -> Figure | None:
        """Return the figure of a metric; None where it was not measured."""
        return self.success_rate if metric == "success_rate" else self.returns


@dataclass(frozen=True, kw_only=True)
class Unlearned(Wire):
    """Earnings of actions that nobody has learned."""

    actions: str
    """`zero`, `random` or `held`."""
    episodes: int
    returns: Figure
    success_rate: Figure | None
    """None where the task does not say."""
    reward_terms: dict[str, float]
    """Mean part of the return of each reward term; empty where the task names none."""


@dataclass(frozen=True, kw_only=True)
class RewardAudit(Wire):
    """Earnings of unlearned actions by reward term."""

    job_id: str | None = None
    """The evaluation that measured them; None until it begins."""
    earned: tuple[Unlearned, ...] = ()
    problem: str | None = field(default=None, metadata=ABSENT)
    """Failure of the evaluation; None where there was none."""

    @property
    def is_waiting(self) -> bool:
        """Whether it has not ended in any way."""
        return not self.earned and self.problem is None


@dataclass(frozen=True, kw_only=True)
class Evaluations(Wire):
    """The evaluations of a training."""

    asked: str | None = None
    """The metric that was asked for; None takes success where the task tells of it."""
    checkpoints: tuple[EvaluatedCheckpoint, ...] = ()
    """Fewest iterations first."""
    audit: RewardAudit | None = field(default=None, metadata=ABSENT)
    """None where none was asked for."""
    schema_version: int = 1

    @property
    def metric(self) -> str:
        """The metric that counts."""
        known = [name for name in METRICS if any(one.figure(name) for one in self.checkpoints)]
        return self.asked or (known[0] if known else METRICS[-1])

    @property
    def measured(self) -> list[tuple[EvaluatedCheckpoint, Figure]]:
        """The checkpoints of which the metric that counts was measured, with its figure."""
        found = ((one, one.figure(self.metric)) for one in self.checkpoints)
        return [(one, figure) for one, figure in found if figure is not None]

    @property
    def ranked(self) -> list[EvaluatedCheckpoint]:
        """The measured checkpoints, the best first; of equal ones that with the higher return, then the earlier one."""

        def worth(pair: tuple[EvaluatedCheckpoint, Figure]) -> tuple[float, float]:
            return pair[1].value, pair[0].returns.value if pair[0].returns else float("-inf")

        return [one for one, _ in sorted(self.measured, key=worth, reverse=True)]

    def why_stop(self, wanted: StopWhen) -> str | None:
        """Return the reason to end the training, in words; None where it goes on."""
        name, count, best = self.metric.replace("_", " "), 0, None
        for one, figure in self.measured:
            low = figure.interval_95[0] if figure.interval_95 else None
            if wanted.target is not None and low is not None and low >= wanted.target:
                return f"{name} {figure.in_words()} at iteration {one.iteration} has reached {wanted.target:g}"
            if best is None or figure.value > best[1].value:
                best, count = (one, figure), 0
            else:
                count += 1
            if wanted.plateau is not None and count >= wanted.plateau:
                held = f"{name} {best[1].in_words()} of iteration {best[0].iteration}"
                return f"no checkpoint of the last {count} that were evaluated is better than {held}"
        return None

    @property
    def warnings(self) -> list[str]:
        """What makes the figures doubtful, in words."""
        found = [] if (rising := self._rising_alone) is None else [rising]
        best = max((one.returns.value for one in self.checkpoints if one.returns), default=None)
        for one in self.audit.earned if self.audit else ():
            rate = one.success_rate
            if rate is not None and rate.interval_95 is not None and rate.interval_95[0] >= BY_ITSELF:
                found.append(
                    f"{one.actions} actions succeed in {rate.in_words()} of their episodes: success says little"
                )
            if best is not None and one.returns.value >= best:
                found.append(
                    f"{one.actions} actions earn {one.returns.in_words()}, and no checkpoint that was evaluated earned "
                    f"more than {best:.4g}"
                )
        return found

    @property
    def _rising_alone(self) -> str | None:
        """The warning that rewards rise while success does not, in words; None where there is no reason for one.

        The last checkpoints count: each has a higher reward than the one before, and the last succeeds no more often
        than the first of them. Where success rises with the rewards, that is rare; where it does not, it is seen soon.
        """
        last = [one for one in self.checkpoints if one.success_rate and one.reward is not None][-CLIMBING:]
        rewards = [one.reward for one in last if one.reward is not None]
        rates = [one.success_rate.value for one in last if one.success_rate]
        rises = all(before < after for before, after in pairwise(rewards))
        if len(last) < CLIMBING or not rises or rates[-1] > rates[0] or rates[-1] >= SOLVED:
            return None
        return (
            f"the reward rises and success does not: from iteration {last[0].iteration} to {last[-1].iteration} the "
            f"reward went from {rewards[0]:.4g} to {rewards[-1]:.4g} in {CLIMBING} evaluated checkpoints, and success "
            f"from {_share(last[0])} to {_share(last[-1])}; look at what the policy is paid for"
        )

    @property
    def problems(self) -> list[str]:
        """What was asked for and not measured, in words."""
        found = [f"the evaluation of iteration {one.iteration} failed: {one.problem}"
                 for one in self.checkpoints if one.problem is not None]  # fmt: skip
        if waiting := [one.iteration for one in self.checkpoints if one.is_waiting]:
            found.append(f"not evaluated: iterations {', '.join(map(str, waiting))}")
        if self.audit is not None and self.audit.problem is not None:
            found.append(f"the reward audit failed: {self.audit.problem}")
        if self.asked and not self.measured and any(one.episodes for one in self.checkpoints):
            found.append(f"{self.asked} was not measured: the task does not tell whether an episode has succeeded")
        return found

    def to_summary(self) -> dict[str, Any] | None:
        """Return the figures of the result; None where nothing was measured."""
        ranked = self.ranked
        if not ranked:
            return None
        best = ranked[0].figure(self.metric)
        assert best is not None
        return {
            "metric": self.metric,
            "evaluated": len(ranked),
            "best": ranked[0].checkpoint,
            "iteration": ranked[0].iteration,
            "value": best.value,
            "interval_95": best.interval_95 and list(best.interval_95),
        }


def _share(one: EvaluatedCheckpoint) -> str:
    assert one.success_rate is not None
    return one.success_rate.in_words()
