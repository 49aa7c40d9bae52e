"""Jobs in one warm simulator: what they compute is what a cold one computes, and nothing piles up."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import psutil
import pytest
from helpers import CONFIG, last_json
from simulated import ENV, LIBRARIES, NUM_ENVS, Job, Yard, assert_same_weights

from simyard.config import check_config
from simyard.requests import TrainRequest
from simyard.runner.spec import Bounds, JobSpec
from simyard.site import Site
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.attempt import Observer
from simyard.tasks.launch import launch_inline
from simyard.tasks.resolve import resolve
from simyard.tasks.sessions import Sessions
from simyard.tasks.stage import stage

pytestmark = pytest.mark.sim

JOBS = 50
OTHERS = [
    ("rsl_rl", "Isaac-Cartpole-Direct", 4), ("skrl", "Isaac-Cartpole-Direct", 8), ("sb3", "Isaac-Cartpole", 4),
    ("rl_games", "Isaac-Cartpole-Direct", 16), ("rsl_rl", "Isaac-Cartpole", 12), ("skrl", "Isaac-Cartpole-Direct", 4),
    ("rsl_rl", "Isaac-Ant-Direct", 4), ("rsl_rl", "Isaac-Cartpole-Direct", 24),
]  # fmt: skip
"""Libraries, tasks and sizes of the jobs between those that are compared."""
MORE_DESCRIPTORS, MORE_THREADS, MORE_MEMORY = 4, 2, 200e6
"""The stated bounds: what a process may have more after its fiftieth job than after its tenth, when each of `OTHERS`
has run once."""


class Session:
    """Jobs in the warm processes of this one, without Prefect."""

    def __init__(self, folder: Path) -> None:
        self.site = Site(home=folder / "home", store=str(folder / "store"), python=sys.executable)
        self.store = Store.open(self.site.store)
        self.sessions = Sessions(self.site, Bounds())

    def train(self, library: str, task: str, num_envs: int, iterations: int, seed: int = 1) -> JobSpec:
        """Train from scratch; raise unless that succeeds."""
        changed = {"rlLibrary": library, "task": task, "numEnvs": num_envs, "maxIterations": iterations, "seed": seed}
        config = CONFIG | {"trainingConfig": CONFIG["trainingConfig"] | changed}
        resolved = resolve(check_config(config, TrainRequest), self.store, keys.new_job_id())
        stage(resolved, self.store)
        launch_inline(resolved.spec, self.store, self.sessions, Observer())
        return resolved.spec

    def final(self, spec: JobSpec) -> Path:
        """The checkpoint of the last iteration."""
        attempt = Path(self.site.store) / keys.JobKeys(spec.job_id).attempt(1).prefix
        records = json.loads((attempt / "checkpoints.json").read_text())
        (last,) = [record for record in records if record["iteration"] == spec.max_iterations]
        return Path(self.site.store) / last["key"]

    @property
    def process(self) -> psutil.Process:
        """The one process that waits."""
        ((_, workload),) = self.sessions._idle
        return psutil.Process(workload.pid)

    def size(self) -> tuple[int, int, int]:
        """Descriptors, threads and resident bytes of that process."""
        return self.process.num_fds(), self.process.num_threads(), self.process.memory_info().rss


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENV.items():
            patch.setenv(name, value)
        session = Session(tmp_path)
        with session.sessions:
            yield session


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_first_the_second_and_the_fiftieth_job_give_the_weights_of_a_cold_one(
    library: str, session: Session, trained: Callable[[str], Job]
) -> None:
    def compare() -> int:
        spec = session.train(library, "Isaac-Cartpole-Direct", NUM_ENVS, 4)
        assert_same_weights(session.final(spec), trained(library).final)
        return session.process.pid

    first = compare()
    assert compare() == first
    between = list(islice(cycle(OTHERS), JOBS - 3))
    for number, (other, task, num_envs) in enumerate(between):
        session.train(other, task, num_envs, 1, seed=number)
        if number == len(OTHERS):
            before = session.size()
    assert compare() == first, "the process was replaced"
    descriptors, threads, memory = (now - then for now, then in zip(session.size(), before, strict=True))
    assert descriptors <= MORE_DESCRIPTORS
    assert threads <= MORE_THREADS
    assert memory <= MORE_MEMORY


def test_two_sizes_at_once_run_in_two_processes(session: Session, trained: Callable[[str], Job]) -> None:
    with ThreadPoolExecutor(2) as executor:
        small = executor.submit(session.train, "rsl_rl", "Isaac-Cartpole-Direct", NUM_ENVS, 4)
        large = executor.submit(session.train, "rsl_rl", "Isaac-Cartpole-Direct", 3 * NUM_ENVS, 2)
        assert_same_weights(session.final(small.result()), trained("rsl_rl").final)
        large.result()
    assert len({workload.pid for _, workload in session.sessions._idle}) == 2


def test_train_evaluate_export_and_roll_out_in_one_simulator(
    yard: Yard, evaluated: Callable[[str], Job], trained: Callable[[str], Job], tmp_path: Path
) -> None:
    cold = evaluated("rsl_rl").json("job.json")
    section = {key: cold["request"]["trainingConfig"][key] for key in ("seed", "numEpisodes", "numEnvs")}
    evaluation = {"trainingConfig": {"mode": "evaluate", "task": "Isaac-Cartpole-Direct", **section}}
    export = {"exportConfig": {"task": "Isaac-Cartpole-Direct", "seed": 1, "numEpisodes": 8, "numEnvs": 8}}
    rollout = {
        "runtime_profile": "isaac_lab_rollout",
        "execution": {"num_envs": 4, "steps": 20, "seed": 1},
        "isaac_lab": {"task_class_or_name": "Isaac-Cartpole-Direct"},
        "control": {"task_mode": "policy"},
    }
    shared = {"computeConfig": {"gpusPerNode": 0}, "overrides": cold["request"]["overrides"]}
    configs = []
    for name, config in {
        "train": CONFIG, "evaluate": evaluation | shared, "export": export | shared,
        "rollout": rollout | {"compute_config": {"gpus_per_node": 0}},
    }.items():  # fmt: skip
        configs.append(tmp_path / f"{name}.json")
        configs[-1].write_text(json.dumps(config))
    done = yard.command("run", *configs, "--store", yard.store, "--json", timeout_s=600, SIMYARD_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    results = last_json(done)["jobs"]
    assert [result["status"] for result in results] == ["succeeded"] * 4
    jobs = [Job(result, 0, yard.store / "jobs" / result["job_id"], "") for result in results]
    logs = [(job.folder / "attempts/001/files/runner.log").read_text() for job in jobs]
    assert [f"jobs_before={number}" in log for number, log in enumerate(logs)] == [True] * 4, logs
    assert_same_weights(jobs[0].final, trained("rsl_rl").final)
    assert jobs[1].rows("episodes.csv") == evaluated("rsl_rl").rows("episodes.csv")
    assert os.listdir(tmp_path / "work") == []
