"""Isaac Lab's functions for observations, rewards and terminations, computed from a robot in MuJoCo."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.runner.exporting.contract import Contract, Function, ObservationTerm

if TYPE_CHECKING:
    import numpy as np

    from simyard.runner.mujoco.robot import State

Own = Callable[["State"], Any]
"""A user's function: a number, several or a truth value from the robot's state."""


def _joints(state: State, params: Mapping[str, Any]) -> list[int]:
    chosen = (params.get("asset_cfg") or {}).get("joints")
    return list(range(len(state.model.joint))) if chosen is None else [state.model.joint[name] for name in chosen]


def _normalized(state: State, params: Mapping[str, Any]) -> Any:
    at = _joints(state, params)
    low, high = state.joint_limits[at].T
    return 2 * (state.joint_pos[at] - (low + high) / 2) / (high - low)


def _command(state: State, params: Mapping[str, Any]) -> Any:
    return state.commands[params["command_name"]]


def _last_action(state: State, params: Mapping[str, Any]) -> Any:
    name = params.get("action_name")
    chosen = [term for term in state.model.contract.actions if name is None or term.name == name]
    return [number for term in chosen for number in state.action[term.start : term.stop]]


OBSERVATIONS: dict[str, Callable[[State, Mapping[str, Any]], Any]] = {
    "joint_pos": lambda s, p: s.joint_pos[_joints(s, p)],
    "joint_pos_rel": lambda s, p: (s.joint_pos - s.default_joint_pos)[_joints(s, p)],
    "joint_pos_limit_normalized": _normalized,
    "joint_vel": lambda s, p: s.joint_vel[_joints(s, p)],
    "joint_vel_rel": lambda s, p: (s.joint_vel - s.default_joint_vel)[_joints(s, p)],
    "joint_effort": lambda s, p: s.joint_effort[_joints(s, p)],
    "base_pos_z": lambda s, p: [s.root_pos[2]],
    "base_lin_vel": lambda s, p: s.root_lin_vel_b,
    "base_ang_vel": lambda s, p: s.root_ang_vel_b,
    "projected_gravity": lambda s, p: s.projected_gravity,
    "root_pos_w": lambda s, p: s.root_pos,
    "root_quat_w": lambda s, p: s.root_quat,
    "root_lin_vel_w": lambda s, p: s.root_lin_vel_w,
    "root_ang_vel_w": lambda s, p: s.root_ang_vel_w,
    "last_action": _last_action,
    "generated_commands": _command,
    "current_time_s": lambda s, p: [s.time_s],
    "remaining_time_s": lambda s, p: [s.episode_steps * s.period_s - s.time_s],
}
"""By the name of Isaac Lab's function; from the state and the term's parameters."""


def _square(values: Any) -> float:
    return float((values**2).sum())


def _wrapped(values: Any) -> Any:
    return (values + math.pi) % (2 * math.pi) - math.pi


REWARDS: dict[str, Callable[[State, Mapping[str, Any]], float]] = {
    "is_alive": lambda s, p: float(not s.terminated),
    "is_terminated": lambda s, p: float(s.terminated),
    "survival_success_rate": lambda s, p: 0.0,
    "joint_pos_target_l2": lambda s, p: _square(_wrapped(s.joint_pos[_joints(s, p)]) - p["target"]),
    "joint_deviation_l1": lambda s, p: float(abs((s.joint_pos - s.default_joint_pos)[_joints(s, p)]).sum()),
    "joint_vel_l1": lambda s, p: float(abs(s.joint_vel[_joints(s, p)]).sum()),
    "joint_vel_l2": lambda s, p: _square(s.joint_vel[_joints(s, p)]),
    "action_rate_l2": lambda s, p: _square(s.action - s.previous_action),
    "action_l2": lambda s, p: _square(s.action),
    "lin_vel_z_l2": lambda s, p: float(s.root_lin_vel_b[2] ** 2),
    "ang_vel_xy_l2": lambda s, p: _square(s.root_ang_vel_b[:2]),
    "flat_orientation_l2": lambda s, p: _square(s.projected_gravity[:2]),
    "track_lin_vel_xy_exp": lambda s, p: math.exp(-_square(_command(s, p)[:2] - s.root_lin_vel_b[:2]) / p["std"] ** 2),
    "track_ang_vel_z_exp": lambda s, p: math.exp(-((_command(s, p)[2] - s.root_ang_vel_b[2]) ** 2) / p["std"] ** 2),
}


def _beyond(s: State, p: Mapping[str, Any], low: Any, high: Any) -> bool:
    positions = s.joint_pos[_joints(s, p)]
    return bool(((positions < low) | (positions > high)).any())


TERMINATIONS: dict[str, Callable[[State, Mapping[str, Any]], bool]] = {
    "time_out": lambda s, p: s.step >= s.episode_steps,
    "bad_orientation": lambda s, p: math.acos(max(-1.0, min(1.0, -s.projected_gravity[2]))) > p["limit_angle"],
    "root_height_below_minimum": lambda s, p: bool(s.root_pos[2] + s.origin[2] < p["minimum_height"]),
    "joint_pos_out_of_limit": lambda s, p: _beyond(s, p, *s.joint_limits[_joints(s, p)].T),
    "joint_pos_out_of_manual_limit": lambda s, p: _beyond(s, p, *p["bounds"]),
    "joint_vel_out_of_manual_limit": lambda s, p: bool((abs(s.joint_vel[_joints(s, p)]) > p["max_velocity"]).any()),
    "illegal_contact": lambda s, p: bool((s.contact_forces(p["sensor_cfg"]["bodies"]) > p["threshold"]).any()),
}
_TABLES: dict[str, dict[str, Callable[..., Any]]] = {
    "observation": OBSERVATIONS, "reward": REWARDS, "termination": TERMINATIONS,
}  # fmt: skip


class Terms:
    """Every term of a contract as a function of the state: Isaac Lab's by name, others from the user's file."""

    def __init__(self, contract: Contract, own: Path | None) -> None:
        """Find a function for each term.

        Args:
            contract: Of the policy.
            own: A Python file with the dictionaries `observations`, `rewards` and `terminations`, by the term's name.
        """
        given = _own_functions(own)
        self.missing: list[str] = []
        """Terms without which no episode can be played here, in words."""
        self.unpaid: list[str] = []
        """Rewards that cannot be computed here."""
        self.observations: list[tuple[ObservationTerm, Own]] = []
        told = contract.simulation
        assert told is not None
        for group in contract.seen_groups:
            for term in group.terms:
                name = term.name or group.name
                function = self._function("observation", name, term.function, term.params or {}, given, self.missing)
                if term.modifiers and name not in given["observation"]:
                    self.missing.append(f"observation {name!r} (modified by {', '.join(term.modifiers)})")
                self.observations.append((term, function))
        self.rewards = self._all("reward", told.rewards, given, self.unpaid)
        self.terminations = self._all("termination", told.terminations, given, self.missing)

    def _all(
        self, kind: str, functions: tuple[Function, ...] | None, given: dict[str, dict[str, Own]], missing: list[str]
    ) -> list[tuple[Function, Own]]:
        if functions is None:  # a direct task names none of them: all are the user's
            if not given[kind]:
                missing.append(f"every {kind} (the task names none)")
            return [
                (Function(name=name, function=None, params={}, weight=1.0, time_out=name == "time_out"), function)
                for name, function in given[kind].items()
            ]
        used = [each for each in functions if kind != "reward" or each.weight != 0.0]
        return [(each, self._function(kind, each.name, each.function, each.params, given, missing)) for each in used]

    def _function(
        self, kind: str, name: str, function: str | None, params: dict[str, Any], given: Any, missing: list[str]
    ) -> Own:
        if name in given[kind]:
            own: Own = given[kind][name]
            return own
        module, _, known = (function or "").partition(":")
        if not module.startswith("isaaclab.") or known not in _TABLES[kind]:
            missing.append(f"{kind} {name!r} ({function or 'of code of its own'})")
        compute = _TABLES[kind].get(known)
        return lambda state: compute(state, params) if compute else 0.0


def _own_functions(path: Path | None) -> dict[str, dict[str, Own]]:
    if path is None:
        return {kind: {} for kind in _TABLES}
    spec = importlib.util.spec_from_file_location("own_terms", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {kind: dict(getattr(module, f"{kind}s", {})) for kind in _TABLES}


class Sensing:
    """Observations of one robot as its environment makes them: noise, clip, scale, delay, history."""

    def __init__(self, terms: Terms, contract: Contract, numbers: np.random.Generator) -> None:
        self._terms, self._contract, self._numbers = terms, contract, numbers
        self._samples: list[list[Any]] = []
        self._lags: list[int] = []

    def begin(self) -> None:
        """Forget what was seen: an episode begins."""
        self._samples = [[] for _ in self._terms.observations]
        delays = [term.delay_steps or (0, 0) for term, _ in self._terms.observations]
        self._lags = [int(self._numbers.integers(low, high + 1)) for low, high in delays]

    def see(self, state: State) -> Any:
        """Return what the network sees now."""
        import numpy as np

        row = np.zeros(self._contract.observations, np.float32)
        starts = [group.start or 0 for group in self._contract.seen_groups for _ in group.terms]
        for n, (term, function) in enumerate(self._terms.observations):
            sample = self._noisy(term, np.asarray(function(state), np.float64).reshape(-1))
            if term.clip:
                sample = np.clip(sample, *term.clip)
            if term.scale:
                sample = sample * np.array(term.scale)
            samples = self._samples[n]
            samples.append(sample)
            length, lag = max(term.history_length, 1), self._lags[n]
            del samples[: -(length + lag)]
            # The delayed sample of each of the last steps, oldest first; before the first one it is the first.
            ends = [max(0, len(samples) - 1 - lag - back) for back in reversed(range(length))]
            value = np.concatenate([samples[end] for end in ends])
            columns = [starts[n] + place for start, stop in term.slices or () for place in range(start, stop)]
            if len(value) != len(columns):
                raise ValueError(
                    f"Observation {term.name!r} has {len(value)} numbers here, {len(columns)} in training."
                )
            row[columns] = value
        return row

    def _noisy(self, term: ObservationTerm, sample: Any) -> Any:
        match term.noise or {}:
            case {"std": float() | int() as std, **rest}:
                noise = self._numbers.normal(rest.get("mean", 0.0), std, sample.shape)
            case {"n_min": float() | int() as low, "n_max": float() | int() as high, **rest}:
                noise = self._numbers.uniform(low, high, sample.shape)
            case {"bias": float() | int() as noise, **rest}:
                pass
            case _:
                return sample
        match rest.get("operation", "add"):
            case "scale":
                return sample * noise
            case "abs":
                return sample * 0.0 + noise
            case _:
                return sample + noise


def unknown_noise(contract: Contract) -> Iterator[str]:
    """Yield the terms whose noise cannot be made here."""
    for group in contract.seen_groups:
        for term in group.terms:
            if term.noise and not {"std", "n_min", "bias"} & set(term.noise):
                yield f"noise of {(term.name or group.name)!r} ({term.noise.get('type')})"
