"""A training of the real simulator whose checkpoints a second one evaluates: it does not notice, and may be ended."""

import json

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
