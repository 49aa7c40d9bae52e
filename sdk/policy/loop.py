"""The loop around a policy on a robot: its rate, its guards, what it does on a fault, and what it remembers of it.

It is no safety monitor: joint limits, contacts and a lost connection must stop the robot without it.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from simyard.policy.runner import Array, Observations, PolicyRunner


@dataclass(frozen=True)
class Observed:
    """Observations of a robot, and when they were measured."""

    values: Observations
    """As `PolicyRunner.act` takes them."""
    at: float
    """Time of the oldest measurement in them, on the loop's clock; seconds."""


class Robot(Protocol):
    """A robot, as the loop needs it."""

    def observe(self) -> Observed:
        """Return the newest observations, without waiting for others."""
        ...

    def send(self, commands: Array) -> None:
        """Send one command for each action, in the unit of its action term."""
        ...


@dataclass(frozen=True, kw_only=True)
class Guards:
    """What the loop looks after."""

    stale_after_s: float | None = None
    """Age of observations that is a fault; None is two control periods."""
    lowest: tuple[float, ...] | None = None
    """Lowest command of each action; what lies below is sent as this, and counted. None is no limit."""
    highest: tuple[float, ...] | None = None
    """Highest command of each action."""
    most_per_s: tuple[float, ...] | None = None
    """Largest change of each command in a second, kept likewise; None is no limit."""
    most_limited: int | None = None
    """Steps in a row with a command beyond its limits that are a fault; None is never."""
    ramp_s: float = 1.0
    """Seconds in which commands go from `start` to those of the policy."""
    on_fault: Literal["hold", "zero"] = "hold"
    """Commands after a fault: the last one that was sent, or zeros."""
    remember_s: float = 5.0
    """Seconds that are kept, and written on a fault."""


@dataclass(frozen=True)
class Fault:
    """Fault that ended the policy's control."""

    kind: str
    """`stale`, `observation`, `action`, `limits` or `robot`."""
    reason: str
    """One sentence."""
    step: int
    file: str | None
    """File with the last seconds; None where nothing could be written."""


@dataclass
class Counts:
    """Counts of a loop since it began."""

    steps: int = 0
    limited: int = 0
    """Steps with a command that was limited."""
    late: int = 0
    """Steps that began more than a tenth of a period late."""
    skipped: int = 0
    """Periods in which there was no step because one before took too long."""
    longest_s: float = 0.0
    """Longest time from the observation to the command."""


