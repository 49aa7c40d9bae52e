"""What simyard knows of each library: its lines, its file names, its counts."""

import json
import zipfile
from pathlib import Path

import helpers
import pytest

from simyard.core.errors import RequestError
from simyard.runner.rl import LIBRARIES, Progress, Resumption, Scale, get_library

SCALE = Scale(num_envs=4, rollout=16)  # 64 transitions an iteration


@pytest.mark.parametrize(
    ("library", "line", "progress"),
    [
        ("rsl_rl", "\x1b[1m Learning iteration 0/60 \x1b[0m", Progress(done=1)),
        ("rsl_rl", "                     Learning iteration 59/60", Progress(done=60)),
        ("rsl_rl", "             Mean reward: 4.93", Progress(reward=4.93)),
        ("rsl_rl", "             Mean reward: -1.2e-05", Progress(reward=-1.2e-05)),
        ("rsl_rl", "        Mean episode length: 300.00", None),
        ("skrl", "  5%|▌         | 80/1600 [00:01<00:20, 75.00it/s]", Progress(done=5)),
        ("skrl", "  0%|          | 15/1600 [00:01<00:20, 75.00it/s]", Progress(done=0)),
        ("skrl", "[skrl:INFO] Environment wrapper: Isaac Lab", None),
        ("rl_games", "fps step: 9 fps total: 8 epoch: 5/60 frames: 20480", Progress(done=5)),
        ("rl_games", "saving next best rewards:  [4.9]", None),
        (
            "rl_games",
            "Maximum reward achieved. Network won!",
            Progress(ended_early="its mean reward has passed score_to_win"),
        ),
        ("sb3", "|    total_timesteps      | 128         |", Progress(done=2)),
        ("sb3", "|    ep_rew_mean          | -4.93       |", Progress(reward=-4.93)),
        ("sb3", "|    fps                  | 1200        |", None),
    ],
)
def test_progress_lines(library, line, progress):
    assert get_library(library).progress(line, SCALE) == progress


@pytest.mark.parametrize(
    ("library", "name", "start", "iteration", "artifact"),
    [
        ("rsl_rl", "model_0.pt", 0, 1, "model_0.pt"),
        ("rsl_rl", "model_59.pt", 7, 60, "model_59.pt"),
        ("rsl_rl", "exported_policy.pt", 0, None, "exported_policy.pt"),
        ("skrl", "agent_320.pt", 0, 20, "agent_320.pt"),
        ("skrl", "agent_320.pt", 5, 25, "agent_400.pt"),
        ("skrl", "best_agent.pt", 5, None, "best_agent.pt"),
        ("rl_games", "last_cartpole_ep_20_rew_4.93.pth", 5, 20, "last_cartpole_ep_20_rew_4.93.pth"),
        ("rl_games", "last_cartpole_ep_20_rew__-4.93_.pth", 5, 20, "last_cartpole_ep_20_rew__-4.93_.pth"),
        ("rl_games", "cartpole.pth", 5, None, "cartpole.pth"),
        ("sb3", "model_64_steps.zip", 0, 0, "model_64_steps.zip"),  # saved in the first rollout, before its update
        ("sb3", "model_128_steps.zip", 0, 1, "model_128_steps.zip"),
        ("sb3", "model_128_steps.zip", 5, 6, "model_448_steps.zip"),
    ],
)
def test_checkpoint_names(library, name, start, iteration, artifact):
    known = get_library(library)
    assert known.iteration_of(Path(name), start, SCALE) == iteration
    assert known.artifact_name(Path(name), start, SCALE) == artifact


@pytest.mark.parametrize(
    ("library", "agent_cfg", "count"),
    [
        ("rsl_rl", {"save_interval": 50}, 302),
        ("rl_games", {"params": {"config": {"save_frequency": 100}}}, 152),
        ("rl_games", {"params": {"config": {"save_frequency": 0}}}, 2),
        ("sb3", {}, 241),
        ("skrl", {"agent": {"experiment": {"checkpoint_interval": "auto"}}}, 11),
        ("skrl", {"agent": {"experiment": {"checkpoint_interval": 1600}}}, 151),
        ("skrl", {"agent": {"experiment": {"checkpoint_interval": 0}}}, 0),
    ],
)
def test_number_of_checkpoints_of_15000_iterations(library, agent_cfg, count):
    assert get_library(library).checkpoints(agent_cfg, 15000, SCALE) == count


