"""Managed training on Isaac Lab: the reference trainer learns from recorded rollouts, and simulators stay warm."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from helpers import last_json
from simulated import Yard

pytestmark = pytest.mark.sim

EXAMPLES = Path(__file__).parents[2] / "examples" / "managed_training"


@pytest.mark.long  # test_trainers.py has the trainer, test_managed_train.py the loop
def test_the_reference_trainer_learns_cartpole_from_rollouts(yard: Yard) -> None:
    done = yard.command(
        "managed", "start", EXAMPLES / "cartpole-ppo.json", "--set", "loop_policy.max_iterations=4",
        "success_criteria.target=null", "rollout_template.rollout_parallelism=1",
        "--store", yard.store, "--wait", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = last_json(done)
    run = yard.store / "training-runs" / result["run_id"]
    iterations = [json.loads(path.read_text()) for path in sorted(run.glob("iterations/*/iteration.json"))]
    returns = [ended["mean_return"] for ended in iterations]
    assert all(later > earlier for earlier, later in pairwise(returns)), returns
    assert returns[-1] > returns[1] + 1.0, returns

    # Of a checkpoint's worth only the rollouts that it drove can tell.
    assert iterations[0]["metric_of"] is None
    assert [ended["metric_of"] for ended in iterations[1:]] == [ended["checkpoint_id"] for ended in iterations[:-1]]
    assert result["best"] == {
        "iteration": 4, "checkpoint_id": iterations[2]["checkpoint_id"], "metric": returns[-1],
    }  # fmt: skip
    datasets = [json.loads(path.read_text()) for path in run.glob("datasets/*.json")]
    assert ["data/log_prob" in manifest["arrays"] for manifest in sorted(datasets, key=lambda m: m["iteration"])] == [
        False, True, True, True,
    ]  # fmt: skip

    later = [job_id for ended in iterations[1:] for job_id in ended["rollouts"]]
    logs = [(yard.store / "jobs" / job_id / "artifacts" / "runner.log").read_text() for job_id in later]
    assert all("jobs_before=0" not in log for log in logs), "a simulator was started after the first iteration"
    verified = yard.command("managed", "verify", result["run_id"], "--store", yard.store, "--json")
    assert last_json(verified)["problems"] == []
