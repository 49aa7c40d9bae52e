"""An exported policy, ready to act: numpy and ONNX Runtime, nothing else.

policy = PolicyRunner.load("export")
while running:
    robot.send(policy.processed(policy.act(robot.observe())))
    clock.sleep(policy.control_period_s)

A recurrent policy keeps its memory from one call to the next: `policy.reset()` comes before each episode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from simyard.runner.exporting.contract import (
    CONTRACT_FILE,
    ONNX,
    ActionTerm,
    Contract,
    Interval,
    ObservationTerm,
    Port,
    read_contract,
)

Array = NDArray[np.float32]
Observations = NDArray[np.floating[Any]] | Mapping[str, NDArray[np.floating[Any]]]


class PolicyRunner:
    """A policy, ready to act. Where it has no memory its methods change nothing in it, so threads may share one."""

    def __init__(self, contract: Contract, session: Any) -> None:
        """Take a contract and an ONNX Runtime session that belong together; see `load`."""
        self.contract = contract
        self._session = session
        self._states = contract.states or ()
        self._inputs = contract.inputs[: len(contract.inputs) - len(self._states)]
        self._outputs = [port.name for port in contract.outputs]
        self._memory: list[Array] | None = None
        self._limits = _bounds(contract.actions, [term.limits for term in contract.actions])
        self._affine = _affine(contract.actions)
        self._clip = _bounds(contract.actions, [term.clip for term in contract.actions])

    @classmethod
    def load(cls, folder: str | Path, providers: Sequence[str] | None = None) -> PolicyRunner:
        """Load `policy.onnx` with its `policy_contract.json`.

        Args:
            folder: Where both are.
            providers: ONNX Runtime's execution providers, best first; left out it is the CPU.

        Raises:
            ValueError: If a file is missing or was changed after the export, the two do not belong together, or a
                provider is not there.
        """
        contract = read_contract(Path(folder) / CONTRACT_FILE)
        wanted = list(providers) if providers is not None else ["CPUExecutionProvider"]
        there = onnxruntime.get_available_providers()
        if unknown := [name for name in wanted if name not in there]:
            raise ValueError(f"ONNX Runtime has no provider {unknown[0]!r} here; it has {there}.")
        options = onnxruntime.SessionOptions()
        # Such networks are too small to share: threads would cost more than they bring, and spin between two steps.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = _read(contract, Path(folder))
        try:
            session = onnxruntime.InferenceSession(model, options, providers=wanted)
        except Exception as error:
            raise ValueError(f"ONNX Runtime cannot load {contract.file(ONNX).name}: {error}") from error
        _compare(contract.inputs, session.get_inputs())
        _compare(contract.outputs, session.get_outputs())
        return cls(contract, session)

    @property
    def control_period_s(self) -> float:
        """From one action to the next, as in training; seconds."""
        return self.contract.control_period_s

    @property
    def observation_terms(self) -> tuple[ObservationTerm, ...]:
        """Observation terms of the policy, in order; slices count within its input."""
        return self.contract.input_terms

    @property
    def action_terms(self) -> tuple[ActionTerm, ...]:
        """Action terms of the policy, in order."""
        return self.contract.actions

    def act(self, observations: Observations) -> Array:
        """Return the actions for one observation or for several, within the contract's limits.

        Args:
            observations: (observations,) or (batch, observations), floats, not normalised: the network does that.
                Images have three sides instead of one; where there are several inputs, each by its name.

        Returns:
            (actions,) or (batch, actions), float32; still without the action scale, see `processed`.

        Raises:
            ValueError: If the observations have another shape or type, are not finite, or are more or fewer than the
                memory is of.
            FloatingPointError: If the network's answer is not finite; the memory stays as it was.
        """
        feeds, alone = self._rows(observations)
        if self._states:
            batch = len(next(iter(feeds.values())))
            feeds |= {state.input: kept for state, kept in zip(self._states, self._remembered(batch), strict=True)}
        actions: Array
        actions, *memory = self._session.run(self._outputs, feeds)
        if not np.isfinite(actions).all():
            wrong = actions[~np.isfinite(actions)][0]
            raise FloatingPointError(f"The policy's actions are not finite: one is {wrong}.")
        if memory:
            self._memory = memory
        actions = _clipped(actions, self._limits)
        return actions[0] if alone else actions

    def reset(self, rows: NDArray[np.bool_] | Sequence[bool] | None = None) -> None:
        """Forget what came before: an episode begins. A policy without a memory has nothing to forget.

        Args:
            rows: Of a batch, true for each row whose episode begins; left out all of them, and the next batch may have
                another size.

        Raises:
            ValueError: If the memory is of another number of rows.
        """
        if rows is None:
            self._memory = None
        elif self._memory is not None:
            begun, batch = np.asarray(rows), self._memory[0].shape[1]
            if begun.dtype != np.bool_ or begun.shape != (batch,):
                raise ValueError(
                    f"The rows are {begun.dtype} of the shape {begun.shape}, expected a truth value for each of the "
                    f"{batch} that the memory is of."
                )
            for state, kept in zip(self._states, self._memory, strict=True):
                kept[:, begun] = state.initial

    def limited(self, actions: NDArray[np.floating[Any]]) -> Array:
        """Return actions within the contract's limits, as `act` gives them."""
        return _clipped(actions.astype(np.float32), self._limits)

    def processed(self, actions: NDArray[np.floating[Any]]) -> Array:
        """Return actions as commands: `clip(action * scale + offset)`, as training's environment did.

        Args:
            actions: (actions,) or (batch, actions), from `act`.

        Returns:
            Commands of the same shape, float32, in the unit of each action term's `command`.

        Raises:
            ValueError: If the contract does not know scale and offset of every action, or the actions have another
                shape or type, or are not finite.
        """
        if self._affine is None:
            names = [term.name for term in self.action_terms if term.scale is None or term.offset is None]
            raise ValueError(
                f"The contract does not know scale and offset of the action terms {names}: "
                f"what task {self.contract.task!r} does with its actions is in its own code."
            )
        rows = self._checked(actions, self.contract.output, "actions")
        scale, offset = self._affine
        return _clipped(rows * scale + offset, self._clip)

    def _rows(self, observations: Observations) -> tuple[dict[str, Array], bool]:
        """Return what goes into each input, with a batch, and whether there was none."""
        if not isinstance(observations, Mapping):
            if len(self._inputs) > 1:
                raise ValueError(f"The network has several inputs: give a mapping of {self._names} to arrays.")
            observations = {self._inputs[0].name: observations}
        elif set(observations) != set(self._names):
            raise ValueError(f"The observations are {sorted(map(str, observations))}, expected {self._names}.")
        batched: dict[str, Array] = {}
        alone: list[bool] = []
        for port in self._inputs:
            rows = self._checked(observations[port.name], port, "observations")
            alone.append(rows.ndim < len(port.shape))
            batched[port.name] = rows[None] if alone[-1] else rows
        if len(set(alone)) > 1 or len({len(rows) for rows in batched.values()}) > 1:
            shapes = {name: np.shape(given) for name, given in observations.items()}
            raise ValueError(f"The observations have the shapes {shapes}, expected as many rows of each.")
        return batched, alone[0]

    def _remembered(self, batch: int) -> list[Array]:
        """Return the states for a number of rows."""
        if self._memory is None:
            return [
                np.full([batch if side is None else side for side in state.shape], state.initial, np.float32)
                for state in self._states
            ]
        if self._memory[0].shape[1] != batch:
            raise ValueError(
                f"The memory is of {self._memory[0].shape[1]} rows, and {batch} came: call reset() before the batch "
                "changes its size."
            )
        return self._memory

    @property
    def _names(self) -> list[str]:
        return [port.name for port in self._inputs]

    def _checked(self, given: Any, port: Port, what: str) -> Array:
        if not isinstance(given, np.ndarray) or given.dtype.kind != "f":
            kind = f"an array of {given.dtype}" if isinstance(given, np.ndarray) else type(given).__name__
            raise ValueError(f"The {what} are {kind}, expected a numpy array of floats.")
        shape = port.shape[1:]
        if given.ndim - len(shape) not in (0, 1) or given.shape[given.ndim - len(shape) :] != shape or not len(given):
            sides = ", ".join(map(str, shape))
            expected = f"({sides}{',' if len(shape) == 1 else ''}) or (batch, {sides})"
            raise ValueError(f"The {what} have the shape {given.shape}, expected {expected}.")
        with np.errstate(over="ignore"):
            rows = given if given.dtype == np.float32 else given.astype(np.float32)
        if not np.isfinite(rows).all():
            raise ValueError(self._not_finite(rows, port, what))
        return rows

    def _not_finite(self, rows: Array, port: Port, what: str) -> str:
        """Return the place of the first number that is not finite, in words."""
        place = [int(n) for n in np.argwhere(~np.isfinite(rows))[0]]
        if len(port.shape) > 2:
            return f"The {what} are not finite: {port.name!r} is {rows[tuple(place)]} at {place} as float32."
        names = [
            f" of term {term.name!r}"
            for term in (self.observation_terms if what == "observations" else ())
            if term.name and any(start <= place[-1] < stop for start, stop in term.slices or ())
        ]
        return f"The {what} are not finite: number {place[-1]}{''.join(names)} is {rows[tuple(place)]} as float32."


