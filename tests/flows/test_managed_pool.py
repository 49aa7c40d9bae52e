"""Managed training runs through a work pool: one flow run a slot, and what happens when something dies."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import HANG_S, CommandLine, Server, end, wait_until
from loops import PATIENCE_S, Loop
from pools import Api, Pool, engines

SLOW = {str(number): "sleep 1" for number in range(1, 61)}
CANCEL = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": True}


@pytest.fixture(scope="module")
def pool(api: Api, start_worker: Callable[..., Pool]) -> Pool:
    """A pool with the installed simulator, which these rollouts never start."""
    api.make_pool("loops")
    return start_worker("loops", {})


@pytest.fixture
def loop(pool: Pool, simyard: CommandLine, tmp_path: Path, store: Path, api: Api) -> Iterator[Loop]:
    yield Loop(simyard, tmp_path, store, ("--pool", pool.name))
    for run in slots(api, ""):
        wait_until(lambda run=run: not engines(run["id"]), HANG_S, "the end of every slot")


def slots(api: Api, run_id: str) -> list[dict[str, Any]]:
    """Return the flow runs of a run's slots, in order."""
    found = api("/flow_runs/filter", {"flow_runs": {"name": {"like_": f"{run_id or 'run-'}%-slot-"}}, "limit": 200})
    return sorted(found, key=lambda run: str(run["name"]))


@pytest.mark.long  # one that is killed is replaced below
def test_each_slot_is_one_flow_run_for_as_long_as_the_run(loop: Loop, api: Api) -> None:
    run = loop(iterations=3, parallel=2)
    assert run.result["status"] == "succeeded", run.result
    run.assert_sound(3)
    assert [slot["name"] for slot in slots(api, run.run_id)] == [f"{run.run_id}-slot-{n}-1" for n in (0, 1)]
    for slot in slots(api, run.run_id):
        assert api.final_state(slot["id"], 60)["type"] == "COMPLETED"
    logs = list(loop.store.glob("jobs/*/attempts/001/files/runner.log"))
    warm = [path for path in logs if "jobs_before=0" not in path.read_text()]
    assert (len(logs), len(warm)) == (6, 4), "each slot's simulator started once"


@pytest.mark.long  # test_managed_train.py kills simulators, trainer and driver
def test_a_slot_that_is_killed_is_replaced_and_what_it_did_is_not_repeated(loop: Loop, api: Api) -> None:
    with loop.running(iterations=3, parallel=1, seconds=1.0) as (run, process):
        run.wait_for("iteration.succeeded")
        run.wait_for("iteration.started", 2)
        (slot,) = slots(api, run.run_id)
        for engine in engines(slot["id"]):
            engine.send_signal(signal.SIGKILL)
        assert process.wait(PATIENCE_S) == 0, process.stderr.read()
    run.assert_sound(3)
    assert [slot["name"][-1] for slot in slots(api, run.run_id)] == ["1", "2"]


@pytest.mark.long  # test_managed_train.py kills the driver of a run without a pool
def test_when_the_driving_process_is_killed_its_slots_go_on_and_are_found_again(loop: Loop, api: Api) -> None:
    with loop.running(iterations=2, parallel=1, how={"1": "sleep 6"}) as (run, process):
        run.wait_for("trainer.started")
        process.kill()
        process.wait()
    process = loop.resume(run.run_id)
    try:
        assert process.wait(PATIENCE_S) == 0, process.stderr.read()
    finally:
        end(process)
    run.assert_sound(2)
    assert len(list((loop.folder / "marks").glob("1-*"))) == 1, "the trainer that went on was called again"
    assert len(slots(api, run.run_id)) == 1


@pytest.mark.long  # by command in test_managed_train.py
def test_pause_resume_and_cancel_in_the_prefect_ui(loop: Loop, pool: Pool, api: Api) -> None:
    """The buttons of Prefect's UI set a flow run's state by its API, as this does."""
    with loop.running(iterations=60, parallel=1, how=SLOW) as (run, process):
        run.wait_for("iteration.started")
        (flow_run,) = api("/flow_runs/filter", {"flow_runs": {"name": {"any_": [run.run_id]}}})
        paused = {"state": {"type": "PAUSED", "name": "Paused"}, "force": True}
        assert api(f"/flow_runs/{flow_run['id']}/set_state", paused)["status"] == "ACCEPT"
        run.wait_for("run.paused")
        assert api(f"/flow_runs/{flow_run['id']}/resume", {})["status"] == "ACCEPT"
        run.wait_for("run.resumed")
        run.wait_for("iteration.succeeded", 2)
        assert api(f"/flow_runs/{flow_run['id']}/set_state", CANCEL)["status"] == "ACCEPT"
        assert process.wait(PATIENCE_S) == 130, process.stderr.read()
    assert run.end == ("canceled", "canceled")
    run.assert_sound()


@pytest.mark.long  # test_pool.py cancels a deployment's job there
def test_a_deployments_run_is_canceled_in_the_prefect_ui(
    deployed: Server, real_pool: Pool, loop: Loop, api: Api
) -> None:
    """The worker ends the process that drives it: what is in progress ends, and the run is told as canceled."""
    request = loop.request(iterations=60, parallel=1, how=SLOW)
    given = {"request": request, "store": str(loop.store), "base": str(loop.folder)}
    flow_run = api.start("managed-training/managed_training", given)
    run = loop.newest()
    run.wait_for("trainer.started", 2)
    assert api(f"/flow_runs/{flow_run}/set_state", CANCEL)["status"] == "ACCEPT"
    assert api.final_state(flow_run, 180)["type"] == "CANCELLED"
    assert run.end == ("canceled", "canceled")
    run.assert_sound()


@pytest.mark.long  # what cannot be called is refused in tests/tasks/test_trainer.py
def test_a_trainer_that_the_workers_machine_cannot_call_is_refused_before_a_rollout(loop: Loop) -> None:
    run = loop(trainer_spec__entrypoint="no-such-program")
    assert (run.result["status"], run.result["ended_by"], run.exit_code) == ("failed", "refused", 2)
    assert "no program 'no-such-program'" in run.result["error"]["message"]
    assert not (loop.store / "jobs").exists()
