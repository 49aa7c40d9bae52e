"""Jobs in a work pool when something dies or somebody cancels; the simulator plays the job's description."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
import records
from helpers import CONFIG, HANG_S, SCENARIO, CommandLine, Server, last_json, wait_until
from pools import Api, Pool, engines, workloads

from simyard.core.artifacts import REPORT
from simyard.core.errors import WorkloadError
from simyard.core.specs import JobSpec
from simyard.runner.progress import JobProgress
from simyard.store.keys import JobKeys, new_job_id
from simyard.store.store import Store
from simyard.tasks import launch
from simyard.tasks.attempt.attempt import Observer


def job_of(store: Path) -> Path:
    """Return the folder of the only job, once it is there."""
    wait_until(lambda: list(store.glob("jobs/*/job.json")), HANG_S, "a job in the store")
    (found,) = store.glob("jobs/*/job.json")
    return found.parent


def saved(job: Path, attempt: int) -> list[int]:
    """Return the iterations of the checkpoints that an attempt has in the store."""
    index = job / "attempts" / f"{attempt:03d}" / "checkpoints.json"
    return [record["iteration"] for record in json.loads(index.read_text())] if index.exists() else []


def finish(process: Any, timeout_s: float = HANG_S) -> dict[str, Any]:
    """Return what a started command printed at last."""
    out, err = process.communicate(timeout=timeout_s)
    return last_json(subprocess.CompletedProcess([], process.returncode, out, err))


def a_spec() -> JobSpec:
    return JobSpec(
        job_id=new_job_id(), kind="train", name="n", simulator="isaaclab", task="T", library="rsl_rl",
        num_envs=1, max_iterations=1, seed=1,
    )  # fmt: skip


def engine_of(job: Path, number: int, api: Api) -> psutil.Process:
    """Return the process of an attempt's flow run, once it is there."""
    run = wait_until(lambda: api.runs_of(job.name)[number - 1 :], HANG_S, f"flow run {number}")[0]
    found: psutil.Process = wait_until(lambda: engines(run["id"]), HANG_S, f"the process of flow run {number}")[0]
    return found


def gone(pool: Pool, job: Path) -> bool:
    return not workloads(pool, job.name)


@pytest.mark.long  # test_kept_sessions.py lends them
def test_a_job_in_a_pool_uses_the_session_that_the_workers_machine_keeps(
    scenario_pool: Pool, simyard: CommandLine, write_config: Any, store: Path
) -> None:
    config = write_config(description="", trainingConfig__maxIterations=4)
    on_the_worker = {**SCENARIO, "SIMYARD_HOME": str(scenario_pool.home)}
    started = simyard("sessions", "start", "--set", "computeConfig.gpusPerNode=0", "--store", store, **on_the_worker)
    assert started.returncode == 0, started.stderr
    session_id = started.stdout.strip()
    try:
        done = simyard("train", config, "--pool", scenario_pool.name, "--store", store, "--json")
        assert done.returncode == 0, done.stderr
        log = job_of(store) / "attempts" / "001" / "files" / "runner.log"
        assert f"in {session_id}, which this machine keeps" in log.read_text()
    finally:
        stopped = simyard("sessions", "stop", session_id, **on_the_worker)
    assert stopped.returncode == 0, stopped.stderr


@pytest.mark.long  # a worker's start more; which queue it is follows from the request
def test_an_urgent_job_waits_in_the_urgent_queue(
    scenario_pool: Pool, simyard: CommandLine, write_config: Any, store: Path, api: Api
) -> None:
    config = write_config(computeConfig__priority="high", trainingConfig__maxIterations=2)
    # The site's pool, which no option names.
    done = simyard("train", config, "--store", store, "--json", SIMYARD_POOL=scenario_pool.name)
    assert done.returncode == 0, done.stderr
    (run,) = api.runs_of(last_json(done)["job_id"])
    assert (run["work_pool_name"], run["work_queue_name"]) == (scenario_pool.name, "high")
    assert run["job_variables"]["gpu_count"] == "0"


