"""Actions that nobody chose: within the task's bounds, and the same for the same seed."""

from types import SimpleNamespace

import numpy as np
import pytest
from lazy import lazy

from simyard.core.errors import RequestError
from simyard.runner.rollout.actions import RandomActions, ZeroActions

spaces = lazy("gymnasium.spaces")
torch = lazy("torch")

ENVS, STEPS = 50, 40
INF = np.inf


class Environment:
    """Keeps what it is told to do."""

    def __init__(self, space):
        self.unwrapped = SimpleNamespace(single_action_space=space, num_envs=ENVS, device="cpu")
        self.actions = []

    def step(self, action):
        self.actions.append(action)


def drive(space, make):
    env = Environment(space)
    driver = make(env)
    for _ in range(STEPS):
        driver.step()
    return torch.stack(env.actions)


@pytest.mark.parametrize(
    ("low", "high", "least", "most"),
    [(-2, 3, -2, 3), (-INF, INF, -1, 1), (5, INF, 5, 7), (-INF, -5, -7, -5)],
    ids=["bounded", "unbounded", "from below", "from above"],
)
def test_random_actions_fill_the_bounds(low, high, least, most):
    space = spaces.Box(np.float32([low, -0.5]), np.float32([high, 0.5]))
    actions = drive(space, lambda env: RandomActions(env, 3))
    assert actions.shape == (STEPS, ENVS, 2)
    assert actions.dtype == torch.float32
    for column, (lower, upper) in enumerate([(least, most), (-0.5, 0.5)]):
        found = actions[..., column]
        reach = upper - lower
        assert lower <= found.min() < lower + 0.05 * reach
        assert upper - 0.05 * reach < found.max() <= upper
        assert found.mean().item() == pytest.approx((lower + upper) / 2, abs=0.05 * reach)


@pytest.mark.parametrize(
    ("space", "allowed"),
    [
        (lambda: spaces.Discrete(3), [{0, 1, 2}]),
        (lambda: spaces.Discrete(2, start=4), [{4, 5}]),
        (lambda: spaces.MultiDiscrete([2, 4]), [{0, 1}, {0, 1, 2, 3}]),
    ],
)
def test_random_choices_take_each_choice(space, allowed):
    actions = drive(space(), lambda env: RandomActions(env, 3))
    assert actions.shape == (STEPS, ENVS, len(allowed))
    assert actions.dtype == torch.long
    assert [set(actions[..., column].flatten().tolist()) for column in range(len(allowed))] == allowed


def test_the_same_seed_gives_the_same_actions_and_leaves_the_tasks_chance_alone():
    space = spaces.Box(-1, 1, (2,))
    before = torch.get_rng_state()
    first, again, other = (drive(space, lambda env, seed=seed: RandomActions(env, seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (lambda: spaces.Box(-1, 1, (2,)), [0, 0]),
        (lambda: spaces.Discrete(3), [0]),
        (lambda: spaces.Discrete(2, start=4), [4]),
        (lambda: spaces.MultiDiscrete([2, 4]), [0, 0]),
    ],
)
def test_zero_actions_are_zero_or_the_first_choice(space, action):
    actions = drive(space(), ZeroActions)
    assert actions.shape == (STEPS, ENVS, len(action))
    assert (actions == torch.tensor(action)).all()


def test_actions_of_another_kind_are_refused():
    with pytest.raises(RequestError, match="are a Dict") as refused:
        ZeroActions(Environment(spaces.Dict({"arm": spaces.Box(-1, 1, (2,))})))
    assert refused.value.failure.code == "unsupported_actions"
