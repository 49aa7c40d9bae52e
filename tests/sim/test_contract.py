"""Contracts of real environments, and what their action terms really do."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from simulated import Player

from simyard.policy import PolicyRunner
from simyard.runner.exporting.contract import CONTRACT_FILE, Contract, read_contract

pytestmark = pytest.mark.sim

DIRECT, MANAGED, RICH = "Isaac-Cartpole-Direct", "Isaac-Cartpole", "Rich-Cartpole"
RAW = [[0.5, -1.0], [-3.0, 2.0], [0.0, 0.25], [0.9, -0.1]]
"""Actions of four environments; tasks with one action take the first column."""


@pytest.fixture(scope="module")
def described(player: Player, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each task, with its export and `seen.json`."""
    folder = tmp_path_factory.mktemp("described")
    player("test_contract:describe_all", folder)
    return folder


def load(described: Path, task: str) -> tuple[Contract, dict[str, Any]]:
    return read_contract(described / task / CONTRACT_FILE), json.loads((described / task / "seen.json").read_text())


@pytest.mark.parametrize("task", [DIRECT, MANAGED])
def test_the_cartpoles_say_how_they_are_controlled(task: str, described: Path):
    contract, _ = load(described, task)
    assert contract.task == task
    assert contract.control_period_s == pytest.approx(1 / 60)
    assert contract.physics_dt_s == pytest.approx(1 / 120)
    assert contract.decimation == 2
    assert contract.input.shape == (None, 4)
    assert contract.output.shape == (None, 1)
    assert contract.checkpoint.iteration == 7
    assert {"isaaclab", "torch", "onnx", "simyard"} <= set(contract.versions)
    (robot,) = contract.articulations
    assert robot.joints == ("slider_to_cart", "cart_to_pole")
    assert robot.default_positions == (0.0, 0.0)
    policy = PolicyRunner.load(described / task)
    assert policy.act(np.zeros(4)).shape == (1,)


def test_a_direct_task_names_nothing_and_nothing_is_made_up(described: Path):
    contract, seen = load(described, DIRECT)
    (group,) = contract.observation_groups
    (term,) = group.terms
    assert (group.name, group.names_known, group.start, group.size) == ("policy", False, 0, 4)
    assert (term.name, term.function, term.slices) == (None, None, ((0, 4),))
    (action,) = contract.actions
    assert (action.name, action.type, action.command, action.joints, action.offset) == (None,) * 5
    assert action.scale == (100.0,), "the configuration has an action_scale"
    assert action.limits is None
    assert (seen["events"], seen["curriculum"]) == (None, None)
    with pytest.raises(ValueError, match=r"what task 'Isaac-Cartpole-Direct' does .* is in its own code"):
        PolicyRunner.load(described / DIRECT).processed(np.zeros(1))


def test_a_manager_based_task_names_its_terms(described: Path):
    contract, seen = load(described, MANAGED)
    (group,) = contract.observation_groups
    assert group.names_known
    assert [(t.name, t.slices, t.joints) for t in group.terms] == [
        ("joint_pos_rel", ((0, 2),), ("slider_to_cart", "cart_to_pole")),
        ("joint_vel_rel", ((2, 4),), ("slider_to_cart", "cart_to_pole")),
    ]
    assert group.terms[0].function == "isaaclab.envs.mdp.observations:joint_pos_rel"
    (action,) = contract.actions
    assert action.type == "isaaclab.envs.mdp.actions.joint_actions:JointEffortAction"
    assert (action.command, action.joints, action.scale, action.offset) == ("effort", ("slider_to_cart",), (100,), (0,))
    assert seen["events"]["reset_cart_position"]["params"]["position_range"] == [-1.0, 1.0]
    assert seen["curriculum"] == {}


def test_a_rich_task_tells_noise_history_and_limits(described: Path):
    contract, _ = load(described, RICH)
    policy, critic = contract.observation_groups
    position, velocity = policy.terms
    # Laid out by time: both terms of the oldest sample come first.
    assert (position.slices, velocity.slices) == (((0, 1), (3, 4), (6, 7)), ((1, 3), (4, 6), (7, 9)))
    assert (position.joints, position.history_length, position.delay_steps) == (("cart_to_pole",), 3, (1, 2))
    assert position.noise == {
        "type": "UniformNoiseCfg",
        "func": "isaaclab.utils.noise.noise_model:uniform_noise",
        "operation": "add",
        "n_min": -0.25,
        "n_max": 0.5,
    }
    assert (velocity.scale, velocity.clip, velocity.noise) == ((0.5, 0.25), (-9.0, 8.0), None)
    assert (critic.name, critic.start, critic.size) == ("critic", None, 5)
    assert [(t.name, t.slices) for t in critic.terms] == [("position", ((0, 2),)), ("forces", ((2, 5),))]
    clipped, stretched = contract.actions
    assert clipped.clip == ((-30.0, 40.0),)
    assert clipped.command == "effort"
    assert (stretched.command, stretched.joints) == ("position", ("cart_to_pole",))


@pytest.mark.parametrize("task", [MANAGED, RICH])
def test_actions_become_the_commands_that_isaac_lab_makes_of_them(task: str, described: Path):
    contract, seen = load(described, task)
    raw = np.array(RAW, np.float32)[:, : contract.output.shape[1]]
    commands = PolicyRunner.load(described / task).processed(raw)
    np.testing.assert_allclose(commands, seen["processed"], rtol=1e-6, atol=1e-6)


