"""Isaac Lab 2.3.2 as it was released: what is read of it, and its own training scripts.

The package index has its source, without the scripts. Those run where two variables name a checkout of the release and
a Python 3.11 with what it needs:

    uv venv --python 3.11 LAB; uv pip install --python LAB 'setuptools<80' wheel
    uv pip install --python LAB --no-build-isolation-package flatdict 'isaaclab[rsl-rl,sb3,skrl]==2.3.2.post1' usd-core scipy

Isaac Sim 5.1 is to be had nowhere: `tests/isaaclab23/app` stands in for it.
"""  # noqa: E501

import hashlib
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import train_request
from wheels import installed

from simyard.core.specs import JobSpec
from simyard.requests.settings import MachineSettings
from simyard.runner.isaaclab import scripts as isaaclab_scripts
from simyard.runner.rl import get_library
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import Observer
from simyard.tasks.collect import collect
from simyard.tasks.launch import launch_inline
from simyard.tasks.persist import persist
from simyard.tasks.resolve import resolve
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.stage import stage

pytestmark = pytest.mark.long  # a download, and trainings by a second installation

STAND_IN = Path(__file__).parents[1] / "isaaclab23"
CHECKOUT, LAB = (os.environ.get(f"SIMYARD_TEST_ISAACLAB_23{name}") for name in ("", "_PYTHON"))
SCRIPTS = pytest.mark.skipif(
    not (CHECKOUT and LAB), reason="SIMYARD_TEST_ISAACLAB_23 and SIMYARD_TEST_ISAACLAB_23_PYTHON name no 2.3.2"
)
REGISTRATION = re.compile(r'id="([^"]+)"(.*?)\n\)', re.DOTALL)


@pytest.fixture(scope="module")
def wheel():
    """Return the folder that a checkout would be."""
    return installed("isaac-lab-2.3.2.post1", "isaaclab==2.3.2.post1", "--python-version", "3.11") / "isaaclab"


def test_the_flags_of_the_app_are_those_that_were_recorded(wheel):
    name = "source/isaaclab/isaaclab/app/app_launcher.py"
    recorded = json.loads((STAND_IN / "flags.json").read_text())["files"][name]
    assert hashlib.sha256((wheel / name).read_bytes()).hexdigest() == recorded


@pytest.mark.parametrize(("library", "count"), [("rl_games", 62), ("sb3", 10), ("skrl", 97)])
def test_the_configuration_of_every_task_is_found(wheel, tmp_path, monkeypatch, library, count):
    registered = {}
    for file in (wheel / "source/isaaclab_tasks/isaaclab_tasks").rglob("__init__.py"):
        registered |= dict(REGISTRATION.findall(file.read_text()))
    assert len(registered) == 175
    named = [task for task, text in registered.items() if re.search(rf'"{library}_cfg_entry_point": .*yaml"', text)]
    assert len(named) == count

    (tmp_path / "source").symlink_to(wheel / "source")
    script = tmp_path / "scripts/reinforcement_learning" / library / "train.py"
    script.parent.mkdir(parents=True)
    for file in (script, tmp_path / "isaaclab.sh"):
        file.touch()
    monkeypatch.setenv("ISAACLAB_PATH", str(tmp_path))
    job = train_job(library)
    for task in named:
        facts = isaaclab_scripts.check(replace(job, task=task), get_library(library))
        assert facts.rollout > 1, task


def train_job(library):
    """The spec of a small training."""
    return JobSpec(
        job_id=keys.new_job_id(), kind="train", name="n", simulator="isaaclab", task="", library=library, num_envs=64,
        max_iterations=3, seed=7, gpus=0,
    )  # fmt: skip


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Run a training by the release's own script, to its result."""
    lab = tmp_path / "lab"
    (lab / "_isaac_sim").mkdir(parents=True)
    for name in ("isaaclab.sh", "VERSION", "scripts", "source", "apps"):
        (lab / name).symlink_to(Path(CHECKOUT) / name)
    python = lab / "_isaac_sim" / "python.sh"
    path = ":".join(map(str, (STAND_IN / "app", *(lab / "source").iterdir())))
    python.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {LAB} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("ISAACLAB_PATH", str(lab))
    store = Store.open(str(tmp_path / "store"))

    def run(library, **changes):
        training = {
            "task": "Isaac-Cartpole-Direct-v0",
            "numEnvs": 16,
            "maxIterations": 4,
            "rlLibrary": library,
            "seed": 7,
        }
        compute = {"gpusPerNode": 0, "acceptNvidiaEula": True}
        request = train_request({"trainingConfig": training, "computeConfig": compute, **changes})
        resolved = resolve(request, store, keys.new_job_id(), tmp_path)
        stage(resolved, store)
        site = MachineSettings(home=tmp_path / "home", store=str(tmp_path / "store"), python=sys.executable)
        with Sessions(site) as sessions:
            launch_inline(resolved.spec, store, sessions, Observer())
        return persist(resolved.spec, collect(resolved.spec, store), store).to_json()

    return run


@SCRIPTS
@pytest.mark.parametrize(
    ("library", "checkpoints", "resumed"),
    [
        pytest.param("rsl_rl", ["model_0.pt", "model_3.pt"], ["model_4.pt", "model_7.pt"], id="rsl_rl"),
        pytest.param("skrl", ["agent_128.pt"], ["agent_256.pt"], id="skrl"),
        pytest.param("sb3", ["model.zip"], ["model.zip"], id="sb3"),
    ],
)
def test_the_released_script_trains_on_a_cpu_and_goes_on(train, library, checkpoints, resumed):
    def names(result):
        assert result["status"] == "succeeded", result["error"]
        found = [entry["name"] for entry in result["artifacts"]]
        return [name.removeprefix("checkpoints/") for name in found if name.startswith("checkpoints/")]

    first = train(library)
    assert names(first)[-1:] == checkpoints[-1:]
    assert names(train(library, resume={"fromJob": first["job_id"]}))[-1:] == resumed[-1:]
