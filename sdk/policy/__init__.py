"""An exported policy on a robot: numpy and ONNX Runtime, nothing else.

policy = PolicyRunner.load("export")
loop = ControlLoop(policy, robot)  # `robot` has observe() and send()
loop.run(seconds=60)

`python -m simyard.policy check BUNDLE` proves a bundle on the robot's own computer.
"""

from simyard.policy.loop import ControlLoop, Fault, Guards, Observed, Robot
from simyard.policy.runner import PolicyRunner

__all__ = ["ControlLoop", "Fault", "Guards", "Observed", "PolicyRunner", "Robot"]
