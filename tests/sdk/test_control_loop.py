"""The loop around a policy on a robot, on a clock of its own: its rate, its guards, and what it does on a fault."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import export

from simyard.policy import ControlLoop, Guards, Observed, PolicyRunner

PERIOD = 0.02


@dataclass
class Bench:
    """A robot on a bench, with the clock of its loop: sleeping lets time pass, and so does observing."""

    now: float = 100.0
    age: float = 0.0
    took: float = 0.001
    values: Any = field(default_factory=lambda: np.array([0.5, -1.0, 0.0, 4.0]))
    sent: list[np.ndarray] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    deaf: bool = False

    def observe(self) -> Observed:
        if isinstance(self.values, Exception):
            raise self.values
        at = self.now - self.age
        self.now += self.took
        return Observed(self.values, at)

    def send(self, commands: np.ndarray) -> None:
        if self.deaf:
            raise ConnectionError("no route to the robot")
        self.sent.append(commands)
        self.times.append(self.now)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> PolicyRunner:
    folder = tmp_path_factory.mktemp("exported")
    export(folder)
    return PolicyRunner.load(folder)


@pytest.fixture
def wanted(policy: PolicyRunner) -> np.ndarray:
    """The policy's own commands on the bench."""
    return policy.processed(policy.act(Bench().values))


def loop(policy: PolicyRunner, robot: Bench, folder: Path | str = ".", **guards: Any) -> ControlLoop:
    kept = Guards(**{"ramp_s": 0.0, **guards})
    return ControlLoop(policy, robot, guards=kept, folder=folder, clock=lambda: robot.now, sleep=robot.sleep)


def test_it_keeps_the_control_period(policy: PolicyRunner, wanted: np.ndarray):
    robot = Bench()
    counts = loop(policy, robot).run(seconds=1.0)
    assert (counts.steps, counts.skipped, counts.late) == (50, 0, 0)
    np.testing.assert_allclose(np.diff(robot.times), PERIOD)
    np.testing.assert_allclose(robot.sent[-1], wanted, rtol=1e-5)
    assert counts.longest_s == pytest.approx(robot.took)


def test_what_is_late_is_not_made_up(policy: PolicyRunner):
    robot = Bench(took=0.05)
    counts = loop(policy, robot).run(seconds=1.0)
    assert (counts.steps, counts.skipped) == (17, 34)
    assert min(np.diff(robot.times)) >= robot.took - 1e-9


def test_commands_begin_where_the_robot_stands(policy: PolicyRunner, wanted: np.ndarray):
    robot = Bench()
    started = ControlLoop(
        policy, robot, start=np.array([0.3, 0.1], np.float32), guards=Guards(ramp_s=0.2),
        clock=lambda: robot.now, sleep=robot.sleep,
    )  # fmt: skip
    started.run(seconds=0.3)
    np.testing.assert_allclose(robot.sent[0], [0.3, 0.1], rtol=1e-6)
    np.testing.assert_allclose(robot.sent[5], (np.array([0.3, 0.1]) + wanted) / 2, rtol=1e-4)
    np.testing.assert_allclose(robot.sent[10], wanted, rtol=1e-5)


def test_commands_stay_within_limits_and_speed(policy: PolicyRunner, wanted: np.ndarray):
    robot = Bench()
    high = float(wanted[0]) - 0.01
    guarded = loop(policy, robot, highest=(high, np.inf), lowest=(-np.inf, -np.inf), most_per_s=(np.inf, 0.05))
    guarded.run(seconds=0.2)
    assert robot.sent[-1][0] == pytest.approx(high)
    assert np.abs(np.diff([0.0, *(float(each[1]) for each in robot.sent)])).max() <= 0.05 * PERIOD + 1e-9
    assert guarded.counts.limited == 10


