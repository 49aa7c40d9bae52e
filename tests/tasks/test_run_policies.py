"""What ends a managed training run, and what it has cost, from records alone."""

import sys
import threading
from dataclasses import replace

import pytest
import records
from helpers import HANG_S, wait_until

from simyard.core.errors import Category, Failure, RequestError, StoreError, WorkloadError
from simyard.core.records import Cost, this_process
from simyard.core.run_records import IterationRecord, TrainerOutcome, TrainerStatus
from simyard.requests.managed import TrainingRunRequest
from simyard.requests.settings import MachineSettings
from simyard.store.keys import JobKeys, RunKeys, new_run_id
from simyard.store.store import Store
from simyard.tasks.managed import stop_policies
from simyard.tasks.managed.executor import Executor, LocalExecutor
from simyard.tasks.managed.loop import Loop, RunEndedError
from simyard.tasks.managed.record import run_status, set_desired_state
from simyard.tasks.managed.run import estimate_run, keep_call_measurement, load_run, resolve_run, stage_run
from simyard.tasks.managed.trainer import call_key
from simyard.tasks.shared.control import LoopObserver
from simyard.tasks.shared.estimates import keep_measurement

REQUEST = {
    "rollout_template": {
        "runtime_profile": "isaac_lab_rollout", "steps": 1, "isaac_lab": {"task_class_or_name": "Isaac-Cartpole-Direct"}
    },
    "trainer_spec": {"image_uri": "local", "entrypoint": "python"},
    "loop_policy": {"max_iterations": 5},
}  # fmt: skip


def asked(**sections):
    return TrainingRunRequest.model_validate(REQUEST | {k: REQUEST.get(k, {}) | v for k, v in sections.items()})


