"""Ranks that find each other, started by torchrun as on a GPU machine; here they talk through Gloo."""

import json
import os
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from helpers import HANG_S, free_port

from simyard.core.errors import known_failure
from simyard.core.files import AttemptPaths
from simyard.core.specs import JobSpec, World
from simyard.runner.isaaclab.ranks import APART, launcher_arguments, launcher_of, meeting_point
from simyard.runner.rl import LIBRARIES
from simyard.store import keys

pytestmark = pytest.mark.system

PROVE = """
import json, os, sys
from simyard.runner.isaaclab.ranks import prove
world = prove(int(sys.argv[2]), on_gpu=False, patience_s=float(sys.argv[3]))
with open(f"{sys.argv[1]}/{os.environ['RANK']}.json", "w") as file:
    json.dump(world.to_json(), file)
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "prove.py"
    path.write_text(PROVE)
    return path


def start(script, expected, *, ranks, nodes=1, node=0, port=None, patience_s=60.0):
    """Start the ranks of one machine; each writes what it found."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(ranks), "--nnodes", str(nodes),
        "--node_rank", str(node), "--master_addr", "127.0.0.1", "--master_port", str(port or free_port()),
        str(script), str(script.parent), str(expected), str(patience_s),
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, timeout_s=HANG_S):
    """Return the exit code and what was printed as errors."""
    try:
        _, err = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    return process.returncode, err


def worlds(folder, count):
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]


@pytest.mark.long  # test_machines.py has two machines
def test_two_ranks_of_a_machine_hear_of_each_other(script):
    code, err = finish(start(script, 2, ranks=2))
    assert code == 0, err
    first, second = worlds(script.parent, 2)
    assert [first["rank"], second["rank"]] == [0, 1]
    assert first["ranks"] == second["ranks"]
    assert [(rank["rank"], rank["local_rank"]) for rank in first["ranks"]] == [(0, 0), (1, 1)]
    assert len({rank["pid"] for rank in first["ranks"]}) == 2
    assert {(rank["host"], rank["device"]) for rank in first["ranks"]} == {(socket.gethostname(), "cpu")}
    for world in (first, second):
        assert (world["size"], world["backend"]) == (2, "gloo")
        assert 0 < world["seconds"] < 60
        assert 0.001 < world["all_reduce_gb_s"] < 100


@pytest.mark.long  # test_machines.py has two
def test_two_machines_are_one_world(script):
    port = free_port()
    machines = [start(script, 2, ranks=1, nodes=2, node=node, port=port) for node in (0, 1)]
    ended = [finish(machine) for machine in machines]
    assert [code for code, _ in ended] == [0, 0], ended
    first, second = worlds(script.parent, 2)
    assert (first["size"], first["ranks"]) == (2, second["ranks"])
    # The first of each machine: that is what a GPU is chosen by.
    assert [rank["local_rank"] for rank in first["ranks"]] == [0, 0]
    assert len({rank["pid"] for rank in first["ranks"]}) == 2


def said_by_ranks(err):
    return [line for line in err.splitlines() if line.startswith(APART)]


@pytest.mark.long  # in time: the next one
def test_fewer_than_expected_is_an_error(script):
    code, err = finish(start(script, 3, ranks=2))
    assert code != 0
    assert f"{APART}: 3 were started, and rank 0 counts 2" in err
    assert not list(script.parent.glob("*.json"))


@pytest.mark.long  # seconds of waiting; test_two_machines_are_one_world has the meeting
def test_a_machine_that_hears_nobody_says_so_in_time(script):
    # As torchrun starts the only rank of the first of two machines; the second never comes.
    env = {
        **os.environ, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    command = [sys.executable, str(script), str(script.parent), "2", "3"]
    began = time.monotonic()
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=HANG_S, check=False)
    took = time.monotonic() - began
    assert done.returncode != 0
    lines = said_by_ranks(done.stderr)
    assert lines, done.stderr
    assert f"rank 0 of 2 on {socket.gethostname()!r}" in lines[0]
    failure = known_failure(lines[0])
    assert failure is not None
    assert (failure.code, failure.category) == ("ranks_apart", "infra")
    assert "NCCL_SOCKET_IFNAME" in failure.advice
    assert 3 <= took < 60  # the patience, and torch's import


