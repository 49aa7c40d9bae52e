"""Checkpoints are evaluated while a training goes on: every one that is due, once, whatever dies."""

import json

import pytest
from scenario.play import ITERATIONS

from simyard.core.evaluations import Evaluations
from simyard.store import keys
from simyard.tasks.shared.history import load_spec

EVERY = {"iterations": 4, "numEpisodes": 20}


def section(every=EVERY, **more):
    """The section of a training whose checkpoints are evaluated."""
    return {
        "task": "Scenario", "numEnvs": 4, "maxIterations": ITERATIONS, "seed": 1, "evaluateEvery": every, **more,
    }  # fmt: skip


def record(left):
    """The training's `evaluations.json`."""
    return Evaluations.from_json(json.loads((left.folder / "artifacts/evaluations.json").read_text()))


def evaluations(player):
    """The ids of all evaluations of the store, in order, with the attempts that each took."""
    found = {}
    for job_id in player.store.list_dirs("jobs/"):
        spec = load_spec(player.store, job_id)
        if spec.kind == "evaluate":
            found[spec.name] = len(player.store.list_dirs(keys.JobKeys(job_id).attempts))
    return found


# --- with the scenario simulator --------------------------------------------------------------------------------------


@pytest.mark.long  # two simulators start in each
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
    assert float(rows[11]["Evaluation/low/success_rate"]) == pytest.approx(
        found.checkpoints[-1].success_rate.interval_95[0]
    )
    assert left.result["summary"]["evaluations"]["iteration"] == 12
    assert evaluations(player) == {
        "played, reward audit": 1, "played, iteration 5": 1, "played, iteration 9": 1, "played, iteration 12": 1
    }  # fmt: skip
