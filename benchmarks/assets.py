"""Every registered task of Isaac Lab with an asset root that was built here: which train, and what the others want.

    python benchmarks/assets.py [--tasks TEXT…] [--iterations 2] [--envs 16] [--gpus 0] [--table FILE]

Builds the root in `--out` first (`simyard assets build`). Tasks whose files are all there are trained by
`simyard train`, each in a process of its own; the others are listed with the files that they want. With `--iterations
300 --gpus 1 --envs 4096` the reward at the end shows whether a robot learns. Prints a table in Markdown.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from simyard.core.task_facts import TaskFacts
from simyard.requests.settings import MachineSettings
from simyard.runner.rl import LIBRARIES
from simyard.tasks.sessions.catalog import Catalog

SIMYARD = (sys.executable, "-c", "import sys; from simyard.cli.main import main; sys.argv[0] = 'simyard'; main()")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="*", default=[], help="parts of ids; without any all of them")
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--envs", type=int, default=16)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--library", default="rsl_rl")
    parser.add_argument("--seconds", type=int, default=900, help="for each task")
    parser.add_argument("--out", type=Path, default=Path.home() / ".simyard" / "assets", help="the asset root")
    parser.add_argument("--table", type=Path, help="also write the table here")
    options = parser.parse_args()
    subprocess.run([*SIMYARD, "assets", "build", "--out", str(options.out)], check=True)
    os.environ |= {"ISAACSIM_ASSET_ROOT": str(options.out.resolve()), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="simyard-bench-") as name:
        folder = Path(name)
        rows = [try_one(task, found, options, folder) for task, found in look(options).items()]
    counts = {how: sum(row["how"] == how for row in rows) for how in ("trains", "fails", "wants files", "not tried")}
    lines = ["| task | | reward | seconds |", "|---|---|---|---|"]
    lines += [f"| {row['task']} | {row['said']} | {row['reward']} | {row['seconds']} |" for row in rows]
    lines += ["", ", ".join(f"{count} {how}" for how, count in counts.items())]
    print("\n".join(lines))
    if options.table:
        options.table.write_text("\n".join(lines) + "\n", encoding="utf-8")


def look(options: argparse.Namespace) -> dict[str, TaskFacts]:
    """Return the tasks that are meant."""
    tasks = Catalog(MachineSettings.from_env()).all()
    return {
        facts.task: facts for facts in tasks if not options.tasks or any(text in facts.task for text in options.tasks)
    }


def try_one(task: str, found: TaskFacts, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train one task, if its files are there; return its row."""
    row = {"task": task, "reward": "", "seconds": ""}
    if options.library not in found.libraries:
        return row | {"how": "not tried", "said": f"no configuration for {options.library}"}
    if missing := [asset.path for asset in found.assets if not asset.here]:
        return row | {"how": "wants files", "said": "wants " + ", ".join(f"`{path}`" for path in missing)}
    if found.why_not:
        return row | {"how": "not tried", "said": "; ".join(found.why_not)}
    config = folder / "train.json"
    config.write_text(
        json.dumps(
            {
                "trainingConfig": {
                    "task": task, "rlLibrary": options.library, "numEnvs": options.envs,
                    "maxIterations": options.iterations,
                },
                "computeConfig": {"gpusPerNode": options.gpus, "session": "off"},
                "timeouts": {"wallSeconds": options.seconds, "firstIterationSeconds": options.seconds},
                "retries": 0,
            }
        )
    )  # fmt: skip
    began = time.monotonic()
    command = [*SIMYARD, "train", str(config), "--store", str(folder / "store"), "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    row["seconds"] = f"{time.monotonic() - began:.0f}"
    result = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}
    print(f"{task}: exit code {done.returncode}", file=sys.stderr, flush=True)
    if done.returncode:
        error = result.get("error") or {}
        return row | {"how": "fails", "said": f"fails: {error.get('code')}: {str(error.get('message'))[:200]}"}
    table = folder / "store" / "jobs" / result["job_id"] / "artifacts" / "metrics.csv"
    with table.open(encoding="utf-8", newline="") as file:
        tag = LIBRARIES[options.library].reward_tag
        rewards = [float(line[tag]) for line in csv.DictReader(file) if line.get(tag)]
    row["reward"] = f"{rewards[0]:.2f} to {rewards[-1]:.2f}" if rewards else ""
    return row | {"how": "trains", "said": f"{options.iterations} iterations"}


if __name__ == "__main__":
    main()
