"""What an iteration of a managed training run costs beyond stepping and the trainer's own work, by stage.

    python benchmarks/managed_training.py [--envs 64] [--steps 100] [--iterations 5] [--parallel 1 4] [--kinds …]

Each iteration's wall time comes from the run's own record. Stepping is what the recordings say: environment steps over
their rate; of several rollouts side by side the one that stepped longest counts. The rest is overhead:

    environment   from the rollout's beginning to its end, less stepping: a fresh environment, its check, packing
    rollout       the rollouts' stage, less the longest attempt: staging, judging, keeping, Prefect
    trainer       the trainer's stage, less its own process: laying out, judging, keeping
    record        dataset, lineage, events

The first iteration starts the simulators and is left out.
"""

import argparse
import json
import statistics
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from overhead import TASK
from sessions import SIMYARD, SessionBench

STAGES = ("environment", "rollout", "trainer", "record")
TRAINER = """
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
(out / "checkpoint.pt").write_text("weights")
(out / "metrics.json").write_text("{}")
"""
"""As short as a trainer can be: its own process is not counted."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--gpus", type=int, default=0, choices=(0, 1))
    parser.add_argument("--parallel", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--kinds", nargs="+", choices=("inline", "pool"), default=("inline", "pool"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="simyard-bench-", ignore_cleanup_errors=True) as folder:
        bench = ManagedBench(Path(folder), options)
        with bench.server():
            bench.env |= {"PREFECT_HOME": str(bench.folder / "a"), "PREFECT_API_URL": bench.url}
            bench.env |= {"PREFECT_LOGGING_LEVEL": "ERROR"}
            if "inline" in options.kinds:
                for parallel in options.parallel:
                    bench.run("inline", parallel)
            if "pool" in options.kinds:
                with bench.worker():
                    for parallel in options.parallel:
                        bench.run("pool", parallel, "--pool", "bench")
        print(json.dumps(bench.rows))


class ManagedBench(SessionBench):
    """Runs of one shape, in one folder."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        super().__init__(folder, options)
        self.rows: list[dict[str, Any]] = []
        (folder / "train.py").write_text(TRAINER)
        print(f"{TASK}, {options.envs} environments, {options.steps} steps, medians in s")
        print(f"{'':10}{'rollouts':>9}{'wall':>8}{'stepping':>10}{'trainer':>9}{'overhead':>10}   {'  '.join(STAGES)}")

    def run(self, kind: str, parallel: int, *arguments: str) -> None:
        """Take a run to its end and print a row."""
        request = {
            "rollout_template": {
                "rollout_parallelism": parallel, "runtime_profile": "isaac_lab_rollout",
                "isaac_lab": {"task_class_or_name": TASK}, "num_envs": self.options.envs,
                "steps": self.options.steps, "control": {"task_mode": "random"},
                "compute_config": {"gpus_per_node": self.options.gpus},
            },
            "trainer_spec": {
                "image_uri": "local", "entrypoint": "python train.py", "args_template": ["{output_dir}"],
            },
            "loop_policy": {"max_iterations": self.options.iterations + 1},
        }  # fmt: skip
        path = self.folder / "run.json"
        path.write_text(json.dumps(request))
        command = [sys.executable, "-c", SIMYARD, "managed", "start", str(path), "--store", str(self.store), "--wait"]
        result = json.loads(self._in(self.folder, [*command, "--json", *arguments]).splitlines()[-1])
        run = self.store / "training-runs" / result["run_id"]
        records = [json.loads(file.read_text()) for file in sorted(run.glob("iterations/*/iteration.json"))][1:]
        began = {event["about"]: event["created_at"] for event in map(_read, sorted(run.glob("events/*.json")))}
        found = [self._split(record, began) for record in records]
        row = {name: round(statistics.median(split[name] for split in found), 3) for name in found[0]}
        self.rows.append({"kind": kind, "rollouts": parallel} | row)
        stages = "  ".join(f"{row[name]:{len(name)}.2f}" for name in STAGES)
        print(
            f"{kind:10}{parallel:9}{row['wall']:8.2f}{row['stepping']:10.2f}{row['trainer_process']:9.2f}"
            f"{row['overhead']:10.2f}   {stages}",
            flush=True,
        )

    def _split(self, record: dict[str, Any], events: dict[str, str]) -> dict[str, float]:
        """Say where the time of an iteration went."""
        attempts, stepping = [], []
        for job_id in record["rollouts"]:
            job = self.store / "jobs" / job_id
            attempts.append(_read(job / "attempts" / "001" / "outcome.json")["timings"]["total_s"])
            summary = _read(job / "result.json")["summary"]
            steps = summary["recorded_steps"] - 2 * summary["num_envs"]  # those of the first two are timed apart
            stepping.append(summary["first_steps_seconds"] + steps / summary["environment_steps_per_second"])
        name, number = record["iteration_id"], record["trainer_attempt"]
        called = _seconds(events[f"trainer.started {name}/{number}"], events[f"trainer.succeeded {name}/{number}"])
        trainer = record["trainer_seconds"]
        parts = {
            "environment": max(attempts) - max(stepping),
            "rollout": record["rollouts_seconds"] - max(attempts),
            "trainer": called - trainer,
            "record": record["seconds"] - record["rollouts_seconds"] - called,
        }
        return {
            "wall": record["seconds"], "stepping": max(stepping), "trainer_process": trainer,
            "overhead": sum(parts.values()), **parts,
        }  # fmt: skip


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _seconds(first: str, last: str) -> float:
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


if __name__ == "__main__":
    main()
