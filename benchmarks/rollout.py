"""What recording costs a simulation: Isaac-Cartpole-Direct with random actions, recorded and not, in alternation.

    python benchmarks/rollout.py [--envs 64 1024] [--steps 300] [--rounds 5] [--task Isaac-Cartpole-Direct]

Both take the same steps in the same environment; recorded, every observation, action, reward and state of the robot
goes into `rollout.zarr`. The median of the rounds counts; `closing` is what is left to write when the simulation is
done. On a GPU if there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from simyard.runner.assets.asset_root import embedded_root

GOAL = 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--task", default="Isaac-Cartpole-Direct")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="simyard-bench-") as folder:
        if "ISAACSIM_ASSET_ROOT" not in os.environ:
            os.environ["ISAACSIM_ASSET_ROOT"] = str(embedded_root(Path(folder) / "assets"))
        figures = [measure(options, count, Path(folder)) for count in options.envs]
    print("| environments | bare, steps/s | recorded, steps/s | ratio | closing | MB |\n|---|---|---|---|---|---|")
    for row in figures:
        print(
            f"| {row['num_envs']} | {row['bare']:,.0f} | {row['recorded']:,.0f} | {row['ratio']:.3f} "
            f"| {row['closing_s']:.2f} s | {row['megabytes']:.1f} |"
        )
    print(json.dumps({"benchmark": "rollout", "task": options.task, "goal": GOAL, "figures": figures}))


def measure(options: argparse.Namespace, num_envs: int, folder: Path) -> dict[str, Any]:
    import torch

    from simyard.runner.isaaclab.environment import fresh_environment
    from simyard.runner.isaaclab.lookup import register_tasks
    from simyard.runner.rollout.actions import RandomActions

    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    register_tasks(None, None)
    times: dict[str, list[float]] = {"bare": [], "recorded": [], "closing": []}
    size = 0
    with fresh_environment(
        options.task, None, ("physics=newton_mjwarp",), num_envs=num_envs, seed=1, device=device
    ) as (env, _):
        driver = RandomActions(env, 1)
        driver.begin()
        walk(driver, 50, device)
        for number in range(options.rounds):
            times["bare"].append(walk(driver, options.steps, device))
            took, closing, size = record(env, driver, options.steps, device, folder / f"{num_envs}-{number}")
            times["recorded"].append(took)
            times["closing"].append(closing)
    bare, recorded = (statistics.median(times[name]) for name in ("bare", "recorded"))
    return {
        "num_envs": num_envs,
        "device": torch.cuda.get_device_name() if device != "cpu" else "cpu",
        "bare": num_envs * options.steps / bare,
        "recorded": num_envs * options.steps / recorded,
        "ratio": statistics.median(b / a for a, b in zip(times["bare"], times["recorded"], strict=True)),
        "closing_s": statistics.median(times["closing"]),
        "megabytes": size / 1e6,
    }


def walk(driver: Any, steps: int, device: str) -> float:
    """Take steps; return the seconds until the last of them is really done."""
    import torch

    began = time.perf_counter()
    for _ in range(steps):
        driver.step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def record(env: Any, driver: Any, steps: int, device: str, folder: Path) -> tuple[float, float, int]:
    """Take recorded steps; return their seconds, those of closing, and the bytes that are left."""
    from simyard.runner.isaaclab.environment_recorder import EnvironmentRecorder
    from simyard.runner.recording.recorder import RolloutRecorder
    from simyard.runner.video.films import RolloutFilm

    base = env.unwrapped
    before = base.step, base.reset, base._reset_idx
    recorder = RolloutRecorder(
        folder, num_envs=base.num_envs, longest=base.max_episode_length + 1, control_period_s=base.step_dt,
        scratch=folder.parent,
    )  # fmt: skip
    EnvironmentRecorder(env, recorder, RolloutFilm(folder.parent, base.step_dt, wanted=False))
    driver.begin()
    walk(driver, 2, device)  # the first step makes room on the disk, once
    took = walk(driver, steps, device)
    began = time.perf_counter()
    recorder.close()
    closing = time.perf_counter() - began
    base.step, base.reset, base._reset_idx = before
    return took, closing, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