@pytest.mark.parametrize("start", [0, 5])
def test_the_last_checkpoint_of_sb3_counts_inside(tmp_path, start):
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps({"num_timesteps": 640}))
    assert get_library("sb3").iteration_of(path, start, SCALE) == start + 10
    assert get_library("sb3").artifact_name(path, start, SCALE) == "model.zip"


@pytest.mark.parametrize(
    ("library", "tag", "first", "offset"),
    [
        ("rsl_rl", "Train/mean_reward", 5, 0),
        ("skrl", "Reward / Total reward (mean)", 5 * 16 + 1, 5 * 16),
        ("rl_games", "rewards/iter", 6, 0),
        ("rl_games", "Episode/reward", 6, 0),
        ("rl_games", "losses/a_loss", 5 * 64, 0),
        ("sb3", "rollout/ep_rew_mean", 5 * 64 + 1, 5 * 64),
    ],
)
def test_steps_of_an_attempt_that_starts_at_iteration_five(library, tag, first, offset):
    known = get_library(library)
    assert known.first_step(tag, 5, SCALE) == first
    assert known.step_offset(5, SCALE) == offset
    assert known.step_offset(0, SCALE) == 0


def test_resuming_rsl_rl_names_the_next_iteration(tmp_path):
    import torch

    torch.save({"iter": 6, "actor_state_dict": {"w": torch.ones(2)}}, tmp_path / "model_6.pt")
    (tmp_path / "resume").mkdir()
    resumption = Resumption(checkpoint=tmp_path / "model_6.pt", folder=tmp_path / "resume", start_iteration=7)
    prepared, _ = get_library("rsl_rl").prepare_resume(resumption)
    assert torch.load(prepared)["iter"] == 7
    assert torch.load(tmp_path / "model_6.pt")["iter"] == 6, "the original stays as it was"


# rl_games wants a minibatch that divides the batch


def rl_games(minibatch, given=(), num_envs=4, sequence=None):
    config = {"params": {"config": {"horizon_length": 16, "minibatch_size": minibatch}, "network": {}}}
    if sequence:
        config["params"]["config"]["seq_length"] = sequence
        config["params"]["network"]["rnn"] = {"name": "lstm"}
    return get_library("rl_games").fit(config, Scale(num_envs=num_envs, rollout=16), set(given))


def test_a_minibatch_that_fits_is_left_alone():
    assert rl_games(32) == ([], [])
    assert rl_games(64) == ([], [])


@pytest.mark.parametrize(("minibatch", "num_envs", "fitted"), [(8192, 4, 64), (48, 4, 32), (7, 1, 4), (5, 3, 4)])
def test_a_minibatch_that_does_not_fit_is_fitted_and_reported(minibatch, num_envs, fitted):
    overrides, notes = rl_games(minibatch, num_envs=num_envs)
    assert overrides == [f"agent.params.config.minibatch_size={fitted}"]
    assert f"from {minibatch} to {fitted}" in notes[0]
    assert f"{num_envs} x 16 = {num_envs * 16}" in notes[0]


def test_a_recurrent_network_is_trained_on_whole_sequences():
    assert rl_games(32, sequence=8) == ([], [])
    overrides, notes = rl_games(4, sequence=8)
    assert overrides == ["agent.params.config.minibatch_size=8"]
    assert "be a multiple of seq_length = 8" in notes[0]
    with pytest.raises(RequestError, match=r"seq_length = 5 steps, .* horizon_length = 16 is no multiple") as caught:
        rl_games(32, sequence=5)
    assert caught.value.failure.code == "bad_override"


