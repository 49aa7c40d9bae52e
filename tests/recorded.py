"""A rollout as the recorder writes it, without a simulator: a cart with a pole on a rail, and a ball."""

from pathlib import Path
from typing import Any

import numpy as np

from simyard.runner.recording.arrays import pack
from simyard.runner.recording.recorder import RolloutRecorder

_STILL = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
GEOMETRY: dict[str, Any] = {
    "bodies": [
        {"name": "rail", "parent": -1, "frame": [0, 0, 1, 0, 0, 0, 1], "turned": _STILL},
        {"name": "cart", "parent": 0, "frame": _STILL, "turned": _STILL,
         "axes": [["linear", 0, 1, 0, "joint_position", 0]]},
        {"name": "pole", "parent": 1, "frame": _STILL, "turned": _STILL,
         "axes": [["angular", 1, 0, 0, "joint_position", 1]]},
        {"name": "ball", "parent": -1, "pose": ["body_pose", 0]},
    ],
    "shapes": [
        {"body": 0, "type": "box", "size": [0.02, 1.5, 0.02], "pose": _STILL},
        {"body": 1, "type": "box", "size": [0.1, 0.2, 0.1], "pose": _STILL, "color": [0.2, 0.4, 0.8]},
        {"body": 2, "type": "capsule", "size": [0.03, 0.3], "pose": [0, 0, 0.35, 0, 0, 0, 1]},
        {"body": 3, "type": "sphere", "size": [0.12], "pose": _STILL},
        {"body": -1, "type": "cylinder", "size": [0.2, 0.3], "pose": [0.8, 0.5, 0.3, 0, 0, 0, 1]},
    ],
    "missing": ["box"],
}  # fmt: skip


def rollout(target: Path, scratch: Path, *, steps: int = 500, episode: int = 250, geometry: Any = GEOMETRY) -> None:
    """Write one of two environments: joint angles are sines of the time, and every episode has so many steps."""
    envs, attributes = 2, {"bodies": ["ball"]} | ({} if geometry is None else {"geometry": geometry})
    folder = scratch / f"{target.name}.folder"
    with RolloutRecorder(
        folder, num_envs=envs, longest=episode, control_period_s=0.02, scratch=scratch, attributes=attributes
    ) as recorder:
        recorder.describe("joint_position", unit="rad or m", names=["slider", "hinge"])
        for step in range(steps):
            joints = np.array([[0.8 * np.sin(step / 40) + env, np.sin(step / 25)] for env in range(envs)], np.float32)
            ball = np.array([0.6 * np.cos(step / 60), 0.6 * np.sin(step / 60), 0.12, 0, 0, 0, 1], np.float32)
            recorder.record({
                "joint_position": joints, "joint_velocity": joints / 2, "action": np.cos(joints[:, :1]),
                "reward": np.cos(joints[:, 1]), "body_pose": np.tile(ball, (envs, 1, 1)),
            })  # fmt: skip
            ended = np.full(envs, step % episode == episode - 1)
            recorder.end(ended, terminated=ended)
    pack(folder, target)
