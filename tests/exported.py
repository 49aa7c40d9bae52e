"""A small policy, exported: the tests of exports and of the robot's side share it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from lazy import lazy
from numpy.typing import NDArray

from simyard.runner.exporting.contract import (
    FILES,
    ONNX,
    TORCHSCRIPT,
    ActionTerm,
    Articulation,
    Checkpoint,
    Contract,
    ObservationGroup,
    ObservationTerm,
    Port,
    Statistics,
    write_contract,
)
from simyard.runner.exporting.contract import State as Part
from simyard.runner.exporting.describe import exported_file
from simyard.runner.exporting.formats import write_onnx, write_torchscript
from simyard.runner.rl.networks import ACTIONS as OUTPUT
from simyard.runner.rl.networks import GRU, LSTM, Input, Network, State
from simyard.runner.rl.networks import OBSERVATIONS as INPUT

torch = lazy("torch")

OBSERVATIONS, ACTIONS = 4, 2
FUNCTIONS = "isaaclab.envs.mdp.observations:"
MEAN, DIVISOR = (0.5, -1.0, 0.0, 4.0), (1.0, 0.5, 2.0, 0.1)


def make_network(hidden: int = 32, shift: float = 0.0) -> torch.nn.Module:
    """Return a module as `Policy.network` has one, with everything inside that real ones have."""
    from network import Network

    return Network(MEAN, DIVISOR, hidden, ACTIONS, shift)


def of(module: torch.nn.Module, *more: Input, states: tuple[State, ...] = ()) -> Network:
    """The whole of a network that takes the small policy's observations."""
    vectors = Input(name=INPUT, groups=("policy",), shape=(OBSERVATIONS,))
    return Network(module=module, inputs=(vectors, *more), states=states)


def remembering(*, lstm: bool, hidden: int = 8) -> Network:
    """A network with a memory of two layers."""
    from network import Memory

    states = tuple(State(name=name, layers=2, size=hidden) for name in (LSTM if lstm else GRU))
    return of(Memory(OBSERVATIONS, hidden, ACTIONS, lstm=lstm), states=states)


def pairs(network: torch.nn.Module, rows: int = 150) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Observations, (rows, 4), and what the network makes of them, (rows, 2)."""
    normalized = np.random.default_rng(0).normal(scale=2.0, size=(rows, OBSERVATIONS))
    observations = (np.array(MEAN) + np.array(DIVISOR) * normalized).astype(np.float32)
    with torch.no_grad():
        return observations, network(torch.from_numpy(observations)).numpy()


def episodes(network: Network, begun: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Observations, (steps, environments, 4), and what a network with a memory makes of them as the libraries run it.

    Args:
        network: The network.
        begun: (steps, environments), true where an episode begins.
    """
    observations = np.random.default_rng(0).normal(size=(*begun.shape, OBSERVATIONS)).astype(np.float32)
    states = [state.zeros(begun.shape[1]) for state in network.states]
    given = []
    with torch.no_grad():
        for seen, first in zip(observations, begun, strict=True):
            states = [state * torch.from_numpy(~first).view(1, -1, 1) for state in states]
            actions, *states = network.module(torch.from_numpy(seen), *states)
            given.append(actions.numpy())
    return observations, np.stack(given)


def write_formats(network: torch.nn.Module | Network, folder: Path) -> Path:
    """Write both formats."""
    whole = network if isinstance(network, Network) else of(network)
    write_onnx(whole, folder / FILES[ONNX], {"task": "Isaac-Test", "library": "rsl_rl"})
    write_torchscript(whole, folder / FILES[TORCHSCRIPT])
    return folder


def term(name: str | None, start: int, stop: int, **changes: object) -> ObservationTerm:
    """An observation term of which little is known."""
    plain = ObservationTerm(
        name=name, size=stop - start, slices=((start, stop),), function=None, joints=None, scale=None, clip=None,
        noise=None, history_length=0, delay_steps=None, modifiers=(),
    )  # fmt: skip
    return replace(plain, **changes)


def contract(folder: Path) -> Contract:
    """The contract of the files in a folder: two joints that are sent to positions."""
    return Contract(
        schema_version=1,
        task="Isaac-Test",
        library="rsl_rl",
        checkpoint=Checkpoint(sha256="a" * 64, iteration=60),
        versions={"torch": torch.__version__},
        control_period_s=0.02,
        physics_dt_s=0.005,
        decimation=4,
        input=Port(name=INPUT, shape=(None, OBSERVATIONS), dtype="float32"),
        output=Port(name=OUTPUT, shape=(None, ACTIONS), dtype="float32"),
        observation_groups=(
            ObservationGroup(
                name="policy",
                names_known=True,
                start=0,
                size=4,
                terms=(
                    term("joint_pos", 0, 2, joints=("hip", "knee"), function=f"{FUNCTIONS}joint_pos_rel"),
                    term("joint_vel", 2, 4, function=f"{FUNCTIONS}joint_vel_rel"),
                ),
            ),
            ObservationGroup(
                name="critic",
                names_known=True,
                start=None,
                size=5,
                terms=(term("joint_pos", 0, 2), term("contact_forces", 2, 5)),
            ),
        ),
        actions=(
            ActionTerm(
                name="legs",
                type="isaaclab.envs.mdp.actions.joint_actions:JointPositionAction",
                command="position",
                start=0,
                stop=2,
                joints=("hip", "knee"),
                scale=(0.5, 0.25),
                offset=(0.1, -0.1),
                clip=None,
                limits=((-0.5, 0.5), (None, 0.25)),
            ),
        ),
        normalizer=Statistics(mean=MEAN, divisor=DIVISOR, clip=5.0, clip_before=None),
        articulations=(Articulation(name="robot", joints=("hip", "knee", "tail"), default_positions=None),),
        files=tuple(exported_file(folder, format_) for format_ in FILES),
    )


def export(folder: Path) -> Contract:
    """Write both formats and their contract."""
    written = contract(write_formats(make_network(), folder))
    write_contract(written, folder)
    return written


def export_memory(network: Network, folder: Path) -> Contract:
    """Write both formats and the contract of a network with a memory."""
    states = tuple(Part(input=s.taken, output=s.given, shape=(s.layers, None, s.size)) for s in network.states)
    told = contract(write_formats(network, folder))
    written = replace(told, schema_version=2, states=states, normalizer=None)
    write_contract(written, folder)
    return written