# What they are started with


def a_job(**changes):
    return JobSpec(
        job_id=keys.new_job_id(), kind="train", name="n", simulator="isaaclab", task="Isaac-Ant-Direct",
        library="rsl_rl", num_envs=64, max_iterations=10, seed=7, **{"gpus": 2, "nodes": 2, **changes},
    )  # fmt: skip


WORLD = World(node=1, address="10.0.0.7", port=29511, timestamp="2026-01-02_03-04-05")
MEETING = [
    "--nproc_per_node", "2", "--nnodes", "2", "--node_rank", "1", "--master_addr", "10.0.0.7", "--master_port", "29511",
]  # fmt: skip


def a_request(**changes):
    """Return the fields of Isaac Lab's request for a training that a launcher is told."""
    fields = {
        "backend": "rsl_rl", "task": "Isaac-Ant-Direct", "num_envs": 64, "seed": 7, "max_iterations": 10,
        "checkpoint": None, "agent": None, "backend_args": (),
        "hydra_args": ("agent.save_interval=5", "physics=newton_mjwarp"),
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **changes})


def test_a_machine_is_told_where_to_meet():
    assert meeting_point(a_job(), WORLD) == MEETING
    assert meeting_point(a_job(nodes=1, gpus=4), World(node=0, address="a", port=1, timestamp="t")) == [
        "--nproc_per_node", "4", "--nnodes", "1", "--node_rank", "0", "--master_addr", "a", "--master_port", "1",
    ]  # fmt: skip


def test_every_rank_is_told_the_same_training():
    assert launcher_arguments(a_request(), a_job(), WORLD) == [
        "--rl_library", "rsl_rl", *MEETING, "--task", "Isaac-Ant-Direct", "--num_envs", "64", "--seed", "7",
        "--max_iterations", "10", "--run_timestamp=2026-01-02_03-04-05", "agent.save_interval=5",
        "physics=newton_mjwarp",
    ]  # fmt: skip
    resumed = a_request(checkpoint="/c/model_4.pt", agent="rsl_rl_small_cfg_entry_point", backend_args=("--some", "1"))
    arguments = launcher_arguments(resumed, a_job(), WORLD)
    named = ["--checkpoint", "/c/model_4.pt", "--agent", "rsl_rl_small_cfg_entry_point"]
    assert arguments[-8:] == [*named, "--some", "1", *a_request().hydra_args]


def test_isaac_labs_own_launcher_starts_our_ranks(monkeypatch, tmp_path):
    multigpu = pytest.importorskip("isaaclab.cli.multigpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # it counts them
    launcher = launcher_of(AttemptPaths(tmp_path))
    arguments = launcher_arguments(a_request(checkpoint="/c/model_4.pt"), a_job(), WORLD)
    options, rest = multigpu.parse_launcher_args(arguments, launcher)
    command = multigpu.build_launch_command(options, rest, launcher)
    assert command == [
        sys.executable, "-m", "torch.distributed.run", *MEETING, "--local_ranks_filter", "0",
        "-m", "simyard.runner.isaaclab.ranks", str(tmp_path), "--rl_library", "rsl_rl", "--task", "Isaac-Ant-Direct",
        "--num_envs", "64", "--seed", "7", "--max_iterations", "10", "--run_timestamp=2026-01-02_03-04-05",
        "--checkpoint", "/c/model_4.pt", "agent.save_interval=5", "physics=newton_mjwarp", "--distributed",
    ]  # fmt: skip


def test_a_rank_has_the_kernels_of_a_job_on_one_gpu():
    pytest.importorskip("isaaclab_rl.entrypoints.api")
    code = "from simyard.runner.isaaclab import ranks; ranks.trainer(); import warp; print(warp.config.enable_backward)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S, check=True)
    assert done.stdout.split()[-1] == "True"  # it is in the hash of every kernel


def test_the_libraries_that_train_on_several_gpus_are_isaac_labs():
    api = pytest.importorskip("isaaclab_rl.entrypoints.api")
    assert {name for name, found in LIBRARIES.items() if found.multi_gpu} == set(api.MULTI_GPU_BACKENDS)