FAULTS = [
    ("stale", {"age": 0.041}, "the observations are 0.041 s old, 0.04 s are allowed"),
    ("stale", {"age": float("nan")}, "nan s old"),
    ("observation", {"values": np.array([0.0, np.nan, 0.0, 0.0])}, "number 1 of term 'joint_pos' is nan"),
    ("observation", {"values": np.zeros(3)}, "expected .4,."),
    ("robot", {"values": OSError("the bus is silent")}, "nothing was observed: the bus is silent"),
]


@pytest.mark.parametrize("on_fault", ["hold", "zero"])
@pytest.mark.parametrize(("kind", "changes", "said"), FAULTS, ids=[f"{row[0]}-{n}" for n, row in enumerate(FAULTS)])
def test_a_fault_is_held_and_written(
    kind: str,
    changes: dict[str, Any],
    said: str,
    on_fault: str,
    policy: PolicyRunner,
    wanted: np.ndarray,
    tmp_path: Path,
):
    robot = Bench()
    guarded = loop(policy, robot, tmp_path, on_fault=on_fault, remember_s=0.1)
    guarded.run(seconds=0.4)
    for name, value in changes.items():
        setattr(robot, name, value)
    guarded.run(seconds=0.1)
    assert guarded.fault is not None
    assert (guarded.fault.kind, guarded.fault.step) == (kind, 20)
    assert said.partition(".")[0] in guarded.fault.reason
    for sent in robot.sent[20:]:
        np.testing.assert_allclose(sent, wanted if on_fault == "hold" else [0, 0], rtol=1e-5)
    # The last seconds, the step of the fault among them.
    (file,) = tmp_path.glob("fault-*.npz")
    assert guarded.fault.file == str(file)
    with np.load(file, allow_pickle=False) as kept:
        assert json.loads(str(kept["fault"]))["kind"] == kind
        assert (kept["command"].shape, kept["at"].shape) == ((5, 2), (5,))
        assert np.isnan(kept["command"][-1]).all()
        np.testing.assert_allclose(kept["command"][0], wanted, rtol=1e-5)
    # A person says that it may go on: from where it stands, with a ramp.
    for name, value in vars(Bench()).items():
        if name in changes:
            setattr(robot, name, value)
    guarded.clear()
    guarded.run(seconds=0.1)
    assert guarded.fault is None
    np.testing.assert_allclose(robot.sent[-1], wanted, rtol=1e-5)


def test_commands_at_their_limit_for_long_are_a_fault(policy: PolicyRunner, tmp_path: Path):
    robot = Bench()
    guarded = loop(policy, robot, tmp_path, highest=(-5.0, np.inf), most_limited=3)
    guarded.run(seconds=0.2)
    assert guarded.fault is not None
    assert (guarded.fault.kind, guarded.fault.step) == ("limits", 3)


def test_a_robot_that_takes_no_command_is_told_of(policy: PolicyRunner, tmp_path: Path):
    robot = Bench()
    guarded = loop(policy, robot, tmp_path)
    guarded.step()
    robot.deaf = True
    with pytest.raises(ConnectionError):
        guarded.step()
    assert guarded.fault is not None
    assert "no route to the robot" in guarded.fault.reason
    assert list(tmp_path.glob("fault-*.npz"))


def test_a_disk_that_is_full_leaves_the_robot_with_its_commands(policy: PolicyRunner, tmp_path: Path):
    robot = Bench(age=1.0)
    guarded = loop(policy, robot, tmp_path / "nowhere")
    guarded.step()
    assert guarded.fault is not None
    assert (guarded.fault.file, len(robot.sent)) == (None, 1)


@pytest.mark.parametrize(
    ("guards", "message"),
    [({"lowest": (0.0,)}, "guards.lowest has 1 numbers, expected 2"), ({"highest": (0.0, np.nan)}, "guards.highest")],
)
def test_guards_of_another_robot_are_refused(guards: dict[str, Any], message: str, policy: PolicyRunner):
    with pytest.raises(ValueError, match=message):
        loop(policy, Bench(), **guards)
