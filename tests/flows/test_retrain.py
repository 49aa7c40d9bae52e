"""The flow `retrain`, in a process of its own and deployed; the simulator returns what a policy has been trained."""

import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from helpers import HANG_S, PREFECT, SCENARIO, Command, FlowHost, Server, end, wait_until
from pools import Api, Pool

from simyard.core.run_records import PolicyRecord, PromotionDecision
from simyard.requests.config import check_config
from simyard.requests.jobs import RetrainRequest
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.promotion import promotions
from simyard.tasks.promotion.retrain import candidate_job_id

SLOW = "env.evaluation=slow"
CRASH = "env.evaluation=crash"


def config(promotion: str, iterations: int, *overrides: str, description: str = "", **changes: Any) -> dict[str, Any]:
    """Return a request for the scenario simulator, whose policies return what they have seen of iterations."""
    return {
        "promotion": promotion,
        "training": {
            "description": description,
            "trainingConfig": {"task": "Scenario", "numEnvs": 4, "maxIterations": iterations, "seed": 1},
            "computeConfig": {"gpusPerNode": 0},
            "overrides": list(overrides),
            "retries": 0,
        },
        "evaluation": {"numEpisodes": 20},
        **changes,
    }


class Yard:
    """One process that runs the flow, and its store."""

    def __init__(self, folder: Path, process: Command) -> None:
        self.folder = folder
        self.store = Store.open(str(folder))
        self.process = process

    def begin(self, request: dict[str, Any], job_id: str | None = None) -> None:
        order = {"request": request, "store": str(self.folder), "job_id": job_id or keys.new_job_id()}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def finish(self, promotion: str) -> tuple[str, dict[str, Any]]:
        """Return the flow run's state, and what was decided last."""
        ended = json.loads(self.process.stdout.readline())
        return ended["state"], self.record(promotion)["history"][-1]

    def retrain(self, request: dict[str, Any], job_id: str | None = None) -> tuple[str, dict[str, Any]]:
        self.begin(request, job_id)
        return self.finish(request["promotion"])

    def record(self, promotion: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / "promotions" / f"{promotion}.json").read_text()))

    @property
    def jobs(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "jobs").iterdir())


@pytest.fixture(scope="module")
def start_retrainer(
    prefect_server: Server, flow_host: FlowHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Yard]]:
    """Start processes that retrain into one store; they end with the tests."""
    home = tmp_path_factory.mktemp("retrainer")
    quiet = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}  # nobody reads what it would print
    env = {**os.environ, **prefect_server.env, **SCENARIO, **quiet, "SIMYARD_HOME": str(home / "home")}
    processes: list[Command] = []

    def start() -> Yard:
        process = Command(flow_host, [], env, Path(__file__).with_name("retrainer.py"))
        processes.append(process)
        return Yard(home / "store", process)

    yield start
    for process in processes:
        end(process)


@pytest.fixture(scope="module")
def yard(start_retrainer: Callable[[], Yard]) -> Yard:
    return start_retrainer()


