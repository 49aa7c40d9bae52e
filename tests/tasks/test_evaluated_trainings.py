"""Checkpoints are evaluated while a training goes on: every one that is due, once, whatever dies."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psutil
import pytest
from helpers import train_request, wait_until
from pydantic import ValidationError
from scenario.play import ITERATIONS, config

from simyard.core.errors import Category, Failure, RequestError, WorkloadError
from simyard.core.evaluations import EvaluatedCheckpoint, Evaluations, Figure, RewardAudit, Unlearned
from simyard.core.files import AttemptPaths
from simyard.core.records import CheckpointRecord, Heartbeat, this_process
from simyard.core.specs import AttemptSpec, StopWhen
from simyard.requests.jobs import EvaluateRequest, EvaluationConfig, FromJob, TrainingConfig
from simyard.requests.settings import MachineSettings
from simyard.runner.evaluation.summary import wilson
from simyard.store import keys
from simyard.tasks.attempt.attempt import Observer
from simyard.tasks.attempt.evaluator import Evaluator
from simyard.tasks.kinds.base import Resolved
from simyard.tasks.resolve import resolve
from simyard.tasks.shared import idempotency
from simyard.tasks.shared.claims import take
from simyard.tasks.shared.history import load_spec
from simyard.tasks.stage import stage

EVERY = {"iterations": 4, "numEpisodes": 20}


def section(every=EVERY, **more):
    """The section of a training whose checkpoints are evaluated."""
    return {
        "task": "Scenario", "numEnvs": 4, "maxIterations": ITERATIONS, "seed": 1, "evaluateEvery": every, **more,
    }  # fmt: skip


# --- judged from the records alone ------------------------------------------------------------------------------------


def measured(*figures, asked=None, rewards=None):
    """Evaluations of checkpoints of which so many of 50 episodes succeeded."""
    return Evaluations(
        asked=asked,
        checkpoints=tuple(
            EvaluatedCheckpoint(
                iteration=10 * number, checkpoint=f"model_{10 * number - 1}.pt", sha256=str(number), job_id=None,
                reward=float(rewards[number - 1] if rewards else number), episodes=50,
                success_rate=Figure(value=count / 50, interval_95=tuple(wilson(count, 50))),
                returns=Figure(value=float(-number), interval_95=None),
            )
            for number, count in enumerate(figures, 1)
        ),
    )  # fmt: skip


def test_the_best_is_what_was_measured_best():
    assert [one.iteration for one in measured(10, 40, 30).ranked] == [20, 30, 10]
    assert [one.iteration for one in measured(10, 40, 30, asked="return").ranked] == [10, 20, 30]
    assert [one.iteration for one in measured(40, 40).ranked] == [10, 20], "equal: that with the higher return"
    none = Evaluations(checkpoints=(replace(measured(1).checkpoints[0], success_rate=None),))
    assert none.metric == "return"
    assert Evaluations().ranked == []


def test_a_target_is_reached_by_the_whole_interval():
    wanted = StopWhen(target=0.9)
    assert measured(10, 48, 48).why_stop(wanted) is None, "0.96, and from 0.865 on"
    said = measured(10, 50, 48).why_stop(wanted)
    assert said == "success rate 1 [0.9287, 1] at iteration 20 has reached 0.9"


def test_a_plateau_is_so_many_in_a_row_that_are_no_better():
    wanted = StopWhen(plateau=2)
    assert measured(10, 20, 20, 21, 21).why_stop(wanted) is None
    said = measured(10, 20, 20, 19).why_stop(wanted)
    assert said is not None
    assert said.startswith("no checkpoint of the last 2 that were evaluated is better than success rate 0.4 [")
    waiting = measured(10, 20, 20)
    late = replace(waiting.checkpoints[-1], episodes=None, success_rate=None)
    assert replace(waiting, checkpoints=(*waiting.checkpoints[:-1], late)).why_stop(wanted) is None


@pytest.mark.parametrize(
    ("counts", "rewards", "warned"),
    [
        pytest.param((20, 22, 18, 20), (1, 2, 3, 4), True, id="no-better"),
        pytest.param((20, 22, 18, 21), (1, 2, 3, 4), False, id="better"),
        pytest.param((20, 22, 18, 20), (1, 2, 2, 4), False, id="rewards-stand"),
        pytest.param((50, 50, 49, 50), (1, 2, 3, 4), False, id="solved"),
        pytest.param((20, 18, 20), (1, 2, 3), False, id="few"),
        pytest.param((1, 40, 30, 20, 10), (0, 1, 2, 3, 4), True, id="the-last-count"),
    ],
)
def test_rewards_that_rise_without_success_are_warned_of(counts, rewards, warned):
    said = measured(*counts, rewards=rewards).warnings
    assert ["the reward rises and success does not: from iteration " in one for one in said] == [True] * warned


def test_what_unlearned_actions_achieve_is_warned_of():
    def earned(actions, count, total):
        rate = Figure(value=count / 50, interval_95=tuple(wilson(count, 50)))
        returns = Figure(value=total, interval_95=None)
        return Unlearned(actions=actions, episodes=50, returns=returns, success_rate=rate, reward_terms={})

    audit = RewardAudit(earned=(earned("zero", 50, -2.0), earned("random", 25, -1.5), earned("held", 0, -1.0)))
    assert replace(measured(10, 20), audit=audit).warnings == [
        "zero actions succeed in 1 [0.9287, 1] of their episodes: success says little",
        "held actions earn -1, and no checkpoint that was evaluated earned more than -1",
    ]


def test_an_end_that_no_evaluation_can_show_is_refused():
    for given, said in (
        ({"stopWhen": {"plateau": 3}}, "there are none; give evaluateEvery"),
        ({"evaluateEvery": 20, "stopWhen": {"target": 0.9}}, "name it in evaluateEvery.metric"),
        ({"evaluateEvery": {"iterations": 9, "metric": "success_rate"}, "stopWhen": {"target": 0.95}}, "0.928 or more"),
        ({"evaluateEvery": {}}, "give iterations or minutes"),
        ({"evaluateEvery": {"iterations": 5, "minutes": 5}}, "give iterations or minutes"),
        ({"evaluateEvery": 5, "stopWhen": {}}, "give target or plateau"),
    ):
        with pytest.raises(ValidationError, match=said):
            TrainingConfig.model_validate(given)
    assert TrainingConfig(evaluate_every=20).evaluate_every.iterations == 20


def test_what_cannot_be_evaluated_or_ended_is_refused_before_it_is_a_job(store_at):
    def refused(**more):
        with pytest.raises(RequestError) as caught:
            resolve(train_request(config("", trainingConfig=section(**more))), store_at, keys.new_job_id())
        return caught.value.failure

    assert refused(rlLibrary="sb3").code == "not_evaluated"
    failure = refused(rlLibrary="skrl", stopWhen={"plateau": 3})
    assert (failure.code, "'rsl_rl'" in failure.advice) == ("not_stopped", True)


def test_a_plain_training_is_frozen_as_before(store_at):
    spec = resolve(train_request(config("")), store_at, keys.new_job_id()).spec
    assert not {"evaluate_every", "stop_when", "reward_audit"} & set(spec.to_json())


# --- what an attempt does beside the training ------------------------------------------------------------------------


def evaluator_of(store, tmp_path, iterations, every=EVERY):
    """The evaluations of a first attempt that has saved these checkpoints."""
    found = resolve(train_request(config("", trainingConfig=section(every))), store, keys.new_job_id())
    stage(found, store)
    saved = tuple(
        CheckpointRecord(name=f"model_{at - 1}.pt", iteration=at, sha256=str(at), size_bytes=1, key="", parent=None)
        for at in iterations
    )
    machine = MachineSettings(home=tmp_path, store=store.url(), python="none")
    paths = AttemptPaths(tmp_path / "attempt")
    paths.make()
    return Evaluator(AttemptSpec(job=found.spec, number=1), store, machine, paths, lambda: saved)


@pytest.mark.parametrize(
    ("every", "due"), [(EVERY, [5, 8]), ({"minutes": 1e-9, "numEpisodes": 2}, [11]), ({"minutes": 9}, [])]
)
def test_of_what_was_saved_meanwhile_the_first_in_its_iterations_is_due_or_the_newest_after_minutes(
    store_at, tmp_path, every, due
):
    evaluator = evaluator_of(store_at, tmp_path, range(2, 12, 3), every)
    assert not evaluator._plan()
    assert [one.iteration for one in evaluator.record.checkpoints] == due
    evaluator.training_ended(11)
    assert evaluator._plan()
    assert [one.iteration for one in evaluator.record.checkpoints] == sorted({*due, 11})


def test_of_an_attempt_that_was_silent_and_its_successor_one_makes_an_evaluation(store_at, tmp_path):
    evaluator = evaluator_of(store_at, tmp_path, [5])
    asked, job_id = [], keys.new_job_id()

    def made():
        return evaluator._made("iteration 5", lambda job_id: asked.append(job_id), lambda job_id: None, None)

    idempotency.claim(store_at, f"evaluation of {evaluator._job.job_id}: iteration 5", job_id,
                      {"training": evaluator._job.job_id, "of": "iteration 5"})  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        began = psutil.Process(other.pid).create_time()
        beat = Heartbeat(**this_process() | {"pid": other.pid, "process_began": began})
        store_at.put_record(keys.JobKeys(job_id).driver(1), beat)
        with ThreadPoolExecutor(1) as executor:
            waiting = executor.submit(made)
            time.sleep(0.1)
            assert not waiting.done(), "another process makes it"
            evaluator.end()
            assert waiting.result() is None
        other.kill()
    assert asked == []

    # Dead it has a successor; and once that has one, nothing is kept of what this one made.
    claim = take(store_at, job_id)
    assert (claim.number, claim.counts) == (2, True)
    store_at.put_record(keys.JobKeys(job_id).driver(3), beat)
    assert not claim.counts
    claim.give_up()
    assert take(store_at, job_id).number == 4, "that of a dead process counts for nothing, and nobody's was removed"

    def succeeded(job_id):
        store_at.put_record(keys.JobKeys(job_id).driver(2), beat)
        return Resolved(replace(evaluator._job, job_id=job_id))

    fresh = evaluator_of(store_at, tmp_path / "fresh", [5])
    assert fresh._made("iteration 5", succeeded, lambda job_id: None, None) is None, "without an attempt"


def test_an_attempt_that_was_taken_for_dead_begins_no_other_evaluation(store_at, tmp_path):
    evaluator = evaluator_of(store_at, tmp_path, [5])
    assert not evaluator._is_succeeded()
    later = keys.JobKeys(evaluator._job.job_id).attempt(2)
    store_at.put_json(later.status, {})
    assert evaluator._is_succeeded()
    evaluator.start()
    wait_until(lambda: evaluator.left is None, 60, "it has ended")
    assert [one.is_waiting for one in evaluator.record.checkpoints] == [True]
    assert not [name for name in store_at.list_dirs(keys.JOBS) if name != evaluator._job.job_id]


@pytest.fixture
def store_at(tmp_path):
    """A store in a folder."""
    from simyard.store.store import Store

    return Store.open(str(tmp_path / "store"))


# --- with the scenario simulator --------------------------------------------------------------------------------------


def record(left):
    """The training's `evaluations.json`."""
    return Evaluations.from_json(json.loads((left.folder / "artifacts/evaluations.json").read_text()))


