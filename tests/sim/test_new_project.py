"""A project that `simyard init` made: its tests pass and its task trains, as it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import HANG_S
from simulated import Yard

pytestmark = [pytest.mark.sim, pytest.mark.long]  # a task of its own; that packages train is shown by test_own_package


def test_a_new_project_trains_and_its_tests_pass(yard: Yard, tmp_path: Path):
    project, store = tmp_path / "cart_two", tmp_path / "store"
    made = yard.simyard("init", project)
    assert made.returncode == 0, made.stderr

    # Its script, with the words of the tutorial.
    script = [
        project / "scripts" / "train.py", "--num_envs", "32", "--max_iterations", "2", "--headless", "--logger",
        "tensorboard", "--store", store, "computeConfig.gpusPerNode=0",
    ]  # fmt: skip
    trained = subprocess.run(
        [sys.executable, *script], env=yard.simyard.env, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S,
        check=False,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "succeeded: 2 of 2 iterations" in trained.stdout + trained.stderr

    # Its rewards have a curve each, and the policy plays where it was trained.
    job = next(store.glob("jobs/job-*"))
    header = (job / "artifacts" / "metrics.csv").read_text()
    assert "Episode_Reward/upright" in header
    evaluated = yard.command("evaluate", "--job", "latest", "--set", "numEpisodes=4", "--store", store)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "4 of 4 episodes" in evaluated.stderr + evaluated.stdout

    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", project / "tests"],
        env=os.environ, cwd=project, capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout
    assert "3 passed" in tested.stdout
