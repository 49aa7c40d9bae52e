"""An environment as policies find it, by Isaac Lab's rules, without a simulator."""

import torch

from simyard.runner.isaaclab.environment import settle


class KeepsItsActions:
    """An environment that fills the last actions with zeros in place when it is reset, as Isaac Lab's ant does."""

    def __init__(self) -> None:
        self.unwrapped = self
        self.actions = torch.zeros(2, 3)
        self.done: list[str] = []

    def reset(self) -> None:
        self.done.append("reset")
        self.actions.index_fill_(0, torch.tensor([0, 1]), 0.0)

    def seed(self, seed: int) -> None:
        self.done.append(f"seed {seed}")

    def step(self, actions: torch.Tensor) -> None:
        self.actions = actions


def test_an_environment_is_settled_again_after_a_policy_has_acted_in_it():
    env = KeepsItsActions()
    settle(env, 1)
    with torch.inference_mode():
        env.step(torch.ones(2, 3))
    settle(env, 1)
    assert env.done == ["reset", "seed 1"] * 2
    assert not env.actions.any()