def evaluations(player):
    """The evaluations of the store by name, with the attempts that each took."""
    found = {}
    for job_id in player.store.list_dirs("jobs/"):
        spec = load_spec(player.store, job_id)
        if spec.kind == "evaluate":
            assert spec.name not in found, "nothing is evaluated twice"
            found[spec.name] = len(player.store.list_dirs(keys.JobKeys(job_id).attempts))
    return found


@pytest.mark.long  # two simulators start
def test_every_checkpoint_that_is_due_is_measured_beside_the_training(player):
    left = player.play("slow", trainingConfig=section(rewardAudit=True))
    left.assert_nothing_missing()
    found = record(left)
    assert [one.iteration for one in found.checkpoints] == [5, 9, 12], "the first one in every four, and the last"
    assert [one.episodes for one in found.checkpoints] == [20, 20, 20]
    returns = [one.returns.value for one in found.checkpoints]
    assert all(abs(value - one.iteration) < 1 for value, one in zip(returns, found.checkpoints, strict=True))
    assert [one.reward for one in found.checkpoints] == [40.0, 80.0, 110.0]
    assert [(one.actions, one.reward_terms["alive"]) for one in found.audit.earned] == [
        ("zero", 4.0), ("random", 6.0), ("held", 4.0)
    ]  # fmt: skip
    rows = {int(row["step"]): row for row in left.metrics()}
    assert [step for step, row in rows.items() if row["Evaluation/success_rate"]] == [4, 8, 11]
    low = found.checkpoints[-1].success_rate.interval_95[0]
    assert float(rows[11]["Evaluation/low/success_rate"]) == pytest.approx(low)
    assert left.result["summary"]["evaluations"]["iteration"] == 12
    live = (left.folder / "attempts/001/files/metrics.csv").read_text().splitlines()[0]
    assert "Evaluation/success_rate" in live.split(","), "pages show it while the training goes on"
    report = (left.folder / "artifacts/report.md").read_text()
    assert "| 9 | 80 | 20 | 0 [" in report
    assert "| random | 6 [6, 6] | 0 [" in report
    assert evaluations(player) == {
        "played, reward audit": 1, "played, iteration 5": 1, "played, iteration 9": 1, "played, iteration 12": 1
    }  # fmt: skip
    assert not (left.folder / "attempts/001/files/stop.json").exists()


