"""The contract of an exported policy from its Isaac Lab environment, and what the checklist asks of that.

A value that the environment does not tell is None, never a guess.
"""

from __future__ import annotations

import importlib.metadata
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from simyard.core.errors import RequestError
from simyard.core.files import sha256_of
from simyard.runner.exporting.contract import (
    FILES,
    ONNX,
    SCHEMA_VERSION,
    SCHEMA_VERSIONS,
    ActionTerm,
    Articulation,
    Checkpoint,
    Contract,
    ExportedFile,
    Image,
    Interval,
    ObservationGroup,
    ObservationTerm,
    Port,
    State,
    Statistics,
)
from simyard.runner.exporting.formats import onnx_ports
from simyard.runner.rl import LIBRARIES
from simyard.runner.rl.networks import ACTIONS, Input

if TYPE_CHECKING:
    from simyard.runner.rl.base import Policy
    from simyard.runner.rl.networks import Network

_PACKAGES = ("simyard", "isaaclab", "torch", "onnx", "numpy")
"""Besides those of the libraries."""
_JOINT_FUNCTIONS = {
    f"isaaclab.envs.mdp.observations:{name}"
    for name in (
        "joint_pos", "joint_pos_rel", "joint_pos_limit_normalized", "joint_vel", "joint_vel_rel", "joint_effort",
    )
}  # fmt: skip
"""Isaac Lab's functions that give one number for each selected joint, in the articulation's order."""


class EventTerm(TypedDict):
    """An event that randomises the environment."""

    mode: str
    """`startup`, `reset`, `interval` or a task's own."""
    function: str | None
    """`module:name`."""
    params: dict[str, Any]
    """The function's parameters as plain JSON, ranges among them."""


class RewardTerm(TypedDict):
    """A term of the reward."""

    function: str | None
    """`module:name`."""
    weight: float | None
    """Factor of what the function gives; None where it is not a number."""
    params: dict[str, Any]
    """The function's parameters as plain JSON."""


def describe(
    env: Any,
    policy: Policy,
    network: Network,
    folder: Path,
    *,
    ranges: Mapping[str, tuple[float, float]],
    task: str,
    checkpoint_sha256: str,
    iteration: int | None,
) -> Contract:
    """Return the contract of a policy that was exported from an environment.

    Args:
        env: The gymnasium environment the policy was built with.
        policy: The policy.
        network: What was exported.
        folder: Where `policy.onnx` and `policy.pt` are.
        ranges: Lowest and highest number that each input for images was given.
        task: The task's registered id.
        checkpoint_sha256: Of the exported checkpoint.
        iteration: Policy updates behind it, where known.

    Raises:
        RequestError: If the environment's observations or actions are not what the exported network takes and gives.
    """
    base = env.unwrapped
    normalizer = policy.normalizer()
    vectors = [each for each in network.inputs if not each.is_image]
    images = tuple(
        Image(name=each.name, group=each.groups[0], shape=(None, *each.shape), layout=each.layout,
              lowest=ranges[each.name][0], highest=ranges[each.name][1])
        for each in network.inputs if each.is_image
    )  # fmt: skip
    states = tuple(
        State(input=each.taken, output=each.given, shape=(each.layers, None, each.size)) for each in network.states
    )
    actions = tuple(action_terms(base))
    contract = Contract(
        schema_version=SCHEMA_VERSION if images or states else min(SCHEMA_VERSIONS),
        task=task,
        library=policy.library,
        checkpoint=Checkpoint(sha256=checkpoint_sha256, iteration=iteration),
        versions=dict(_versions()),
        control_period_s=float(base.step_dt),
        physics_dt_s=float(base.physics_dt),
        decimation=int(base.cfg.decimation),
        input=_vector(vectors[0].name, vectors[0].shape[0]) if vectors else None,
        output=_vector(ACTIONS, sum(term.size for term in actions)),
        observation_groups=tuple(observation_groups(base, network.inputs)),
        actions=actions,
        normalizer=Statistics(**asdict(normalizer)) if normalizer else None,
        articulations=tuple(_articulations(base)),
        files=tuple(exported_file(folder, format_) for format_ in FILES),
        images=images or None,
        states=states or None,
    )
    ports = (*onnx_ports(folder / FILES[ONNX]), contract.inputs, contract.outputs)
    *found, given, taken = ([(port.name, *port.shape) for port in some] for some in ports)
    if found != [given, taken]:
        raise RequestError(
            f"The exported network takes and gives {found}, and the environment gives and takes {[given, taken]}.",
            code="export_shapes",
            advice=f"The policy sees the observation groups {list(policy.observation_groups)}.",
        )
    return contract