def test_each_retraining_begins_from_the_promoted_policy_and_takes_its_place_only_when_better(yard: Yard) -> None:
    state, first = yard.retrain(config("arm", 6))
    assert (state, first["decision"], first["incumbent"], first["difference"]) == ("COMPLETED", "promoted", None, None)
    assert first["start"] == "scratch: no policy is promoted yet"

    state, second = yard.retrain(config("arm", 9))
    assert (state, second["decision"]) == ("COMPLETED", "promoted")
    assert second["start"] == f"iteration 6 of the promoted policy, {first['job_id']}"
    assert second["candidate"]["checkpoint"]["iteration"] == 15, "training went on"
    assert second["incumbent"]["job_id"] == first["job_id"]
    assert second["difference"]["mean"] == pytest.approx(9), "a policy returns what it has seen of iterations"
    assert second["candidate"]["evaluation"]["seed"] == second["incumbent"]["evaluation"]["seed"] == 42
    assert second["cost"] == {"gpu_seconds": 0.0, "usd": 0.0}
    assert second["estimate"]["how"].startswith("the sum of 3 jobs: ")

    by_success = {"metric": "success_rate", "numEpisodes": 20}
    state, third = yard.retrain(config("arm", 4, start="scratch", evaluation=by_success))
    assert (state, third["decision"], third["start"]) == ("COMPLETED", "kept", "scratch")
    assert [third[who]["evaluation"]["mean"] for who in ("candidate", "incumbent")] == [0.0, 1.0]
    assert third["difference"]["interval_95"][1] < 0
    assert yard.record("arm")["current"] == second["candidate"] | {"promoted_at": second["at"]}

    # What was kept out is the newest training all the same; and a gain of 3 is none where 4 are asked for.
    at_least = {"numEpisodes": 20, "minDelta": 4}
    state, fourth = yard.retrain(config("arm", 14, start="newest", evaluation=at_least))
    assert fourth["start"] == f"iteration 4 of the newest training, {third['job_id']}"
    assert (fourth["decision"], fourth["difference"]["mean"]) == ("kept", pytest.approx(3))
    assert fourth["difference"]["interval_95"][0] > 0
    assert fourth["min_delta"] == 4

    # The record alone says where the policy is.
    record = yard.record("arm")
    assert yard.store.stat(record["current"]["checkpoint"]["key"]).size_bytes > 0
    assert [entry["decision"] for entry in record["history"]] == ["promoted", "promoted", "kept", "kept"]

    # The same again, of the same job: everything is done and decided.
    jobs = yard.jobs
    assert yard.retrain(config("arm", 14), fourth["job_id"]) == ("COMPLETED", fourth)
    assert (yard.jobs, yard.record("arm")) == (jobs, record)


@pytest.mark.long  # test_promotions.py has what is written
def test_what_failed_is_written_down_and_promotes_nothing(yard: Yard) -> None:
    state, entry = yard.retrain(config("leg", 4, description="crash at 2"))
    assert (state, entry["decision"], entry["error"]["code"]) == ("FAILED", "not_trained", "exception")
    assert "the reward function is wrong" in entry["why"]
    state, entry = yard.retrain(config("leg", 4, CRASH))
    assert (state, entry["decision"]) == ("FAILED", "not_measured")
    assert "the environment is wrong" in entry["why"]
    assert yard.record("leg")["current"] is None


@pytest.mark.long  # test_promotions.py has the decision in view of another policy
def test_a_policy_that_another_promotes_meanwhile_is_compared_with_too(yard: Yard) -> None:
    _, first = yard.retrain(config("hand", 4))
    _, second = yard.retrain(config("hand", 20))
    promotions.rollback(yard.store, "hand", why="to promote it again", by="Ada")
    before = len(yard.jobs)
    yard.begin(config("hand", 8, SLOW))
    wait_until(lambda: len(yard.jobs) == before + 3, HANG_S, "the comparison with the first")
    candidate = PolicyRecord.from_json(second["candidate"])
    again = PromotionDecision(decision="promoted", why="by hand", candidate=candidate)
    assert promotions.append(yard.store, "hand", again, upon=promotions.read(yard.store, "hand").current)
    state, entry = yard.finish("hand")
    assert (state, entry["decision"]) == ("COMPLETED", "kept")
    assert entry["start"].endswith(first["job_id"])
    assert entry["incumbent"]["job_id"] == second["job_id"], "better than the first, and not than the second"
    assert len(yard.jobs) == before + 4


@pytest.mark.long  # test_promotions.py has the comparison
def test_a_policy_of_another_task_or_environment_is_no_rival(yard: Yard) -> None:
    yard.retrain(config("foot", 2, "env.mass=2", "agent.lr=1"))
    jobs = yard.jobs
    other = config("foot", 2, "env.mass=2")
    other["training"]["trainingConfig"]["task"] = "Other"
    for refused in (other, config("foot", 2)):
        state, _ = yard.retrain(refused)
        assert state == "FAILED"
    assert (yard.jobs, len(yard.record("foot")["history"])) == (jobs, 1), "nothing was trained for it"

    state, entry = yard.retrain(config("foot", 9, "env.mass=3"))
    assert (state, entry["decision"]) == ("COMPLETED", "promoted")
    evaluated = [entry[who]["evaluation"]["job_id"] for who in ("candidate", "incumbent")]
    overrides = [yard.store.get_json(f"jobs/{job_id}/job.json")["overrides"] for job_id in evaluated]
    assert overrides == [["env.mass=3"], ["agent.lr=1", "env.mass=3"]], "each its own network, both the same world"


