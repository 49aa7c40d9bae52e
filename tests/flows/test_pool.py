"""Jobs in a work pool when something dies or somebody cancels; the simulator plays the job's description."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from helpers import CONFIG, CommandLine, Server, last_json, wait_until
from pools import SCENARIO, Api, Pool, engines, workloads
from simyard.runner.spec import JobSpec
from simyard.store.keys import JobKeys, new_job_id
from simyard.store.store import Store
from simyard.tasks import launch


def job_of(store: Path) -> Path:
    """Return the folder of the only job, once it is there."""
    wait_until(lambda: list(store.glob("jobs/*/job.json")), 60, "a job in the store")
    (found,) = store.glob("jobs/*/job.json")
    return found.parent


def saved(job: Path, attempt: int) -> list[int]:
    """Return the iterations of the checkpoints that an attempt has in the store."""
    index = job / "attempts" / f"{attempt:03d}" / "checkpoints.json"
    return [record["iteration"] for record in json.loads(index.read_text())] if index.exists() else []


def finish(process: subprocess.Popen[str], timeout_s: float = 120) -> dict[str, Any]:
    """Return what a started command printed at last."""
    out, err = process.communicate(timeout=timeout_s)
    return last_json(subprocess.CompletedProcess([], process.returncode, out, err))


def gone(pool: Pool) -> bool:
    return not workloads(pool)


def test_killed_flow_processes_are_replaced_and_the_job_goes_on(
    scenario_pool: Pool, simyard: CommandLine, write_config: Any, store: Path, api: Api
) -> None:
    config = write_config(description="slow; family", trainingConfig__maxIterations=20)
    control = simyard.start("train", config, "--pool", scenario_pool.name, "--store", store, "--json")
    job = job_of(store)
    # The first dies before it has written anything, the second with checkpoints in the store.
    (first,) = wait_until(lambda: api.runs_of(job.name), 60, "the first flow run")
    (engine,) = wait_until(lambda: engines(first["id"]), 60, "the first flow process")
    engine.kill()
    second = wait_until(lambda: api.runs_of(job.name)[1:], 60, "the second flow run")[0]
    wait_until(lambda: saved(job, 2), 60, "a checkpoint of the second attempt")
    (engine,) = engines(second["id"])
    engine.kill()
    wait_until(lambda: gone(scenario_pool), 20, "the end of the killed attempt's workload")

    result = finish(control)
    assert control.returncode == 0
    assert (result["status"], result["error"]) == ("succeeded", None)
    assert [run["name"] for run in api.runs_of(job.name)] == [f"{job.name}-{number}" for number in (1, 2, 3)]
    status = json.loads((job / "attempts/003/status.json").read_text())
    assert status["start_iteration"] == saved(job, 2)[-1], "it resumes from the last checkpoint"
    assert saved(job, 3)[-1] == 20
    rows = (job / "artifacts/metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [str(step) for step in range(20)], "each step once"
    wait_until(lambda: gone(scenario_pool), 10, "the end of all workloads")


def test_a_restarted_control_flow_finds_its_attempt_again(
    scenario_pool: Pool, simyard: CommandLine, write_config: Any, store: Path, api: Api
) -> None:
    config = write_config(description="slow", trainingConfig__maxIterations=24)
    control = simyard.start("train", config, "--pool", scenario_pool.name, "--store", store, "--json")
    job = job_of(store)
    wait_until(lambda: (job / "attempts/001/status.json").exists(), 60, "the attempt's status")
    os.killpg(control.pid, signal.SIGKILL)
    control.communicate()

    again = simyard("jobs", "retry", job.name, "--pool", scenario_pool.name, "--store", store, "--json")
    assert again.returncode == 0, again.stderr
    result = last_json(again)
    assert (result["status"], result["attempts"]) == ("succeeded", 1)
    assert len(api.runs_of(job.name)) == 1
    assert saved(job, 1)[-1] == 24


def test_a_success_that_nobody_judged_is_not_repeated(store: Path) -> None:
    opened, job_id = Store.open(str(store)), new_job_id()
    spec = JobSpec(
        job_id=job_id, kind="train", name="n", simulator="isaaclab", task="T", library="rsl_rl",
        num_envs=1, max_iterations=1, seed=1,
    )  # fmt: skip
    assert not launch.is_done(spec, opened)
    opened.put_json(JobKeys(job_id).attempt(1).outcome, {"failure": None})
    assert launch.is_done(spec, opened)
    opened.put_json(JobKeys(job_id).result, {"status": "failed", "attempts": 1})
    assert not launch.is_done(spec, opened), "it was judged, and not found good"


def test_cancel_ends_a_running_attempt(
    scenario_pool: Pool, simyard: CommandLine, write_config: Any, store: Path
) -> None:
    config = write_config(description="slow; family", trainingConfig__maxIterations=1000)
    control = simyard.start("train", config, "--pool", scenario_pool.name, "--store", store, "--json")
    job = job_of(store)
    wait_until(lambda: saved(job, 1), 60, "a checkpoint")
    asked = simyard("jobs", "cancel", job.name, "--store", store)
    assert asked.returncode == 0
    result = finish(control)
    assert control.returncode == 130
    assert (result["status"], result["error"]["category"]) == ("canceled", "canceled")
    assert any(entry["kind"] == "checkpoint" for entry in result["artifacts"])
    assert gone(scenario_pool)


def test_cancel_withdraws_an_attempt_that_waits_for_a_worker(
    api: Api, simyard: CommandLine, write_config: Any, store: Path
) -> None:
    api("/work_pools/", {"name": "no-worker", "type": "process"})
    control = simyard.start("train", write_config(), "--pool", "no-worker", "--store", store)
    job = job_of(store)
    (run,) = wait_until(lambda: api.runs_of(job.name), 60, "the flow run")
    assert simyard("jobs", "cancel", job.name, "--store", store).returncode == 0
    _, shown = control.communicate(timeout=60)
    assert control.returncode == 130
    assert "waiting for a worker" in shown
    assert api.state(run["id"])["type"] == "CANCELLED"


def test_canceling_the_flow_run_ends_a_job_in_the_worker(
    deployed: Server, real_pool: Pool, simyard: CommandLine, store: Path, api: Api
) -> None:
    request = {**CONFIG, "description": "slow; family", "trainingConfig": {**CONFIG["trainingConfig"]}}
    request["trainingConfig"]["maxIterations"] = 1000
    run_id = api.start("train/train", {"request": request, "store": str(store)}, SCENARIO)
    job = job_of(store)
    wait_until(lambda: saved(job, 1), 60, "a checkpoint")
    api(f"/flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING"}})
    assert api.final_state(run_id, 60)["type"] == "CANCELLED"
    wait_until(lambda: gone(real_pool), 5, "the end of the workload")

    outcome = json.loads((job / "attempts/001/outcome.json").read_text())
    assert (outcome["status"], outcome["failure"]["code"]) == ("canceled", "canceled")
    kept = json.loads(simyard("jobs", "show", job.name, "--store", store, "--json").stdout)
    assert kept["status"] == "canceled"
    assert any(entry["kind"] == "checkpoint" for entry in kept["artifacts"])


def test_a_machine_that_goes_away_does_not_cancel_the_job(
    scenario_pool: Pool, simyard: CommandLine, write_config: Any, store: Path, api: Api
) -> None:
    config = write_config(description="slow once", trainingConfig__maxIterations=24)
    control = simyard.start("train", config, "--pool", scenario_pool.name, "--store", store, "--json")
    job = job_of(store)
    wait_until(lambda: saved(job, 1), 60, "a checkpoint")
    (engine,) = engines(api.runs_of(job.name)[0]["id"])
    engine.terminate()
    result = finish(control)
    assert (control.returncode, result["status"], result["attempts"]) == (0, "succeeded", 2)
    outcome = json.loads((job / "attempts/001/outcome.json").read_text())
    assert (outcome["failure"]["code"], outcome["failure"]["category"]) == ("interrupted", "infra")
