"""Jobs in one warm simulator: what they compute is what a cold one computes, and nothing piles up."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import psutil
import pytest
from helpers import CONFIG, LIBRARIES, CommandLine, last_json, wait_until
from simulated import CARTPOLE, NUM_ENVS, PATIENCE_S, Job, Player, Yard, assert_same_weights

pytestmark = pytest.mark.sim

OTHERS = [
    ("skrl", CARTPOLE, 8), ("sb3", "Isaac-Cartpole", 4), ("rl_games", CARTPOLE, 16), ("rsl_rl", "Isaac-Cartpole", 12),
    ("rsl_rl", CARTPOLE, 24),
]  # fmt: skip
"""Libraries, tasks and sizes of the jobs between those that are compared."""
MORE = [
    *OTHERS,
    ("rsl_rl", CARTPOLE, 4),
    ("skrl", CARTPOLE, 4),
    ("sb3", CARTPOLE, 4),
    ("rsl_rl", "Isaac-Ant-Direct", 4),
]
"""With another robot."""
MORE_DESCRIPTORS, MORE_THREADS, MORE_MEMORY = 4, 2, 200e6
"""The stated bounds: what a process may have more after its last job than after the first round of others."""


def train_others(yard: Yard, others: list[tuple[str, str, int]]) -> None:
    for seed, (library, task, num_envs) in enumerate(others, start=1):  # 0 is what skrl begins with
        settings = (f"rlLibrary={library}", f"task={task}", f"numEnvs={num_envs}", "maxIterations=1", f"seed={seed}")
        assert yard.train(*settings).result["status"] == "succeeded"


def size(pid: int) -> tuple[int, int, int]:
    """Descriptors, threads and resident bytes of a process."""
    process = psutil.Process(pid)
    return process.num_fds(), process.num_threads(), process.memory_info().rss


def assert_nothing_piles_up(before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
    descriptors, threads, memory = (now - then for now, then in zip(after, before, strict=True))
    assert descriptors <= MORE_DESCRIPTORS
    assert threads <= MORE_THREADS
    assert memory <= MORE_MEMORY


def runner_log(job: Job) -> str:
    return (job.folder / "attempts/001/files/runner.log").read_text()


@pytest.mark.long  # twelve trainings; test_same_weights.py and the last test here compare warm with cold
def test_after_many_jobs_every_library_gives_the_weights_that_it_gave_at_first(
    yard: Yard, trained: Callable[[str], Job]
) -> None:
    """In one process; other tests compare with cold ones."""
    first = [trained(library) for library in LIBRARIES]
    process = yard.session.pid
    assert yard.session.processes == 1, "a job of these tests has cost the simulator its life"
    train_others(yard, OTHERS)
    before = size(process)
    train_others(yard, OTHERS)
    for job in first:
        again = yard.train(f"rlLibrary={job.json('job.json')['library']}")
        assert yard.session.session_id in runner_log(job)
        assert yard.session.session_id in runner_log(again)
        assert_same_weights(again.final, job.final)
    assert yard.session.pid == process, "the process was replaced"
    assert_nothing_piles_up(before, size(process))


@pytest.mark.long  # two trainings more; test_across.py plays in both engines
def test_engines_take_turns_in_one_process_and_give_the_weights_that_they_gave_at_first(
    yard: Yard, trained: Callable[[str], Job]
) -> None:
    newton, physx = trained("rsl_rl"), yard.train("physics=physx")
    assert physx.json("versions.json")["simulator"]["physics"] == "physx"
    process = yard.session.pid
    assert_same_weights(yard.train().final, newton.final)
    assert_same_weights(yard.train("physics=physx").final, physx.final)
    assert yard.session.pid == process, "the process was replaced"


def test_no_model_array_or_environment_outlives_its_job(player: Player, tmp_path: Path) -> None:
    """Of jobs of changing size; a job that leaves one costs the simulators of the other tests their lives."""
    player("leak_player:step", tmp_path, 4)
    before = player("leak_player:alive", tmp_path)
    player("leak_player:step", tmp_path, 8)
    assert player("leak_player:alive", tmp_path) == before


@pytest.mark.long
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_second_and_the_fiftieth_job_give_the_weights_of_the_first(
    library: str, yard: Yard, trained: Callable[[str], Job]
) -> None:
    def compare() -> int:
        assert_same_weights(yard.train(f"rlLibrary={library}").final, trained(library).final)
        return yard.session.pid

    first = compare()
    assert compare() == first
    train_others(yard, MORE)
    before = size(first)
    train_others(yard, list(islice(cycle(MORE), 47 - len(MORE))))
    assert compare() == first, "the process was replaced"
    assert_nothing_piles_up(before, size(first))


@pytest.mark.long  # test_kept_sessions.py has the busy one
def test_a_job_that_finds_the_simulator_busy_gets_a_cold_one_and_computes_the_same(
    yard: Yard, trained: Callable[[str], Job]
) -> None:
    with ThreadPoolExecutor(1) as executor, yard.environment():
        larger = executor.submit(yard.train, f"numEnvs={3 * NUM_ENVS}", "maxIterations=60")
        wait_until(lambda: yard.session.state == "busy", PATIENCE_S, "the kept simulator is busy")
        cold = yard.train("rlLibrary=rl_games", when_free=False)
        assert larger.result().result["status"] == "succeeded"
    yard.sessions.close()
    assert "jobs_before=0" in runner_log(cold)
    assert_same_weights(cold.final, trained("rl_games").final)


def test_a_cold_simulator_that_cannot_draw_computes_the_same(trained_blind: Job, trained: Callable[[str], Job]) -> None:
    assert "jobs_before=0" in runner_log(trained_blind)
    assert_same_weights(trained_blind.final, trained("sb3").final)


def test_train_evaluate_export_and_roll_out_in_one_simulator(
    yard: Yard, evaluated: Callable[[str], Job], trained: Callable[[str], Job], tmp_path: Path
) -> None:
    """By one command, whose own simulator starts cold."""
    warm = evaluated("skrl").json("job.json")
    section = {key: warm["request"]["trainingConfig"][key] for key in ("seed", "numEpisodes", "numEnvs")}
    unseen = {"mode": "evaluate", "task": "Isaac-Cartpole-Direct", "recordVideo": False}
    evaluation = {"trainingConfig": unseen | section}
    export = {"exportConfig": {"task": "Isaac-Cartpole-Direct", "seed": 1, "numEpisodes": 8, "numEnvs": 8}}
    rollout = {
        "runtime_profile": "isaac_lab_rollout",
        "execution": {"num_envs": 4, "steps": 20, "seed": 1},
        "isaac_lab": {"task_class_or_name": "Isaac-Cartpole-Direct"},
        "control": {"task_mode": "policy"},
    }
    shared = {"computeConfig": {"gpusPerNode": 0}, "overrides": warm["request"]["overrides"]}
    training = CONFIG | {"trainingConfig": CONFIG["trainingConfig"] | {"rlLibrary": "skrl"}}
    configs = []
    for name, config in {
        "train": training, "evaluate": evaluation | shared, "export": export | shared,
        "rollout": rollout | {"compute_config": {"gpus_per_node": 0}},
    }.items():  # fmt: skip
        configs.append(tmp_path / f"{name}.json")
        configs[-1].write_text(json.dumps(config))
    simyard = CommandLine({**yard.simyard.env, "SIMYARD_HOME": str(tmp_path)})
    done = simyard("run", *configs, "--store", yard.store, "--json", timeout_s=2 * PATIENCE_S)
    assert done.returncode == 0, done.stderr
    results = last_json(done)["jobs"]
    assert [result["status"] for result in results] == ["succeeded"] * 4
    jobs = [Job(result, 0, yard.store / "jobs" / result["job_id"], "") for result in results]
    logs = [runner_log(job) for job in jobs]
    assert [f"jobs_before={number}" in log for number, log in enumerate(logs)] == [True] * 4, logs
    assert_same_weights(jobs[0].final, trained("skrl").final)
    assert jobs[1].rows("episodes.csv") == evaluated("skrl").rows("episodes.csv")
    assert os.listdir(tmp_path / "work") == []
