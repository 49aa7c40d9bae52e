"""Measure what tasks cost on this machine: start-up, seconds an iteration, steps a second, and their episodes' steps.

    .venv/bin/python benchmarks/task_times.py                                        # on the CPU
    .venv/bin/python benchmarks/task_times.py --gpus 1 --envs 4096 --iterations 50   # on a GPU

Prints rows of the table in docs/sizing.md. A task that cannot run here has its reason in its row.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

TASKS = (
    "Isaac-Cartpole-Direct",
    "Isaac-Ant-Direct",
    "Isaac-Humanoid-Direct",
    "Isaac-Velocity-Flat-AnymalD",
    "Isaac-Velocity-Rough-AnymalD",
)
"""Those of the pipeline's readme, as Isaac Lab 3.0 names them."""
PYTHON = os.environ.get("SIMYARD_PYTHON", sys.executable)

LOOK = """
import json, sys
import isaaclab_tasks
from isaaclab_tasks.utils import resolve_task_config
for task in sys.argv[1:]:
    env, agent = resolve_task_config(task, "rsl_rl_cfg_entry_point", overrides=["physics=newton_mjwarp"])
    period = env.sim.dt * env.decimation
    sizes = [round(env.episode_length_s / period), agent.num_steps_per_env, agent.max_iterations]
    print("FOUND " + json.dumps([task, *sizes]))
"""


def look(tasks: list[str]) -> dict[str, tuple[int, int, int]]:
    """Return for each task the steps of an episode, those of an iteration in each environment, and its iterations."""
    done = subprocess.run([PYTHON, "-c", LOOK, *tasks], stdout=subprocess.PIPE, text=True, check=True)
    found = [json.loads(line.removeprefix("FOUND ")) for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    return {task: (episode, rollout, iterations) for task, episode, rollout, iterations in found}


def measure(task: str, envs: int, iterations: int, gpus: int, store: Path) -> dict[str, Any]:
    """Train for a few iterations, and return what the command says of it."""
    config = {
        "trainingConfig": {"task": task, "numEnvs": envs, "maxIterations": iterations},
        "computeConfig": {"gpusPerNode": gpus},
        "retries": 0,
    }
    path = store / "config.json"
    path.write_text(json.dumps(config))
    command = [str(Path(sys.executable).with_name("simyard")), "train", str(path), "--store", str(store), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def share(said: dict[str, Any]) -> tuple[float, float]:
    """Return how many processors the job had on average, before its first iteration and after it."""
    table = Path(said["store"].removeprefix("file://")) / "artifacts" / "telemetry.csv"
    with table.open(newline="") as file:
        rows = [(float(row["time_s"]), float(row["cpu_percent"]) / 100) for row in csv.DictReader(file)]
    first = rows[-1][0] - said["timings"]["train_s"]
    before, after = ([cpu for time, cpu in rows if (time > first) == late] or [1.0] for late in (False, True))
    return sum(before) / len(before), sum(after) / len(after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--envs", type=int, default=256, help="environments side by side")
    parser.add_argument("--iterations", type=int, default=20, help="iterations that are measured")
    parser.add_argument("--gpus", type=int, default=0, help="0 is the CPU")
    arguments = parser.parse_args()
    about = look(arguments.tasks)
    print(f"{date.today()}, {arguments.envs} environments, {arguments.iterations} iterations measured")
    print(
        "| task | steps an episode | start-up | an iteration | processors | steps a second | own iterations | in all |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as store:
        for task in arguments.tasks:
            episode, rollout, iterations = about[task]
            said = measure(task, arguments.envs, arguments.iterations, arguments.gpus, Path(store))
            if said["status"] != "succeeded":
                cells = ["", "", "", f"`{said['error']['code']}`", f"{iterations:,}", ""]
            else:
                one = said["timings"]["train_s"] / (arguments.iterations - 1)  # from the first finished one to the last
                start, (before, after) = said["timings"]["startup_s"], share(said)
                whole = (start + one * iterations) / 60
                cells = [f"{start:.1f} s", f"{one:.3f} s", f"{before:.2f}, {after:.2f}"]
                cells += [f"{arguments.envs * rollout / one:,.0f}", f"{iterations:,}", f"{whole:.0f} min"]
            print(f"| {task} | {episode} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
