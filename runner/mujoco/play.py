"""Episodes of an exported policy in MuJoCo, and a trajectory of training's actions without the policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.wire import Wire
from simyard.runner.exporting.contract import ONNX, ActionTerm, Contract
from simyard.runner.mujoco.robot import Model, State, missing_drives
from simyard.runner.mujoco.terms import Sensing, Terms, unknown_noise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

APART = 0.05
"""Difference of a joint (rad, m) or of the root (m) at which two trajectories have diverged."""
_COMMANDS = ("position", "relative position", "velocity", "effort")


@dataclass(frozen=True, kw_only=True)
class Played(Wire):
    """Result of the process."""

    engine: str
    """MuJoCo with its version."""
    missing: tuple[str, ...]
    """Terms without which nothing was played, in words."""
    unpaid: tuple[str, ...] = ()
    """Rewards that could not be computed: there are no returns then."""
    returns: tuple[float, ...] | None = None
    """One for each start, in order."""
    survived: tuple[bool, ...] = ()
    """Whether the episode lasted until its time limit."""
    lengths: tuple[int, ...] = ()
    open_steps: int = 0
    """Steps of the trajectories without the policy."""
    diverged: tuple[int | None, ...] = ()
    """Step at which each of them had diverged from training's; None for never."""


class Network:
    """The ONNX file with its memory, for several robots at once."""

    def __init__(self, contract: Contract, folder: Path, robots: int) -> None:
        import numpy as np
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            (folder / contract.file(ONNX).name).read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        self._states = contract.states or ()
        self._memory = {
            state.input: np.full([robots if side is None else side for side in state.shape], state.initial, np.float32)
            for state in self._states
        }
        assert contract.input is not None
        self._input = contract.input.name
        self._limits = _bounds(contract.actions, "limits")

    def act(self, seen: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the actions of all robots."""
        import numpy as np

        names = ["actions", *(state.output for state in self._states)]
        actions, *memory = self._session.run(names, {self._input: seen, **self._memory})
        for state, kept in zip(self._states, memory, strict=True):
            self._memory[state.input] = kept
        clipped: NDArray[np.float64] = np.clip(actions.astype(np.float64), *self._limits)
        return clipped


class Commands:
    """Targets of one robot's joints from its actions, as late as training's actuators took them."""

    def __init__(self, model: Model, numbers: np.random.Generator) -> None:
        self._model, self._numbers = model, numbers
        self._clips = {term.start: _bounds((term,), "clip") for term in model.contract.actions}
        self._past: list[dict[str, Any]] = []
        self._lags: list[tuple[list[int], int]] = []

    def begin(self) -> None:
        """Forget what was commanded: an episode begins."""
        self._past = []
        self._lags = [
            ([self._model.joint[name] for name in drive.joints], int(self._numbers.integers(low, high + 1)))
            for drive in self._model.told.drives
            for low, high in [drive.delay_steps or (0, 0)]
        ]

    def apply(self, state: State) -> None:
        """Take the simulator's steps of one action."""
        for _ in range(self._model.contract.decimation):
            self._command(state)
            self._past.append({kind: values.copy() for kind, values in state.targets.items()})
            late = {kind: values.copy() for kind, values in state.targets.items()}
            for joints, lag in self._lags:
                past = self._past[max(0, len(self._past) - 1 - lag)]
                for kind in late:
                    late[kind][joints] = past[kind][joints]
            del self._past[: -1 - max((lag for _, lag in self._lags), default=0)]
            state.advance(late)

    def _command(self, state: State) -> None:
        import numpy as np

        for term in self._model.contract.actions:
            raw = state.action[term.start : term.stop]
            given = np.clip(raw * np.array(term.scale) + np.array(term.offset), *self._clips[term.start])
            joints = [self._model.joint[name] for name in term.joints or ()]
            if term.command == "relative position":
                given = given + state.joint_pos[joints]
            state.targets[str(term.command).removeprefix("relative ")][joints] = given


def _bounds(terms: tuple[ActionTerm, ...], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    import numpy as np

    pairs = [pair for term in terms for pair in getattr(term, name) or ((None, None),) * term.size]
    low = [-np.inf if low is None else low for low, _ in pairs]
    return np.array(low), np.array([np.inf if high is None else high for _, high in pairs])


def play(
    contract: Contract, folder: Path, model: Path, own: Path | None, starts: Mapping[str, Any], seed: int
) -> Played:
    """Play an episode from every start with the policy, and training's own actions from some of them.

    Args:
        contract: Of the policy.
        folder: Where the ONNX file is.
        model: MJCF or URDF.
        own: The user's functions, if there are any.
        starts: Arrays as `runner/exporting/elsewhere.py` keeps them.
        seed: Seed of noise and delays.

    Raises:
        ValueError: If the model is not of the contract's robot.
    """
    import mujoco
    import numpy as np

    engine = f"mujoco {mujoco.__version__}"
    assert contract.simulation is not None
    terms = Terms(contract, own)
    missing = [*terms.missing, *missing_drives(contract.simulation), *unknown_noise(contract)]
    unknown = [term for term in contract.actions if not _known(term)]
    missing += [
        f"action {term.name!r} ({term.type})" if term.name else "every action (the task names none)" for term in unknown
    ]
    missing += [f"images of {image.group!r}" for image in contract.images or ()]
    if missing:
        return Played(engine=engine, missing=tuple(missing), unpaid=tuple(terms.unpaid))

    there, numbers = Model(contract, model), np.random.default_rng(seed)
    count = len(starts["joint_pos"])
    robots = [(State(there), Sensing(terms, contract, numbers), Commands(there, numbers)) for _ in range(count)]
    for n, (state, sensing, commands) in enumerate(robots):
        state.begin({name: starts[name][n] for name in ("joint_pos", "joint_vel", "root", "root_vel", "targets")},
                    starts["origin"])  # fmt: skip
        sensing.begin()
        commands.begin()
    network = Network(contract, folder, count)
    returns, lengths, survived = np.zeros(count), np.zeros(count, int), np.zeros(count, bool)
    seen = np.zeros((count, contract.observations), np.float32)
    runs = set(range(count))
    while runs:
        for n in runs:
            state, sensing, _ = robots[n]
            state.commands = _commands_at(starts, state.step, n)
            seen[n] = sensing.see(state)
        actions = network.act(seen)
        for n in sorted(runs):
            state, _, commands = robots[n]
            state.previous_action, state.action = state.action, actions[n]
            commands.apply(state)
            state.step += 1
            ends = [term for term, ended in terms.terminations if ended(state)]
            state.terminated = any(not term.time_out for term in ends)
            for term, paid in terms.rewards:
                returns[n] += (term.weight or 0.0) * paid(state) * state.period_s
            if ends or state.step >= state.episode_steps:
                lengths[n], survived[n] = state.step, not state.terminated
                runs.discard(n)
    diverged = tuple(_diverged(there, starts, n) for n in range(starts["actions"].shape[1]))
    return Played(
        engine=engine,
        missing=(),
        unpaid=tuple(terms.unpaid),
        returns=None if terms.unpaid else tuple(returns.tolist()),
        survived=tuple(survived.tolist()),
        lengths=tuple(lengths.tolist()),
        open_steps=int(starts["actions"].shape[0]),
        diverged=diverged,
    )


def _known(term: ActionTerm) -> bool:
    return term.command in _COMMANDS and None not in (term.joints, term.scale, term.offset)


def _commands_at(starts: Mapping[str, Any], step: int, robot: int) -> dict[str, Any]:
    """Return training's commands of a step; the last ones it had are kept beyond their end."""
    return {
        name.removeprefix("command:"): given[min(step, len(given) - 1), robot]
        for name, given in starts.items()
        if name.startswith("command:")
    }


def _diverged(model: Model, starts: Mapping[str, Any], robot: int) -> int | None:
    """Return the step at which training's actions have led elsewhere than in training; None for never."""
    import numpy as np

    state, commands = State(model), Commands(model, np.random.default_rng(0))
    start = {name: starts[name][robot] for name in ("joint_pos", "joint_vel", "root", "root_vel", "targets")}
    state.begin(start, starts["origin"])
    commands.begin()
    for step in range(int(starts["steps"][robot])):
        state.action = starts["actions"][step, robot]
        commands.apply(state)
        apart = np.abs(state.joint_pos - starts["path"][step, robot]).max(initial=0.0)
        if model.free:
            apart = max(apart, np.abs(state.root_pos - starts["root_path"][step, robot]).max())
        if not apart <= APART:
            return step + 1
    return None