@pytest.mark.long  # two simulators start
def test_a_target_ends_the_training_and_what_it_leaves_is_whole(player):
    every = EVERY | {"metric": "return"}
    left = player.play("slow", trainingConfig=section(every, maxIterations=200, stopWhen={"target": 4.0}))
    assert left.result["status"] == "succeeded", left.error
    outcome, found = left.outcome(1), record(left)
    assert 5 < outcome["done"] < 200
    assert "at iteration 5 has reached 4" in outcome["ended_early"]
    assert any(f"ended at iteration {outcome['done']} of 200: return" in note for note in left.result["notes"])
    assert left.checkpoints[-1]["iteration"] == outcome["done"] == found.checkpoints[-1].iteration
    assert (left.folder / "artifact_manifest.json").exists()
    assert not any(one.is_waiting for one in found.checkpoints)

    best = EvaluationConfig(from_job=FromJob(job_id=left.result["job_id"], which="best"))
    spec = resolve(EvaluateRequest(training_config=best), player.store, keys.new_job_id()).spec
    assert spec.policies[0].iteration == found.ranked[0].iteration


@pytest.mark.long  # two simulators start
def test_the_best_is_taken_as_evaluated_not_as_rewarded(player):
    left = player.play("slow; unlearn", trainingConfig=section(EVERY | {"metric": "return"}))
    rewards = [one.reward for one in record(left).checkpoints]
    assert rewards == sorted(rewards, reverse=True), "the reward of training falls"
    best = EvaluationConfig(from_job=FromJob(job_id=left.result["job_id"], which="best"))
    spec = resolve(EvaluateRequest(training_config=best), player.store, keys.new_job_id()).spec
    assert spec.policies[0].iteration == ITERATIONS