def test_a_recurrent_model_of_rsl_rl_is_trained_on_whole_environments():
    config = {"algorithm": {"num_mini_batches": 4}, "actor": {"rnn_type": "lstm"}, "critic": {}}
    assert get_library("rsl_rl").fit(config, Scale(num_envs=4, rollout=16), set()) == ([], [])
    with pytest.raises(RequestError, match="there are 3, for 4 minibatches") as caught:
        get_library("rsl_rl").fit(config, Scale(num_envs=3, rollout=16), set())
    assert "numEnvs to 4 or more" in caught.value.failure.advice
    assert get_library("rsl_rl").fit(config | {"actor": {}}, Scale(num_envs=3, rollout=16), set()) == ([], [])


def test_a_minibatch_that_the_user_set_is_refused_with_the_nearest():
    with pytest.raises(RequestError, match=r"minibatch_size=48 does not fit.*4 x 16 = 64") as caught:
        rl_games(48, given=["agent.params.config.minibatch_size"])
    assert "32" in caught.value.failure.advice


def test_an_unknown_library_is_refused_with_the_nearest():
    with pytest.raises(RequestError, match=r"Unknown rlLibrary 'rslrl'\. Did you mean 'rsl_rl'\?"):
        get_library("rslrl")


def test_every_library_says_how_it_is_installed():
    assert tuple(LIBRARIES) == helpers.LIBRARIES
    for name, library in LIBRARIES.items():
        assert library.name == library.policy.library == name
        assert library.install.startswith("uv pip install ")
        assert library.checkpoint_glob.startswith(f"logs/{name}/")


ENTRY = "_cfg_entry_point"
REGISTERED = [f"env{ENTRY}", f"rsl_rl{ENTRY}", f"rsl_rl_with_symmetry{ENTRY}", f"rsl_rl_Tiny{ENTRY}", f"skrl{ENTRY}",
              f"skrl_mappo{ENTRY}", "default_agent"]  # fmt: skip


@pytest.mark.parametrize(
    ("library", "agent", "key"),
    [
        ("rsl_rl", None, f"rsl_rl{ENTRY}"),
        ("rsl_rl", "default", f"rsl_rl{ENTRY}"),
        ("rsl_rl", "with_symmetry", f"rsl_rl_with_symmetry{ENTRY}"),
        ("rsl_rl", f"rsl_rl_with_symmetry{ENTRY}", f"rsl_rl_with_symmetry{ENTRY}"),
        ("rsl_rl", "tiny", f"rsl_rl_Tiny{ENTRY}"),
        ("rsl_rl", "mappo", None),
        ("skrl", "MAPPO", f"skrl_mappo{ENTRY}"),
        ("skrl", "Mappo", f"skrl_mappo{ENTRY}"),
        ("skrl", "PPO", f"skrl{ENTRY}"),
        ("skrl", "amp", None),
        ("sb3", None, None),
    ],
)
def test_an_agent_is_found_by_its_key_its_short_form_or_its_algorithm(library, agent, key):
    known = get_library(library)
    assert known.find_agent(agent and known.named_agent(agent), REGISTERED) == key


def test_a_key_of_another_library_is_no_agent():
    with pytest.raises(RequestError, match=r"'skrl_mappo_cfg_entry_point' is none of rlLibrary 'rsl_rl'.*set rlLib"):
        get_library("rsl_rl").named_agent(f"skrl_mappo{ENTRY}")
    assert get_library("rsl_rl").agents(REGISTERED) == {
        "default": f"rsl_rl{ENTRY}", "with_symmetry": f"rsl_rl_with_symmetry{ENTRY}", "Tiny": f"rsl_rl_Tiny{ENTRY}"
    }  # fmt: skip


def test_an_algorithm_of_skrl_is_that_of_the_configuration():
    named = get_library("skrl").named_agent("PPO")
    assert get_library("skrl").agent_problem(named, {"agent": {"class": "AMP"}}) == "is PPO, and the task's is AMP"
    assert get_library("skrl").agent_problem(named, {"agent": {"class": "PPO"}}) is None
    assert get_library("skrl").agent_problem(None, {"agent": {"class": "AMP"}}) is None
