"""The examples of examples/robot: the node's side of a robot without ROS, and the bench in real time."""

import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exported import FUNCTIONS, contract, make_network, term, write_formats

from simyard.policy import PolicyRunner
from simyard.runner.exporting.contract import write_contract

ROBOT = Path(__file__).parents[2] / "examples" / "robot"


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> PolicyRunner:
    """A policy that sees one joint's place twice as large, and gravity."""
    folder = tmp_path_factory.mktemp("robot")
    told = contract(write_formats(make_network(), folder))
    group = told.observation_groups[0]
    terms = (
        term("joint_pos", 0, 1, function=f"{FUNCTIONS}joint_pos_rel", joints=("knee",), scale=(2.0,), clip=(-1.0, 1.0)),
        term("gravity", 1, 4, function=f"{FUNCTIONS}projected_gravity"),
    )
    write_contract(replace(told, observation_groups=(replace(group, terms=terms),)), folder)
    return PolicyRunner.load(folder)


def test_a_node_orders_what_it_hears(policy: PolicyRunner):
    node = runpy.run_path(str(ROBOT / "ros2_node.py"))
    assert "rclpy" not in sys.modules
    sensors, sent = node["Sensors"](policy), []
    robot = node["RosRobot"](policy, sensors, sent.append)
    assert robot.observe().at == -np.inf, "nothing was heard: that is stale, whatever the guard"
    sensors.joint_state(["tail", "knee", "hip"], [9.0, 0.25, 8.0], [0.0, 0.0, 0.0])
    sensors.imu(0.0, 1.0, 0.0, 0.0, [0.0, 0.0, 0.0])  # turned over
    seen = robot.observe()
    np.testing.assert_allclose(seen.values, [0.5, 0.0, 0.0, 1.0], atol=1e-12)
    assert seen.at == min(sensors.heard.values())
    robot.send(np.array([0.5, 0.25], np.float32))
    assert sent == [[0.5, 0.25]]


def test_a_node_names_what_it_cannot_compute(policy: PolicyRunner):
    node = runpy.run_path(str(ROBOT / "ros2_node.py"))
    del node["OBSERVED"]["projected_gravity"]
    with pytest.raises(ValueError, match=r"Nothing here computes 'gravity' \(.*:projected_gravity\): add it"):
        node["RosRobot"](policy, node["Sensors"](policy), print)


@pytest.mark.parametrize("name", ["bench.py", "ros2_node.py"])
@pytest.mark.long  # starts an interpreter for each; nothing of ROS is needed to ask for help
def test_an_example_says_how_it_is_used(name: str):
    done = subprocess.run([sys.executable, ROBOT / name, "--help"], capture_output=True, text=True, check=True)
    assert "bundle" in done.stdout