@pytest.mark.long  # two simulators start
def test_rewards_that_rise_without_success_are_said_in_the_result(player):
    every = {"iterations": 1, "numEpisodes": 20}
    left = player.play("slow", trainingConfig=section(every), overrides=["env.evaluation=fail"])
    assert [one.iteration for one in record(left).checkpoints] == [1, 3, 5, 7, 9, 11, 12]
    assert any("the reward rises and success does not" in note for note in left.result["notes"])


@pytest.mark.long  # two simulators start
def test_an_evaluation_that_fails_is_said_and_nothing_else(player):
    left = player.play("slow", trainingConfig=section(rewardAudit=True), overrides=["env.evaluation=crash"])
    left.assert_nothing_missing()
    assert [one.problem is not None for one in record(left).checkpoints] == [True, True, True]
    notes = [note for note in left.result["notes"] if "failed: " in note]
    assert len(notes) == 4
    assert "the environment is wrong" in notes[0]


@pytest.mark.long  # four simulators start
def test_an_evaluation_whose_simulator_is_killed_is_made_again(player):
    every = {"iterations": 100, "numEpisodes": 20}
    left = player.play("slow", trainingConfig=section(every), overrides=["env.evaluation=kill"])
    left.assert_nothing_missing()
    assert [(one.iteration, one.episodes) for one in record(left).checkpoints] == [(12, 20)]
    assert evaluations(player) == {"played, iteration 12": 2}


@pytest.mark.long  # four simulators start
def test_an_attempt_that_goes_on_evaluates_what_is_left_and_nothing_twice(player):
    spec = player.stage("slow; kill at 10 once", trainingConfig=section(EVERY), overrides=["env.evaluation=slow"])
    assert player.attempt(spec).failure.code == "killed"
    assert player.attempt(spec) is None
    left = player.end(spec)
    left.assert_nothing_missing()
    assert [one.iteration for one in record(left).checkpoints] == [5, 9, 12]
    assert all(one.episodes == 20 for one in record(left).checkpoints)
    assert set(evaluations(player)) == {"played, iteration 5", "played, iteration 9", "played, iteration 12"}


@pytest.mark.long  # two simulators start
def test_a_cancel_ends_the_evaluations_too(player):
    seen = []
    observer = Observer(
        progress=lambda progress: seen.append(progress.done), canceled=lambda: max(seen, default=0) > 30
    )
    spec = player.stage("slow", trainingConfig=section(maxIterations=200), overrides=["env.evaluation=slow"])
    error = player.attempt(spec, observer)
    assert error.failure.category is Category.CANCELED
    left = player.end(spec, WorkloadError(Failure(code="canceled", category=Category.CANCELED, message="", advice="")))
    assert any(note.startswith("not evaluated: iterations ") for note in left.result["notes"]), left.result["notes"]
