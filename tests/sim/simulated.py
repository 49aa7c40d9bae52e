"""Shared by the tests on the real simulator: jobs in one kept simulator, bare runs of Isaac Lab, what checkpoints hold.

What takes long to import is imported where it is used: every worker of a test run collects these modules.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from helpers import CommandLine, last_json, wait_until

from simyard.core.errors import Failure, WorkloadError
from simyard.core.files import sha256_of
from simyard.core.specs import Bounds, Facts
from simyard.requests.config import check_config, read_config
from simyard.requests.jobs import EvaluateRequest, ExportRequest, JobRequest, TrainRequest
from simyard.requests.settings import MachineSettings
from simyard.runner.assets.asset_root import embedded_root
from simyard.runner.rl.base import tensors_of
from simyard.runner.session_server import SessionState, kept_sessions
from simyard.runner.workload import TOKEN
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import Observer
from simyard.tasks.collect import collect
from simyard.tasks.kinds import kind_of
from simyard.tasks.kinds.base import Resolved
from simyard.tasks.kinds.policy_sources import load_spec
from simyard.tasks.launch import launch_inline, worth_another
from simyard.tasks.persist import persist
from simyard.tasks.resolve import resolve
from simyard.tasks.sessions import kept
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.shared.inputs import gather
from simyard.tasks.stage import stage

if TYPE_CHECKING:
    import torch

ISAACLAB = Path(sys.executable).parent / "isaaclab"
ITERATIONS = 4
ROLLOUT = {"rsl_rl": 16, "skrl": 32, "rl_games": 32, "sb3": 16}
"""Steps of each environment in one iteration, as Isaac Lab's cartpole has them."""
NUM_ENVS = 16
KILLED_ITERATIONS = 40
EPISODES, SIDE_BY_SIDE, LONGEST = 7, 4, 30
"""Of an evaluation: episodes, environments, and the steps after which the task's own time-out ends an episode."""
SHORT = ("env.episode_length_s=0.5", "env.max_cart_pos=0.8")
"""Half a second, and rails so short that some carts leave them: some even begin beyond."""
CARTPOLE = "Isaac-Cartpole-Direct"
NO_EGL = {"__EGL_VENDOR_LIBRARY_FILENAMES": "/nowhere"}
"""Makes a machine that cannot draw; its jobs have a simulator of their own."""
PATIENCE_S = 600
"""A simulator that starts with an empty kernel cache compiles for a minute, and longer where others compute."""
ENV = {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
"""rl_games compiles its model, which takes 20 s and more on a CPU and is not what these tests are about."""


@dataclass(frozen=True)
class Job:
    """A job as it was left in its store."""

    result: dict[str, Any]
    """What `--json` prints."""
    exit_code: int
    folder: Path
    """The job's prefix in the store."""
    log: str
    """Printed besides, or why it ended as it did."""

    @property
    def id(self) -> str:
        return str(self.result["job_id"])

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def manifest(self) -> dict[str, dict[str, Any]]:
        """The entries of the commit marker by name."""
        manifest = json.loads((self.folder / "artifact_manifest.json").read_text())
        return {entry["name"]: entry for entry in manifest["artifacts"]}

    @property
    def checkpoints(self) -> list[dict[str, Any]]:
        """The checkpoints of one chain: the last one, its parent, and so on, turned around."""
        by_digest = {entry["sha256"]: entry for entry in self.manifest.values() if entry["kind"] == "checkpoint"}
        parents = {entry["parent"] for entry in by_digest.values()}
        (last,) = [e for e in by_digest.values() if e["iteration"] is not None and e["sha256"] not in parents]
        chain = [last]
        while chain[-1]["parent"] in by_digest:
            chain.append(by_digest[chain[-1]["parent"]])
        return chain[::-1]

    @property
    def final(self) -> Path:
        """The last checkpoint."""
        return self.artifacts / self.checkpoints[-1]["name"]

    def json(self, name: str) -> Any:
        return json.loads((self.artifacts / name).read_text())

    def rows(self, name: str = "metrics.csv") -> list[dict[str, str]]:
        with (self.artifacts / name).open(newline="") as file:
            return list(csv.DictReader(file))

    def assert_whole(self) -> None:
        """It succeeded, and every artifact is there with the bytes that the manifest names."""
        assert (self.exit_code, self.result["status"], self.result["error"]) == (0, "succeeded", None), self.log
        for name, entry in self.manifest.items():
            path = self.artifacts / name
            assert (path.stat().st_size, sha256_of(path)) == (entry["size_bytes"], entry["sha256"]), name

    def measured(self) -> list[dict[str, str]]:
        """The metrics of each iteration, without those of the clock."""
        timed = ("wall_time", "Perf/")
        return [{tag: value for tag, value in row.items() if not tag.startswith(timed)} for row in self.rows()]

    def steps(self, tag: str) -> list[int]:
        """The steps at which a tag has a value."""
        return [int(row["step"]) for row in self.rows() if row[tag]]


@dataclass(frozen=True)
class Yard:
    """One machine and one store for many jobs, which run in one kept simulator, driven by this process."""

    config: Path
    """A training of the small cartpole."""
    home: Path
    store: Path
    simyard: CommandLine
    """Its variables are the machine's: a simulator is kept for jobs with the same."""

    @cached_property
    def site(self) -> MachineSettings:
        return MachineSettings(home=self.home, store=str(self.store), python=sys.executable)

    @cached_property
    def opened(self) -> Store:
        return Store.open(str(self.store))

    @cached_property
    def sessions(self) -> Sessions:
        """Borrows the machine's simulator; jobs that it is not for get one of their own, which stays for the next."""
        return Sessions(self.site, Bounds())

    def train(self, *settings: str, when_free: bool = True, **env: str) -> Job:
        """Run the small cartpole with some settings, to whatever end."""
        return self.run(TrainRequest, settings, self.config, when_free=when_free, **env)

    def again(self, job: Job) -> Job:
        """Run a job again from its frozen spec, as `--from-job` does."""
        with self.environment():
            spec = replace(load_spec(self.opened, job.id), job_id=keys.new_job_id(), from_job=job.id)
            return self._drive(Resolved(spec), when_free=True)

    def evaluate(self, job: Job | None, *settings: str, overrides: Sequence[str] = SHORT, **more: str) -> Job:
        """Measure the policy of a job, or of a config; of settings that differ the last counts."""
        size = (f"numEpisodes={EPISODES}", f"numEnvs={SIDE_BY_SIDE}")
        return self._with_policy(EvaluateRequest, job, [*size, *overrides, *settings], **more)

    def export(self, job: Job, *settings: str, overrides: Sequence[str] = SHORT, **more: str) -> Job:
        """Export the policy of a job, checked on a few short episodes."""
        return self._with_policy(ExportRequest, job, ["numEpisodes=8", "numEnvs=8", *overrides, *settings], **more)

    def _with_policy(
        self, model: type[JobRequest], job: Job | None, settings: Sequence[str], *, which: str = "latest",
        config: Path | None = None, **env: str,
    ) -> Job:  # fmt: skip
        source: dict[str, object] = {"which": which}
        if match := re.fullmatch(r"iteration:(\d+)", which):
            source = {"which": "iteration", "iteration": int(match.group(1))}
        of = [f"fromJob={json.dumps({'jobId': job.id, **source})}"] if job else []
        return self.run(model, ["seed=1", "computeConfig.gpusPerNode=0", *settings, *of], config, **env)

    def run(
        self, model: type[JobRequest], settings: Sequence[str], config: Path | None = None, *, when_free: bool = True,
        **env: str,
    ) -> Job:  # fmt: skip
        """Take a request to its end, once the machine's simulator is free; it may be for other jobs all the same."""
        base = config.parent if config else Path.cwd()
        with self.environment(**env):
            request = check_config(read_config(config, model, settings), model)
            return self._drive(resolve(request, self.opened, keys.new_job_id(), base), when_free=when_free)

    def _drive(self, resolved: Resolved, *, when_free: bool) -> Job:
        """Go the way of every job: stage, launch until no other attempt is worth it, collect, persist."""
        spec, failure = resolved.spec, None
        stage(resolved, self.opened)
        for _ in range(1 + spec.retries):
            if when_free:
                self.await_session()
            try:
                launch_inline(spec, self.opened, self.sessions, Observer())
                failure = None
                break
            except WorkloadError as error:
                failure = error.failure
                if not worth_another(error):
                    break
        result = persist(spec, collect(spec, self.opened, failure), self.opened).to_json()
        exit_code = 0 if result["status"] == "succeeded" else 1
        return Job(result, exit_code, self.store / "jobs" / spec.job_id, _reason(failure))

    def check(self, request: JobRequest, base: Path) -> Facts:
        """Have the simulator look at a request; raise `RequestError` where it refuses it."""
        with self.environment():
            resolved = resolve(request, self.opened, keys.new_job_id(), base)
            spec = resolved.spec
            files = gather(kind_of(spec).inputs(spec, None), resolved.inputs, self.opened, base)
            self.await_session()
            lease = self.sessions.take(spec, self.opened.url())
            try:
                return lease.workload.check(spec, None, files, PATIENCE_S)
            finally:
                lease.give_back()

    def command(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run `simyard` on this machine."""
        self.await_session()
        return self.simyard(*arguments, timeout_s=2 * PATIENCE_S)

    def read(self, done: subprocess.CompletedProcess[str]) -> Job:
        """Return the job that a command has run."""
        assert done.stdout, done.stderr
        result = last_json(done)
        return Job(result, done.returncode, self.store / "jobs" / str(result["job_id"]), done.stderr)

    @contextmanager
    def environment(self, **env: str) -> Iterator[None]:
        """Have this process be the machine, as its variables say it: those of other tests and libraries are no part."""
        machine = {**self.simyard.env, **env}
        with pytest.MonkeyPatch.context() as patch:
            for name in set(os.environ) - set(machine):
                patch.delenv(name)
            for name, value in machine.items():
                patch.setenv(name, value)
            yield

    def start_session(self) -> None:
        """Have the machine keep a simulator, as `simyard sessions start CONFIG` does."""
        with self.environment():
            request = check_config(read_config(self.config, TrainRequest), TrainRequest)
            warm_up = resolve(request, self.opened, keys.new_job_id())
            bounds = Bounds(idle_s=90 * 60.0, jobs=1000)  # the long tier runs more than 200
            kept.start(warm_up.spec, warm_up, self.opened, self.site, bounds, lambda stage: None)

    def await_session(self) -> None:
        """Wait until the kept simulator is free: it takes a moment after a job, and starts anew after a failed one."""
        assert psutil.pid_exists(self.session.server_pid), "somebody has killed the kept simulator"
        wait_until(lambda: self.session.state == "ready", PATIENCE_S, "the kept simulator is ready")

    @property
    def session(self) -> SessionState:
        """How the kept simulator stands."""
        ((_, state),) = kept_sessions(self.site.sessions_folder)
        return state

    def stop(self) -> None:
        """End all simulators."""
        self.sessions.close()
        kept.stop(self.site, None, lambda stage: None)


def _reason(failure: Failure | None) -> str:
    return f"{failure.code}: {failure.message}" if failure else ""


@dataclass(frozen=True)
class Killed:
    """A job whose simulator was ended by SIGKILL, once."""

    job: Job
    token: str
    """What that simulator and everything it started had in their environment."""


def kill_simulator(job: Callable[[], Job], at: Path, pattern: str) -> Killed:
    """Run a job, and kill the simulator that works below a folder when a file is there."""

    def kill() -> str:
        (found,) = wait_until(lambda: [*at.glob(pattern)], PATIENCE_S, pattern)
        (simulator,) = (child for child in psutil.Process().children() if _works_in(child, found.parents))
        token = simulator.environ()[TOKEN]
        simulator.send_signal(signal.SIGKILL)
        return token

    with ThreadPoolExecutor(1) as executor:
        killing = executor.submit(kill)
        return Killed(job(), killing.result())


def _works_in(process: psutil.Process, folders: Sequence[Path]) -> bool:
    try:
        return Path(process.cwd()) in folders
    except psutil.Error:  # it has ended
        return False


class Player:
    """A process with a simulator that calls functions of these modules, one after another: `player.py`."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "player.log"
        assets = embedded_root(folder / "assets")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("player.py")],
                env={**os.environ, **ENV, "ISAACSIM_ASSET_ROOT": str(assets)},
                cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip

    def __call__(self, function: str, folder: Path, *arguments: object) -> Any:
        """Call `module:function` with a folder and more, in that folder; return what it returned, as JSON has it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"function": function, "folder": str(folder), "arguments": arguments}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the player died: {self._log.read_text(errors='replace')[-3000:]}"
        found = json.loads(answer)
        assert found["error"] is None, found["error"]
        return found["value"]

    def close(self) -> None:
        """Let it end: it does so when nobody can order anything any more."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()


class Hostile:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def run_bare(library: str, folder: Path) -> Path:
    """Run `isaaclab train` itself with what simyard's small cartpole asks for; return its last checkpoint."""
    arguments = {
        "rsl_rl": ["agent.device=cpu"],
        "skrl": [],
        "rl_games": [
            "agent.params.config.device=cpu", "agent.params.config.device_name=cpu",
            "agent.params.config.minibatch_size=512",
        ],
        "sb3": ["--log_interval", "256", "agent.device=cpu"],
    }[library]  # fmt: skip
    folder.mkdir()
    done = subprocess.run(
        [ISAACLAB, "train", "--rl_library", library, "--task", "Isaac-Cartpole-Direct", "--num_envs", str(NUM_ENVS),
         "--seed", "1", "--max_iterations", str(ITERATIONS), "--device", "cpu", "physics=newton_mjwarp", *arguments],
        env={**os.environ, **ENV, "ISAACSIM_ASSET_ROOT": str(embedded_root(folder / "assets"))},
        cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    last = {"rsl_rl": "model_3.pt", "skrl": "agent_128.pt", "rl_games": "last_*_ep_4_rew_*.pth", "sb3": "model.zip"}
    (checkpoint,) = folder.glob(f"logs/{library}/**/{last[library]}")
    return checkpoint


def load(checkpoint: Path) -> dict[str, Any]:
    """Load everything that a checkpoint holds in tensors."""
    import torch

    if checkpoint.suffix != ".zip":
        return dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    with zipfile.ZipFile(checkpoint) as archive:
        members = [name for name in archive.namelist() if name.endswith(".pth")]
        return {name: torch.load(io.BytesIO(archive.read(name)), weights_only=True) for name in members}


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of a checkpoint, the optimiser's too, by its path."""
    return dict(tensors_of("", load(checkpoint)))


def optimizer_steps(checkpoint: Path) -> int:
    """Return how often the optimiser has stepped since training began: it counts every update, and none twice."""
    return int(max(tensor.max() for name, tensor in tensors(checkpoint).items() if name.endswith(".step")))


def assert_same_weights(one: Path, other: Path) -> None:
    """Compare bit for bit."""
    import torch

    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    assert len(first) > 10
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, different
