"""Wall time of `simyard train` against bare `isaaclab train` with the same arguments, in alternation.

    python benchmarks/overhead.py [--envs 256] [--iterations 60] [--rounds 3] [--gpus 0]

Three kinds of run: bare, simyard with a Prefect server running, simyard with none (it starts its own for the run).
The kernel cache is warmed by a first run that does not count. Prints each time, the medians, their ratios to bare, and
one JSON line.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from simyard.runner.assets.asset_root import embedded_root

TASK = "Isaac-Cartpole-Direct"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gpus", type=int, default=0, choices=(0, 1))
    parser.add_argument("--skip-nothing", action="store_true", help="leave out the runs without a Prefect server")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="simyard-bench-") as folder:
        bench = Bench(Path(folder), options)
        with bench.server():
            kinds = {"bare": bench.bare, "with_server": bench.with_server}
            if not options.skip_nothing:
                kinds["from_nothing"] = bench.from_nothing
                bench.from_nothing()  # makes the database, as a first day's use does
            bench.bare()  # fills the kernel cache
            times: dict[str, list[float]] = {kind: [] for kind in kinds}
            for number in range(options.rounds):
                for kind, run in kinds.items():
                    times[kind].append(run())
                    print(f"round {number + 1}  {kind:13} {times[kind][-1]:6.1f} s", flush=True)
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    ratios = {kind: round(medians[kind] / medians["bare"], 3) for kind in kinds if kind != "bare"}
    for kind, seconds in medians.items():
        print(f"{kind:13} median {seconds:6.1f} s" + (f"   {ratios[kind]:.2f} x bare" if kind in ratios else ""))
    print(json.dumps({"envs": options.envs, "iterations": options.iterations, "seconds": times, "ratios": ratios}))


class Bench:
    """The three kinds of run, each in folders of its own."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.options = options
        self.device = "cuda:0" if options.gpus else "cpu"
        self.url = ""
        root = os.environ.get("ISAACSIM_ASSET_ROOT") or str(embedded_root(folder / "assets"))
        own = {"ISAACSIM_ASSET_ROOT": root, "OMP_NUM_THREADS": "1", "SIMYARD_HOME": str(folder / "home")}
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
        self.env = {**clean, **own, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        self.config = folder / "config.json"
        training = {"task": TASK, "numEnvs": options.envs, "maxIterations": options.iterations, "seed": 42}
        self.config.write_text(json.dumps({"trainingConfig": training, "computeConfig": {"gpusPerNode": options.gpus}}))

    def server(self) -> "_Server":
        return _Server(self)

    def bare(self) -> float:
        options = self.options
        command = [sys.executable, "-m", "isaaclab", "train", "--rl_library", "rsl_rl", "--task", TASK]
        command += ["--num_envs", str(options.envs), "--max_iterations", str(options.iterations), "--seed", "42"]
        command += ["--device", self.device, "physics=newton_mjwarp", f"agent.device={self.device}"]
        return self._run(command, self.env)

    def with_server(self) -> float:
        return self._run(
            self._simyard(), {**self.env, "PREFECT_HOME": str(self.folder / "a"), "PREFECT_API_URL": self.url}
        )

    def from_nothing(self) -> float:
        return self._run(self._simyard(), {**self.env, "PREFECT_HOME": str(self.folder / "b")})

    def _simyard(self) -> list[str]:
        train = "import sys; from simyard.cli.main import main; sys.argv[0] = 'simyard'; main()"
        return [sys.executable, "-c", train, "train", str(self.config), "--store", str(self.folder / "store"), "--json"]

    def _run(self, command: list[str], env: dict[str, str]) -> float:
        began = time.monotonic()
        with (self.folder / "output.log").open("w") as log:
            done = subprocess.run(command, env=env, cwd=self.folder, stdout=log, stderr=log, check=False)
        if done.returncode:
            sys.exit(f"{command} failed:\n" + (self.folder / "output.log").read_text()[-3000:])
        return time.monotonic() - began


class _Server:
    """A Prefect server for the length of a `with` block."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def __enter__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.bench.url = f"http://127.0.0.1:{port}/api"
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        env = {**self.bench.env, "PREFECT_HOME": str(self.bench.folder / "a")}
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.bench.url}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.3)
        sys.exit(f"the Prefect server ended with exit code {self.process.returncode}")

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(30)


if __name__ == "__main__":
    main()
