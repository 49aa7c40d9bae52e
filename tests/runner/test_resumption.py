"""A training that goes on from a checkpoint: with the request's settings, the job's schedule and the count of steps."""

import ast
import importlib.util
import json
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from simyard.runner.rl import Resumption, Scale, get_library

RATE = {"rsl_rl": "agent.algorithm.learning_rate", "skrl": "agent.agent.learning_rate"}
CFG = {"rsl_rl": {"algorithm": {"learning_rate": 1e-6}}, "skrl": {"agent": {"learning_rate": 1e-6}}}
FILE = {"rsl_rl": "model_6.pt", "skrl": "agent_64.pt"}
OPTIMIZER = {"rsl_rl": "optimizer_state_dict", "skrl": "optimizer"}


def resumption(folder: Path, file: Path, **more: Any) -> Resumption:
    (folder / "resume").mkdir()
    return Resumption(checkpoint=file, folder=folder / "resume", start_iteration=7, **more)


@pytest.mark.parametrize("library", list(RATE))
@pytest.mark.parametrize(("is_given", "rate"), [(True, 1e-6), (False, 0.01)], ids=["given", "not given"])
def test_a_learning_rate_of_the_request_wins_over_the_optimisers(
    tmp_path: Path, library: str, is_given: bool, rate: float
) -> None:
    import torch

    file = tmp_path / FILE[library]
    torch.save({OPTIMIZER[library]: {"state": {}, "param_groups": [{"lr": 0.01}, {"lr": 0.01}]}, "iter": 6}, file)
    given = frozenset({RATE[library]} if is_given else ())
    prepared, more = get_library(library).prepare_resume(
        resumption(tmp_path, file, agent_cfg=CFG[library], given=given)
    )
    assert more == []
    groups = torch.load(prepared)[OPTIMIZER[library]]["param_groups"]
    assert [group["lr"] for group in groups] == [rate, rate]
    assert torch.load(file)[OPTIMIZER[library]]["param_groups"][0]["lr"] == 0.01, "the original stays as it was"


def test_skrl_can_name_one_schedule_alone() -> None:
    """Its runner looks a class up among its own imports; the one that is there keeps its rate in the optimiser."""
    (folder,) = importlib.util.find_spec("skrl").submodule_search_locations or ()
    tree = ast.parse(Path(folder, "utils/runner/torch/runner.py").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.asname or alias.name for node in imports for alias in node.names}
    assert {name for name in names if "LR" in name or "Scheduler" in name or "torch" in name} == {"KLAdaptiveLR"}


@pytest.mark.parametrize(
    ("schedule", "given", "more"),
    [
        ("adaptive", (), ["agent.params.config.learning_rate=0.000125"]),
        ("adaptive", ("agent.params.config.learning_rate",), []),
        ("linear", (), []),  # it goes by the epoch, from the configuration's rate
    ],
    ids=["adapted", "given", "by the epoch"],
)
def test_rl_games_goes_on_with_the_rate_that_it_had_adapted(
    tmp_path: Path, schedule: str, given: tuple[str, ...], more: list[str]
) -> None:
    import torch

    file = tmp_path / "last_cartpole_ep_6_rew_4.93.pth"
    torch.save({"epoch": 6, "optimizer": {"state": {}, "param_groups": [{"lr": 0.000125}]}}, file)
    cfg = {"params": {"config": {"lr_schedule": schedule}}}
    wanted = resumption(tmp_path, file, agent_cfg=cfg, given=frozenset(given))
    prepared, overrides = get_library("rl_games").prepare_resume(wanted)
    assert overrides == more
    assert torch.load(prepared)["epoch"] == 7


SB3 = {
    "policy": "MlpPolicy", "n_timesteps": 640, "n_steps": 8, "n_minibatches": 4, "gamma": 0.9, "ent_coef": 0.01,
    "learning_rate": "lin_1e-3", "clip_range": 0.3, "device": "cpu",
}  # fmt: skip


def test_sb3_trains_with_the_requests_settings_and_the_rest_of_its_schedule(tmp_path: Path) -> None:
    """It takes every setting out of the file; half of the job is done, and so is half of the schedule."""
    import gymnasium
    from stable_baselines3 import PPO

    file = tmp_path / "model.zip"
    PPO("MlpPolicy", gymnasium.make("CartPole-v1"), n_steps=16, batch_size=16, seed=1, device="cpu").save(file)
    wanted = resumption(tmp_path, file, agent_cfg=SB3, scale=Scale(num_envs=4, rollout=8), seed=5, share=0.5)
    prepared, more = get_library("sb3").prepare_resume(wanted)
    agent = PPO.load(prepared, gymnasium.make("CartPole-v1"), device="cpu")
    assert more == []
    assert (agent.n_steps, agent.batch_size, agent.gamma, agent.ent_coef, agent.seed) == (8, 8, 0.9, 0.01, 5)
    assert [agent.clip_range(at) for at in (1.0, 0.5)] == [0.3, 0.3]
    rates = [agent.lr_schedule(at) for at in (1.0, 0.5, 0.0)]
    assert all(map(math.isclose, rates, [5e-4, 2.5e-4, 0.0]))
    with zipfile.ZipFile(prepared) as archive:
        assert "simyard" not in json.dumps(json.loads(archive.read("data"))["learning_rate"]), "it loads anywhere"


def test_an_environment_counts_its_steps_on() -> None:
    import gymnasium

    from simyard.runner.isaaclab.environment import stepped

    class Counted(gymnasium.Env[Any, Any]):
        common_step_counter = 0

    spec = gymnasium.envs.registration.EnvSpec("Counted-v0", entry_point=Counted, disable_env_checker=True)
    with stepped(640):
        assert gymnasium.make(spec).unwrapped.common_step_counter == 640
        gymnasium.make("CartPole-v1").close()  # one that does not count
    assert gymnasium.make(spec).unwrapped.common_step_counter == 0


@pytest.mark.parametrize("is_hostile", [False, True])
def test_statistics_from_outside_run_no_code(tmp_path: Path, is_hostile: bool) -> None:
    """The library unpickles whatever is in the file."""
    import gymnasium
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    from simyard.runner.rl.sb3 import _statistics

    file, planted = tmp_path / "model_vecnormalize.pkl", tmp_path / "planted"
    env = VecNormalize(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")]), clip_obs=7.0)
    env.seed(3)
    env.reset()
    env.save(str(file))
    if is_hostile:
        file.write_bytes(pickle.dumps(Hostile(planted)))
        with pytest.raises(pickle.UnpicklingError, match=r"asks for 'pathlib\."):
            _statistics(file, env.venv)
        assert not planted.exists()
    else:
        assert _statistics(file, env.venv).clip_obs == 7.0


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, planted: Path) -> None:
        self.planted = planted

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.planted,)
