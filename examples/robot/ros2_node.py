"""A bundle's policy as a ROS 2 node: joint states in, commands of one controller out.

    python examples/robot/ros2_node.py BUNDLE --topic /effort_controller/commands

`rclpy` is imported when the node starts, so the rest can be read and tested without ROS. It computes observations of
joints, the IMU and the policy's own actions; a term of another sensor is named, and gets its function in `OBSERVED`.
It is no safety monitor.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from simyard.policy import ControlLoop, Guards, Observed, PolicyRunner
from simyard.policy.bundle import opened


class Sensors:
    """Newest messages of the robot's topics, in the contract's order."""

    def __init__(self, policy: PolicyRunner) -> None:
        """Wait for nothing yet: everything is not a number until it was measured."""
        (robot,) = policy.contract.articulations
        self.joints, count = robot.joints, len(robot.joints)
        self.default = np.array(robot.default_positions or (0.0,) * count)
        self.position, self.velocity = np.full(count, np.nan), np.full(count, np.nan)
        self.angular_velocity, self.gravity = np.full(3, np.nan), np.full(3, np.nan)
        told = policy.contract.simulation
        self.default_velocity = np.array((told and told.default_velocities) or (0.0,) * count)
        self.action = np.zeros(policy.contract.output.shape[1] or 0)
        self.heard: dict[str, float] = {}

    def joint_state(self, names: list[str], position: list[float], velocity: list[float]) -> None:
        """Take a `sensor_msgs/JointState`: its joints may come in any order."""
        place = {name: n for n, name in enumerate(names)}
        order = [place[joint] for joint in self.joints]
        self.position, self.velocity = np.array(position)[order], np.array(velocity)[order]
        self.heard["joints"] = time.monotonic()

    def imu(self, x: float, y: float, z: float, w: float, angular_velocity: list[float]) -> None:
        """Take a `sensor_msgs/Imu` in the root's frame."""
        self.gravity = -np.array([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)])
        self.angular_velocity = np.array(angular_velocity)
        self.heard["imu"] = time.monotonic()


OBSERVED: dict[str, tuple[str, Callable[[Sensors], Any]]] = {
    "joint_pos": ("joints", lambda s: s.position),
    "joint_pos_rel": ("joints", lambda s: s.position - s.default),
    "joint_vel": ("joints", lambda s: s.velocity),
    "joint_vel_rel": ("joints", lambda s: s.velocity - s.default_velocity),
    "base_ang_vel": ("imu", lambda s: s.angular_velocity),
    "projected_gravity": ("imu", lambda s: s.gravity),
    "last_action": ("", lambda s: s.action),
}
"""By Isaac Lab's function: the topic it comes from, and how it is computed of all joints in the contract's order."""


class RosRobot:
    """The robot behind its topics."""

    def __init__(self, policy: PolicyRunner, sensors: Sensors, publish: Callable[[list[float]], None]) -> None:
        """Take the terms of the contract that are known here.

        Raises:
            ValueError: If one is not, or has a history, which would have to be kept.
        """
        self.sensors, self.publish = sensors, publish
        self.terms = []
        for term in policy.observation_terms:
            name = (term.function or "").rpartition(":")[2]
            if name not in OBSERVED or term.history_length or term.modifiers:
                raise ValueError(f"Nothing here computes {term.name!r} ({term.function}): add it to OBSERVED.")
            topic, compute = OBSERVED[name]
            chosen = [sensors.joints.index(joint) for joint in term.joints or ()] if topic == "joints" else ...
            self.terms.append((term, topic, compute, chosen or ...))

    def observe(self) -> Observed:
        """Return the newest measurements; as old as the oldest topic among them."""
        parts, oldest = [], time.monotonic()
        for term, topic, compute, chosen in self.terms:
            values = np.asarray(compute(self.sensors), np.float64)[chosen]
            values = np.clip(values, *term.clip) if term.clip else values
            parts.append(values * np.array(term.scale) if term.scale else values)
            oldest = min(oldest, self.sensors.heard.get(topic, -np.inf) if topic else oldest)
        return Observed(np.concatenate(parts), oldest)

    def send(self, commands: np.ndarray) -> None:
        """Publish the commands."""
        self.publish([float(command) for command in commands])


def main() -> int:
    """Start the node."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--topic", default="/effort_controller/commands")
    given = parser.parse_args()
    with opened(given.bundle) as folder:
        policy = PolicyRunner.load(folder)

    import rclpy
    from sensor_msgs.msg import Imu, JointState
    from std_msgs.msg import Float64MultiArray

    rclpy.init()
    node = rclpy.create_node("simyard_policy")
    sensors = Sensors(policy)
    publisher = node.create_publisher(Float64MultiArray, given.topic, 1)
    robot = RosRobot(policy, sensors, lambda commands: publisher.publish(Float64MultiArray(data=commands)))
    loop = ControlLoop(policy, robot, guards=Guards(ramp_s=2.0))
    node.create_subscription(
        JointState, "/joint_states", lambda m: sensors.joint_state(m.name, m.position, m.velocity), 1
    )
    node.create_subscription(
        Imu, "/imu", lambda m: sensors.imu(m.orientation.x, m.orientation.y, m.orientation.z, m.orientation.w,
                                           [m.angular_velocity.x, m.angular_velocity.y, m.angular_velocity.z]), 1,
    )  # fmt: skip

    def tick() -> None:
        if not sensors.heard:
            return  # nothing was measured yet: the robot is left alone
        before, sensors.action = loop.fault, loop.action
        loop.step()
        if loop.fault and loop.fault is not before:
            node.get_logger().error(f"{loop.fault.kind}: {loop.fault.reason} ({loop.fault.file})")

    node.create_timer(policy.control_period_s, tick)
    try:
        rclpy.spin(node)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