def test_slices_point_at_the_terms_own_numbers(described: Path):
    contract, seen = load(described, RICH)
    observations = np.array(seen["observations"])
    positions, velocities = contract.observation_groups[0].terms
    newest = velocities.slices[-1]
    np.testing.assert_allclose(observations[:, slice(*newest)], seen["velocity"], rtol=1e-5)
    assert len(positions.slices) == len(velocities.slices) == 3


# --- the simulator's side, which the player calls ---------------------------------------------------------------------


def register_rich() -> None:
    """A cartpole with everything a contract can tell."""
    import gymnasium
    from isaaclab.envs import mdp
    from isaaclab.managers import ObservationGroupCfg, SceneEntityCfg
    from isaaclab.managers import ObservationTermCfg as Term
    from isaaclab.utils import configclass
    from isaaclab.utils.noise import UniformNoiseCfg
    from isaaclab_tasks.core.cartpole.cartpole_manager_env_cfg import CartpoleEnvCfg

    pole = SceneEntityCfg("robot", joint_names=["cart_to_pole"])

    @configclass
    class PolicyCfg(ObservationGroupCfg):
        position = Term(
            func=mdp.joint_pos_rel,
            params={"asset_cfg": pole},
            noise=UniformNoiseCfg(n_min=-0.25, n_max=0.5),
            delay_min_lag=1,
            delay_max_lag=2,
        )
        velocity = Term(func=mdp.joint_vel_rel, scale=(0.5, 0.25), clip=(-9.0, 8.0))

        def __post_init__(self):
            self.enable_corruption = True
            self.history_length = 3
            self.history_order = "time"

    @configclass
    class CriticCfg(ObservationGroupCfg):
        position = Term(func=mdp.joint_pos_rel)
        forces = Term(func=mdp.root_pos_w)

    @configclass
    class ObservationsCfg:
        policy: PolicyCfg = PolicyCfg()
        critic: CriticCfg = CriticCfg()

    @configclass
    class ActionsCfg:
        push = mdp.JointEffortActionCfg(
            asset_name="robot", joint_names=["slider_to_cart"], scale=20.0, clip={".*": (-30.0, 40.0)}
        )
        turn = mdp.JointPositionToLimitsActionCfg(asset_name="robot", joint_names=["cart_to_pole"], scale=0.5)

    @configclass
    class RichCfg(CartpoleEnvCfg):
        observations: ObservationsCfg = ObservationsCfg()
        actions: ActionsCfg = ActionsCfg()

    globals()["RichCfg"] = RichCfg
    entry = gymnasium.spec(MANAGED)
    kwargs = {**entry.kwargs, "env_cfg_entry_point": RichCfg}
    gymnasium.register(RICH, entry.entry_point, disable_env_checker=True, kwargs=kwargs)


def describe_all(folder: Path) -> None:
    """Make each environment once, and write what it says and does."""
    import isaaclab_tasks  # noqa: F401
    import torch

    from simyard.runner.exporting.contract import write_contract
    from simyard.runner.exporting.describe import curriculum, describe, events
    from simyard.runner.exporting.formats import write_onnx, write_torchscript
    from simyard.runner.isaaclab.environment import fresh_environment
    from simyard.runner.rl import get_library
    from simyard.runner.rl.networks import Network, inputs_of

    register_rich()
    library = get_library("rsl_rl")
    policy = SimpleNamespace(library="rsl_rl", observation_groups=("policy",), normalizer=lambda: None)
    for task in (DIRECT, MANAGED, RICH):
        own = folder / task
        own.mkdir()
        with fresh_environment(task, library, ["physics=newton_mjwarp"], num_envs=4, seed=1, device="cpu") as (env, _):
            base = env.unwrapped
            size, actions = base.single_observation_space["policy"].shape[0], base.single_action_space.shape[0]
            given = inputs_of(env, policy.observation_groups)
            network = Network(module=torch.nn.Linear(size, actions).eval(), inputs=given)
            write_onnx(network, own / "policy.onnx", {"task": task})
            write_torchscript(network, own / "policy.pt")
            named = {"task": task, "checkpoint_sha256": "0" * 64, "iteration": 7}
            contract = describe(env, policy, network, own, ranges={}, **named)
            write_contract(contract, own)
            seen = {"events": events(env), "curriculum": curriculum(env), **dict(seen_of(env, actions))}
            (own / "seen.json").write_text(json.dumps(seen))


def seen_of(env: Any, actions: int) -> Iterator[tuple[str, Any]]:
    """Yield what a manager-based environment makes of known actions, and what its observations are made of."""
    import torch

    base = env.unwrapped
    if not hasattr(base, "action_manager"):
        return
    env.reset()
    raw = torch.tensor(RAW)[:, :actions]
    observations = env.step(raw)[0]
    terms = [base.action_manager.get_term(name) for name in base.action_manager.active_terms]
    yield "processed", torch.cat([term.processed_actions for term in terms], dim=1).tolist()
    yield "observations", observations["policy"].tolist()
    velocity = base.scene["robot"].data.joint_vel.torch
    yield "velocity", (velocity.clip(-9.0, 8.0) * torch.tensor([0.5, 0.25])).tolist()
