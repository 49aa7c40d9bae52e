"""Isaac Lab 2.3, by its command line. Its launcher and script are stand-ins: the real ones need Isaac Sim and a GPU."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import train_request

from simyard.core.errors import RequestError, WorkloadError
from simyard.core.specs import AttemptSpec, Facts, InputFile, JobSpec, ResumePoint, World
from simyard.requests.settings import MachineSettings
from simyard.runner.isaaclab import scripts as isaaclab_scripts
from simyard.runner.isaaclab.lookup import scripts_folder
from simyard.runner.rl import get_library
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import Observer
from simyard.tasks.collect import collect
from simyard.tasks.launch import launch_inline
from simyard.tasks.persist import persist
from simyard.tasks.resolve import resolve
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.stage import stage

pytestmark = pytest.mark.system

INSTALLATION = Path(__file__).parents[1] / "isaaclab23"
ON_THE_CPU = {"gpusPerNode": 0, "acceptNvidiaEula": True}


@pytest.fixture(autouse=True)
def isaaclab_23(monkeypatch):
    monkeypatch.setenv("ISAACLAB_PATH", str(INSTALLATION))
    monkeypatch.setenv("PYTHON", sys.executable)


def train(tmp_path, **changes):
    """Run a job to its result."""
    store = Store.open(str(tmp_path / "store"))
    training = {"task": "Isaac-Cartpole-Direct-v0", "numEnvs": 8, "maxIterations": 3, "rlLibrary": "rsl_rl", "seed": 7}
    request = train_request({"trainingConfig": training, "computeConfig": ON_THE_CPU, **changes})
    resolved = resolve(request, store, keys.new_job_id(), tmp_path)
    stage(resolved, store)
    site = replace(MachineSettings.from_env(), home=tmp_path / "home", python=sys.executable)
    with Sessions(site) as sessions:
        launch_inline(resolved.spec, store, sessions, Observer())
    return persist(resolved.spec, collect(resolved.spec, store), store).to_json(), store


def checkpoints(result):
    """The checkpoints of a job by name, in their order."""
    prefix = "checkpoints/"
    return {e["name"].removeprefix(prefix): e for e in result["artifacts"] if e["name"].startswith(prefix)}


def a_job(library, **changes):
    fields = {"task": "Isaac-Cartpole-Direct-v0", "num_envs": 8, "max_iterations": 3, "seed": 7, **changes}
    return JobSpec(job_id=keys.new_job_id(), kind="train", name="n", simulator="isaaclab", library=library, **fields)


def command(attempt, checkpoint=None, overrides=()):
    """The command line of an attempt on a GPU machine."""
    facts = Facts(
        simulator="isaaclab", version="2.3.2", flavor="scripts", device="cuda:0", rollout=1, overrides=overrides
    )
    return isaaclab_scripts.command(attempt, facts, get_library(attempt.job.library), checkpoint, Path("/lab"))


def test_a_job_trains_by_the_script_and_keeps_an_id_with_v0(tmp_path, monkeypatch):
    # As in a container that a login shell has not started, under a worker of an environment of its own.
    monkeypatch.delenv("TERM", raising=False)
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "none"))
    result, store = train(tmp_path)
    assert result["status"] == "succeeded", result["error"]
    assert [*checkpoints(result)] == ["model_0.pt", "model_2.pt"]  # one every 50 iterations, and the last
    job = keys.JobKeys(result["job_id"])
    spec = store.get_json(job.job)
    assert (spec["task"], spec["renamed_from"]) == ("Isaac-Cartpole-Direct", "Isaac-Cartpole-Direct-v0")
    assert "task: Isaac-Cartpole-Direct-v0\n" in store.get_bytes(job.artifact("params/agent.yaml")).decode()
    assert b"2.x" not in store.get_bytes(job.artifact("runner.log"))
    assert store.get_bytes(job.artifact("params/env.yaml")) == b"seed: 7\n"
    assert "Policy/mean_noise_std" in store.get_json(job.artifact("metrics.json"))
    assert store.get_json(job.artifact("versions.json"))["simulator"] == {
        "isaaclab": "2.3.2", "flavor": "scripts", "device": "cpu",
    }  # fmt: skip


@pytest.mark.long  # a second and a third run of the script
def test_a_resumed_job_goes_on_with_the_next_iteration(tmp_path):
    first, _ = train(tmp_path)
    second, store = train(tmp_path, resume={"fromJob": first["job_id"]})
    assert second["status"] == "succeeded", second["error"]
    assert [*checkpoints(second)] == ["model_5.pt"]
    assert checkpoints(second)["model_5.pt"]["parent"] == checkpoints(first)["model_2.pt"]["sha256"]
    metrics = store.get_bytes(keys.JobKeys(second["job_id"]).artifact("metrics.csv")).decode()
    assert [row.split(",")[0] for row in metrics.splitlines()[1:]] == ["3", "4", "5"]


def test_a_script_that_fails_is_a_failed_attempt_with_its_exit_code(tmp_path):
    with pytest.raises(WorkloadError, match="exit code 3"):
        train(tmp_path, overrides=["agent.crash_at=1"])


A_CHECKPOINT = ResumePoint(
    checkpoint=InputFile(name="model.zip", key="model.zip", sha256="0" * 64, size_bytes=1), iteration=1
)


@pytest.mark.parametrize(
    ("library", "changes", "message"),
    [
        pytest.param("skrl", {"task": "My-Task-v0"}, "counts environment steps.*'My-Task-v0'", id="task in no file"),
        pytest.param("sb3", {"resume": A_CHECKPOINT}, "cannot resume: sb3 checkpoints.*no state", id="normalised"),
        pytest.param("rl_games", {}, "no training", id="no script"),
        pytest.param("rsl_rl", {"stages": ("a stage",)}, "2.3 trains in one go", id="stages"),
    ],
)
def test_what_2_3_cannot_train_here_is_refused(library, changes, message):
    with pytest.raises(RequestError, match=message):
        isaaclab_scripts.check(a_job(library, **changes), get_library(library))


@pytest.mark.parametrize(
    ("library", "given", "rollout", "own"),
    [
        pytest.param("skrl", (), 32, ["agent.agent.experiment.write_interval=32"], id="skrl"),
        pytest.param("skrl", ("agent.agent.rollouts=8",), 8, ["agent.agent.experiment.write_interval=8"], id="changed"),
        pytest.param("sb3", (), 16, ["++agent.device=cpu"], id="sb3"),
        pytest.param("rsl_rl", (), 1, ["++agent.device=cpu"], id="its configuration is Python"),
    ],
)
def test_an_iteration_is_as_long_as_the_file_of_its_task_says(library, given, rollout, own):
    facts = isaaclab_scripts.check(a_job(library, overrides=given, gpus=0), get_library(library))
    assert (facts.rollout, facts.overrides) == (rollout, (*own, *given))


@pytest.mark.parametrize(
    ("variables", "folder", "python"),
    [
        pytest.param({"VIRTUAL_ENV": "/venv", "TERM": "dumb"}, INSTALLATION, None, id="activated environment"),
        pytest.param({"CONDA_PREFIX": "/conda", "TERM": ""}, INSTALLATION, None, id="conda"),
        pytest.param({"CONDA_PREFIX": "/conda"}, Path("/lab"), sys.prefix, id="Isaac Sim as packages of this Python"),
    ],
)
def test_the_launcher_takes_the_python_of_isaac_sim(monkeypatch, variables, folder, python):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    env = isaaclab_scripts.environment(folder)
    assert (env.get("VIRTUAL_ENV"), env.get("CONDA_PREFIX"), env["TERM"]) == (python, None, "xterm")


def test_the_command_line_is_that_of_2_3():
    attempt = AttemptSpec(job=a_job("rl_games", max_iterations=10), number=2, start_iteration=4)
    assert command(attempt, Path("/c/last_x_ep_4_rew_1.pth"), ("a=1",)) == [
        "/lab/isaaclab.sh", "-p", "/lab/scripts/reinforcement_learning/rl_games/train.py",
        "--task", "Isaac-Cartpole-Direct-v0", "--num_envs", "8", "--seed", "7", "--max_iterations", "10",
        "--headless", "--device", "cuda:0", "--checkpoint", "/c/last_x_ep_4_rew_1.pth", "a=1",
    ]  # fmt: skip


@pytest.mark.parametrize("library", ["rl_games", "rsl_rl", "sb3", "skrl"])
def test_every_flag_is_one_of_the_real_script(tmp_path, monkeypatch, library):
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "model_5.pt"
    checkpoint.write_bytes(b"weights")
    world = World(node=0, address="10.0.0.7", port=29511, timestamp="2026-01-02_03-04-05")
    distributed = AttemptSpec(job=a_job(library, gpus=2), number=1, world=world)
    commands = [command(AttemptSpec(job=a_job(library), number=2, start_iteration=1), checkpoint, ("++agent.a=1",))]
    commands += [command(distributed)] if get_library(library).multi_gpu else []
    known = json.loads((INSTALLATION / "flags.json").read_text())["flags"][library]
    for argv in commands:
        words = iter(argv[next(index for index, word in enumerate(argv) if word.endswith("train.py")) + 1 :])
        for word in words:
            if not word.startswith("--"):
                assert "=" in word, f"{word!r} belongs to no flag, and is no override"
            elif known[word]:
                next(words)


def test_every_machine_starts_a_rank_for_each_gpu():
    world = World(node=1, address="10.0.0.7", port=29511, timestamp="2026-01-02_03-04-05")
    attempt = AttemptSpec(job=a_job("rsl_rl", gpus=2, nodes=2), number=1, world=world)
    assert command(attempt) == [
        "/lab/isaaclab.sh", "-p", "-m", "torch.distributed.run", "--nproc_per_node", "2", "--nnodes", "2",
        "--node_rank", "1", "--master_addr", "10.0.0.7", "--master_port", "29511",
        "/lab/scripts/reinforcement_learning/rsl_rl/train.py", "--task", "Isaac-Cartpole-Direct-v0",
        "--num_envs", "8", "--seed", "9", "--max_iterations", "3", "--headless", "--distributed",
    ]  # fmt: skip  # and no --device: each rank takes the GPU of its own number
    of_first = command(replace(attempt, world=replace(world, node=0)))
    # 2.3 adds the rank on the machine: 7 and 8 here, 9 and 10 there.
    assert of_first[of_first.index("--seed") + 1] == "7"


def test_isaac_sim_does_not_start_before_its_licence_is_accepted(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCEPT_EULA", "Y")  # an image's word, which is nobody's
    with pytest.raises(WorkloadError) as refused:
        train(tmp_path, computeConfig={"gpusPerNode": 0})
    failure = refused.value.failure
    assert (failure.code, failure.category) == ("eula_not_accepted", "user")
    assert "acceptNvidiaEula" in failure.advice
    assert "SIMYARD_ACCEPT_NVIDIA_EULA=on" in failure.advice


@pytest.mark.long  # a job more; test_kit.py has the licence
def test_a_site_may_accept_the_licence_for_all_jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMYARD_ACCEPT_NVIDIA_EULA", "on")
    result, _ = train(tmp_path, computeConfig={"gpusPerNode": 0})
    assert result["status"] == "succeeded", result["error"]


def test_3_0_is_not_taken_for_2_3(monkeypatch, tmp_path):
    monkeypatch.setenv("ISAACLAB_PATH", str(tmp_path))
    assert scripts_folder() is None
