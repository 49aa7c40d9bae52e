"""Measures how policies transfer between physics engines: trained on each, evaluated on each, as a Markdown table.

    python benchmarks/transfer_matrix.py --store DIR [--task Isaac-Cartpole-Direct] [--envs 256] [--iterations 60]
        [--seeds 1 2 3] [--episodes 64] [--physics newton physx] [--override KEY=VALUE]

Every policy is trained by `simyard train`, then measured by `simyard evaluate --across`, all in one simulator: the same
starts in each engine. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from simyard.store.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True, help="where the jobs go")
    parser.add_argument("--task", default="Isaac-Cartpole-Direct")
    parser.add_argument("--envs", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--physics", nargs="+", default=["newton", "physx"])
    parser.add_argument("--gpus", type=int, default=0, help="of each job: 0 is the CPU")
    parser.add_argument("--override", action="append", default=[], help="Hydra override of the trainings alone")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="simyard-bench-") as folder:
        found = run(args, write_configs(args, Path(folder)))
    print(table(args.physics, found))
    print(json.dumps({"benchmark": "transfer_matrix", **vars(args), "policies": found}))


def write_configs(args: argparse.Namespace, folder: Path) -> list[Path]:
    """Write a training and an evaluation for each engine and seed, in the order in which they run."""
    paths = []
    for seed in args.seeds:
        for physics in args.physics:
            train = {
                "name": f"trained on {physics}, seed {seed}",
                "trainingConfig": {
                    "task": args.task, "numEnvs": args.envs, "maxIterations": args.iterations, "seed": seed
                },
                "physics": physics,
                "overrides": args.override,
                "computeConfig": {"gpusPerNode": args.gpus},
            }  # fmt: skip
            evaluate = {
                "name": f"evaluation of {physics}, seed {seed}",
                "trainingConfig": {
                    "mode": "evaluate", "task": args.task, "numEpisodes": args.episodes, "recordVideo": False,
                    # The engine that it was trained on is the one that others are compared with.
                    "across": [physics, *(other for other in args.physics if other != physics)],
                },
                "computeConfig": {"gpusPerNode": args.gpus},
            }  # fmt: skip
            for kind, config in (("train", train), ("evaluate", evaluate)):
                path = folder / f"{len(paths):02d}-{kind}.json"
                path.write_text(json.dumps(config))
                paths.append(path)
    return paths


def run(args: argparse.Namespace, configs: list[Path]) -> list[dict[str, Any]]:
    """Run the jobs one after another; return the engine, the seed and the comparison of each policy."""
    jobs, store, found = run_jobs(args.store, configs), Store.open(args.store), []
    for trained, evaluated in zip(jobs[::2], jobs[1::2], strict=True):
        across = store.get_json(f"jobs/{evaluated['job_id']}/artifacts/across.json")
        seed = store.get_json(f"jobs/{trained['job_id']}/job.json")["seed"]
        found.append({"physics": across["reference"], "seed": seed, **across["policies"][0]})
    return found


def run_jobs(store: str, configs: list[Path]) -> list[dict[str, Any]]:
    """Run jobs one after another, in one simulator; return their results."""
    command = [Path(sys.executable).with_name("simyard"), "run", *configs, "--store", store, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    jobs: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])["jobs"]
    return jobs


def table(engines: list[str], found: list[dict[str, Any]]) -> str:
    """Return a row an engine of training: mean and spread over seeds in each engine, and the share that is kept."""
    heads = " | ".join(f"on {engine} | success" for engine in engines)
    lines = [f"| trained on | {heads} | kept elsewhere, seed by seed |", "|---" * (2 + 2 * len(engines)) + "|"]
    for trained in engines:
        policies = [one for one in found if one["physics"] == trained]
        cells = []
        for engine in engines:
            figures = [one["engines"][engine] for one in policies]
            means = [one["return"]["mean"] for one in figures]
            spread = statistics.stdev(means) if len(means) > 1 else math.nan
            rates = [one["success"]["rate"] for one in figures]
            success = "" if None in rates else f"{statistics.fmean(rates):.1%}"
            cells.append(f"{statistics.fmean(means):.4g} ± {spread:.2g} | {success}")
        kept = ", ".join(
            f"{gap['kept']:.3f} [{gap['kept_interval_95'][0]:.3f}, {gap['kept_interval_95'][1]:.3f}]"
            for one in policies
            for gap in one["gaps"]
        )
        lines.append(f"| {trained} | {' | '.join(cells)} | {kept} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
