"""Policies that see images: trained, measured and exported by each library, as rows of a Markdown table.

    python benchmarks/gpu_cameras.py [--gpus 1] [--envs 512] [--iterations 100] [--libraries rsl_rl …] [--side 96]

Isaac Lab's cartpole with a camera, drawn by Newton's own renderer, which runs without Kit and on a CPU too: `--gpus 0
--envs 4 --iterations 1 --side 40` shows that everything works. A row has the steps per second of the training's second
half (rendering included), its reward at the end, mean return and success of 100 episodes, the largest difference of the
exported files and their latency at batch 1 on one CPU thread, and the largest memory of the GPU.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SIMYARD = "import sys; from simyard.cli.main import main; sys.argv[0] = 'simyard'; main()"
TASK = "Isaac-Cartpole-Camera-Direct"
COLUMNS = ("library", "steps/s", "reward", "return", "success", "difference", "latency ms", "training s", "GPU GiB")
SPEED = {"rsl_rl": "Perf/total_fps", "rl_games": "performance/step_inference_rl_update_fps"}
"""TensorBoard's tag of the steps per second, where the library logs one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpus", type=int, default=1, choices=(0, 1))
    parser.add_argument("--envs", type=int, default=512)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--side", type=int, default=96, help="pixels each way; 40 or more")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--libraries", nargs="+", default=["rsl_rl", "rl_games", "skrl"])
    options = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="simyard-bench-", ignore_cleanup_errors=True) as folder:
        for library in options.libraries:
            row = measure(library, options, Path(folder))
            print(f"| {' | '.join(row)} |", flush=True)


def measure(library: str, options: argparse.Namespace, folder: Path) -> list[str]:
    """Train, evaluate and export with one library."""
    size = {"task": TASK, "rlLibrary": library, "numEnvs": options.envs, "maxIterations": options.iterations, "seed": 1}
    config = {
        "name": f"cameras {library}",
        "trainingConfig": size,
        "computeConfig": {"gpusPerNode": options.gpus},
        "overrides": [f"env.scene.tiled_camera.{each}={options.side}" for each in ("width", "height")],
    }
    path = folder / f"{library}.json"
    path.write_text(json.dumps(config))
    trained = run(folder, "train", path)
    of = ("--job", trained["job_id"])
    less = min(options.envs, options.episodes)
    evaluated = run(folder, "evaluate", *of, "--set", f"numEpisodes={options.episodes}", f"numEnvs={less}")
    exported = run(folder, "export-policy", *of, "--set", f"numEpisodes={less}", f"numEnvs={min(less, 64)}")

    def artifact(job: dict[str, Any], name: str) -> Path:
        return folder / "store" / "jobs" / job["job_id"] / "artifacts" / name

    # The training's own figures, and what the machine was seen to use.
    with artifact(trained, "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    speeds = [float(row[SPEED[library]]) for row in rows if library in SPEED and row.get(SPEED[library])]
    speed = f"{statistics.mean(speeds[len(speeds) // 2 :]):,.0f}" if speeds else "not logged"
    with artifact(trained, "telemetry.csv").open(newline="") as file:
        used = [int(row["gpu_memory_bytes"]) for row in csv.DictReader(file) if row["gpu_memory_bytes"]]
    returns, success = evaluated["summary"]["return"]["mean"], evaluated["summary"]["success"]["rate"]
    parity = exported["summary"]["parity"]
    latency = " and ".join(f"{load['latency_ms']:.2f}" for load in parity["loads"])
    return [
        library,
        speed,
        last_reward(rows),
        f"{returns:.3f}",
        "unknown" if success is None else f"{success:.0%}",
        f"{parity['largest']:.1e}",
        latency,
        f"{trained['timings']['train_s']:.0f}",
        f"{max(used) / 2**30:.2f}" if used else "unknown",
    ]


def last_reward(rows: list[dict[str, str]]) -> str:
    """Return the last mean reward, whatever the library calls it."""
    tags = ("Train/mean_reward", "rewards/iter", "Reward / Total reward (mean)")
    found = [row[tag] for row in rows for tag in tags if row.get(tag)]
    return f"{float(found[-1]):.3f}" if found else "no episode ended"


def run(folder: Path, *arguments: object) -> dict[str, Any]:
    """Run `simyard` and return what it says of its job."""
    command = [sys.executable, "-c", SIMYARD, *map(str, arguments), "--store", str(folder / "store"), "--json"]
    done = subprocess.run(command, cwd=folder, env=dict(os.environ), capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        sys.exit(f"{' '.join(map(str, arguments))} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


if __name__ == "__main__":
    main()