def _vector(name: str, size: int) -> Port:
    return Port(name=name, shape=(None, size), dtype="float32")


def events(env: Any) -> dict[str, EventTerm] | None:
    """Return the environment's events by name.

    Returns:
        Nothing in it where the environment has no events; None where it does not say (events of its own code).
    """
    manager = getattr(env.unwrapped, "event_manager", None)
    if manager is None:
        return {} if hasattr(env.unwrapped, "observation_manager") else None
    found: dict[str, EventTerm] = {}
    for mode, names in manager.active_terms.items():
        for name in names:
            term = manager.get_term_cfg(name)
            params = {key: plain(value) for key, value in term.params.items()}
            found[name] = {"mode": mode, "function": function_name(term.func), "params": params}
    return found


def rewards(env: Any) -> dict[str, RewardTerm] | None:
    """Return the environment's reward terms by name; None where it does not say."""
    manager = getattr(env.unwrapped, "reward_manager", None)
    if manager is None:
        return None
    found: dict[str, RewardTerm] = {}
    for name in manager.active_terms:
        term = manager.get_term_cfg(name)
        params = {key: plain(value) for key, value in term.params.items()}
        weight = numbers(term.weight)
        found[name] = {"function": function_name(term.func), "weight": weight[0] if weight else None, "params": params}
    return found


def terminations(env: Any) -> tuple[str, ...]:
    """Return the names of the environment's termination terms; none where it does not say."""
    manager = getattr(env.unwrapped, "termination_manager", None)
    return () if manager is None else tuple(manager.active_terms)


def actuator_delays(env: Any) -> dict[str, tuple[float, float]] | None:
    """Return least and most seconds by which each group of actuators delays its commands.

    Returns:
        None where an action term is of the task's own code, which may delay them too.
    """
    base = env.unwrapped
    if any(term.scale is None for term in action_terms(base)):
        return None
    found: dict[str, tuple[float, float]] = {}
    for name, robot in base.scene.articulations.items():
        for group, cfg in robot.cfg.actuators.items():
            steps = (int(getattr(cfg, "min_delay", 0) or 0), int(getattr(cfg, "max_delay", 0) or 0))
            found[f"{name}.{group}"] = (steps[0] * float(base.physics_dt), steps[1] * float(base.physics_dt))
    return found


def curriculum(env: Any) -> dict[str, float | None] | None:
    """Return the stage of each curriculum term at this moment.

    Returns:
        Nothing in it for a manager-based task without a curriculum; None for a direct task, which may have one in its
        own code. A stage that is not a number is None.
    """
    manager = getattr(env.unwrapped, "curriculum_manager", None)
    if manager is None:
        return None
    stages = manager.get_active_iterable_terms(0)
    return {name: float(values[0]) if len(values) == 1 else None for name, values in stages}


def _articulations(base: Any) -> Iterator[Articulation]:
    for name, robot in base.scene.articulations.items():
        default = common_row(robot.data.default_joint_pos.torch)
        joints = tuple(robot.joint_names)
        yield Articulation(name=name, joints=joints, default_positions=each_of(default, len(joints)) if joints else ())


def exported_file(folder: Path, format_: str) -> ExportedFile:
    """Return the contract's entry for a format's file in a folder."""
    path = folder / FILES[format_]
    return ExportedFile(format=format_, name=path.name, sha256=sha256_of(path), size_bytes=path.stat().st_size)


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", sys.version.split()[0]
    for package in (*_PACKAGES, *(name for library in LIBRARIES.values() for name in library.packages)):
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue


# --- observations -----------------------------------------------------------------------------------------------------


def observation_groups(base: Any, inputs: Sequence[Input]) -> Iterator[ObservationGroup]:
    """Yield the groups that a network's inputs are made of, in their order, and then the others."""
    manager = getattr(base, "observation_manager", None)
    spaces = base.single_observation_space
    seen = [name for each in inputs for name in each.groups]
    vectors = {name for each in inputs if not each.is_image for name in each.groups}
    start = 0
    for name in (*seen, *(name for name in spaces.spaces if name not in seen)):
        at = start if name in vectors else None
        if manager is None:
            group = _unnamed_group(name, at, base, spaces[name])
        else:
            group = _named_group(name, at, base, manager)
        yield group
        start += group.size


