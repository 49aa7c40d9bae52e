"""What a sweep costs, and what it saves: trials beside a loop of `isaaclab train`, ASHA beside the whole grid.

    .venv/bin/python benchmarks/sweeps.py overhead --trials 4 --envs 256 --iterations 20
    .venv/bin/python benchmarks/sweeps.py asha --envs 64 --iterations 27
    .venv/bin/python benchmarks/sweeps.py parallel --gpus 1 --envs 2048 --tasks Isaac-Cartpole-Direct Isaac-Ant-Direct
    .venv/bin/python benchmarks/sweeps.py ranked --gpus 1 --envs 4096 --iterations 60

    overhead   a sweep of seeds, one after another, and the same trainings by `isaaclab train` in a loop
    asha       a grid of learning rates and entropies, and ASHA on it with three seeds of its sampler
    parallel   trials an hour with 1, 2, 4 and 8 side by side on one device
    ranked     24 settings, from the command to the verdict

All of them run on a GPU with `--gpus 1`. Each prints a table in Markdown, and a line of JSON.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overhead import TASK, Bench

LEARNING_RATES = (0.0001, 0.001, 0.01)
ENTROPIES = (0.0, 0.005, 0.05)
RATE, ENTROPY = "agent.algorithm.learning_rate", "agent.algorithm.entropy_coef"
SIMYARD = "import sys; from simyard.cli.main import main; sys.argv[0] = 'simyard'; main()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("overhead", "asha", "parallel", "ranked"))
    parser.add_argument("--envs", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--gpus", type=int, default=0, choices=(0, 1))
    parser.add_argument("--trials", type=int, default=4, help="of overhead, and a sweep of parallel has twice as many")
    parser.add_argument("--side-by-side", type=int, nargs="+", default=(1, 2, 4, 8), help="of parallel")
    parser.add_argument("--tasks", nargs="+", default=(TASK,), help="of parallel")
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3), help="of asha: seeds of its sampler")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="simyard-bench-", ignore_cleanup_errors=True) as folder:
        bench = SweepBench(Path(folder), options)
        with bench.server():
            bench.env |= {"PREFECT_HOME": str(bench.folder / "a"), "PREFECT_API_URL": bench.url}
            run: Callable[[], list[dict[str, Any]]] = getattr(bench, options.what)
            rows = run()
    titles = list(rows[0])
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row.values()))} |")
    print(json.dumps({"what": options.what, "envs": options.envs, "iterations": options.iterations, "rows": rows}))


@dataclass(frozen=True)
class Swept:
    """A sweep that has ended."""

    seconds: float
    """From the command to its end."""
    result: dict[str, Any]
    jobs: list[dict[str, Any]]
    """Results of its trainings."""

    @property
    def held_s(self) -> float:
        """Seconds of all trainings, starts included: what a GPU would be held for."""
        return sum(job["timings"]["total_s"] for job in self.jobs)

    @property
    def train_s(self) -> float:
        """Seconds of their iterations alone."""
        return sum(job["timings"]["train_s"] for job in self.jobs)

    @property
    def best(self) -> float:
        """Mean of the winner's objective."""
        return float(self.result["verdict"]["table"][0]["value"]["mean"])