def iteration(number, metric, **changed):
    record = {
        "iteration": number, "iteration_id": f"iter-{number:04d}", "status": "succeeded", "failure": None,
        "checkpoint_id": f"ckpt-{number}", "dataset_sha256": "0" * 64, "rollouts": ["job-1"], "trainer_attempt": 1,
        "trainer_seconds": 1.0, "episodes": 1, "recorded_steps": 1, "mean_return": None, "success_rate": None,
        "metrics": {}, "metric": metric, "metric_of": f"ckpt-{number}", "gpu_seconds": 0.0, "seconds": 1.0,
        "rollouts_seconds": 1.0, "ended_at": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return IterationRecord.from_json(record | changed)


def ended(*values, **changed):
    return [iteration(number, value, **changed) for number, value in enumerate(values, 1)]


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
    assert stop_policies.after_iteration(asked(success_criteria=criteria), ended(*values)) == policy


def test_a_failed_iteration_ends_the_run_unless_it_is_told_not_to():
    failed = [*ended(1.0), iteration(2, None, status="failed", checkpoint_id=None)]
    assert stop_policies.after_iteration(asked(), failed) == "iteration_failure"
    goes_on = asked(loop_policy={"max_iterations": 5, "stop_on_iteration_failure": False})
    assert stop_policies.after_iteration(goes_on, failed) is None


def test_budget_and_time_are_checked_before_anything_is_begun():
    request = asked(loop_policy={"max_iterations": 5, "max_wallclock_hours": 1.0}, budget_policy={"max_credits": 2.0})
    assert stop_policies.before_dispatch(request, 3599.0, 1.99) is None
    assert stop_policies.before_dispatch(request, 3600.0, 0.0) == "max_wallclock_hours"
    assert stop_policies.before_dispatch(request, 0.0, 2.0) == "max_credits"


@pytest.mark.parametrize(
    ("iterations", "best"),
    [
        pytest.param(ended(1.0, 3.0, 3.0), (2, "ckpt-2", 3.0), id="of equal ones"),
        pytest.param(ended(None, None), (2, "ckpt-2", None), id="none was measured"),
        pytest.param(ended(1.0, status="failed"), None, id="none is good"),
        # Rollouts measure the checkpoint that drove them; the random one has none.
        pytest.param([iteration(1, 5.0, metric_of=None), iteration(2, 1.0, metric_of="ckpt-1"),
                      iteration(3, 2.0, metric_of="ckpt-2")], (3, "ckpt-2", 2.0), id="the one that drove"),
    ],
)  # fmt: skip
def test_the_best_checkpoint_is_the_earliest_of_equal_ones(iterations, best):
    found = stop_policies.best(asked().success_criteria, iterations)
    assert (found and (found.iteration, found.checkpoint_id, found.metric)) == best


@pytest.fixture
def driven(tmp_path):
    """A run of two rollouts an iteration that may cost a tenth of a credit; a GPU hour is 3.6 of them."""
    store = Store.open(str(tmp_path / "store"))
    site = MachineSettings(home=tmp_path, store=str(tmp_path / "store"), python=sys.executable, usd_per_gpu_hour=3.6)
    request = asked(
        rollout_template={"rollout_parallelism": 2},
        budget_policy={"max_credits": 0.1},
        loop_policy={"max_iterations": 5, "trainer_retry_limit": 1},
        trainer_spec={"resources": {"gpu": 1}},
    )
    resolved = resolve_run(request, store, new_run_id(), tmp_path, site)
    stage_run(resolved, store)

    def drive():
        return Loop(load_run(store, resolved.spec.run_id), store, site, LoopObserver())

    return drive


def finish(loop, spec, seconds, attempt=1):
    outcome = records.outcome(timings={"total_s": seconds}, facts=records.facts("cuda:0"))
    loop.store.put_json(JobKeys(spec.job_id).attempt(attempt).outcome, outcome)


def ended_call(number, *, gpu_seconds=0.0, failure=None):
    return TrainerOutcome(
        number=number, status="failed" if failure else "succeeded", failure=failure, dataset_sha256="0" * 64,
        seconds=0.0, gpu_seconds=gpu_seconds, ended_at="2026-01-01T00:00:00+00:00", tail=(),
    )  # fmt: skip


def test_the_budget_is_known_between_the_rollouts_of_an_iteration(driven):
    loop = driven()
    assert loop.next_iteration() == 1
    first, second = loop.rollouts(1)
    finish(loop, first, 60.0)
    for _ in range(3):
        loop.ledger.count_rollout(first)
    assert loop.ledger.credits == pytest.approx(0.06)
    loop.gate()
    finish(loop, second, 50.0)
    loop.ledger.count_rollout(second)
    with pytest.raises(RunEndedError, match="max_credits"):
        loop.gate()


def test_whoever_takes_a_run_up_counts_what_was_spent_and_nothing_twice(driven):
    before = driven()
    before.next_iteration()
    first, second = before.rollouts(1)
    finish(before, first, 40.0)
    after = driven()
    assert after.next_iteration() == 1
    assert after.ledger.credits == pytest.approx(0.04)
    after.ledger.count_rollout(first)
    finish(after, second, 40.0)
    after.ledger.count_rollout(second)
    assert after.ledger.credits == pytest.approx(0.08)


def test_a_call_of_the_trainer_whose_caller_was_killed_is_counted_and_nothing_twice(driven):
    before = driven()
    before.next_iteration()
    call, _ = before.trainer_attempt(1, "0" * 64)
    beat = TrainerStatus(**this_process(), attempt=call, seconds=40.0)
    before.store.put_record(call_key(call, "status.json"), beat)
    after = driven()
    assert after.next_iteration() == 1
    assert after.ledger.credits == pytest.approx(0.04)
    after.ledger.count_call(ended_call(call.number, gpu_seconds=70.0))
    assert after.ledger.credits == pytest.approx(0.07)
    assert driven().cancel_now().credits == pytest.approx(0.04), "of a run that is canceled where nobody drives it"


class Idle(Executor):
    """An executor that is asked to do nothing."""

    def check(self):
        raise AssertionError("the trainer is checked again")

    def roll_out(self, worker, spec, observer):
        raise AssertionError(f"{spec.job_id} is done again")

    def call_trainer(self, attempt, observer):
        raise AssertionError("the trainer is called again")

    def shutdown(self):
        """Leave nothing."""


def test_a_rollout_that_was_judged_by_a_process_before_is_not_done_again(driven):
    loop = driven()
    spec = loop.rollouts(1)[0]
    finish(loop, spec, 1.0)
    judged = records.result(spec.job_id, kind="rollout")
    loop.store.put_json(JobKeys(spec.job_id).result, judged)
    loop.store.put_json(JobKeys(spec.job_id).manifest, {})
    after = driven()
    assert after.attempt_rollout(spec, Idle(after.spec)).to_json() == judged


def test_failures_of_the_trainer_are_counted_whoever_called_it(driven):
    loop = driven()
    assert loop.calls_left(1) == 2
    for number in (1, 2):
        call, outcome = loop.trainer_attempt(1, "0" * 64)
        assert (call.number, outcome) == (number, None)
        failure = Failure(code="x", category=Category.USER, message=f"failure {number}", advice="")
        loop.store.put_record(call_key(call, "outcome.json"), ended_call(number, failure=failure))
        loop = driven()
    with pytest.raises(WorkloadError, match="failure 2"):
        loop.calls_left(1)


def test_room_on_a_disk_is_waited_for_and_no_failure_of_the_run(driven):
    loop = driven()
    full = Failure(code="disk_full", category=Category.INFRA, message="No space left", advice="Make room.")
    for number in (1, 2, 3):
        call, _ = loop.trainer_attempt(1, "0" * 64)
        loop.store.put_record(call_key(call, "outcome.json"), ended_call(number, failure=full))
    assert loop.calls_left(1) == 2, "none of them was the trainer's"
    with pytest.raises(StoreError, match=r"No space left Make room\."), loop.iteration(1):
        raise WorkloadError(full)
    assert (loop.iterations, loop.ended_by) == ([], None)


def test_the_stronger_of_two_desired_states_counts_and_the_heartbeat_says_which(driven):
    loop = driven()
    with loop:
        set_desired_state(loop.store, loop.spec.run_id, "pause")
        wait_until(lambda: loop.control.desired == "pause", HANG_S, "the desired state")
        wait_until(lambda: loop.store.get_json(loop.keys.status)["wanted"] == "pause", HANG_S, "the heartbeat")
        assert not loop.control.why_stopped()
        set_desired_state(loop.store, loop.spec.run_id, "cancel")
        wait_until(lambda: loop.control.is_canceled, HANG_S, "the desired state")
        with pytest.raises(RunEndedError, match="canceled"):
            loop.gate()
    with pytest.raises(RequestError):
        set_desired_state(loop.store, loop.spec.run_id, "run")


def test_an_executor_has_as_many_workers_as_the_request_wants_side_by_side(driven):
    executor = LocalExecutor(driven().spec, driven().store, None)
    waiting, got = threading.Event(), []

    def third():
        with executor.worker() as number:
            got.append(number)
            waiting.set()

    with executor.worker() as first:
        with executor.worker() as second:
            assert {first, second} == {0, 1}
            thread = threading.Thread(target=third)
            thread.start()
            assert not waiting.wait(0.2)
        assert waiting.wait(HANG_S)
        assert got == [second]
    thread.join()


def test_a_run_is_told_the_sum_of_its_rollouts_and_calls_and_by_its_own_iterations_once_it_has_made_some(driven):
    loop = driven()
    run, store, spec = loop.spec, loop.store, loop.spec.template
    told = run_status(store, run.run_id).estimate
    assert (told.seconds, told.usd) == (None, None)
    assert "no rollout of 'Isaac-Cartpole-Direct' was measured" in told.how
    assert "a call of this trainer was not measured" in told.how

    # Two rollouts of 6 s side by side and a call of 4 s, five times: 50 s, in which GPUs are held for 80.
    finish(loop, spec, 6.0)
    keep_measurement(spec, store)
    keep_call_measurement(run, ended(1.0, 2.0, trainer_seconds=4.0), store)
    found = estimate_run(replace(run, request=run.request | {"budget_policy": {}}), store)
    assert (found.seconds, found.gpu_seconds, found.usd) == (50.0, 80.0, 0.08)
    assert f"measured in {run.run_id}" in found.how
    dear = replace(run, usd_per_gpu_hour=9.0)
    assert (estimate_run(dear, store).seconds, estimate_run(dear, store).usd) == (25.0, 0.1), "the budget ends it"

    loop.iterations += ended(1.0, 2.0, seconds=7.0, gpu_seconds=11.0)
    beat = loop._status().estimate
    assert (beat.seconds, beat.gpu_seconds) == (35.0, 55.0)
    assert beat.how == "guessed from the 2 iterations that this run has made"
    store.put_record(RunKeys(run.run_id).status, loop._status())
    assert run_status(store, run.run_id).estimate == beat
    assert driven().cancel_now().cost == Cost(gpu_seconds=0.0, usd=0.0)


def test_a_budget_in_credits_needs_a_price(tmp_path):
    store = Store.open(str(tmp_path / "store"))
    site = MachineSettings(home=tmp_path, store="", python=sys.executable, usd_per_gpu_hour=None)
    with pytest.raises(RequestError, match=r"budget_policy.max_credits is 2, and this site names no price.*GPU_HOUR"):
        resolve_run(asked(budget_policy={"max_credits": 2.0}), store, new_run_id(), tmp_path, site)
    assert resolve_run(asked(), store, new_run_id(), tmp_path, site).spec.usd_per_gpu_hour is None