def _unnamed_group(name: str, start: int | None, base: Any, space: Any) -> ObservationGroup:
    size = _size(space)
    term = ObservationTerm(
        name=None,
        size=size,
        slices=((0, size),) if len(getattr(space, "shape", None) or ()) == 1 else None,
        function=None,
        joints=None,
        scale=None,
        clip=None,
        noise=_noise(getattr(base.cfg, "observation_noise_model", None)) if name == "policy" else None,
        history_length=0,
        delay_steps=None,
        modifiers=(),
    )
    return ObservationGroup(name=name, names_known=False, start=start, size=size, terms=(term,))


def _named_group(name: str, start: int | None, base: Any, manager: Any) -> ObservationGroup:
    cfg = _item(manager.cfg, name)
    shapes = [tuple(shape) for shape in manager.group_obs_term_dim[name]]
    sizes = [math.prod(shape) for shape in shapes]
    flat = bool(manager.group_obs_concatenate[name]) and all(len(shape) == 1 for shape in shapes)
    # Laid out by time all terms of a sample stand together, and the samples follow each other; else the terms do.
    history = getattr(cfg, "history_length", None) or 0
    by_time = getattr(cfg, "history_order", "term") == "time" and cfg.flatten_history_dim
    samples = history if by_time and history and cfg.concatenate_dim == -1 else 1
    sample = sum(sizes) // samples
    terms, at = [], 0
    for label, size in zip(manager.active_terms[name], sizes, strict=True):
        width = size // samples
        slices = tuple((sample * n + at, sample * n + at + width) for n in range(samples)) if flat else None
        terms.append(_named_term(label, _item(cfg, label), size, slices, base))
        at += width
    return ObservationGroup(name=name, names_known=True, start=start, size=sum(sizes), terms=tuple(terms))


def _named_term(
    name: str, cfg: Any, size: int, slices: tuple[tuple[int, int], ...] | None, base: Any
) -> ObservationTerm:
    function, history = function_name(cfg.func), int(cfg.history_length)
    delay = (int(getattr(cfg, "delay_min_lag", 0)), int(getattr(cfg, "delay_max_lag", 0)))
    joints = None
    if function in _JOINT_FUNCTIONS and (selected := cfg.params.get("asset_cfg")) is not None:
        names = selected.joint_names if selected.joint_names is not None else base.scene[selected.name].joint_names
        joints = tuple(names) if len(names) * max(history, 1) == size else None
    return ObservationTerm(
        name=name,
        size=size,
        slices=slices,
        function=function,
        joints=joints,
        scale=numbers(cfg.scale),
        clip=(float(cfg.clip[0]), float(cfg.clip[1])) if cfg.clip else None,
        noise=_noise(cfg.noise),
        history_length=history,
        delay_steps=delay if delay[1] else None,
        modifiers=tuple(function_name(modifier.func) or "" for modifier in cfg.modifiers or ()),
    )


def _noise(cfg: Any) -> dict[str, Any] | None:
    return None if cfg is None else {"type": type(cfg).__name__, **plain(cfg)}


# --- actions ----------------------------------------------------------------------------------------------------------


def action_terms(base: Any) -> Iterator[ActionTerm]:
    """Yield the action terms in the order of the network's output; a direct environment has one without a name."""
    manager = getattr(base, "action_manager", None)
    limits = _bounds(base.single_action_space)
    if manager is None:
        size = _size(base.single_action_space)
        yield ActionTerm(
            name=None,
            type=None,
            command=None,
            start=0,
            stop=size,
            joints=None,
            scale=each_of(numbers(getattr(base.cfg, "action_scale", None)), size),
            offset=None,
            clip=None,
            limits=limits,
        )
        return
    start = 0
    for name, size in zip(manager.active_terms, manager.action_term_dim, strict=True):
        term = manager.get_term(name)
        scale, offset, clip = _affine(term, size)
        joints = getattr(term, "_joint_names", None)
        yield ActionTerm(
            name=name,
            type=function_name(type(term)),
            command=_command(term),
            start=start,
            stop=start + size,
            joints=tuple(joints) if joints is not None and len(joints) == size else None,
            scale=scale,
            offset=offset,
            clip=clip,
            limits=limits and limits[start : start + size],
        )
        start += size


def _command(term: Any) -> str | None:
    from isaaclab.envs.mdp.actions import joint_actions, joint_actions_to_limits

    known = (
        (joint_actions.RelativeJointPositionAction, "relative position"),
        (joint_actions.JointPositionAction, "position"),
        (joint_actions_to_limits.JointPositionToLimitsAction, "position"),
        (joint_actions.JointVelocityAction, "velocity"),
        (joint_actions.JointEffortAction, "effort"),
    )
    return next((command for cls, command in known if type(term).apply_actions is cls.apply_actions), None)


