"""The simulator is killed in the middle of a training: the next attempt goes on, and one job results."""

import json

import pytest
from simulated import KILLED_ITERATIONS, Job, Killed, Yard, assert_same_weights, load, optimizer_steps

from simyard.runner.workload import with_token

pytestmark = pytest.mark.sim

SAVED_AFTER = [1, *range(6, KILLED_ITERATIONS, 5), KILLED_ITERATIONS]
"""Iterations in each checkpoint: the library saves after its indices 0, 5, 10 and so on, and the last one."""
UPDATES = 5 * 4
"""Steps of the optimiser in one iteration: learning epochs times minibatches."""


def outcome(job: Job, attempt: int) -> dict:
    return json.loads((job.folder / f"attempts/{attempt:03d}/outcome.json").read_text())


def test_the_second_attempt_succeeds(killed: Killed):
    assert (killed.job.exit_code, killed.job.result["status"], killed.job.result["attempts"]) == (0, "succeeded", 2)
    assert killed.job.result["error"] is None
    first = outcome(killed.job, 1)
    assert (first["signal"], first["failure"]["code"], first["failure"]["category"]) == ("SIGKILL", "killed", "infra")


def test_it_does_exactly_the_remaining_iterations(killed: Killed):
    second = outcome(killed.job, 2)
    assert second["start_iteration"] in SAVED_AFTER[1:-1]
    assert second["done"] == KILLED_ITERATIONS
    trained = (killed.job.artifacts / "command.stdout.log").read_text().count("Learning iteration")
    assert trained == KILLED_ITERATIONS - second["start_iteration"]
    assert load(killed.job.final)["iter"] == KILLED_ITERATIONS - 1
    assert optimizer_steps(killed.job.final) == KILLED_ITERATIONS * UPDATES


def test_one_chain_of_checkpoints_results(killed: Killed):
    assert [entry["iteration"] for entry in killed.job.checkpoints] == SAVED_AFTER
    assert killed.job.checkpoints[0]["parent"] is None
    for entry in killed.job.checkpoints:
        assert entry["name"] == f"checkpoints/model_{entry['iteration'] - 1}.pt"
        assert optimizer_steps(killed.job.artifacts / entry["name"]) == entry["iteration"] * UPDATES


def test_one_metrics_file_with_every_iteration_once_results(killed: Killed):
    rows = killed.job.rows()
    assert [int(row["step"]) for row in rows] == list(range(KILLED_ITERATIONS))
    for tag in ("Train/mean_reward", "Train/mean_episode_length", "Loss/value", "Loss/surrogate", "Policy/mean_std"):
        assert killed.job.steps(tag) == list(range(KILLED_ITERATIONS))
    walls = [float(row["wall_time"]) for row in rows]
    assert walls == sorted(walls)


def test_weights_and_metrics_are_those_of_a_training_that_nobody_killed(killed: Killed, unkilled: Job):
    """The state beside the checkpoint has the simulation, too."""
    unkilled.assert_whole()
    assert outcome(killed.job, 2)["start_iteration"] > 1
    assert not [note for note in killed.job.result["notes"] if "begins anew" in note]
    assert_same_weights(killed.job.final, unkilled.final)
    assert killed.job.measured() == unkilled.measured()


def test_the_first_attempts_evidence_is_kept_beside(killed: Killed):
    names = set(killed.job.manifest)
    assert {"attempts/001/command.stdout.log", "attempts/001/diagnostics.json", "command.stdout.log"} <= names
    assert json.loads((killed.job.artifacts / "attempts/001/diagnostics.json").read_text())["retryable"] is True


def test_nothing_runs_on(killed: Killed, yard: Yard):
    assert [*with_token(killed.token)] == [], "of the simulator's family"
    assert [*(yard.home / "work").glob(f"{killed.job.id}/*")] == []
