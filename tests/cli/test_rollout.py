"""`simyard rollout` and `simyard jobs watch` as a person uses them, with a task that needs no simulator."""

import json
import re
import zipfile

import pytest
from helpers import HANG_S, last_json, wait_until

TASK = """
import time

class Counting:
    def __init__(self, context, seconds: float = 0.0):
        self.context, self.seconds = context, seconds

    def run(self):
        import numpy as np
        for step in range(self.context.steps):
            self.context.log.info("step %d", step)
            time.sleep(self.seconds)
            self.context.recorder.record({"step": np.full(self.context.num_envs, step)})
"""


@pytest.fixture
def body(tmp_path):
    """A request whose task takes as long as it is told."""
    with zipfile.ZipFile(tmp_path / "counting.zip", "w") as archive:
        archive.writestr("counting/__init__.py", TASK)

    def write(seconds=0.0, steps=20):
        request = {
            "runtime_profile": "isaac_lab_rollout",
            "execution": {"num_envs": 2, "steps": steps},
            "compute_config": {"gpus_per_node": 0},
            "isaac_lab": {
                "task_module": "counting",
                "task_class_or_name": "Counting",
                "task_package_uri": "counting.zip",
                "task_args": {"seconds": seconds},
            },
        }
        path = tmp_path / "body.json"
        path.write_text(json.dumps(request))
        return path

    return write


def test_waiting_ends_with_the_result(simyard, store, body):
    done = simyard("rollout", body(), "--store", store, "--wait", "--json")
    assert done.returncode == 0, done.stderr
    result = last_json(done)
    assert (result["status"], result["summary"]["recorded_steps"]) == ("succeeded", 40)
    assert {"rollout.zarr", "user_job.log"} <= {entry["name"] for entry in result["artifacts"]}
    shown = simyard("jobs", "list", "--store", store).stdout
    assert re.search(rf"{result['job_id']}\s+rollout\s+succeeded\s+20/20", shown)


@pytest.mark.long  # a managed run goes on by itself in test_managed_train.py
def test_without_waiting_the_job_goes_on_by_itself_and_can_be_watched(simyard, store, body):
    left = simyard("rollout", body(0.1), "--store", store, "--idempotency-key", "night 7")
    assert left.returncode == 0, left.stderr
    job_id = re.findall(r"job-\w{26}", left.stdout)[0]
    watched = simyard("jobs", "watch", job_id, "--store", store)
    assert watched.returncode == 0, watched.stderr
    assert "user_job.log: " in watched.stderr
    assert "INFO step 19" in watched.stderr
    assert "succeeded: 2 episodes, 40 steps, success not measured" in watched.stderr

    again = simyard("rollout", body(0.1), "--store", store, "--idempotency-key", "night 7", "--wait", "--json")
    assert last_json(again)["job_id"] == job_id
    other = simyard("rollout", body(0.2), "--store", store, "--idempotency-key", "night 7")
    assert other.returncode == 2
    assert "was used for another request" in other.stderr
    assert len(list((store / "jobs").iterdir())) == 1


@pytest.mark.long  # test_rollout_endings.py cancels one, test_jobs.py by command
def test_a_cancel_keeps_what_was_recorded(simyard, store, body):
    left = simyard("rollout", body(0.1, steps=5000), "--store", store, "--json")
    job_id = last_json(left)["job_id"]
    wait_until(lambda: _steps(store, job_id) > 0, HANG_S, "recorded steps")
    assert simyard("jobs", "cancel", job_id, "--store", store).returncode == 0
    watched = simyard("jobs", "watch", job_id, "--store", store, "--json")
    assert watched.returncode == 130
    result = last_json(watched)
    assert result["status"] == "canceled"
    assert "rollout.zarr" in {entry["name"] for entry in result["artifacts"]}


def _steps(store, job_id):
    status = store / "jobs" / job_id / "attempts" / "001" / "status.json"
    return json.loads(status.read_text())["done"] if status.exists() else 0
