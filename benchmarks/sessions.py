"""From submit to the first iteration, and from the last one to the end, by every way in: cold and in a warm simulator.

    python benchmarks/sessions.py [--envs 256] [--iterations 5] [--rounds 3] [--gpus 0] [--kinds …]

The first iteration is when the library wrote its first scalar, by its own clock, in every kind of run alike. Each kind
runs once unmeasured, which fills the kernel cache. Kinds:

    bare          `isaaclab train`
    cold          `simyard train --session off`, a Prefect server running
    kept          `simyard train`, a session of this machine running
    inline cold   the flow `train` in a process that has imported it, as a notebook has, and no simulator
    inline warm   the same, with a simulator that has done the same job before
    pool cold     the flow through a process worker
    pool kept     the same, a session of this machine running
    api kept      the HTTP API by its client, the worker being that of `simyard up`, a session of this machine running

`after` is the time from the library's last scalar until the caller has the result.
"""

import argparse
import json
import math
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from overhead import TASK, Bench

from simyard.tasks.metrics.events import EventReader, find_event_files

KINDS = ("bare", "command", "inline", "pool", "api")
_STAGE = re.compile(r"time=(\S+) stage=(\S+) status=start")
SIMYARD = "import sys; from simyard.cli.main import main; sys.argv[0] = 'simyard'; main()"
INLINE = """
import json, sys, time
from simyard.flows import stages
from simyard.flows.train import train
from simyard.requests.jobs import TrainRequest
from simyard.core.specs import Bounds
from simyard.requests.settings import MachineSettings
from simyard.tasks.sessions.pool import Sessions
request = TrainRequest.model_validate(json.load(open(sys.argv[1])))
for _ in range(int(sys.argv[3])):
    with Sessions(MachineSettings.from_env(), Bounds()) as sessions, stages.inline(stages.Inline(sessions=sessions)):
        for kind in ("cold", "warm", "warm"):
            submitted = time.time()
            result = train(request, sys.argv[2])
            print(json.dumps([kind, submitted, result["job_id"], time.time() - submitted]), flush=True)
"""
"""What a notebook would do; a warm job is the second and the third of a simulator."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gpus", type=int, default=0, choices=(0, 1))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="which kinds of run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="simyard-bench-", ignore_cleanup_errors=True) as folder:
        bench = SessionBench(Path(folder), options)
        with bench.server():
            bench.env |= {"PREFECT_HOME": str(bench.folder / "a"), "PREFECT_API_URL": bench.url}
            bench.env |= {"PREFECT_LOGGING_LEVEL": "ERROR"}
            if "bare" in options.kinds:
                bench.measure("bare", bench.bare_run)
            if "command" in options.kinds:
                bench.measure("cold", lambda: bench.command("--session", "off"))
                with bench.kept():
                    bench.measure("kept", bench.command)
            if "inline" in options.kinds:
                bench.inline()
            if "pool" in options.kinds:
                with bench.worker():
                    bench.measure("pool cold", lambda: bench.command("--pool", "bench", "--session", "off"))
                    with bench.kept():
                        bench.measure("pool kept", lambda: bench.command("--pool", "bench"))
            if "api" in options.kinds:
                with bench.site() as submit, bench.kept():
                    bench.measure("api kept", submit)
        bench.report()


def wall_times(folder: Path) -> list[Sequence[float]]:
    """Return the wall times of each scalar that a job has written, from the event files below its folder.

    They are copied first: a store links files that are equal, and the reader refuses a file of several names.
    """
    with tempfile.TemporaryDirectory() as copies:
        files = [shutil.copy(file, Path(copies) / f"events-{number}")
                 for number, file in enumerate(find_event_files(folder))]  # fmt: skip
        return [series.walls for file in files for series in EventReader(Path(file)).read_new().values()]


class SessionBench(Bench):
    """The kinds of run, in one folder."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        super().__init__(folder, options)
        self.store = folder / "store"
        self.found: dict[str, list[tuple[float, float, float]]] = {}
        """Seconds to the first iteration, to the end, and from the last iteration to the end, by kind."""
        self.stages: list[dict[str, float]] = []
        """Seconds from the submission by the client to each stage of the job, a job each."""

    def measure(self, kind: str, run: Callable[[], tuple[float, float, Path]]) -> None:
        """Run once for the caches, then as often as asked."""
        for number in range(self.options.rounds + 1):
            submitted, ended, folder = run()
            if number:
                self.note(kind, submitted, ended, folder)

    def note(self, kind: str, submitted: float, ended: float, folder: Path) -> None:
        found = wall_times(folder)
        first, last = min(map(min, found)), max(map(max, found))
        times = first - submitted, ended - submitted, ended - last
        self.found.setdefault(kind, []).append(times)
        words = zip(("first iteration", "end", "after"), times, strict=True)
        print(f"{kind:12} " + "   ".join(f"{name} {seconds:6.2f} s" for name, seconds in words), flush=True)

    def bare_run(self) -> tuple[float, float, Path]:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        submitted = time.time()
        command = [sys.executable, "-m", "isaaclab", "train", "--rl_library", "rsl_rl", "--task", TASK]
        command += ["--num_envs", str(self.options.envs), "--max_iterations", str(self.options.iterations)]
        command += ["--seed", "42", "--device", self.device, "physics=newton_mjwarp", f"agent.device={self.device}"]
        self._in(folder, command)
        return submitted, time.time(), folder

    def command(self, *arguments: str) -> tuple[float, float, Path]:
        """Run `simyard train`."""
        submitted = time.time()
        command = [sys.executable, "-c", SIMYARD, "train", str(self.config), "--store", str(self.store), "--json"]
        job = json.loads(self._in(self.folder, [*command, *arguments]).splitlines()[-1])
        return submitted, time.time(), self.store / "jobs" / job["job_id"]

    def inline(self) -> None:
        """Run the flow in one process: for each round a cold simulator, then two jobs more in it."""
        rounds = str(self.options.rounds + 1)
        printed = self._in(self.folder, [sys.executable, "-c", INLINE, str(self.config), str(self.store), rounds])
        lines = [json.loads(line) for line in printed.splitlines() if line.startswith("[")]
        for kind, submitted, job_id, seconds in lines[3:]:  # those before fill the caches
            self.note(f"inline {kind}", submitted, submitted + seconds, self.store / "jobs" / job_id)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep a session on this machine, warmed up by the same config."""
        simyard = [sys.executable, "-c", SIMYARD, "sessions"]
        self._in(self.folder, [*simyard, "start", str(self.config), "--store", str(self.store), "--json"])
        try:
            yield
        finally:
            self._in(self.folder, [*simyard, "stop", "--all", "--json"])

    @contextmanager
    def worker(self) -> Iterator[None]:
        """Have a process worker that asks for work every second."""
        prefect = [sys.executable, "-m", "prefect"]
        self._in(self.folder, [*prefect, "work-pool", "create", "bench", "--type", "process"])
        env = {**self.env, "PREFECT_WORKER_QUERY_SECONDS": "1"}
        process = subprocess.Popen(
            [*prefect, "worker", "start", "--pool", "bench"], env=env, cwd=self.folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)

    @contextmanager
    def site(self) -> Iterator[Callable[[], tuple[float, float, Path]]]:
        """Run `simyard up` with the bench's Prefect server; yield what sends a job by the client and waits for it."""
        from simyard.client import Client

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-c", SIMYARD, "up", "--port", str(port), "--store", str(self.store)]
        with (self.folder / "site.log").open("wb") as log:
            process = subprocess.Popen(command, env=self.env, cwd=self.folder, stdout=log, stderr=log)
        try:
            while b"Ready." not in (self.folder / "site.log").read_bytes():
                if process.poll() is not None:
                    sys.exit((self.folder / "site.log").read_text()[-3000:])
                time.sleep(0.2)
            key, request = (self.folder / "home" / "api-key").read_text().strip(), json.loads(self.config.read_text())
            with Client(key, f"http://127.0.0.1:{port}") as client:

                def submit() -> tuple[float, float, Path]:
                    submitted = time.time()
                    job = client.train(request)
                    accepted = time.time()
                    job.wait(poll_interval_s=0.1)
                    ended, folder = time.time(), self.store / "jobs" / job.job_id
                    at = {"accepted": accepted, **self._stages(job.job_id, folder), "the client knows": ended}
                    self.stages.append({name: when - submitted for name, when in at.items()})
                    return submitted, ended, folder

                yield submit
        finally:
            process.terminate()
            process.wait(60)

    def _stages(self, job_id: str, folder: Path) -> dict[str, float]:
        """Return when each stage of a job of the site began, by Unix time."""
        log = (folder / "artifacts" / "runner.log").read_text()
        logged = {stage: datetime.fromisoformat(at).timestamp() for at, stage in _STAGE.findall(log)}
        found = wall_times(folder)
        at = {
            **self._states(job_id),
            **logged,
            "first iteration": min(map(min, found)),
            "last iteration": max(map(max, found)),
            "result kept": (folder / "result.json").stat().st_mtime,
        }
        return dict(sorted(at.items(), key=lambda item: item[1]))

    def _states(self, job_id: str) -> dict[str, float]:
        """Return when the flow run of a job came into each state."""
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: self.url}), get_client(sync_client=True) as client:
            key = FlowRunFilterIdempotencyKey(any_=[job_id])
            (run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(idempotency_key=key))
            states = client.read_flow_run_states(run.id)
        return {f"flow run {state.name}": state.timestamp.timestamp() for state in states}

    def _in(self, folder: Path, command: list[str]) -> str:
        done = subprocess.run(command, env=self.env, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{command} failed:\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}")
        return done.stdout

    def report(self) -> None:
        """Print the table and one JSON line."""
        bare = statistics.median(first for first, *_ in self.found.get("bare", [(math.nan,)]))
        print(f"\n{TASK}, {self.options.envs} environments, {self.options.iterations} iterations, medians")
        print(f"{'':12} {'first iteration':>16} {'x bare':>8} {'end':>8} {'after':>8}")
        for kind, times in self.found.items():
            first, ended, after = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"{kind:12} {first:14.2f} s {first / bare:8.2f} {ended:6.1f} s {after:6.2f} s")
        print(json.dumps({"envs": self.options.envs, "seconds": self.found}))


if __name__ == "__main__":
    main()
