"""State of a sweep: all that follows from its decisions, and from nothing else.

The driver makes a decision, writes it, and applies it here; a process that goes on applies those of the store. So both
know the same, and go on alike: what is suggested, promoted, pruned or copied next follows from this state alone.

The same seed gives the same suggestions, whatever finishes first: setting n is suggested once the settings up to n - L
were measured at their first rung, and from those alone, where L is how many settings are trained side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from simyard.core.sweep_records import Copied, Decision, SeedRun, Setting
from simyard.requests.sweeps import SweepRequest
from simyard.tasks.sweeps import population, rungs
from simyard.tasks.sweeps.rungs import Standing, brackets_of
from simyard.tasks.sweeps.study import Study, Values

Move = dict[str, Any]
"""The fields of a decision that are not its number and its time."""


@dataclass(frozen=True)
class Piece:
    """The training of a setting with one seed from one rung to the next, and its measurement."""

    setting: int
    rung: int
    seed: int
    iterations: int
    """Iterations at its end, counted from the beginning of the sweep's training."""
    is_last: bool
    """Whether nothing comes after it."""
    earlier: SeedRun | None
    """What it goes on from, of this setting or of the one that it copies; None begins the training."""
    own: SeedRun | None
    """The setting's own run before it, whose jobs cost what they cost."""


@dataclass
class _Member:
    """A setting in progress."""

    number: int
    bracket: int
    values: dict[str, Any]
    rung: int = 0
    state: Literal["running", "complete", "pruned", "failed"] = "running"
    runs: dict[int, dict[int, SeedRun]] = field(default_factory=dict)
    """What was measured, by rung and seed."""
    sources: dict[int, int] = field(default_factory=dict)
    """The member whose state it took up, by the rung that it began with that."""
    copies: list[Copied] = field(default_factory=list)