def _processor_s() -> float:
    """Return the processor time of all children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class SweepBench(Bench):
    """Sweeps by the command, a Prefect server running, each in a store of its own: equal trainings are one job."""

    number = 0

    def sweep(self, sweep: dict[str, Any], task: str = TASK) -> Swept:
        """Run a sweep to its end."""
        self.number += 1
        store, config = self.folder / f"store-{self.number}", self.folder / f"sweep-{self.number}.json"
        training = {"task": task, "numEnvs": self.options.envs, "maxIterations": self.options.iterations, "seed": 42}
        compute = {"gpusPerNode": self.options.gpus}
        config.write_text(json.dumps({"trainingConfig": training, "computeConfig": compute, "sweep": sweep}))
        command = [sys.executable, "-c", SIMYARD, "sweep", str(config), "--wait", "--store", str(store), "--json"]
        began = time.monotonic()
        done = subprocess.run(command, env=self.env, cwd=self.folder, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - began
        if done.returncode:
            sys.exit(f"{config.read_text()} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        found = [json.loads(path.read_text()) for path in sorted(store.glob("jobs/*/result.json"))]
        trained = [job for job in found if job["kind"] == "train"]
        print(f"{seconds:6.1f} s  {len(trained)} trainings  {json.dumps(sweep)}", file=sys.stderr, flush=True)
        return Swept(seconds, json.loads(done.stdout.splitlines()[-1]), trained)

    def overhead(self) -> list[dict[str, Any]]:
        """Compare a further trial of a sweep with a further run of the loop, by the clock and by processor time."""
        trials = self.options.trials
        self.bare()  # fills the kernel cache
        marks = [_processor_s()]
        bare = sum(self.bare() for _ in range(trials))
        marks.append(_processor_s())
        one = self.sweep({"seeds": 1, "parallel": 1})
        marks.append(_processor_s())
        whole = self.sweep({"seeds": trials, "parallel": 1})
        marks.append(_processor_s())
        of_bare, of_one, of_whole = (after - before for before, after in itertools.pairwise(marks))
        further = (whole.seconds - one.seconds) / (trials - 1)
        training = whole.train_s / trials * self.options.iterations / max(1, self.options.iterations - 1)
        return [
            {"": "`isaaclab train` in a loop", "trials": trials, "all, s": round(bare, 1),
             "a trial, s": round(bare / trials, 2), "its iterations, s": "", "besides, s": "",
             "processor s of a trial": round(of_bare / trials, 1)},
            {"": "`simyard sweep`", "trials": trials, "all, s": round(whole.seconds, 1),
             "a trial, s": round(further, 2), "its iterations, s": round(training, 2),
             "besides, s": round(further - training, 2),
             "processor s of a trial": round((of_whole - of_one) / (trials - 1), 1)},
        ]  # fmt: skip

    def asha(self) -> list[dict[str, Any]]:
        """Compare ASHA's best and its cost with those of the whole grid."""
        parameters = {RATE: {"values": LEARNING_RATES}, ENTROPY: {"values": ENTROPIES}}
        grid = self.sweep({"parameters": parameters, "parallel": 1})
        rows = [self._row("grid", grid, grid)]
        for seed in self.options.seeds:
            asha = {"parameters": parameters, "parallel": 1, "seed": seed, "scheduler": {"kind": "asha"}}
            rows.append(self._row(f"ASHA, seed {seed}", self.sweep(asha), grid))
        return rows

    def _row(self, name: str, found: Swept, grid: Swept) -> dict[str, Any]:
        return {
            "": name, "trainings": len(found.jobs), "best": round(found.best, 3),
            "of the grid's best": round(found.best / grid.best, 3), "seconds held": round(found.held_s, 1),
            "share": round(found.held_s / grid.held_s, 3),
            "share of iterations": round(found.train_s / grid.train_s, 3), "all, s": round(found.seconds, 1),
        }  # fmt: skip

    def parallel(self) -> list[dict[str, Any]]:
        """Count trials an hour with several side by side, once all their simulators have started."""
        rows = []
        for task in self.options.tasks:
            self.sweep({"seeds": 1, "parallel": 1}, task)  # fills the kernel cache
            for count in self.options.side_by_side:
                few = self.sweep({"seeds": count, "parallel": count}, task)
                many = self.sweep({"seeds": count * 3, "parallel": count}, task)
                a_trial = (many.seconds - few.seconds) / (count * 2)
                rows.append({"task": task, "side by side": count, "a trial, s": round(a_trial, 2),
                             "trials an hour": round(3600 / a_trial)})  # fmt: skip
        return rows

    def ranked(self) -> list[dict[str, Any]]:
        """Time 24 settings from the command to the verdict."""
        rates = [round(0.0001 * 10 ** (2 * index / 7), 6) for index in range(8)]
        parameters = {RATE: {"values": rates}, ENTROPY: {"values": ENTROPIES}}
        found = self.sweep({"parameters": parameters})
        table = found.result["verdict"]["table"]
        ranked = sum(row["value"] is not None for row in table)
        row = {"settings": len(table), "ranked": ranked, "best": round(found.best, 3)}
        return [row | {"all, s": round(found.seconds, 1), "GPU seconds": found.result["cost"]["gpu_seconds"]}]


if __name__ == "__main__":
    main()