def _read(contract: Contract, folder: Path) -> bytes:
    """Return the ONNX file, the one that was exported."""
    file = contract.file(ONNX)
    try:
        model = (folder / file.name).read_bytes()
    except OSError as error:
        raise ValueError(f"{folder / file.name} cannot be read: {error}") from error
    digest = hashlib.sha256(model).hexdigest()
    if digest != file.sha256:
        changed = f"{folder / file.name} was changed after the export"
        raise ValueError(f"{changed}: its SHA-256 is {digest}, that of the contract {file.sha256}.")
    return model


def _compare(ports: Sequence[Port], found: Sequence[Any]) -> None:
    """Refuse a network whose inputs or outputs are not those of the contract."""
    has = [(p.name, tuple(n if isinstance(n, int) else None for n in p.shape), p.type) for p in found]
    wanted = [(port.name, port.shape, "tensor(float)") for port in ports]
    if has != wanted:
        raise ValueError(f"The network has {has}, the contract {wanted}.")


def _clipped(values: Array, bounds: tuple[Array, Array] | None) -> Array:
    """Clip in place; twice as fast as `np.clip`."""
    if bounds is not None:
        np.minimum(np.maximum(values, bounds[0], out=values), bounds[1], out=values)
    return values


def _bounds(terms: Sequence[ActionTerm], bounds: Sequence[tuple[Interval, ...] | None]) -> tuple[Array, Array] | None:
    """Return the lowest and highest of every action, infinite where there is no bound; None for no bounds at all."""
    if all(bound is None for bound in bounds):
        return None
    pairs = [pair for term, bound in zip(terms, bounds, strict=True) for pair in bound or ((None, None),) * term.size]
    low = [-np.inf if low is None else low for low, _ in pairs]
    high = [np.inf if high is None else high for _, high in pairs]
    return np.array(low, np.float32), np.array(high, np.float32)


def _affine(terms: Sequence[ActionTerm]) -> tuple[Array, Array] | None:
    """Return scale and offset of every action; None where one is not known."""
    if any(term.scale is None or term.offset is None for term in terms):
        return None
    scale = [number for term in terms for number in term.scale or ()]
    offset = [number for term in terms for number in term.offset or ()]
    return np.array(scale, np.float32), np.array(offset, np.float32)
