"""`simyard sweep`, on the real runner: the simulator plays scenarios."""

import json
import os
import random
import re
import time
from contextlib import suppress

import psutil
import pytest
from helpers import HANG_S, SCENARIO, CommandLine, wait_until
from scenario.play import running_below
from sweeps import PATIENCE_S, Sweep, Sweeps


@pytest.fixture
def sweeps(prefect_server, flow_host, tmp_path, store):
    command = CommandLine(
        {**os.environ, **prefect_server.env, **SCENARIO, "SIMYARD_HOME": str(tmp_path / "home")}, flow_host
    )
    yield Sweeps(command, tmp_path, store)
    wait_until(lambda: running_below(tmp_path) == [], HANG_S, "the end of all that was started")


ASHA = {"parameters": {"agent.x": {"values": [1, 2, 3]}}, "scheduler": {"kind": "asha", "minIterations": 2}}


def test_killed_while_it_trains_a_sweep_goes_on_and_another_takes_what_is_there(sweeps):
    process = sweeps.begin(iterations=6, **ASHA)
    sweep = sweeps.newest()
    sweep.wait_for("training.measured")
    process.kill()
    process.wait()
    again = sweep.do("resume", "--wait", "--json")
    assert again.returncode == 0, again.stderr
    sweep.assert_sound()
    assert (sweep.result["status"], sweep.result["ended_by"], sweep.result["settings"]) == ("succeeded", "done", 3)
    assert "sweep.taken_up" in sweep.events
    rungs = {one["number"]: (one["state"], one["rung"]) for one in sweep.records("settings")}
    assert rungs == {0: ("complete", 1), 1: ("pruned", 0), 2: ("pruned", 0)}
    assert (sweep.folder / "artifacts" / "report.md").exists()

    # The same trainings in another sweep are the same jobs.
    count = len([*(sweeps.store / "jobs").iterdir()])
    other = sweeps.run(iterations=6, **ASHA)
    assert other.result["jobs"] == 0
    assert len([*(sweeps.store / "jobs").iterdir()]) == count


def test_an_unknown_metric_ends_a_sweep_with_the_nearest(sweeps):
    sweep = sweeps.run(iterations=2, objective={"metric": "Train/mean_rewards"}, parallel=1)
    assert (sweep.exit_code, sweep.result["ended_by"]) == (2, "refused")
    assert "Did you mean 'Train/mean_reward'?" in sweep.result["error"]["message"]
    assert len(sweep.records("settings")) == 1


@pytest.mark.long  # the kill above
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_again_and_again_no_training_is_lost_or_made_twice(sweeps, seed):
    """SIGKILL to the driver or a simulator at moments that a seed draws."""
    chance = random.Random(seed)
    grid = {"parameters": {"agent.x": {"values": [1, 2, 3, 4]}}, "seeds": 2, "scheduler": ASHA["scheduler"]}
    process = sweeps.begin(iterations=12, **grid)
    sweep = sweeps.newest()
    kills = {"driver": 0, "simulator": 0}
    while sum(kills.values()) < 6 and process.poll() is None:
        target = len(sweep.events) + chance.randint(1, 4)
        wait_until(lambda: len(sweep.events) >= target or process.poll() is not None, PATIENCE_S, "more events")  # noqa: B023
        time.sleep(chance.uniform(0.0, 0.5))
        what = chance.choice(["driver", "simulator"])
        if what == "simulator":
            for victim in simulators(sweeps)[:1]:
                with suppress(psutil.Error):
                    victim.kill()
        else:
            process.kill()
            process.wait()
            process = sweeps.command.start("sweep", "resume", sweep.sweep_id, "--wait", "--store", sweeps.store)
        kills[what] += 1
    code, said = process.wait(PATIENCE_S), process.stderr.read()
    assert code == 0 or "has succeeded" in said, said
    assert kills["driver"] >= 2, kills
    sweep.assert_sound()
    assert sweep.result["settings"] == 4
    trained = [path for path in (sweeps.store / "jobs").iterdir() if (path / "result.json").exists()]
    assert len(trained) == sweep.result["jobs"], "a training was begun that no setting has"


def simulators(sweeps):
    """The processes that simulate for these sweeps, those that only wait included."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "--control" in process.cmdline() and process.cwd().startswith(str(sweeps.folder / "home")):
                found.append(process)
    return found


@pytest.mark.long  # tests/tasks/test_run_policies.py has the rule, of managed runs
def test_pause_resume_and_cancel_from_another_terminal(sweeps):
    process = sweeps.begin("slow", iterations=4, parallel=1, parameters={"agent.x": {"values": [*range(20)]}})
    sweep = sweeps.newest()
    sweep.wait_for("training.started")
    assert sweep.do("pause").returncode == 0
    sweep.wait_for("sweep.paused")
    assert json.loads(sweep.do("show", "--json").stdout)["status"] == "paused"
    sweep.wait_for("training.measured")
    standing = sweep.events
    time.sleep(2)
    assert sweep.events == standing, "something was begun while it was paused"
    assert sweep.do("resume").returncode == 0
    sweep.wait_for("training.started", 2)
    assert sweep.do("cancel").returncode == 0
    assert process.wait(PATIENCE_S) == 130, process.stderr.read()
    assert (sweep.result["status"], sweep.result["ended_by"]) == ("canceled", "canceled")
    refused = sweep.do("resume")
    assert refused.returncode == 2
    assert "has canceled" in refused.stderr


@pytest.mark.long  # the schedulers alone: tests/tasks/test_sweep_state.py
def test_a_population_measured_by_evaluations_copies_the_best(sweeps):
    measured = {"metric": "mean_return", "evaluation": {"numEpisodes": 4}}
    sweep = sweeps.run(
        iterations=6, parameters={"agent.x": {"low": 1, "high": 50}}, sampler="random", trials=4, objective=measured,
        scheduler={"kind": "pbt", "interval": 3},
    )  # fmt: skip
    sweep.assert_sound()
    (copied,) = [one for one in sweep.records("settings") if "copies" in one]
    source = sweep.records("settings")[copied["copies"][0]["source"]]
    assert copied["runs"][0]["jobs"][0] == source["runs"][0]["jobs"][0]
    assert all(one["runs"][0]["evaluation"] for one in sweep.records("settings"))


@pytest.mark.long  # one more run of the same kind
def test_seeds_of_a_training_are_a_sweep_without_parameters(sweeps):
    config = json.loads(sweeps.write(iterations=2).read_text())
    del config["sweep"]
    path = sweeps.folder / "train.json"
    path.write_text(json.dumps(config))
    done = sweeps.command("train", path, "--seeds", "3", "--store", sweeps.store, "--json")
    assert done.returncode == 0, done.stderr
    sweep = Sweep(sweeps, json.loads(done.stdout.splitlines()[-1])["sweep_id"], 0)
    (setting,) = sweep.records("settings")
    assert [run["seed"] for run in setting["runs"]] == [1, 2, 3]
    assert re.search(r"\| 1 \|", (sweep.folder / "artifacts" / "report.md").read_text())
