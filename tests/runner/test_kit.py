"""Kit, Isaac Sim's app: who needs it, and how a job on it ends.

The long tests are on the real thing, the kernel of Isaac Sim from the package index, which starts without a GPU. What
Kit needs to simulate is not to be had there, so an app of Isaac Lab's ends before its window would open.
"""

import importlib
import json
import subprocess
import sys
import zipfile

import pytest
from helpers import HANG_S, train_request
from wheels import installed

from simyard.core.errors import RequestError, WorkloadError
from simyard.requests.config import check_config
from simyard.requests.rollout import RolloutRequest
from simyard.requests.settings import MachineSettings
from simyard.runner.isaaclab import kit
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import Observer
from simyard.tasks.collect import collect
from simyard.tasks.launch import launch_inline
from simyard.tasks.persist import persist
from simyard.tasks.resolve import resolve
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.stage import stage

KERNEL = [f"{name}==6.2.0.0" for name in ("isaacsim", "isaacsim-kernel", "isaacsim-core", "isaacsim-app")]
"""90 MB of wheels; NVIDIA's licence is for whoever installs them."""


@pytest.fixture
def isaac_sim(tmp_path, monkeypatch):
    """Install a package of the name, with the file or files given; asking for the licence is what it does."""

    def install(*files):
        for name in files:
            file = tmp_path / "site" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("raise SystemExit('EULA not accepted.')")
        sys.modules.pop("isaacsim", None)  # the namespace that a look at a part of it made
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        importlib.invalidate_caches()

    monkeypatch.delitem(sys.modules, "isaacsim", raising=False)
    return install


def test_the_importers_of_robots_are_no_isaac_sim(isaac_sim):
    assert not kit.is_installed()
    isaac_sim("isaacsim/asset/__init__.py")  # a namespace, as Isaac Lab's extra `importers` makes it
    assert not kit.is_installed()
    with kit.only_if(False):
        assert importlib.util.find_spec("isaacsim.asset") is not None
    isaac_sim("isaacsim/__init__.py")
    assert kit.is_installed()


def test_a_job_without_kit_finds_no_isaac_sim_that_would_ask_for_its_licence(isaac_sim):
    isaac_sim("isaacsim/__init__.py")
    with kit.only_if(False), pytest.raises(ModuleNotFoundError):
        importlib.import_module("isaacsim")
    with kit.only_if(True), pytest.raises(SystemExit, match="EULA"):
        importlib.import_module("isaacsim")


@pytest.mark.parametrize("word", [None, "", "NO"])
def test_the_variable_that_kit_reads_is_the_word_that_counts(monkeypatch, word):
    monkeypatch.setenv("ACCEPT_EULA", "Y")
    monkeypatch.delenv("OMNI_KIT_ACCEPT_EULA", raising=False)
    if word is not None:
        monkeypatch.setenv("OMNI_KIT_ACCEPT_EULA", word)
    with pytest.raises(RequestError, match="licence nobody has accepted") as refused:
        kit.require_licence()
    assert refused.value.failure.code == "eula_not_accepted"
    monkeypatch.setenv("OMNI_KIT_ACCEPT_EULA", "YES")
    kit.require_licence()


# --- on the kernel itself -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernel():
    """Return a folder with Isaac Sim's kernel."""
    return installed("isaac-sim-kernel-6.2.0.0", *KERNEL)


APP = '''
class Task:
    """Runs a bare app of Kit's in the process of a job."""

    def __init__(self, context, how: str):
        self.context, self.how = context, how

    def run(self):
        import isaacsim, kit_app, pathlib
        import numpy as np

        empty = pathlib.Path("empty.kit").absolute()
        empty.write_text("")
        app = kit_app.KitApp()
        app.startup([str(empty), "--no-window", "--allow-root"])
        for step in range(self.context.steps):
            app.update()
            self.context.recorder.record({"row": np.zeros((self.context.num_envs, 1), np.float32)})
            if self.how == "raise":
                raise ValueError("the gripper has no fingers")
            while self.how == "never end":
                app.update()
'''


class Machine:
    """A machine with Isaac Sim's kernel."""

    def __init__(self, folder):
        self.folder = folder
        self.store = Store.open(str(folder / "store"))
        self.site = MachineSettings(home=folder / "home", store=str(folder / "store"), python=sys.executable)

    def run(self, request, observer=None):
        """Run a job; return its result, and its first attempt's folder and outcome."""
        resolved = resolve(request, self.store, keys.new_job_id(), self.folder)
        stage(resolved, self.store)
        failure = None
        try:
            with Sessions(self.site) as sessions:
                launch_inline(resolved.spec, self.store, sessions, observer or Observer())
        except WorkloadError as error:
            failure = error.failure
        result = persist(resolved.spec, collect(resolved.spec, self.store, failure), self.store).to_json()
        attempt = self.folder / "store" / "jobs" / result["job_id"] / "attempts" / "001"
        return result, attempt / "files", json.loads((attempt / "outcome.json").read_text())

    def app(self, how, *, accepts=True, observer=None):
        """Run a rollout whose task starts an app."""
        with zipfile.ZipFile(self.folder / "package.zip", "w") as archive:
            archive.writestr("kit_task/__init__.py", APP)
        request = {
            "runtime_profile": "isaac_lab_rollout",
            "execution": {"num_envs": 1, "steps": 3, "seed": 1},
            "compute_config": {"gpus_per_node": 0, "accept_nvidia_eula": accepts},
            "timeouts": {"grace_seconds": 1},
            "retries": 0,
            "isaac_lab": {
                "task_module": "kit_task", "task_class_or_name": "Task", "task_package_uri": "package.zip",
                "task_args": {"how": how},
            },
        }  # fmt: skip
        return self.run(check_config(request, RolloutRequest), observer)


