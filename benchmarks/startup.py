"""What commands cost before they do anything: processor time of the process and its children, and wall time.

    python benchmarks/startup.py [--rounds 5] [--only TEXT]

Each case runs so many times in a home of its own, with no Prefect server; the medians make a table. What was learnt by
one job that ran before helps to refuse the next one, as it does on any machine; `first` names what nothing helps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simyard.requests.config import check_config
from simyard.requests.jobs import TrainRequest
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.resolve import resolve
from simyard.tasks.stage import stage

CONFIG = {
    "trainingConfig": {"task": "Isaac-Cartpole-Direct", "numEnvs": 16, "maxIterations": 2},
    "computeConfig": {"gpusPerNode": 0},
}
MISSPELT = ("--set", "task=Isaac-Cartpol-Direct")
UNKNOWN_KEY = ("--set", "agent.save_intervall=5")
WRONG_TYPE = ("--set", "agent.save_interval=often")


def main() -> None:
    """Run every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    options = parser.parse_args()
    print("| command | wanted | processor time | wall time |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="simyard-bench-") as folder:
        bench = Bench(Path(folder), options.rounds, options.only)
        train = ("train", str(bench.config), "--store", str(bench.store))
        bench.case("import simyard.flows.train", None, [sys.executable, "-c", "import simyard.flows.train"], code=0)
        bench.case("--version", 0.15, bench.simyard("--version"), code=0)
        bench.case("--help", None, bench.simyard("--help"), code=0)
        bench.case("jobs list, 20 jobs", 0.4, bench.simyard("jobs", "list", "--store", str(bench.store)), code=0)
        bench.case("a bad field", 0.5, bench.simyard(*train, "--set", "numEnvs=-1"))
        bench.case("first: an unknown task", None, bench.simyard(*train, *MISSPELT), fresh=True)
        bench.case("first: an unknown override key", None, bench.simyard(*train, *UNKNOWN_KEY), fresh=True)
        if not options.only or "unknown" in options.only or "override" in options.only:
            bench.run(bench.simyard(*train, *WRONG_TYPE))  # teaches this home what there is
        bench.case("an unknown task", 1.0, bench.simyard(*train, *MISSPELT))
        bench.case("an unknown override key", 6.0, bench.simyard(*train, *UNKNOWN_KEY))
        bench.case("an override of a wrong type", 6.0, bench.simyard(*train, *WRONG_TYPE))
        with bench.session():
            bench.case("warm: an unknown override key", 1.0, bench.simyard(*train, *UNKNOWN_KEY))
            bench.case("warm: an override of a wrong type", 1.0, bench.simyard(*train, *WRONG_TYPE))


class Bench:
    """The cases, in a folder of their own."""

    def __init__(self, folder: Path, rounds: int, only: str) -> None:
        self.rounds = rounds
        self.only = only
        self.folder = folder
        self.config = folder / "config.json"
        self.config.write_text(json.dumps(CONFIG))
        self.store = folder / "store"
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "SIMYARD_"))}
        self.env = {**clean, "SIMYARD_HOME": str(folder / "home"), "PREFECT_HOME": str(folder / "prefect")}
        self.env |= {"OMP_NUM_THREADS": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        store = Store.open(str(self.store))
        for _ in range(20):
            stage(resolve(check_config(CONFIG, TrainRequest), store, keys.new_job_id()), store)

    def simyard(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name("simyard")), *arguments]

    def case(self, name: str, wanted: float | None, command: list[str], *, code: int = 2, fresh: bool = False) -> None:
        """Measure a command and print its row; `fresh` for a home without anything in it."""
        if self.only not in name:
            return
        taken = [self.run(command, code, fresh=fresh) for _ in range(self.rounds)]
        cpu, wall = (statistics.median(values) for values in zip(*taken, strict=True))
        print(f"| {name} | {'' if wanted is None else f'{wanted:g} s'} | {cpu:.2f} s | {wall:.2f} s |", flush=True)

    def run(self, command: list[str], code: int = 2, *, fresh: bool = False) -> tuple[float, float]:
        """Return the processor time of a command and its children, and its wall time."""
        with tempfile.TemporaryDirectory(dir=self.folder) as home, (self.folder / "output.log").open("w") as log:
            env = self.env | ({"SIMYARD_HOME": home, "PREFECT_HOME": home} if fresh else {})
            began = time.monotonic()
            process = subprocess.Popen(command, env=env, cwd=self.folder, stdout=log, stderr=log)
            _, status, usage = os.wait4(process.pid, 0)
            took = time.monotonic() - began
        if os.waitstatus_to_exitcode(status) != code:
            sys.exit(f"{command} did not exit with {code}:\n" + (self.folder / "output.log").read_text()[-3000:])
        return usage.ru_utime + usage.ru_stime, took

    @contextmanager
    def session(self) -> Iterator[None]:
        """Keep a simulator warm for the store meanwhile."""
        if self.only and "warm" not in self.only:
            yield
            return
        self.run(
            self.simyard("sessions", "start", "--set", "computeConfig.gpusPerNode=0", "--store", str(self.store)), 0
        )
        try:
            yield
        finally:
            self.run(self.simyard("sessions", "stop", "--all"), 0)


if __name__ == "__main__":
    main()
