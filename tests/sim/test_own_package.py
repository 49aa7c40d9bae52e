"""A task package of the user's own, and checkpoint files from elsewhere."""

import importlib.util
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from simulated import ITERATIONS, Hostile, Job, Yard, load, optimizer_steps

from simyard.core.errors import RequestError
from simyard.runner.isaaclab.lookup import refuse_pickled_code

pytestmark = [pytest.mark.sim, pytest.mark.long]  # an engine or a simulator more: the tier has eighteen minutes in CI

EXAMPLE = Path(__file__).parents[2] / "examples" / "cartpole_heavy"
MORE = 2


@pytest.fixture(scope="module")
def heavy(yard: Yard, trained: Callable[[str], Job]) -> Job:
    """Train the example package's task, from a policy that learned on Isaac Lab's own cartpole."""
    folder = yard.config.parent
    # Both beside the config, which names them relative to itself.
    shutil.make_archive(str(folder / "cartpole_heavy"), "zip", EXAMPLE.parent, "cartpole_heavy")
    shutil.copy(trained("rsl_rl").final, folder / "model_3.pt")
    job = yard.train(
        "task=Heavy-Cartpole-Direct", f"maxIterations={MORE}", "customEnvironmentPath=cartpole_heavy.zip",
        "resume.checkpoint=model_3.pt",
    )  # fmt: skip
    yard.sessions.close()
    return job


def test_the_packages_task_is_trained(heavy: Job):
    assert (heavy.exit_code, heavy.result["status"]) == (0, "succeeded"), heavy.log
    env = (heavy.artifacts / "params/env.yaml").read_text()
    assert "action_scale: 200.0\n" in env
    assert "mass: 4.0\n" in env
    assert "installed cartpole-heavy 0.1.0" in (heavy.artifacts / "runner.log").read_text()
    assert any(name.startswith("events/rsl_rl/cartpole_heavy/") for name in heavy.manifest)


def test_plain_weights_from_a_file_are_taken_up(heavy: Job, trained: Callable[[str], Job]):
    earlier = trained("rsl_rl")
    assert [entry["iteration"] for entry in heavy.checkpoints] == [ITERATIONS + MORE]
    assert heavy.checkpoints[0]["parent"] == earlier.checkpoints[-1]["sha256"]
    assert load(heavy.final)["iter"] == ITERATIONS + MORE - 1
    assert optimizer_steps(heavy.final) * ITERATIONS == optimizer_steps(earlier.final) * (ITERATIONS + MORE)


def test_the_package_was_installed_for_that_job_alone(heavy: Job, yard: Yard):
    assert importlib.util.find_spec("cartpole_heavy") is None
    assert [*yard.home.rglob("cartpole_heavy")] == []


@pytest.mark.long  # what a package is told is shown without a simulator; here it reaches the job
def test_a_repository_of_an_extension_is_trained_once_its_module_is_named(yard: Yard, tmp_path: Path):
    """Its own `__init__` imports nothing, and its project names the outermost package alone."""
    own = tmp_path / "ext-main/source/quiet_ext"
    (own / "quiet_ext/tasks").mkdir(parents=True)
    (own / "setup.py").write_text("from setuptools import setup\nsetup(name='quiet_ext', packages=['quiet_ext'])\n")
    (own / "quiet_ext/__init__.py").write_text("")
    lab = "isaaclab_tasks.core.cartpole"
    (own / "quiet_ext/tasks/__init__.py").write_text(
        f"""import gymnasium

gymnasium.register(
    id="Quiet-Cartpole",
    entry_point="{lab}.cartpole_direct_env:CartpoleEnv",
    disable_env_checker=True,
    kwargs={{
        "env_cfg_entry_point": "{lab}.cartpole_direct_env_cfg:CartpoleEnvCfg",
        "rsl_rl_cfg_entry_point": "{lab}.agents.rsl_rl_ppo_cfg:CartpoleDirectPPORunnerCfg",
    }},
)
"""
    )
    folder = yard.config.parent
    shutil.make_archive(str(folder / "ext-main"), "zip", tmp_path, "ext-main")
    asked = ("task=Quiet-Cartpole", "maxIterations=1", "customEnvironmentPath=ext-main.zip")
    refused = yard.train(*asked)
    assert (refused.exit_code, refused.result["error"]["code"]) == (1, "package_registers_nothing"), refused.log
    assert "customEnvironmentCallback to the module that does: 'quiet_ext.tasks'" in refused.result["error"]["advice"]
    trained = yard.train(*asked, "customEnvironmentCallback=quiet_ext.tasks")
    assert (trained.exit_code, trained.result["status"]) == (0, "succeeded"), trained.log
    assert "its build leaves out files in 'quiet_ext/tasks'" in (trained.artifacts / "runner.log").read_text()
    yard.sessions.close()


def test_a_checkpoint_that_holds_code_is_refused_and_the_code_never_runs(yard: Yard):
    import torch

    folder = yard.config.parent
    marker = folder / "the-code-ran"
    state = {"actor_state_dict": {}, "critic_state_dict": {}, "iter": 3, "infos": Hostile(marker)}
    torch.save(state, folder / "model_9.pt")
    resume = ("--set", "resume.checkpoint=model_9.pt")
    refused = yard.read(yard.command("train", yard.config, *resume, "--store", yard.store, "--json"))
    assert refused.exit_code == 2
    assert refused.result["error"]["code"] == "unsafe_checkpoint"
    assert refused.result["error"]["category"] == "user"
    assert (refused.result["job_id"], refused.result["attempts"]) == (None, 0), "no job begins"
    assert not marker.exists()
    assert pickle.loads(pickle.dumps(Hostile(marker))) is None
    assert marker.exists()  # it would have


def test_numbers_of_numpy_are_no_code(tmp_path: Path):
    """rl_games saves its best reward as one."""
    import torch

    state = {"model": {"weight": torch.ones(2)}, "last_mean_rewards": np.float32(1.5), "score": np.float64(2.5)}
    torch.save(state, tmp_path / "last.pth")
    refuse_pickled_code(tmp_path / "last.pth")
    torch.save(state | {"env_state": Hostile(tmp_path / "ran")}, tmp_path / "hostile.pth")
    with pytest.raises(RequestError, match=r"'hostile\.pth' is not plain weights"):
        refuse_pickled_code(tmp_path / "hostile.pth")
    assert not (tmp_path / "ran").exists()