@pytest.fixture
def machine(kernel, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(kernel))
    monkeypatch.delenv("OMNI_KIT_ACCEPT_EULA", raising=False)
    return Machine(tmp_path)


@pytest.mark.long  # each starts Kit
@pytest.mark.parametrize(
    ("how", "status", "code"), [("end", "succeeded", None), ("raise", "failed", "exception")], ids=["well", "raises"]
)
def test_the_verdict_on_a_job_with_an_app_is_that_of_any_job(machine, how, status, code):
    result, files, outcome = machine.app(how)
    assert "app ready" in (files / "command.stdout.log").read_text()  # Kit says so
    assert (result["status"], (result["error"] or {}).get("code")) == (status, code), result["error"]
    assert outcome["exit_code"] == (0 if status == "succeeded" else 1)


@pytest.mark.long
def test_an_app_that_hears_no_signal_is_killed_when_its_job_is_canceled(machine):
    seen = []
    observer = Observer(progress=lambda now: seen.append(now) if now.done else None, canceled=lambda: bool(seen))
    result, _, outcome = machine.app("never end", observer=observer)
    assert (result["status"], outcome["signal"]) == ("canceled", "SIGKILL")


@pytest.mark.long
def test_an_app_that_nobody_has_accepted_the_licence_of_does_not_wait_for_an_answer(machine):
    result, files, _ = machine.app("end", accepts=False)
    assert (result["error"]["code"], result["error"]["category"]) == ("eula_not_accepted", "user")
    assert "Do you accept the EULA?" in (files / "command.stdout.log").read_text()


def training(physics, *, accepts):
    """The request of a small training with an engine."""
    return train_request(
        {
            "trainingConfig": {"task": "Isaac-Cartpole-Direct", "numEnvs": 8, "maxIterations": 1, "seed": 1},
            "computeConfig": {"gpusPerNode": 0, "acceptNvidiaEula": accepts},
            "overrides": [f"physics={physics}"],
            "retries": 0,
        }
    )


@pytest.mark.long  # a whole start of Isaac Lab, and one of Kit
def test_isaac_sim_that_is_not_whole_is_the_machines_failure(machine):
    result, files, _ = machine.run(training("isaacsim_physx", accepts=True))
    assert (result["error"]["code"], result["error"]["category"]) == ("kit_not_started", "infra")
    assert "dependency solver failure" in result["error"]["message"]
    assert "were loaded before SimulationApp" not in (files / "command.stderr.log").read_text()


@pytest.mark.long  # a whole training
@pytest.mark.sim
def test_newton_needs_no_licence_where_isaac_sim_is_installed(machine):
    result, _, _ = machine.run(training("newton_mjwarp", accepts=False))
    assert result["status"] == "succeeded", result["error"]


@pytest.mark.long  # a check by Isaac Lab
def test_isaac_sims_physics_needs_the_licence_before_anything_starts(machine):
    result, _, outcome = machine.run(training("isaacsim_physx", accepts=False))
    assert (result["error"]["code"], outcome["refused"], outcome["exit_code"]) == ("eula_not_accepted", True, None)


UNTIL_KIT = """
import json, os, sys
from pathlib import Path
from simyard.core.files import AttemptPaths
from simyard.core.specs import AttemptSpec, JobSpec
from simyard.runner.isaaclab.adapter import IsaacLab
from simyard.runner.rl import LIBRARIES

job = JobSpec(
    job_id="job-01m8abff2jyn8k5j3phscztwga", kind="train", name="n", simulator="isaaclab", task="Isaac-Cartpole-Direct",
    library="rsl_rl", num_envs=8, max_iterations=1, seed=1, gpus=0, overrides=("physics=isaacsim_physx",),
)
adapter = IsaacLab()
for library in LIBRARIES:
    adapter.preload(library)
facts = adapter.check(job, None, {})
adapter.import_rest()
try:
    adapter.run(AttemptSpec(job=job, number=1), facts, AttemptPaths(Path(sys.argv[1])))
except SystemExit:
    of_usd = sorted(name for name in sys.modules if name.split(".")[0] == "pxr")
    Path(sys.argv[1], "of_usd.json").write_text(json.dumps(of_usd))  # standard output is Kit's by now
os._exit(0)  # as a workload does: what was imported may hang in the interpreter's own clean-up
"""


@pytest.mark.long  # Isaac Lab with every library, and Kit
def test_nothing_of_usd_is_imported_before_kit_starts(machine, tmp_path):
    env = machine.site.workload_env(accepts_eula=True)
    command = [sys.executable, "-c", UNTIL_KIT, tmp_path]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert "Application failed to start" in done.stderr, done.stderr
    assert json.loads((tmp_path / "of_usd.json").read_text()) == []
