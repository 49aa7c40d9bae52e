"""A sweep of Cartpole on Isaac Lab: six settings, two seeds, ASHA, and a driver that is killed."""

import json
import os

import pytest
from helpers import CONFIG, CommandLine
from sweeps import Sweeps


@pytest.mark.long  # twenty trainings; the mechanism on the scenario simulator: tests/cli/test_sweeps.py
def test_cartpole_is_swept_over_rates_and_entropies_through_a_kill(prefect_server, flow_host, tmp_path):
    command = CommandLine({**os.environ, **prefect_server.env, "SIMYARD_HOME": str(tmp_path / "home")}, flow_host)
    sweeps = Sweeps(command, tmp_path, tmp_path / "store")
    path = tmp_path / "config.json"
    parameters = {
        "agent.algorithm.learning_rate": {"values": [0.003, 0.0003, 0.00003]},
        "agent.algorithm.entropy_coef": {"values": [0.005, 0.05]},
    }
    scheduler = {"kind": "asha", "minIterations": 6}
    section = CONFIG["trainingConfig"] | {"numEnvs": 64, "maxIterations": 20}
    chosen = {"parameters": parameters, "seeds": 2, "scheduler": scheduler, "parallel": 2}
    path.write_text(json.dumps(CONFIG | {"trainingConfig": section, "sweep": chosen}))
    process = command.start("sweep", path, "--wait", "--store", sweeps.store)
    sweep = sweeps.newest()
    sweep.wait_for("training.measured", 5)
    process.kill()
    process.wait()
    again = sweep.do("resume", "--wait", "--json")
    assert again.returncode == 0, again.stderr

    result = sweep.result
    assert (result["status"], result["settings"], result["ended_by"]) == ("succeeded", 6, "done")
    settings = sweep.records("settings")
    assert [one["state"] for one in settings].count("complete") >= 1
    assert all(len(one["runs"]) == 2 and not any("failure" in run for run in one["runs"]) for one in settings)
    lengths = {run["iterations"] for one in settings for run in one["runs"]}
    assert lengths == {6, 20} or lengths == {6, 18, 20}
    for one in settings:
        for run in one["runs"]:
            specs = [json.loads((sweeps.store / "jobs" / job / "job.json").read_text()) for job in run["jobs"]]
            assert sum(spec["max_iterations"] for spec in specs) == run["iterations"]
            assert [(spec["resume"] or {"iteration": 0})["iteration"] for spec in specs] == [0, 6, 18][: len(specs)]
    best = sweep.do("best", "--config", str(tmp_path / "best.json"))
    assert best.returncode == 0, best.stderr
    assert json.loads((tmp_path / "best.json").read_text())["trainingConfig"]["maxIterations"] == 20
