"""The simulator is killed in the middle of a training: the next attempt goes on, and one job results."""

import json
import signal
import subprocess

import psutil
import pytest
from helpers import end, wait_until
from simulated import Job, Yard, load, optimizer_steps

pytestmark = pytest.mark.sim

ITERATIONS = 40
SAVED_AFTER = [1, *range(6, ITERATIONS, 5), ITERATIONS]
"""Iterations in each checkpoint: the library saves after its indices 0, 5, 10 and so on, and the last one."""
UPDATES = 5 * 4
"""Steps of the optimiser in one iteration: learning epochs times minibatches."""


@pytest.fixture(scope="module")
def killed(yard: Yard) -> Job:
    """A job whose simulator was ended by SIGKILL, once."""
    settings = [f"maxIterations={ITERATIONS}", "agent.save_interval=5"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    # In a simulator of its own: that of a session is no child of the command.
    process = yard.command.start("train", yard.config, *arguments, "--store", yard.store, "--json", "--session", "off")
    try:
        work = yard.home / "work"
        pattern = f"*/001-{process.pid}/work/logs/rsl_rl/*/*/model_15.pt"
        wait_until(lambda: [*work.glob(pattern)] or process.poll() is not None, 200, "the checkpoint")
        (simulator,) = (
            child for child in psutil.Process(process.pid).children() if "simyard.runner" in child.cmdline()
        )
        simulator.send_signal(signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=200)
    finally:
        end(process)
    return yard.read(subprocess.CompletedProcess([], process.returncode, stdout, stderr))


def outcome(job: Job, attempt: int) -> dict:
    return json.loads((job.folder / f"attempts/{attempt:03d}/outcome.json").read_text())


def test_the_second_attempt_succeeds(killed: Job):
    assert (killed.exit_code, killed.result["status"], killed.result["attempts"]) == (0, "succeeded", 2)
    assert killed.result["error"] is None
    first = outcome(killed, 1)
    assert (first["signal"], first["failure"]["code"], first["failure"]["category"]) == ("SIGKILL", "killed", "infra")


def test_it_does_exactly_the_remaining_iterations(killed: Job):
    second = outcome(killed, 2)
    assert second["start_iteration"] in SAVED_AFTER[1:-1]
    assert second["done"] == ITERATIONS
    trained = (killed.artifacts / "command.stdout.log").read_text().count("Learning iteration")
    assert trained == ITERATIONS - second["start_iteration"]
    assert load(killed.final)["iter"] == ITERATIONS - 1
    assert optimizer_steps(killed.final) == ITERATIONS * UPDATES


def test_one_chain_of_checkpoints_results(killed: Job):
    assert [entry["iteration"] for entry in killed.checkpoints] == SAVED_AFTER
    assert killed.checkpoints[0]["parent"] is None
    for entry in killed.checkpoints:
        assert entry["name"] == f"checkpoints/model_{entry['iteration'] - 1}.pt"
        assert optimizer_steps(killed.artifacts / entry["name"]) == entry["iteration"] * UPDATES


def test_one_metrics_file_with_every_iteration_once_results(killed: Job):
    rows = killed.rows()
    assert [int(row["step"]) for row in rows] == list(range(ITERATIONS))
    for tag in ("Train/mean_reward", "Train/mean_episode_length", "Loss/value", "Loss/surrogate", "Policy/mean_std"):
        assert killed.steps(tag) == list(range(ITERATIONS))
    walls = [float(row["wall_time"]) for row in rows]
    assert walls == sorted(walls)


def test_the_first_attempts_evidence_is_kept_beside(killed: Job):
    names = set(killed.manifest)
    assert {"attempts/001/command.stdout.log", "attempts/001/diagnostics.json", "command.stdout.log"} <= names
    assert json.loads((killed.artifacts / "attempts/001/diagnostics.json").read_text())["retryable"] is True


def test_nothing_runs_on(killed: Job, yard: Yard):
    work = str(yard.home / "work")  # beside it is the session that the machine keeps
    left = [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if work in str(process.info["cwd"]) or work in " ".join(process.info["cmdline"] or [])
    ]
    assert left == []
    assert [*(yard.home / "work").glob(f"{killed.id}/*")] == []
