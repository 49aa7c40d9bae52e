"""A training of the real simulator whose checkpoints a second one evaluates: it does not notice, and may be ended."""

import json
from datetime import datetime
from itertools import pairwise

import pytest
from simulated import EPISODES, ITERATIONS, SIDE_BY_SIDE, Yard, assert_same_weights

from simyard.core.evaluations import Evaluations

pytestmark = [pytest.mark.sim, pytest.mark.long]  # a second simulator starts in each

MEASURED = {"iterations": 2, "numEpisodes": EPISODES, "numEnvs": SIDE_BY_SIDE}


def test_the_weights_are_those_of_a_plain_training_and_the_figures_those_of_plain_evaluations(
    yard: Yard,
) -> None:
    watched = yard.train(f"evaluateEvery={json.dumps(MEASURED)}", "rewardAudit=true", "task=Isaac-Cartpole")
    watched.assert_whole()
    plain = yard.train("task=Isaac-Cartpole")
    assert_same_weights(watched.final, plain.final)

    found = Evaluations.from_json(watched.json("evaluations.json"))
    assert found.checkpoints[-1].iteration == ITERATIONS
    assert found.problems == []
    last = yard.evaluate(watched, f"seed={watched.json('job.json')['seed']}", overrides=())
    summary = last.json("summary.json")
    assert found.checkpoints[-1].returns is not None
    assert found.checkpoints[-1].returns.value == summary["return"]["mean"]

    # What nobody has learned: each by itself, and every term of the reward.
    assert found.audit is not None
    zero, random, held = found.audit.earned
    assert [zero.actions, random.actions, held.actions] == ["zero", "random", "held"]
    for one in found.audit.earned:
        assert one.episodes == EPISODES
        assert sum(one.reward_terms.values()) == pytest.approx(one.returns.value, rel=1e-3, abs=1e-3)
        assert "alive" in one.reward_terms
    assert len({one.returns.value for one in found.audit.earned}) == 3


def test_a_target_ends_a_training_as_its_last_iteration_would(yard: Yard) -> None:
    every = {**MEASURED, "iterations": 1, "metric": "return", "stepsPerEpisode": 5}
    stopped = yard.train(
        f"evaluateEvery={json.dumps(every)}", 'stopWhen={"target": -1000.0}', "maxIterations=400",
        "agent.save_interval=1",
    )  # fmt: skip
    stopped.assert_whole()
    outcome = json.loads((stopped.folder / "attempts/001/outcome.json").read_text())
    assert 1 <= outcome["done"] < 400
    assert "has reached -1000" in outcome["ended_early"]
    assert stopped.checkpoints[-1]["iteration"] == outcome["done"]
    assert stopped.json("evaluations.json")["checkpoints"][-1]["iteration"] == outcome["done"]


def test_minutes_say_when_the_newest_checkpoint_is_evaluated(yard: Yard) -> None:
    every = {"minutes": 0.05, "numEpisodes": 4, "numEnvs": 4, "stepsPerEpisode": 5}
    watched = yard.train(f"evaluateEvery={json.dumps(every)}", "maxIterations=250", "agent.save_interval=1")
    watched.assert_whole()
    found = Evaluations.from_json(watched.json("evaluations.json"))
    assert found.problems == []
    iterations = [one.iteration for one in found.checkpoints]
    assert len(iterations) >= 2
    assert (iterations[0] > 1, iterations[-1]) == (True, 250), "the newest one, and the last whatever the time"
    begun = [json.loads((yard.store / f"jobs/{one.job_id}/job.json").read_text()) for one in found.checkpoints]
    times = [datetime.fromisoformat(spec["created_at"]) for spec in begun]
    gaps = [(after - before).total_seconds() for before, after in pairwise(times)]
    assert all(gap >= 2.0 for gap in gaps[:-1]), "three seconds, less one by which times are rounded"


def test_a_plateau_ends_a_training(yard: Yard) -> None:
    every = {**MEASURED, "iterations": 1, "metric": "return", "stepsPerEpisode": 5}
    stopped = yard.train(
        f"evaluateEvery={json.dumps(every)}", 'stopWhen={"plateau": 2}', "maxIterations=2000",
        "agent.save_interval=20",
    )  # fmt: skip
    stopped.assert_whole()
    outcome = json.loads((stopped.folder / "attempts/001/outcome.json").read_text())
    found = Evaluations.from_json(stopped.json("evaluations.json"))
    assert outcome["done"] < 2000
    assert outcome["ended_early"].startswith("no checkpoint of the last 2 that were evaluated is better than return ")
    assert stopped.checkpoints[-1]["iteration"] == found.checkpoints[-1].iteration == outcome["done"]
    report = (stopped.artifacts / "report.md").read_text()
    assert "no checkpoint of the last 2 that were evaluated is better" in report
