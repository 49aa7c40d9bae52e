"""A training on two machines: two flow runs of a pool that meet through the store, and end together."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import HANG_S, CommandLine, end, last_json, wait_until
from pools import Api, Pool, engines, workloads
from test_pool import finish, job_of, saved

ON_TWO = {"computeConfig__gpusPerNode": 1, "computeConfig__numNodes": 2}


def outcome(job: Path, attempt: int, node: int = 0) -> dict[str, Any]:
    folder = job / f"attempts/{attempt:03d}" / (f"nodes/{node:03d}" if node else "")
    return dict(json.loads((folder / "outcome.json").read_text()))


@pytest.mark.long  # as those of which one dies do, below
def test_two_machines_begin_and_end_together(
    scenario_pool: Pool, simyard: CommandLine, write_config: Any, store: Path, api: Api
) -> None:
    config = write_config(description="", trainingConfig__maxIterations=8, **ON_TWO)
    done = simyard("train", config, "--pool", scenario_pool.name, "--store", store, "--json")

    assert done.returncode == 0, done.stderr
    result = last_json(done)
    job = job_of(store)
    assert [run["name"] for run in api.runs_of(job.name)] == [f"{job.name}-1", f"{job.name}-1-node-1"]
    attempt = job / "attempts/001"
    meeting = json.loads((attempt / "meeting.json").read_text())["world"]
    assert meeting["address"] and meeting["port"] and meeting["timestamp"]
    assert (outcome(job, 1)["status"], outcome(job, 1, node=1)["status"]) == ("succeeded", "succeeded")
    # What both trained is in the store once: the first machine collects.
    assert (attempt / "files/checkpoints").exists()
    names = [entry["name"] for entry in result["artifacts"]]
    assert "world.json" in names and not [name for name in names if "nodes" in name]
    # Nothing was measured on a GPU, and a run of a second says nothing of speed.
    unknown = {"first_steps_seconds": None, "environment_steps_per_second": None}
    gained = {"gpus": 2, "steps_per_s": None, "one_gpu": None, "efficiency": None}
    assert result["summary"] == unknown | {"scaling": gained}


@pytest.mark.parametrize("what", ["flow run", pytest.param("simulator", marks=pytest.mark.long)])
def test_a_machine_that_dies_ends_the_attempt_and_the_next_one_goes_on(
    scenario_pool: Pool, simyard: CommandLine, write_config: Any, store: Path, api: Api, what: str
) -> None:
    iterations = 24
    story = "; ".join(f"slow at {index}" for index in range(iterations))
    if what == "simulator":
        story += "; second-kill at 6 once"
    config = write_config(description=story, trainingConfig__maxIterations=iterations, retries=1, **ON_TWO)
    control = simyard.start("train", config, "--pool", scenario_pool.name, "--store", store, "--json")
    try:
        job = job_of(store)
        wait_until(lambda: saved(job, 1), HANG_S, "a checkpoint")
        if what == "flow run":
            (other,) = (run for run in api.runs_of(job.name) if run["name"] == f"{job.name}-1-node-1")
            engines(other["id"])[0].kill()
        result = finish(control, HANG_S)
    finally:
        end(control)

    assert (control.returncode, result["status"], result["attempts"]) == (0, "succeeded", 2)
    failure = outcome(job, 1)["failure"]
    if what == "simulator":
        assert (failure["code"], failure["category"]) == ("killed", "infra")
        assert failure["message"].startswith("On machine 2: The simulator was ended by SIGKILL")
    else:
        assert (failure["code"], failure["category"]) == ("machine_lost", "infra")
        assert f"{job.name}-1-node-1" in failure["message"] or "no heartbeat" in failure["message"]
    assert outcome(job, 2)["start_iteration"] == saved(job, 1)[-1]
    rows = (job / "artifacts/metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [str(step) for step in range(iterations)], "each step once"
    wait_until(lambda: not workloads(scenario_pool, job.name), HANG_S, "the end of all workloads")


@pytest.mark.long  # a machine that dies ends the other as well
def test_a_cancel_ends_both_machines(scenario_pool: Pool, simyard: CommandLine, write_config: Any, store: Path) -> None:
    config = write_config(description="slow", trainingConfig__maxIterations=400, **ON_TWO)
    control = simyard.start("train", config, "--pool", scenario_pool.name, "--store", store, "--json")
    try:
        job = job_of(store)
        wait_until(lambda: saved(job, 1), HANG_S, "a checkpoint")
        assert simyard("jobs", "cancel", job.name, "--store", store).returncode == 0
        result = finish(control)
    finally:
        end(control)
    assert (control.returncode, result["status"], result["error"]["category"]) == (130, "canceled", "canceled")
    assert any(entry["kind"] == "checkpoint" for entry in result["artifacts"]), "what was saved is kept"
    wait_until(lambda: not workloads(scenario_pool, job.name), HANG_S, "the end of both machines' workloads")
    assert outcome(job, 1, node=1)["status"] == "canceled"
