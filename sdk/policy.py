"""An exported policy on a robot: numpy and ONNX Runtime, nothing else.

policy = PolicyRunner.load("export")
while running:
robot.send(policy.processed(policy.act(robot.observe())))
clock.sleep(policy.control_period_s)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
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


class PolicyRunner:
    """A policy, ready to act. Its methods change nothing in it, so threads may share one."""

    def __init__(self, contract: Contract, session: Any) -> None:
        """Take a contract and an ONNX Runtime session that belong together; see `load`."""
        self.contract = contract
        self._session = session
        self._observations = contract.observations
        self._actions = int(contract.output.shape[-1] or 0)
        self._input, self._outputs = contract.input.name, [contract.output.name]
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
        for port, ports in ((contract.input, session.get_inputs()), (contract.output, session.get_outputs())):
            _compare(port, ports)
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

    def act(self, observations: NDArray[np.floating[Any]]) -> Array:
        """Return the actions for one observation or for several, within the contract's limits.

        Args:
            observations: (observations,) or (batch, observations), floats, not normalised: the network does that.

        Returns:
            (actions,) or (batch, actions), float32; still without the action scale, see `processed`.

        Raises:
            ValueError: If the observations have another shape or type, or are not finite.
            FloatingPointError: If the network's answer is not finite.
        """
        rows = self._checked(observations, self._observations, "observations")
        actions: Array = self._session.run(self._outputs, {self._input: rows if rows.ndim == 2 else rows[None]})[0]
        if not np.isfinite(actions).all():
            wrong = actions[~np.isfinite(actions)][0]
            raise FloatingPointError(f"The policy's actions are not finite: one is {wrong}.")
        actions = _clipped(actions, self._limits)
        return actions if rows.ndim == 2 else actions[0]

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
        rows = self._checked(actions, self._actions, "actions")
        scale, offset = self._affine
        return _clipped(rows * scale + offset, self._clip)

    def _checked(self, given: Any, size: int, what: str) -> Array:
        if not isinstance(given, np.ndarray) or given.dtype.kind != "f":
            kind = f"an array of {given.dtype}" if isinstance(given, np.ndarray) else type(given).__name__
            raise ValueError(f"The {what} are {kind}, expected a numpy array of floats.")
        if given.ndim not in (1, 2) or given.shape[-1] != size or not len(given):
            raise ValueError(f"The {what} have the shape {given.shape}, expected ({size},) or (batch, {size}).")
        with np.errstate(over="ignore"):
            rows = given if given.dtype == np.float32 else given.astype(np.float32)
        if not np.isfinite(rows).all():
            raise ValueError(self._not_finite(rows, what))
        return rows

    def _not_finite(self, rows: Array, what: str) -> str:
        """Return the place of the first number that is not finite, in words."""
        place = [int(n) for n in np.argwhere(~np.isfinite(rows))[0]]
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


def _compare(port: Port, found: Sequence[Any]) -> None:
    """Refuse a network whose input or output is not that of the contract."""
    has = [(p.name, tuple(n if isinstance(n, int) else None for n in p.shape), p.type) for p in found]
    if has != [(port.name, port.shape, "tensor(float)")]:
        raise ValueError(f"The network has {has}, the contract {[(port.name, port.shape, 'tensor(float)')]}.")


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