@dataclass
class ControlLoop:
    """A policy at its control period on a robot. After a fault it sends safe commands until `clear`."""

    policy: PolicyRunner
    robot: Robot
    start: Array | None = None
    """Commands where the robot stands now, for the ramp; None is zeros."""
    guards: Guards = Guards()
    folder: str | Path = "."
    """Where the last seconds are written on a fault."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    counts: Counts = field(default_factory=Counts)
    fault: Fault | None = None
    """The fault that stands; None while the policy drives."""

    def __post_init__(self) -> None:
        """Check the guards against the policy.

        Raises:
            ValueError: If a guard is not of as many numbers as there are actions, or the contract has no scale.
        """
        self._size = int(self.policy.contract.output.shape[-1] or 0)
        self.action: Array = np.zeros(self._size, np.float32)
        """The policy's newest actions, before the scale: what a policy sees of its own past (`last_action`)."""
        self._period = self.policy.control_period_s
        self.policy.processed(np.zeros(self._size, np.float32))  # refuses a contract without scale and offset
        guards = self.guards
        self._low, self._high = self._given("lowest", -math.inf), self._given("highest", math.inf)
        self._change = self._given("most_per_s", math.inf) * self._period
        self._stale_s = 2 * self._period if guards.stale_after_s is None else guards.stale_after_s
        length = max(1, math.ceil(guards.remember_s / self._period))
        self._memory: deque[dict[str, Any]] = deque(maxlen=length)
        start = np.zeros(self._size) if self.start is None else self.start
        self._sent = np.asarray(start, np.float32).copy()
        if self._sent.shape != (self._size,) or not np.isfinite(self._sent).all():
            raise ValueError(f"start has the shape {self._sent.shape}, expected {self._size} finite numbers.")
        self._ramp_from, self._ramp_at, self._in_a_row = self._sent.copy(), 0, 0

    def run(self, seconds: float = math.inf, until: Callable[[], bool] = lambda: False) -> Counts:
        """Step once a control period, until the time is over or `until` says so. A step that is late is not made up.

        Raises:
            BaseException: What `robot.send` raised, when a safe command cannot be sent either.
        """
        began, number = self.clock(), 0
        while number * self._period < seconds - 1e-6 * self._period and not until():
            due = began + number * self._period  # by number: sums of periods drift
            if (early := due - self.clock()) > 0:
                self.sleep(early)
            self.counts.late += self.clock() - due > 0.1 * self._period
            self.step()
            missed = max(0, int((self.clock() - due) / self._period))
            self.counts.skipped += missed
            number += 1 + missed
        return self.counts

    def step(self) -> Array:
        """Observe, act and send once: for a timer that is not this loop's, such as a ROS node's."""
        began = self.clock()
        commands = self._safe() if self.fault else self._commands(began)
        try:
            self.robot.send(commands)
        except Exception as error:
            if self.fault is None:
                self._fail("robot", f"the command was not taken: {error or type(error).__name__}")
            raise
        self._sent = commands
        self.counts.steps += 1
        self.counts.longest_s = max(self.counts.longest_s, self.clock() - began)
        return commands

    def clear(self) -> None:
        """Have the policy drive again, from the commands that are sent now: with a ramp, and nothing remembered."""
        self.fault, self._in_a_row = None, 0
        self._ramp_from, self._ramp_at = self._sent.copy(), self.counts.steps
        self.action = np.zeros(self._size, np.float32)
        self.policy.reset()

    def _commands(self, now: float) -> Array:
        """Return the policy's commands, or safe ones and why."""
        row: dict[str, Any] = {"at": now, "age": math.nan, "action": None, "command": None}
        self._memory.append(row)
        try:
            observed = self.robot.observe()
        except Exception as error:
            return self._fail("robot", f"nothing was observed: {error or type(error).__name__}")
        row["age"] = now - observed.at
        given = observed.values if isinstance(observed.values, Mapping) else {"obs": observed.values}
        row |= {f"seen_{name}": np.array(values, np.float32) for name, values in given.items()}
        if not row["age"] <= self._stale_s:
            return self._fail(
                "stale", f"the observations are {row['age']:.3g} s old, {self._stale_s:.3g} s are allowed"
            )
        try:
            action = self.policy.act(observed.values)
        except ValueError as error:
            return self._fail("observation", str(error))
        except FloatingPointError as error:
            return self._fail("action", str(error))
        self.action = row["action"] = action
        commands = self._guarded(self.policy.processed(action))
        row["command"] = commands
        if self.guards.most_limited is not None and self._in_a_row > self.guards.most_limited:
            return self._fail("limits", f"commands were beyond their limits {self._in_a_row} steps in a row")
        return commands

    def _guarded(self, commands: Array) -> Array:
        """Return commands within the guards, and on the ramp at first."""
        inside = np.clip(commands.astype(np.float64), self._low, self._high)
        limited = bool((inside != commands).any())
        done = (self.counts.steps - self._ramp_at) * self._period
        if done < self.guards.ramp_s:
            inside = self._ramp_from + (inside - self._ramp_from) * (done / self.guards.ramp_s)
        near = np.clip(inside, self._sent - self._change, self._sent + self._change)
        limited |= bool((near != inside).any())
        self._in_a_row = self._in_a_row + 1 if limited else 0
        self.counts.limited += limited
        return near.astype(np.float32)

    def _safe(self) -> Array:
        return self._sent.copy() if self.guards.on_fault == "hold" else np.zeros(self._size, np.float32)

    def _fail(self, kind: str, reason: str) -> Array:
        self.fault = Fault(kind, reason, self.counts.steps, None)
        with contextlib.suppress(OSError):  # a full disk is no reason to leave the robot without a command
            self.fault = Fault(kind, reason, self.counts.steps, str(self._write()))
        return self._safe()

    def _write(self) -> Path:
        """Write the last seconds, a row a step; what was not known in a step is NaN."""
        assert self.fault is not None
        names = sorted({name for row in self._memory for name in row})
        arrays: dict[str, Any] = {name: self._column(name) for name in names}
        said = json.dumps(asdict(self.fault) | {"counts": asdict(self.counts)})
        path = Path(self.folder) / f"fault-{time.strftime('%Y%m%dT%H%M%S')}-{self.counts.steps}.npz"
        with path.open("wb") as file:
            np.savez(file, fault=np.array(said), **arrays)
        return path

    def _column(self, name: str) -> NDArray[np.float64]:
        values = [row.get(name) for row in self._memory]
        shape = next((np.shape(value) for value in values if value is not None), ())
        empty = np.full(shape, math.nan)
        same = [empty if value is None or np.shape(value) != shape else np.asarray(value) for value in values]
        return np.stack(same).astype(np.float64)

    def _given(self, name: str, otherwise: float) -> NDArray[np.float64]:
        value = getattr(self.guards, name)
        array = np.full(self._size, otherwise) if value is None else np.array(value, np.float64)
        if array.shape != (self._size,) or np.isnan(array).any():
            raise ValueError(f"guards.{name} has {array.size} numbers, expected {self._size}: one for each action.")
        return array
