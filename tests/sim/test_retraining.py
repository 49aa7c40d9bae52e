"""Retraining on the real simulator: the figures in the record are those of the evaluations, and one can go back."""

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from helpers import CONFIG, last_json
from simulated import Yard

pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config that trains for a moment."""
    path = tmp_path_factory.mktemp("retraining") / "config.json"
    path.write_text(
        json.dumps(
            {"promotion": "pole", "training": CONFIG, "evaluation": {"numEpisodes": 16, "numEnvs": 16, "seed": 3}}
        )
    )
    return path


def returns_of(store: Path, policy: dict[str, Any]) -> list[float]:
    """Return the episodes' returns of the evaluation that a record names, once its summary says the same mean."""
    found = policy["evaluation"]
    artifacts = store / "jobs" / found["job_id"] / "artifacts"
    with (artifacts / "episodes.csv").open(newline="") as file:
        returns = [float(row["return"]) for row in csv.DictReader(file)]
    summary = json.loads((artifacts / "summary.json").read_text())
    assert found["mean"] == summary["return"]["mean"] == pytest.approx(statistics.fmean(returns), rel=1e-12)
    assert found["interval_95"] == summary["return"]["interval_95"]
    assert (found["episodes"], found["seed"]) == (len(returns), summary["seed"]) == (16, 3)
    assert policy["checkpoint"]["sha256"] == summary["checkpoint"]["sha256"]
    return returns


@pytest.mark.long  # test_retrain.py has the decisions, on the played simulator
def test_two_retrainings_and_a_way_back(yard: Yard, config: Path) -> None:
    simyard, store = yard.command, yard.store
    done = simyard("retrain", config, "--store", store, "--json")
    assert done.returncode == 0, done.stderr
    first = last_json(done)
    assert (first["decision"], first["incumbent"]) == ("promoted", None)
    before = returns_of(store, first["candidate"])

    more = ("training.trainingConfig.numEnvs=256", "training.trainingConfig.maxIterations=25")
    done = simyard("retrain", config, "--store", store, "--set", *more)
    assert done.returncode == 0, done.stderr
    assert "promoted: The return is better by" in done.stderr
    record = json.loads((store / "promotions" / "pole.json").read_text())
    second = record["history"][-1]
    assert second["start"] == f"iteration 4 of the promoted policy, {first['job_id']}"
    assert second["candidate"]["checkpoint"]["iteration"] == 29
    after, again = (returns_of(store, second[who]) for who in ("candidate", "incumbent"))
    assert again == before, "the same policy with the same seed, in another job"
    gap, (low, high) = second["difference"]["mean"], second["difference"]["interval_95"]
    assert gap == pytest.approx(statistics.fmean(after) - statistics.fmean(before))
    assert 0 < low < gap < high
    assert record["current"]["job_id"] == second["job_id"]

    assert simyard("promotions", "rollback", "pole", "--why", "it rattles", "--store", store).returncode == 0
    shown = json.loads(simyard("promotions", "show", "pole", "--store", store, "--json").stdout)
    assert shown["current"]["job_id"] == first["job_id"]
    assert [entry["decision"] for entry in shown["history"]] == ["promoted", "promoted", "rolled_back"]
    assert shown["history"][-1]["why"] == "it rattles"
    # What is promoted is a training as any other.
    folder = config.parent / "policy"
    fetched = simyard("jobs", "download", first["job_id"], folder, "--only", "checkpoints/*", "--store", store)
    assert fetched.returncode == 0, fetched.stderr
    name = shown["current"]["checkpoint"]["name"]
    assert (folder / "checkpoints" / name).read_bytes() == (store / shown["current"]["checkpoint"]["key"]).read_bytes()
