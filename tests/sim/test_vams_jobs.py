"""The configs of the VAMS pipeline for Isaac Lab, word for word, on the real simulator; only made small for a CPU."""

import json
import shutil
from pathlib import Path

import pytest
from simulated import Job, Yard
from vams import EVALUATION, PIPELINE_EVALUATION, TRAINING

from simyard.requests.jobs import EvaluateRequest, TrainRequest

# What they ask for is shown at no cost by the trainings and evaluations of conftest.py and by tests/tasks.
pytestmark = [pytest.mark.sim, pytest.mark.long]

SMALL = ("numEnvs=16", "maxIterations=4", "seed=1", "computeConfig.gpusPerNode=0")


@pytest.fixture(scope="module")
def asset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the readme."""
    folder = tmp_path_factory.mktemp("my-training-asset")
    for kind, config in (("training", TRAINING), ("evaluation", EVALUATION), ("quiet", PIPELINE_EVALUATION)):
        (folder / kind).mkdir()
        (folder / kind / f"cartpole-{kind}-config.json").write_text(config)
    (folder / "checkpoints").mkdir()
    return folder


@pytest.fixture(scope="module")
def training(yard: Yard, asset: Path) -> Job:
    job = yard.run(TrainRequest, SMALL, asset / "training" / "cartpole-training-config.json")
    shutil.copy(job.final, asset / "checkpoints" / "model_499.pt")
    return job


def log(job: Job) -> str:
    return (job.artifacts / "runner.log").read_text()


def test_it_trains_what_its_config_says(training: Job):
    assert training.result["status"] == "succeeded", training.log
    assert {"metrics.csv", "training-config.json"} <= set(training.manifest)
    assert training.json("training-config.json")["trainingConfig"]["task"] == "Isaac-Cartpole-Direct-v0"
    assert log(training).count("is 'Isaac-Cartpole-Direct' in 3.0") == 1


def test_it_evaluates_and_films_what_its_config_says(yard: Yard, training: Job, asset: Path):
    config = asset / "evaluation" / "cartpole-evaluation-config.json"
    job = yard.run(EvaluateRequest, ("computeConfig.gpusPerNode=0",), config)
    assert job.result["status"] == "succeeded", job.log
    assert len(job.rows("episodes.csv")) == 10
    films = [name for name in job.manifest if name.startswith("videos/") and name.endswith(".mp4")]
    assert 1 <= len(films) <= 3, "first, best and worst, which may be one episode"
    (row,) = job.rows("metrics.csv")
    tags = {"Train/mean_reward", "Train/mean_episode_length", "Metrics/success_rate"}
    assert tags <= set(row)
    assert float(row["Train/mean_reward"]) == job.json("summary.json")["return"]["mean"]


def test_it_films_nothing_where_its_config_says_so(yard: Yard, training: Job, asset: Path):
    shutil.copy(asset / "checkpoints" / "model_499.pt", asset / "quiet" / "model_499.pt")
    config = asset / "quiet" / "cartpole-quiet-config.json"
    job = yard.run(EvaluateRequest, ("computeConfig.gpusPerNode=0", "numEpisodes=4", "numEnvs=4"), config)
    assert job.result["status"] == "succeeded", job.log
    assert job.json("summary.json")["videos"] is None
    assert json.loads((job.folder / "job.json").read_text())["evaluation"]["videos"] == []
    assert not [name for name in job.manifest if name.startswith("videos/")]