@pytest.mark.long  # a third retraining; a managed driver is killed in test_managed_train.py
def test_a_retraining_whose_process_is_killed_goes_on_without_training_again(
    start_retrainer: Callable[[], Yard],
) -> None:
    job_id, killed = keys.new_job_id(), start_retrainer()
    attempts = killed.folder / "jobs" / candidate_job_id(job_id) / "attempts"
    killed.begin(config("knee", 4, SLOW), job_id)
    wait_until(lambda: (attempts / "001" / "status.json").exists(), HANG_S, "the evaluation")
    killed.process.kill()
    assert not (killed.folder / "promotions" / "knee.json").exists()

    state, entry = start_retrainer().retrain(config("knee", 4, SLOW), job_id)
    assert (state, entry["decision"], entry["job_id"]) == ("COMPLETED", "promoted", job_id)
    assert len(list((killed.folder / "jobs" / job_id / "attempts").iterdir())) == 1, "it was trained once"
    assert len(list(attempts.iterdir())) == 2
    assert len(killed.record("knee")["history"]) == 1


# Deployed


def test_the_schedule_is_deployed_paused_and_starts_runs_once_it_is_resumed(
    deployed: Server, flow_host: FlowHost, api: Api
) -> None:
    found = api("/deployments/name/retrain/retrain")
    (schedule,) = found["schedules"]
    assert (schedule["slug"], schedule["active"]) == ("nightly", False)
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("0 3 * * *", "UTC")
    check_config(found["parameters"]["request"], RetrainRequest)

    def scheduled() -> Any:
        """Have the server do what its scheduler does every minute, and return the runs that wait for their time."""
        api(f"/deployments/{found['id']}/schedule", {})
        waiting = {"state": {"type": {"any_": ["SCHEDULED"]}}}
        return api("/flow_runs/filter", {"deployments": {"id": {"any_": [found["id"]]}}, "flow_runs": waiting})

    assert scheduled() == []
    for verb in ("resume", "pause"):
        arguments = ["--no-prompt", "deployment", "schedule", verb, "retrain/retrain", schedule["id"]]
        command = Command(flow_host, arguments, {**os.environ, **deployed.env}, Path(PREFECT))
        said = command.communicate(60)
        assert command.returncode == 0, said
        runs = scheduled()
        assert bool(runs) is (verb == "resume")
        assert {run["expected_start_time"][11:19] for run in runs} <= {"03:00:00"}


@pytest.mark.long  # the concurrency limit of one is the deployment's
def test_a_second_run_is_canceled_and_the_first_has_the_job_that_follows_from_its_id(
    deployed: Server, real_pool: Pool, api: Api, store: Path
) -> None:
    parameters = {"request": config("arm", 1000, description="slow"), "store": str(store)}
    run_id = api.start("retrain/retrain", parameters, SCENARIO)
    wait_until(lambda: api.state(run_id)["type"] != "SCHEDULED", HANG_S, "the worker")
    other = api.start("retrain/retrain", parameters, SCENARIO)
    canceled = api.final_state(other, 60)
    assert (canceled["type"], canceled["message"]) == ("CANCELLED", "Deployment concurrency limit reached.")

    wait_until(lambda: list(store.glob("jobs/*/attempts/001/status.json")), HANG_S, "the training")
    (job,) = (store / "jobs").iterdir()
    due = datetime.fromisoformat(api(f"/flow_runs/{run_id}")["expected_start_time"])
    assert job.name == keys.job_id_of_run(UUID(run_id), due), "a retried run finds it again"
    assert keys.job_id_of_run(UUID(other), due) != job.name
    api(f"/flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING"}})
    assert api.final_state(run_id, 60)["type"] == "CANCELLED"