_Affine = tuple[tuple[float, ...] | None, tuple[float, ...] | None, tuple[Interval, ...] | None]


def _affine(term: Any, size: int) -> _Affine:
    """Return scale, offset and clip where a term is known to do nothing else: where its own code is Isaac Lab's."""
    from isaaclab.envs.mdp.actions import joint_actions, joint_actions_to_limits

    process = type(term).process_actions
    if process is joint_actions.JointAction.process_actions:
        scale, offset = each_of(common_row(term._scale), size), each_of(common_row(term._offset), size)
        clip = None if term.cfg.clip is None else _intervals(common_row(term._clip))
        return (scale, offset, clip) if scale and offset else (None, None, None)
    if process is joint_actions_to_limits.JointPositionToLimitsAction.process_actions and term.cfg.rescale_to_limits:
        return _to_limits(term, size)
    return None, None, None


def _to_limits(term: Any, size: int) -> _Affine:
    """Return scale, offset and clip of actions whose range [-1, 1] is stretched to the joints' soft limits."""
    scale = each_of(common_row(term._scale), size)
    limits = common_row(term._asset.data.soft_joint_pos_limits.torch[:, term._joint_ids])
    if not scale or not limits:
        return None, None, None
    inner = _intervals(common_row(term._clip)) if term.cfg.clip is not None else ((None, None),) * size
    half = [(high - low) / 2 for low, high in limits]
    middle = [(high + low) / 2 for low, high in limits]

    def stretched(joint: int, bound: float | None, otherwise: float) -> float:
        return float(min(max(otherwise if bound is None else bound, -1.0), 1.0) * half[joint] + middle[joint])

    return (
        tuple(s * h for s, h in zip(scale, half, strict=True)),
        tuple(middle),
        tuple((stretched(n, low, -1.0), stretched(n, high, 1.0)) for n, (low, high) in enumerate(inner or ())),
    )


def _intervals(rows: Any) -> tuple[Interval, ...] | None:
    if rows is None:
        return None
    return tuple((low if math.isfinite(low) else None, high if math.isfinite(high) else None) for low, high in rows)


def _bounds(space: Any) -> tuple[Interval, ...] | None:
    """Return the bounds of a box, or None where it has none."""
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None:
        return None
    bounds = _intervals(zip(low.reshape(-1).tolist(), high.reshape(-1).tolist(), strict=True))
    return bounds if bounds and any(b != (None, None) for b in bounds) else None


def _size(space: Any) -> int:
    """Return the numbers in one box, or in several."""
    if hasattr(space, "spaces"):
        parts = space.spaces.values() if isinstance(space.spaces, Mapping) else space.spaces
        return sum(_size(part) for part in parts)
    return math.prod(space.shape)


def _item(cfg: Any, name: str) -> Any:
    return cfg[name] if isinstance(cfg, Mapping) else getattr(cfg, name)


# --- values of Isaac Lab's objects as plain JSON ----------------------------------------------------------------------


def function_name(function: Any) -> str | None:
    """Return `module:name` of a function, a class, or the class of a callable object."""
    if function is None or isinstance(function, str):
        return function
    if not hasattr(function, "__qualname__"):
        function = type(function)
    return f"{function.__module__}:{function.__qualname__}"


def plain(value: Any) -> Any:
    """Return a configuration's value as plain JSON.

    What has no such form becomes its name, and what a configuration leaves open is left out.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if hasattr(value, "detach"):
        return plain(value.detach().cpu().tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, slice):
        return "all" if value == slice(None) else str(value)
    if is_dataclass(value) and not isinstance(value, type):
        found = {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        return {name: item for name, item in found.items() if item not in (None, "all")}
    return function_name(value)


def numbers(value: Any) -> tuple[float, ...] | None:
    """Return a number, several of them or a tensor as floats; None for anything else."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().reshape(-1).tolist()
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, list | tuple) and all(isinstance(item, int | float) for item in value):
        return tuple(float(item) for item in value)
    return None


def common_row(value: Any) -> Any:
    """Return the row that all environments have in common as numbers, or None where they differ."""
    if not hasattr(value, "detach"):
        return float(value)
    rows = value.detach().cpu()
    return rows[0].tolist() if bool((rows == rows[:1]).all()) else None


def each_of(values: Any, size: int) -> tuple[float, ...] | None:
    """Return one number for each of `size`, from one for all or from as many; None for anything else."""
    if values is None:
        return None
    each = (float(values),) * size if isinstance(values, int | float) else tuple(float(value) for value in values)
    each = each * size if len(each) == 1 else each
    return each if len(each) == size and all(math.isfinite(value) for value in each) else None
