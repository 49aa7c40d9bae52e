"""What trainings take on this machine: rows for `tasks/shared/measured.json`, of which simyard makes its estimates.

    python benchmarks/measured.py "two cores, 2026-11-30" Isaac-Cartpole-Direct:256 Isaac-Ant-Direct:64 [--gpus 1]

Each task is trained twice with its count of environments, and the second training counts: kernels are compiled by then.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.shared.estimates import Measurement


def main() -> None:
    """Train, and print a row for each task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("machine", help="what the rows are to say besides the device: the day, and cores of a CPU")
    parser.add_argument("cases", nargs="+", metavar="TASK:ENVS")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=60)
    options = parser.parse_args()
    for case in options.cases:
        task, _, num_envs = case.rpartition(":")
        with tempfile.TemporaryDirectory(prefix="simyard-bench-") as folder:
            row = measure(Path(folder), task, int(num_envs), options.iterations, options.gpus)
            print(json.dumps(replace(row, source=options.machine).to_json()), flush=True)


def measure(folder: Path, task: str, num_envs: int, iterations: int, gpus: int) -> Measurement:
    """Train a task twice in a store of its own; return what the store has of it then."""
    config = folder / "config.json"
    training = {"task": task, "numEnvs": num_envs, "maxIterations": iterations}
    config.write_text(json.dumps({"trainingConfig": training, "computeConfig": {"gpusPerNode": gpus}}))
    command = [sys.executable, "-m", "simyard", "run", config, config, "--store", folder / "store", "--json"]
    env = {**os.environ, "SIMYARD_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=env, stdout=sys.stderr, check=True)
    key = keys.measurement(task, "rsl_rl", "gpu" if gpus else "cpu", num_envs)
    return Store.open(str(folder / "store")).get_record(key, Measurement)


if __name__ == "__main__":
    main()
