"""`prewarm` leaves a warm simulator on each machine of a pool, and jobs find it."""

from pathlib import Path
from typing import Any

import pytest
from helpers import CONFIG, SCENARIO, CommandLine, last_json
from pools import Api, Pool
from test_pool import job_of


@pytest.mark.long  # kept sessions are tested one by one
def test_each_machine_of_a_pool_is_warmed_up_once(
    scenario_pool: Pool, simyard: CommandLine, write_config: Any, store: Path, api: Api
) -> None:
    on_the_worker = {**SCENARIO, "SIMYARD_HOME": str(scenario_pool.home)}
    deployed = simyard("deploy", "--pool", scenario_pool.name, "--type", "process")
    assert deployed.returncode == 0, deployed.stderr
    # A queue that belongs to one machine; this pool has one worker, which serves all queues.
    api(f"/work_pools/{scenario_pool.name}/queues", {"name": "node-a"})
    request = {**CONFIG, "description": ""}
    try:
        for _ in range(2):  # the second time there is nothing to do
            run = api.start(f"prewarm/{scenario_pool.name}", {"request": request, "store": str(store)})
            state = api.final_state(run, 180)
            assert state["type"] == "COMPLETED", state
        listed = simyard("sessions", "list", **on_the_worker).stdout
        assert listed.count("session-") == 1, listed

        config = write_config(description="", trainingConfig__maxIterations=4)
        done = simyard("train", config, "--pool", scenario_pool.name, "--store", store, "--json")
        assert done.returncode == 0, done.stderr
        assert last_json(done)["status"] == "succeeded"
        log = (job_of(store) / "attempts" / "001" / "files" / "runner.log").read_text()
        assert ", which this machine keeps" in log
    finally:
        stopped = simyard("sessions", "stop", "--all", **on_the_worker)
    assert stopped.returncode == 0, stopped.stderr