@pytest.mark.long  # that a staged job is taken as it is, every job of a pool shows
def test_a_job_that_a_command_has_staged_is_not_resolved_again(
    scenario_pool: Pool, simyard: CommandLine, write_config: Any, store: Path, api: Api
) -> None:
    config = write_config(trainingConfig__maxIterations=2)
    done = simyard("train", config, "--pool", scenario_pool.name, "--store", store, "--json")
    assert done.returncode == 0, done.stderr
    trainings = api("/flow_runs/filter", {"flows": {"name": {"any_": ["train"]}}, "sort": "START_TIME_DESC"})
    (run,) = (run for run in trainings if run["parameters"].get("job_id") == last_json(done)["job_id"])

    def steps() -> set[str]:
        found = api("/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
        return {task["name"].rpartition("-")[0] for task in found}

    wait_until(lambda: "report" in steps(), HANG_S, "the flow run's last step")
    assert {"launch", "collect", "persist"} < steps()
    assert not {"resolve", "stage"} & steps()


@pytest.mark.parametrize(
    "killed",
    [
        pytest.param(["with checkpoints"], id="once"),
        pytest.param(["before it has written anything", "with checkpoints"], id="twice", marks=pytest.mark.long),
    ],
)
def test_flow_processes_that_die_are_replaced_and_the_job_goes_on(
    scenario_pool: Pool, simyard: CommandLine, write_config: Any, store: Path, api: Api, killed: list[str]
) -> None:
    iterations, last = 36, len(killed) + 2
    always_slow = "; ".join(f"slow at {index}" for index in range(iterations))  # wherever an attempt takes the job up
    config = write_config(description=f"{always_slow}; family", trainingConfig__maxIterations=iterations, retries=3)
    control = simyard.start("train", config, "--pool", scenario_pool.name, "--store", store, "--json")
    job = job_of(store)
    for number, when in enumerate(killed, 1):
        if when == "with checkpoints":
            wait_until(lambda number=number: saved(job, number), HANG_S, f"a checkpoint of attempt {number}")
        engine_of(job, number, api).kill()
    wait_until(lambda: gone(scenario_pool, job), HANG_S, "the end of the killed attempt's workload and its children")
    # The next one has a machine that goes away, which tells it so; nobody canceled the job.
    wait_until(lambda: saved(job, last - 1), HANG_S, f"a checkpoint of attempt {last - 1}")
    engine_of(job, last - 1, api).terminate()

    result = finish(control)
    assert control.returncode == 0
    assert (result["status"], result["error"]) == ("succeeded", None)
    assert [run["name"] for run in api.runs_of(job.name)] == [f"{job.name}-{number + 1}" for number in range(last)]
    interrupted = json.loads((job / f"attempts/{last - 1:03d}/outcome.json").read_text())["failure"]
    assert (interrupted["code"], interrupted["category"]) == ("interrupted", "infra")
    for number in (last - 1, last):
        status = json.loads((job / f"attempts/{number:03d}/status.json").read_text())
        assert status["start_iteration"] == saved(job, number - 1)[-1], "it resumes from the last checkpoint"
    assert saved(job, last)[-1] == iterations
    rows = (job / "artifacts/metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [str(step) for step in range(iterations)], "each step once"
    assert gone(scenario_pool, job)


@pytest.mark.long  # flow processes die above, with what they find again
def test_a_restarted_control_flow_finds_its_attempt_again(
    scenario_pool: Pool, simyard: CommandLine, write_config: Any, store: Path, api: Api
) -> None:
    config = write_config(description="slow", trainingConfig__maxIterations=24)
    control = simyard.start("train", config, "--pool", scenario_pool.name, "--store", store, "--json")
    job = job_of(store)
    wait_until(lambda: (job / "attempts/001/status.json").exists(), HANG_S, "the attempt's status")
    os.killpg(control.pid, signal.SIGKILL)
    control.communicate()

    again = simyard("jobs", "resume", job.name, "--pool", scenario_pool.name, "--store", store, "--json")
    assert again.returncode == 0, again.stderr
    result = last_json(again)
    assert (result["status"], result["attempts"]) == ("succeeded", 1)
    assert len(api.runs_of(job.name)) == 1
    assert saved(job, 1)[-1] == 24


def test_an_attempt_that_falls_silent_is_given_up(
    prefect_server: Server, api: Api, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from simyard.tasks.cluster import pool_launch as pool
    from simyard.tasks.shared.heartbeat import Patience

    monkeypatch.setattr(pool, "PATIENCE", Patience(2.0))
    api("/work_pools/", {"name": "silent", "type": "process"})
    opened, spec = Store.open(str(store)), a_spec()
    shown = []

    def begin_and_die(progress: JobProgress) -> None:
        if not shown:
            (run,) = api.runs_of(spec.job_id)
            api(f"/flow_runs/{run['id']}/set_state", {"state": {"type": "RUNNING"}, "force": True})
            opened.put_json(JobKeys(spec.job_id).attempt(1).status, records.status(updated_at="noon"))
        shown.append(progress.stage)

    with temporary_settings({PREFECT_API_URL: prefect_server.url}), pytest.raises(WorkloadError) as lost:
        pool.launch_in_pool(spec, opened, str(store), "silent", Observer(progress=begin_and_die))
    assert (lost.value.failure.code, lost.value.failure.category) == ("attempt_lost", "infra")
    assert shown[0] == "waiting for a worker"
    (run,) = api.runs_of(spec.job_id)
    assert run["state"]["type"] == "CRASHED"


def test_a_flow_run_that_comes_again_after_the_jobs_success_only_reports_it(
    prefect_server: Server, store: Path
) -> None:
    opened, spec = Store.open(str(store)), a_spec()
    keys = JobKeys(spec.job_id)
    opened.put_json(keys.job, spec.to_json())
    opened.put_json(keys.result, records.result(spec.job_id))
    opened.put_json(keys.manifest, {})
    opened.put_bytes(keys.artifact(REPORT.name), b"# done")
    before = opened.list(keys.prefix)
    from prefect import flow
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from simyard.flows import stages

    @flow
    def again() -> str:
        return stages.drive(spec.job_id, str(store), None).status

    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        assert again() == "succeeded"
    assert opened.list(keys.prefix) == before


def test_a_success_that_nobody_judged_is_not_repeated(store: Path) -> None:
    opened, spec = Store.open(str(store)), a_spec()
    keys = JobKeys(spec.job_id)
    assert not launch.is_done(spec, opened)
    opened.put_json(keys.attempt(1).outcome, records.outcome())
    assert launch.is_done(spec, opened)
    opened.put_json(keys.result, records.result(spec.job_id, status="failed"))
    assert not launch.is_done(spec, opened), "it was judged, and not found good"
    opened.put_json(keys.result, records.result(spec.job_id))
    assert launch.is_done(spec, opened), "its commit marker is all that it lacks"


def test_cancel_withdraws_an_attempt_that_waits_for_a_worker(
    api: Api, simyard: CommandLine, write_config: Any, store: Path
) -> None:
    api("/work_pools/", {"name": "no-worker", "type": "process"})
    control = simyard.start("train", write_config(), "--pool", "no-worker", "--store", store)
    job = job_of(store)
    (run,) = wait_until(lambda: api.runs_of(job.name), HANG_S, "the flow run")
    assert simyard("jobs", "cancel", job.name, "--store", store).returncode == 0
    _, shown = control.communicate(timeout=HANG_S)
    assert control.returncode == 130
    assert "waiting for a worker" in shown
    assert api.state(run["id"])["type"] == "CANCELLED"


@pytest.mark.long  # two jobs more; every flow ends by the same function, and every log has the same filter
@pytest.mark.parametrize("in_pool", [False, True], ids=["in the flow's process", "in a pool"])
def test_the_log_of_a_failed_job_says_what_failed_and_what_to_do_without_a_traceback(
    deployed: Server, real_pool: Pool, scenario_pool: Pool, store: Path, api: Api, in_pool: bool
) -> None:
    request = {**CONFIG, "description": "crash at 2", "retries": 0}
    pool = scenario_pool.name if in_pool else None
    run_id = api.start("train/train", {"request": request, "store": str(store), "pool": pool}, SCENARIO)
    state, job = api.final_state(run_id, HANG_S), job_of(store)
    error = json.loads((job / "result.json").read_text())["error"]
    said = f"{error['message']} {error['advice']}"
    assert error["advice"] and (state["type"], state["message"]) == ("FAILED", said)
    runs = [run_id, *(run["id"] for run in api.runs_of(job.name))]
    assert len(runs) == 1 + in_pool

    def log(run_id: str) -> str:
        found = api(
            "/logs/filter", {"logs": {"flow_run_id": {"any_": [run_id]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
        )
        return "\n".join(entry["message"] for entry in found)

    # Prefect sends logs in the background, and the last of them after the run's final state.
    for run in runs:
        wait_until(lambda run=run: "Finished in state Failed(" in log(run), HANG_S, "the end of the log")
        assert f"\n{said}\n" in log(run), "in a line of its own"
        told = log(run).partition("Finished in state")
        assert "Engine execution" not in told[2] and "Unexpected result" not in told[2]
        assert "Traceback (most recent call last)" not in log(run)


@pytest.mark.long  # a job more in a pool; test_a_cancel_in_the_store… and the cancels by command end one likewise
def test_canceling_the_flow_run_ends_a_job_in_the_worker(
    deployed: Server, real_pool: Pool, simyard: CommandLine, store: Path, api: Api
) -> None:
    request = {**CONFIG, "description": "slow; family", "trainingConfig": {**CONFIG["trainingConfig"]}}
    request["trainingConfig"]["maxIterations"] = 1000
    run_id = api.start("train/train", {"request": request, "store": str(store)}, SCENARIO)
    job = job_of(store)
    wait_until(lambda: saved(job, 1), HANG_S, "a checkpoint")
    api(f"/flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING"}})
    assert api.final_state(run_id, HANG_S)["type"] == "CANCELLED"
    wait_until(lambda: gone(real_pool, job), HANG_S, "the end of the workload")

    outcome = json.loads((job / "attempts/001/outcome.json").read_text())
    assert (outcome["status"], outcome["failure"]["code"]) == ("canceled", "canceled")
    kept = json.loads(simyard("jobs", "show", job.name, "--store", store, "--json").stdout)
    assert kept["status"] == "canceled"
    assert any(entry["kind"] == "checkpoint" for entry in kept["artifacts"])
