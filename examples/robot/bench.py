"""A robot on a bench: MuJoCo in real time in the place of the hardware, as a bundle's contract describes it.

    python examples/robot/bench.py BUNDLE --seconds 10

It needs `pip install 'simyard[policy]' mujoco` and a bundle that has the robot's model (`robot.xml`).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from simyard.policy import ControlLoop, Guards, Observed, PolicyRunner
from simyard.policy.bundle import opened
from simyard.runner.mujoco.robot import Model, State
from simyard.runner.mujoco.terms import Sensing, Terms


class Bench:
    """MuJoCo behind the two functions that a robot has."""

    def __init__(self, policy: PolicyRunner, model: Path, lean: float) -> None:
        """Make the robot, in its default pose with every joint a little off."""
        contract = policy.contract
        self.actions = policy.action_terms
        self.state = State(Model(contract, model))
        terms = Terms(contract, None)
        if terms.missing:
            raise SystemExit(f"MuJoCo cannot compute {', '.join(terms.missing)}.")
        self.sensing = Sensing(terms, contract, np.random.default_rng(0))
        self.sensing.begin()
        self.state.data.qpos[self.state.model.qpos] = self.state.default_joint_pos + lean
        self.loop: ControlLoop | None = None
        self.begun = time.monotonic()
        self.steps = 0

    def observe(self) -> Observed:
        """Let the simulated time catch up with the clock, and say what is measured then."""
        now = time.monotonic()
        period = self.state.model.contract.physics_dt_s
        while self.steps * period < now - self.begun:
            self.state.advance(self.state.targets)
            self.steps += 1
        if self.loop:
            self.state.action = self.loop.action
        return Observed(self.sensing.see(self.state), now)

    def send(self, commands: np.ndarray) -> None:
        """Take the commands, as motors would."""
        for term in self.actions:
            joints = [self.state.model.joint[name] for name in term.joints or ()]
            self.state.targets[str(term.command)][joints] = commands[term.start : term.stop]


def main() -> int:
    """Run a bundle's policy on the bench."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--lean", type=float, default=0.1, help="rad or m that every joint is off at first")
    given = parser.parse_args()
    with opened(given.bundle) as folder:
        policy = PolicyRunner.load(folder)
        robot = Bench(policy, folder / "robot.xml", given.lean)
    # A pole falls while a ramp lasts: robots that stand by themselves begin with one.
    loop = robot.loop = ControlLoop(policy, robot, guards=Guards(ramp_s=0.0))
    counts = loop.run(seconds=given.seconds)
    places = zip(robot.state.model.joint, robot.state.joint_pos, strict=True)
    joints = ", ".join(f"{name} {place:.3f}" for name, place in places)
    print(f"{counts.steps} steps, {counts.skipped} skipped, longest {counts.longest_s * 1000:.2f} ms; {joints}")
    if loop.fault:
        print(f"fault: {loop.fault.reason} ({loop.fault.file})", file=sys.stderr)
    return 1 if loop.fault else 0


if __name__ == "__main__":
    sys.exit(main())
