"""A training in two stages beside a plain one of the same budget: what each earns, for some seeds, as a Markdown table.

    python benchmarks/stages.py --store DIR [--task Isaac-Ant-Direct] [--envs 4096] [--iterations 120] [--seeds 1 2 3]
        [--first 0.4] [--easy env.energy_cost_scale=0.0 …] [--episodes 64] [--gpus 1]

The first stage has so much of the iterations, and the overrides of `--easy`; the second is the task as it is. Both
policies are measured in the task as it is, over the same starts. The last line is JSON.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from transfer_matrix import run_jobs

from simyard.store.store import Store

EASY = ("env.energy_cost_scale=0.0", "env.actions_cost_scale=0.0")
"""The ant with nothing to pay for its motors."""


def main() -> None:
    """Train and measure both for each seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True, help="where the jobs go")
    parser.add_argument("--task", default="Isaac-Ant-Direct")
    parser.add_argument("--envs", type=int, default=4096)
    parser.add_argument("--iterations", type=int, default=120)
    parser.add_argument("--first", type=float, default=0.4, help="share of the iterations that the first stage has")
    parser.add_argument("--easy", nargs="+", default=EASY, metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--gpus", type=int, default=1, choices=(0, 1))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="simyard-bench-") as folder:
        found = run(args, write_configs(args, Path(folder)))
    print("| seed | plain | in stages | training | | between the stages |\n|---|---|---|---|---|---|")
    for seed, (plain, staged) in zip(args.seeds, zip(found[::2], found[1::2], strict=True), strict=True):
        times = f"{plain['train_s']:.0f} s | {staged['train_s']:.0f} s"
        print(f"| {seed} | {plain['return']:.4g} | {staged['return']:.4g} | {times} | {staged['between_s']} |")
    for name, ones in (("plain", found[::2]), ("in stages", found[1::2])):
        returns = [one["return"] for one in ones]
        print(f"{name}: {statistics.fmean(returns):.4g} ± {statistics.stdev(returns) if len(returns) > 1 else 0:.2g}")
    print(json.dumps({"benchmark": "stages", **vars(args), "policies": found}))


def write_configs(args: argparse.Namespace, folder: Path) -> list[Path]:
    """Write a plain and a staged training for each seed, each with its evaluation, in the order in which they run."""
    paths, first = [], round(args.first * args.iterations)
    stages = [
        {"name": "easy", "overrides": list(args.easy), "maxIterations": first},
        {"name": "whole", "maxIterations": args.iterations - first},
    ]
    compute = {"computeConfig": {"gpusPerNode": args.gpus}}
    measure = {"mode": "evaluate", "task": args.task, "numEpisodes": args.episodes, "recordVideo": False}
    for seed in args.seeds:
        train = {"task": args.task, "numEnvs": args.envs, "maxIterations": args.iterations, "seed": seed}
        for more in ({}, {"stages": stages}):
            for kind, section in (("train", train), ("evaluate", measure)):
                path = folder / f"{len(paths):02d}-{kind}.json"
                path.write_text(json.dumps({"trainingConfig": section, **compute, **(more if kind == "train" else {})}))
                paths.append(path)
    return paths


def run(args: argparse.Namespace, configs: list[Path]) -> list[dict[str, Any]]:
    """Run the jobs one after another; return of each policy its return and the seconds of its training."""
    jobs, store, found = run_jobs(args.store, configs), Store.open(args.store), []
    for trained, evaluated in zip(jobs[::2], jobs[1::2], strict=True):
        result = store.get_json(f"jobs/{trained['job_id']}/result.json")
        summary = store.get_json(f"jobs/{evaluated['job_id']}/result.json")["summary"]
        seconds = {"train_s": result["timings"]["train_s"], "between_s": between(store, trained["job_id"])}
        found.append({"job_id": trained["job_id"], "return": summary["return"]["mean"], **seconds})
    return found


def between(store: Store, job_id: str) -> list[float]:
    """Return the seconds from the last iteration of each stage to the first of the next one."""
    rows = list(csv.DictReader(io.StringIO(store.get_bytes(f"jobs/{job_id}/artifacts/metrics.csv").decode())))
    pairs = [(one, after) for one, after in pairwise(rows) if one.get("stage") != after.get("stage")]
    return [round(float(after["wall_time"]) - float(one["wall_time"]), 2) for one, after in pairs]


if __name__ == "__main__":
    main()
