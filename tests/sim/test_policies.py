"""Trained policies on the real simulator: what the bare network gives is what the environment receives."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import LIBRARIES
from simulated import Player

from simyard.core.errors import RequestError
from simyard.runner.rl.inference import load_policy
from simyard.runner.rl.networks import as_network, inputs_of, refuse_normalized_images

pytestmark = pytest.mark.sim

CLOSE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies")


@pytest.fixture(scope="module")
def seen(player: Player, folder: Path) -> dict[str, Any]:
    """What one process saw that trains and plays everything."""
    return dict(player("policy_player:train_and_play", folder, LIBRARIES))


def assert_same(case: dict[str, Any], rows: int) -> None:
    """The network gave every action that was sent, alone and in one batch, as it is and in TorchScript."""
    assert case["steps"] == 40
    assert case["shapes"][0][0] == case["shapes"][1][0] == rows
    assert case["dtype"] == "torch.float32"
    assert case["largest"] > 0.01
    for error in ("error", "error_one", "error_scripted", "error_traced"):
        assert case[error] <= CLOSE, error
    assert not case["trainable"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_network_is_what_the_library_plays(seen: dict[str, Any], library: str):
    assert_same(seen["plain"][library], 8 * 40)
    assert seen["plain"][library]["shapes"] == [[320, 4], [320, 1]]
    normalizer = seen["plain"][library]["normalizer"]
    assert len(normalizer["mean"]) == len(normalizer["divisor"]) == 4
    assert all(0.1 < divisor < 20 and divisor != 1 for divisor in normalizer["divisor"])  # they come from training


@pytest.mark.parametrize("library", LIBRARIES)
def test_one_environment_is_enough(seen: dict[str, Any], library: str):
    """Sixteen trained it: sizes that depend on their number do not matter."""
    assert_same(seen["alone"][library], 40)


@pytest.mark.parametrize("case", ["rsl_rl", "skrl", "rl_games, rescaled", "rl_games, wrapper", "sb3"])
def test_clipping_of_actions_is_inside_the_network(seen: dict[str, Any], case: str):
    found = seen["narrow"][case]
    assert_same(found, 8 * 40)
    assert found["largest"] == pytest.approx(found["limit"])
    assert 0.02 < found["at_limit"] < 0.98  # some actions were clipped, and some were not


@pytest.mark.parametrize(("case", "clip"), [("skrl", 1), ("rl_games, observations", 5), ("sb3", 1)])
def test_clipping_of_observations_is_inside_the_network(seen: dict[str, Any], case: str, clip: float):
    """RSL-RL clips none."""
    found = seen["narrow"][case]
    assert_same(found, 8 * 40)
    assert found["normalizer"]["clip"] == clip
    assert 0.02 < found["beyond_clip"] < 0.98
    if case == "rl_games, observations":  # its wrapper does so too, before
        assert found["normalizer"]["clip_before"] == 0.5
        assert 0.02 < found["beyond_clip_before"] < 0.98


def test_an_output_that_sb3_squashes(seen: dict[str, Any]):
    """Its limits are -1 and 3: tanh, then scaled."""
    case = seen["narrow"]["sb3, squashed"]
    assert_same(case, 8 * 40)
    assert 1.0 < case["largest"] <= 3.0
    assert case["normalizer"] is None


@pytest.mark.parametrize(
    ("case", "inputs", "groups"), [("one group", 4, ["policy"]), ("two groups", 8, ["more", "policy"])]
)
def test_a_manager_based_task(seen: dict[str, Any], case: str, inputs: int, groups: list[str]):
    found = seen["manager-based"][case]
    assert_same(found, 8 * 40)
    assert found["shapes"] == [[320, inputs], [320, 1]]
    assert found["groups"] == groups
    assert len(found["normalizer"]["mean"]) == inputs


@pytest.mark.parametrize("library", LIBRARIES)
def test_policies_of_one_process_do_not_touch_each_other(seen: dict[str, Any], library: str):
    """To the bit: each is played before, between and after the others."""
    assert seen["first"][library] == seen["other order"][library]
    assert len(seen["first"][library]) == 3
    assert len({tuple(actions) for actions in seen["first"][library]}) == 3


@pytest.mark.long
def test_a_process_that_has_trained_nothing_plays_the_same(seen: dict[str, Any], folder: Path, tmp_path: Path):
    player = Player(tmp_path)
    try:
        assert player("policy_player:play_first", folder, LIBRARIES[::-1]) == seen["first"]
    finally:
        player.close()


@pytest.mark.parametrize("library", LIBRARIES)
def test_beginning_again_resets_the_environment(seen: dict[str, Any], library: str):
    assert seen["plain"][library]["begins_anew"]


@pytest.mark.parametrize("library", ["rsl_rl", "rl_games"])
def test_a_memory_ends_with_its_episode(seen: dict[str, Any], library: str):
    memory = seen["memory"][library]
    assert memory["ended"] == 0
    assert memory["going_on"] > 0
    assert memory["cleared"]
    assert memory["states"] == [["h", 1, 16], ["c", 1, 16]]
    assert memory["error"] <= CLOSE
    assert memory["error_not_reset"] > 10 * CLOSE, "the episode's end makes a difference"


@pytest.mark.parametrize(
    ("case", "code", "says"),
    [
        ("no statistics", "normalizer_missing", "model_vecnormalize.pkl"),
        ("other statistics", "normalizer_unusable", "'other.pkl' holds no statistics"),
        ("unknown library", "unknown_library", "Did you mean 'sb3'"),
        ("another shape", "checkpoint_wrong_shape", "'two groups.pt' does not fit the task"),
        ("no preprocessor", "checkpoint_wrong_normalizer", "lacks 'observation_preprocessor'"),
    ],
)
def test_what_does_not_fit_is_refused(seen: dict[str, Any], case: str, code: str, says: str):
    assert seen["refused"][case][0] == code
    assert says in seen["refused"][case][1]


def environment(observations: Any, actions: Any) -> Any:
    """As much of an environment as the refusals look at."""
    from gymnasium import spaces

    groups = spaces.Dict({"policy": observations, "obs": spaces.Box(-1, 1, (1, 8, 8)), "more": spaces.Box(-1, 1, (2,))})
    return SimpleNamespace(unwrapped=SimpleNamespace(single_observation_space=groups, single_action_space=actions))


@pytest.mark.parametrize(
    ("shape", "images", "actions", "code", "says"),
    [
        (
            (9, 9, 3),
            False,
            "Box",
            "unsupported_observations",
            r"'policy', a Box of shape \[9, 9, 3\]; only vectors can",
        ),
        ((9, 9), True, "Box", "unsupported_observations", r"a Box of shape \[9, 9\]; only vectors and images can"),
        ((4,), True, "Discrete", "unsupported_actions", "actions are a Discrete"),
    ],
)
def test_only_vectors_and_images_are_exported(shape: tuple[int, ...], images: bool, actions: str, code: str, says: str):
    from gymnasium import spaces

    given = spaces.Discrete(3) if actions == "Discrete" else spaces.Box(-1, 1, (2,))
    with pytest.raises(RequestError, match=says) as refused:
        inputs_of(environment(spaces.Box(-1, 1, shape), given), ("policy",), images=images)
    assert refused.value.failure.code == code


def test_vectors_share_an_input_and_each_group_of_images_has_its_own():
    from gymnasium import spaces

    env = environment(spaces.Box(-1, 1, (4,)), spaces.Box(-1, 1, (2,)))
    inputs = inputs_of(env, ("obs", "more", "policy"), images=True, layout="NCHW")
    found = [(each.name, each.groups, each.shape, each.layout) for each in inputs]
    assert found == [("obs", ("more", "policy"), (6,), None), ("obs_image", ("obs",), (1, 8, 8), "NCHW")]
    with pytest.raises(RequestError, match="normalises the images of 'obs'"):
        refuse_normalized_images(inputs)
    with pytest.raises(RequestError, match="sees the observation group 'eyes', which the environment has not"):
        inputs_of(env, ("eyes",))


def test_a_network_that_looks_at_its_values_is_refused():
    with pytest.raises(RequestError, match="cannot be taken out") as refused:
        as_network(lambda _, observations: observations if observations.sum() > 0 else -observations)
    assert refused.value.failure.code == "unsupported_policy"


def test_a_task_of_several_agents_is_refused():
    env = SimpleNamespace(unwrapped=SimpleNamespace(possible_agents=["cart", "pendulum"]))
    with pytest.raises(RequestError, match=r"several agents \(cart, pendulum\)"):
        load_policy("rsl_rl", env, {}, Path("model_1.pt"))