class State:
    """The state of a sweep after some decisions."""

    def __init__(self, asked: SweepRequest, iterations: int) -> None:
        """Begin with no decision.

        Args:
            asked: The request.
            iterations: Of a training that nothing ends early.
        """
        self.asked = asked
        self.config = asked.sweep
        self.brackets = brackets_of(self.config.scheduler, iterations)
        self.decisions = 0
        """Number of the last decision."""
        self.parallel = self.config.parallel if isinstance(self.config.parallel, int) else 1
        self.is_measured_out = isinstance(self.config.parallel, int)
        """Whether it is known how many trainings go side by side."""
        self.ended_by: str | None = None
        self.members: list[_Member] = []
        self._sign = 1.0 if self.config.main.mode == "max" else -1.0
        self._studies = [Study(self.config, bracket) for bracket in range(len(self.brackets))]
        self._known: list[list[dict[int, Values]]] = [[] for _ in self.brackets]
        """For each setting of a bracket, what was told before it was suggested."""

    # --- what has happened ----------------------------------------------------------------------------------------

    def apply(self, decision: Decision) -> None:
        """Take a decision into account."""
        self.decisions = decision.number
        match decision.kind:
            case "parallel":
                assert decision.parallel is not None
                self.parallel, self.is_measured_out = decision.parallel, True
            case "ended":
                self.ended_by = decision.why
            case "suggested":
                assert decision.values is not None
                bracket = decision.bracket or 0
                self._known[bracket].append(self._to_tell(bracket))
                self.members.append(_Member(len(self.members), bracket, decision.values))
            case "measured":
                self._measure(self._member(decision), decision)
            case "promoted":
                self._member(decision).rung += 1
            case "pruned":
                self._member(decision).state = "pruned"
            case "copied":
                member = self._member(decision)
                assert decision.source is not None and decision.values is not None
                member.rung += 1
                member.sources[member.rung] = decision.source
                member.copies.append(Copied(rung=member.rung, source=decision.source, values=member.values))
                member.values = decision.values

    def _measure(self, member: _Member, decision: Decision) -> None:
        run = decision.run
        assert run is not None and decision.rung is not None
        member.runs.setdefault(decision.rung, {})[run.seed] = run
        if any(True for _ in self._open(member)):
            return
        if not any(one.value is not None for one in member.runs[member.rung].values()):
            member.state = "failed"
        elif member.rung == len(self.brackets[member.bracket]) - 1:
            member.state = "complete"

    def _member(self, decision: Decision) -> _Member:
        assert decision.setting is not None
        return self.members[decision.setting]

    # --- what may be done now -------------------------------------------------------------------------------------

    def pieces(self) -> Iterator[Piece]:
        """Yield the trainings that are decided on and not measured yet; those of higher rungs first."""
        for member in sorted(self.members, key=lambda one: (-one.rung, one.number)):
            yield from self._open(member)

    def _open(self, member: _Member) -> Iterator[Piece]:
        """Yield what is left to train of a setting at its rung; a seed that has failed is not gone on with."""
        if member.state != "running":
            return
        done = member.runs.get(member.rung, {})
        source = self.members[member.sources[member.rung]] if member.rung in member.sources else member
        for seed in self.asked.seeds:
            before = source.runs.get(member.rung - 1, {}).get(seed)
            own = member.runs.get(member.rung - 1, {}).get(seed)
            if seed in done or (member.rung > 0 and (before is None or before.failure is not None)):
                continue
            *earlier, last = self.brackets[member.bracket]
            iterations = [*earlier, last][member.rung]
            yield Piece(member.number, member.rung, seed, iterations, member.rung == len(earlier), before, own)

    def next_move(self) -> Move | None:
        """Return the next decision on the settings; None where one is waited for, or nothing is left to decide."""
        if self.config.scheduler.kind == "pbt":
            return self._suggestion() or self._of_population()
        if self.config.scheduler.kind != "none":
            for index, bracket in enumerate(self.brackets):
                there = [self._standing(one) for one in self.members if one.bracket == index]
                is_whole = len(self.members) >= self.config.settings
                factor = self.config.scheduler.reduction_factor
                if move := rungs.next_move(there, len(bracket) - 1, factor, is_whole=is_whole):
                    member = self.members[move.number]
                    kind, rung = ("promoted", member.rung + 1) if move.goes_on else ("pruned", member.rung)
                    return {"kind": kind, "setting": move.number, "rung": rung, "why": move.why}
        return self._suggestion()

    def _suggestion(self) -> Move | None:
        """Return the next suggestion, once enough is known for it."""
        number = len(self.members)
        if number >= self.config.settings:
            return None
        counts = [sum(one.bracket == index for one in self.members) for index in range(len(self.brackets))]
        bracket = rungs.bracket_of(self.brackets, self.config.scheduler.reduction_factor, counts)
        study = self._studies[bracket]
        if study.learns and any(self._first_value(one) is _UNKNOWN for one in self._told):
            return None
        if self.config.sampler == "grid":
            values = study.of_grid(number)
        else:
            values = study.suggest([*self._known[bracket], self._to_tell(bracket)])
        why = "the grid's next" if self.config.sampler == "grid" else f"suggested by {self.config.sampler}"
        more = {"bracket": bracket} if len(self.brackets) > 1 else {}
        return {"kind": "suggested", "setting": number, "rung": 0, "values": values, "why": why, **more}

    def _of_population(self) -> Move | None:
        """Return the next step of a member, once all that are alive were measured at the rung of the last of them."""
        rung = min((one.rung for one in self.members if one.state == "running"), default=None)
        alive = [one for one in self.members if one.state == "running" and one.rung == rung]
        if rung is None or any(True for one in alive for _ in self._open(one)):
            return None
        measured = [
            (one.number, value)
            for one in self.members
            if one.state != "failed" and (value := self._value(one, rung)) is not None
        ]
        values = {one.number: self._values_at(one, rung) for one in self.members}
        behind = {one.number for one in alive}
        for step in population.steps(measured, values, rung, self.config):
            if step.number in behind:
                move: Move = {"setting": step.number, "rung": rung + 1, "why": step.why}
                if step.source is None:
                    return move | {"kind": "promoted"}
                return move | {"kind": "copied", "source": step.source, "values": step.values}
        return None

    def _values_at(self, member: _Member, rung: int) -> dict[str, Any]:
        """Return the values that a member had at a rung."""
        later = [one for one in member.copies if one.rung > rung]
        return later[0].values if later else member.values

    # --- what is known --------------------------------------------------------------------------------------------

    @property
    def _lag(self) -> int:
        """Settings that are trained side by side: so many of the newest are not known when one is suggested."""
        return -(-self.parallel // len(self.asked.seeds))

    @property
    def _told(self) -> list[_Member]:
        """The settings that the next suggestion is made from."""
        return self.members[: max(len(self.members) + 1 - self._lag, 0)]

    def _to_tell(self, bracket: int) -> dict[int, Values]:
        """Return what the next suggestion of a bracket is made from: the first values of its earlier settings."""
        there = [one for one in self._told if one.bracket == bracket]
        values = {index: self._first_value(one) for index, one in enumerate(there)}
        return {index: value for index, value in values.items() if value is not _UNKNOWN}

    def _first_value(self, member: _Member) -> Any:
        """Return the means of a setting at its first rung, None where it failed there, or that it is not known yet."""
        if member.rung == 0 and any(True for _ in self._open(member)):
            return _UNKNOWN
        values = [run.measured for run in member.runs.get(0, {}).values() if run.measured]
        return tuple(sum(of_seeds) / len(values) for of_seeds in zip(*values, strict=True)) or None

    def _value(self, member: _Member, rung: int) -> float | None:
        """Return the mean of a setting over its seeds at a rung, greater is better."""
        mean = _mean(member, rung)
        return None if mean is None else self._sign * mean

    def _standing(self, member: _Member) -> Standing:
        is_open = any(True for _ in self._open(member))
        values = [self._value(member, rung) for rung in range(member.rung + (not is_open))]
        return Standing(
            number=member.number,
            rung=member.rung,
            waits=member.state == "running" and not is_open,
            values=tuple(value for value in values if value is not None),
            may_come=member.state == "running" and is_open,
        )

    def setting(self, member: _Member) -> Setting:
        """Return the record of a setting."""
        runs, left = [], {piece.seed for piece in self._open(member)}
        for seed in self.asked.seeds:
            newest = [by_seed[seed] for _, by_seed in sorted(member.runs.items()) if seed in by_seed]
            run = newest[-1] if newest else SeedRun(
                seed=seed, jobs=(), iterations=0, status="running", value=None, gpu_seconds=0.0
            )  # fmt: skip
            runs.append(replace(run, status="running") if seed in left else run)
        return Setting(
            number=member.number, values=member.values, runs=tuple(runs), state=member.state, rung=member.rung,
            bracket=member.bracket, copies=tuple(member.copies) or None,
        )  # fmt: skip

    @property
    def settings(self) -> list[Setting]:
        """The records of all settings, in order."""
        return [self.setting(one) for one in self.members]

    @property
    def has_reached_target(self) -> bool:
        """Whether a setting has, all of whose seeds were measured."""
        if self.config.main.target is None:
            return False
        measured = [one for one in self.members if one.state != "failed" and not any(True for _ in self._open(one))]
        return any(self.config.main.reached(_mean(one, one.rung)) for one in measured)

    @property
    def best(self) -> Setting | None:
        """The setting with the best mean among those that came furthest; None where none was measured."""
        found = [(one.rung, one.value, one) for one in self.settings if one.value is not None]
        return max(found, key=lambda one: (one[0], self._sign * one[1], -one[2].number))[2] if found else None


_UNKNOWN: Any = object()


def _mean(member: _Member, rung: int) -> float | None:
    measured = [run.value for run in member.runs.get(rung, {}).values() if run.value is not None]
    return sum(measured) / len(measured) if measured else None
