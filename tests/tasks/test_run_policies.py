"""What ends a managed training run, and what it has cost, from records alone."""

import pytest

from simyard.runner.spec import Facts
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.training_runs import costs, stopping
from simyard.training_runs import TrainingRunRequest

REQUEST = {
    "rollout_template": {
        "runtime_profile": "isaac_lab_rollout", "steps": 1, "isaac_lab": {"task_class_or_name": "Isaac-Cartpole-Direct"}
    },
    "trainer_spec": {"image_uri": "local", "entrypoint": "python"},
    "loop_policy": {"max_iterations": 5},
}  # fmt: skip
JOB = "job-" + "0" * 26


def asked(**sections):
    return TrainingRunRequest.model_validate(REQUEST | {k: REQUEST.get(k, {}) | v for k, v in sections.items()})


def ended(*values, status="succeeded"):
    return [
        {"iteration": n, "status": status, "metric": value, "checkpoint_id": f"ckpt-{n}", "metric_of": f"ckpt-{n}"}
        for n, value in enumerate(values, 1)
    ]


@pytest.mark.parametrize(
    ("criteria", "values", "policy"),
    [
        ({}, [1.0], None),
        ({}, [1.0] * 5, "max_iterations"),
        ({"target": 2.0}, [1.0, 2.0], "target"),
        ({"target": 2.0}, [3.0, 1.0], None),
        ({"target": 2.0}, [None], None),
        ({"target": 2.0, "mode": "min"}, [2.5, 2.0], "target"),
        ({"patience_iterations": 2}, [1.0, 2.0, 2.0], None),
        ({"patience_iterations": 2}, [3.0, 2.0, 3.0], "patience"),
        ({"patience_iterations": 2}, [3.0, None, 2.0], None),
        ({"patience_iterations": 2}, [None, None, None], None),
        ({"patience_iterations": 1, "min_delta": 0.5}, [1.0, 1.4], "patience"),
        ({"patience_iterations": 1, "min_delta": 0.5}, [1.0, 1.6], None),
        ({"patience_iterations": 1, "mode": "min"}, [1.0, 0.9], None),
        ({"patience_iterations": 1, "min_delta": 0.5}, [1.0, 1.4, 1.6], None),
    ],
)
def test_success_criteria(criteria, values, policy):
    assert stopping.after_iteration(asked(success_criteria=criteria), ended(*values)) == policy


def test_a_failed_iteration_ends_the_run_unless_it_is_told_not_to():
    failed = [*ended(1.0), {"iteration": 2, "status": "failed", "metric": None, "checkpoint_id": None}]
    assert stopping.after_iteration(asked(), failed) == "iteration_failure"
    goes_on = asked(loop_policy={"max_iterations": 5, "stop_on_iteration_failure": False})
    assert stopping.after_iteration(goes_on, failed) is None


def test_budget_and_time_are_checked_before_anything_is_begun():
    request = asked(loop_policy={"max_iterations": 5, "max_wallclock_hours": 1.0}, budget_policy={"max_credits": 2.0})
    assert stopping.before_dispatch(request, 3599.0, 1.99) is None
    assert stopping.before_dispatch(request, 3600.0, 0.0) == "max_wallclock_hours"
    assert stopping.before_dispatch(request, 0.0, 2.0) == "max_credits"


def test_the_best_checkpoint_is_the_earliest_of_equal_ones():
    criteria = asked().success_criteria
    assert stopping.best(criteria, ended(1.0, 3.0, 3.0)) == {"iteration": 2, "checkpoint_id": "ckpt-2", "metric": 3.0}
    assert stopping.best(criteria, ended(None, None)) == {"iteration": 2, "checkpoint_id": "ckpt-2", "metric": None}
    assert stopping.best(criteria, ended(1.0, status="failed")) is None


def test_the_checkpoint_that_drove_the_rollouts_is_the_one_they_measure():
    driven = ended(5.0, 1.0, 2.0)
    for record, of in zip(driven, (None, "ckpt-1", "ckpt-2"), strict=True):
        record["metric_of"] = of
    best = stopping.best(asked().success_criteria, driven)
    assert best == {"iteration": 3, "checkpoint_id": "ckpt-2", "metric": 2.0}, "the random one has no checkpoint"


def facts(device):
    return Facts(simulator="newton", version="1", flavor="api", device=device, rollout=1, overrides=()).to_json()


def test_a_jobs_cost_is_that_of_all_its_attempts_on_gpus(tmp_path):
    store, job = Store.open(str(tmp_path)), JobKeys(JOB)
    outcome = {"timings": {"total_s": 30.0}, "facts": facts("cuda:0"), "failure": None}
    store.put_json(job.attempt(1).outcome, outcome)
    # It died without a word: what it told last counts.
    store.put_json(
        job.attempt(2).status,
        {"facts": facts("cuda:0"), "began_at": "2026-01-01T00:00:00+00:00", "updated_at": "2026-01-01T00:01:00+00:00"},
    )
    assert costs.rollout_gpu_seconds(store, JOB, 1) == 90.0
    assert costs.rollout_gpu_seconds(store, JOB, None) == 90.0
    assert costs.rollout_gpu_seconds(store, JOB, 0) == 0.0
    assert costs.in_credits(3600.0, 2.99) == 2.99


def test_on_a_cpu_nothing_is_counted(tmp_path):
    store, job = Store.open(str(tmp_path)), JobKeys(JOB)
    store.put_json(job.attempt(1).outcome, {"timings": {"total_s": 30.0}, "facts": facts("cpu"), "failure": None})
    assert costs.rollout_gpu_seconds(store, JOB, None) == 0.0
