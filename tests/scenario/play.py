"""Jobs for the scenario simulator, made and run as the flow does it, without Prefect."""

import csv
import hashlib
import json
import re
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
from helpers import train_request
from scenario.nursery import Nursery

from simyard.core.errors import WorkloadError
from simyard.core.specs import ONE_JOB, Bounds, JobSpec
from simyard.requests.settings import MachineSettings
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import Observer
from simyard.tasks.collect import collect
from simyard.tasks.launch import launch_inline, worth_another
from simyard.tasks.persist import persist
from simyard.tasks.resolve import resolve
from simyard.tasks.sessions.fingerprint import fingerprint
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.shared.history import resume_points
from simyard.tasks.stage import stage

PYTHON = Path(__file__).parent / "python"
ENVIRONMENT = {"SIMYARD_PYTHON": str(PYTHON), "SCENARIO_PYTHON": sys.executable}
ITERATIONS = 12


PATIENCE = {"graceSeconds": 1, "closeSeconds": 1, "firstIterationSeconds": 30, "iterationSeconds": 30}


def config(scenario, *, iterations=ITERATIONS, timeouts=None, **changes):
    """The config of a job that plays a scenario; changes are fields of the top level."""
    return {
        "name": "played",
        "description": scenario,
        "trainingConfig": {"task": "Scenario", "numEnvs": 4, "maxIterations": iterations, "seed": 1},
        "computeConfig": {"gpusPerNode": 0},
        "timeouts": PATIENCE | (timeouts or {}),
        **changes,
    }


NOTHING = JobSpec(
    job_id="none", kind="train", name="none", simulator="isaaclab", task="None", library="rsl_rl", num_envs=1,
    max_iterations=1, seed=1,
)  # fmt: skip


class Waiting:
    """Workloads that have imported torch already, as the command line has one."""

    def __init__(self, home, bounds: Bounds = ONE_JOB):
        self._home = home
        self._bounds = bounds
        self._site = MachineSettings(home=self._home, store="", python=str(PYTHON))
        self._nursery = None

    def take(self):
        if self._nursery is None:
            self._nursery = Nursery(self._site.workload_env())
        workload = self._nursery.start(
            self._home / f"workload-{time.time_ns()}",
            library="rsl_rl",
            env=self._site.workload_env(),
            bounds=self._bounds,
        )
        workload.check(NOTHING, None, {}, 60)  # so that no test's patience is spent on an import
        return workload

    def close(self):
        if self._nursery is not None:
            self._nursery.close()


@dataclass(frozen=True)
class Left:
    """What a job left in its store."""

    store: Store
    folder: Path
    """The job's prefix."""
    result: dict

    @property
    def error(self):
        return self.result["error"]

    @property
    def attempts(self):
        return sorted((self.folder / "attempts").iterdir())

    @property
    def checkpoints(self):
        """The job's checkpoints, fewest iterations first."""
        found = [entry for entry in self.result["artifacts"] if entry["kind"] == "checkpoint"]
        return sorted(found, key=lambda entry: entry["iteration"])

    @property
    def diagnostics(self):
        return json.loads((self.folder / "artifacts" / "diagnostics.json").read_text())

    def outcome(self, attempt):
        return json.loads((self.folder / f"attempts/{attempt:03d}/outcome.json").read_text())

    def stdout(self, attempt=1):
        return (self.folder / f"attempts/{attempt:03d}/files/command.stdout.log").read_text()

    def runner_log(self, attempt=1):
        return (self.folder / f"attempts/{attempt:03d}/files/runner.log").read_text()

    @property
    def pid(self):
        """The process that ran the last attempt."""
        return started(self.stdout(len(self.attempts)))[0]

    def said(self, word):
        """What a scenario said after a word, such as `sees`, in JSON."""
        return json.loads(re.search(rf"^{word} (.+)$", self.stdout(), re.MULTILINE).group(1))

    def indices(self, attempt):
        """The indices of the iterations that an attempt made."""
        return [int(number) for number in re.findall(r"Learning iteration (\d+)/", self.stdout(attempt))]

    def metrics(self):
        with (self.folder / "artifacts" / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def assert_nothing_missing(self, iterations=ITERATIONS):
        """Every iteration was made exactly once as far as the policy and its record can tell."""
        last = f"{len(self.attempts):03d}"
        assert self.result["status"] == "succeeded", self.error
        assert (self.folder / "artifact_manifest.json").exists()
        stdout = (self.folder / f"attempts/{last}/files/command.stdout.log").read_text()
        assert f"every weight is [{iterations}.0]" in stdout
        rows = self.metrics()
        assert [int(row["step"]) for row in rows] == list(range(iterations))
        assert [float(row["Train/mean_reward"]) for row in rows] == [10.0 * index for index in range(iterations)]
        chain = self.checkpoints
        assert [entry["iteration"] for entry in chain] == [*range(1, iterations, 2), iterations]
        assert [entry["parent"] for entry in chain] == [None, *(entry["sha256"] for entry in chain[:-1])]
        assert_digests(self)


def assert_digests(left):
    """Every artifact that is named is there, with the bytes that are named."""
    for entry in left.result["artifacts"]:
        data = (left.folder / "artifacts" / entry["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size_bytes"], entry["sha256"]), entry["name"]


class Player:
    """Runs jobs in this process, one attempt after another."""

    def __init__(self, site, waiting):
        self.site = site
        self.store = Store.open(site.store)
        self._waiting = waiting

    def stage(self, scenario, **changes):
        """Put a job into the store, as `train` does."""
        resolved = resolve(train_request(config(scenario, **changes)), self.store, keys.new_job_id())
        stage(resolved, self.store)
        return resolved.spec

    def attempt(self, spec, observer=None, *, fresh=False, sessions=None):
        """Make one attempt, in the caller's sessions or in one of its own; return its failure, or None."""
        with ExitStack() as stack:
            if sessions is None:
                sessions = stack.enter_context(Sessions(self.site))
                if not fresh:
                    self.reserve(spec, sessions)
            try:
                launch_inline(spec, self.store, sessions, observer or Observer())
            except WorkloadError as error:
                return error
        return None

    def reserve(self, spec, sessions):
        """Have a process that has imported everything wait for jobs such as this one."""
        sessions.put(fingerprint(self.site, spec, self.store.url()), self._waiting.take())

    def play(self, scenario, observer=None, *, fresh=False, sessions=None, **changes):
        """Run a job to its end: attempts while they are worth it, then the verdict."""
        spec = self.stage(scenario, **changes)
        error = None
        for _ in range(spec.retries + 1):
            error = self.attempt(spec, observer, fresh=fresh, sessions=sessions)
            if error is None or not worth_another(error):
                break
        return self.end(spec, error)

    def end(self, spec, error=None):
        """Judge and keep, as the flow does after the last attempt."""
        verdict = collect(spec, self.store, error.failure if error else None)
        return Left(self.store, self.folder(spec.job_id), persist(spec, verdict, self.store).to_json())

    def folder(self, job_id):
        return Path(self.site.store) / "jobs" / job_id

    def valid_iterations(self, spec):
        return [point.iteration for point in resume_points(self.store, spec.job_id)]


def started(text):
    """Return the ids of the processes that a scenario says it started, itself first."""
    return [int(pid) for pid in re.findall(r"^started (\d+)$", text, re.MULTILINE)]


def alive(pids):
    """Return those of the processes that still run; a zombie does not."""
    return [pid for pid in pids if psutil.pid_exists(pid) and not _is_zombie(pid)]


def _is_zombie(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def running_below(folder):
    """Return the processes that have their current folder below this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found
