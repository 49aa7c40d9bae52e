"""The observation and action terms of an Isaac Lab environment. What it does not say is None, never a guess."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from simyard.core.errors import RequestError
from simyard.runner.exporting.contract import ActionTerm, Interval, ObservationGroup, ObservationTerm
from simyard.runner.exporting.plain import common_row, each_of, function_name, numbers, plain

_JOINT_FUNCTIONS = {
    f"isaaclab.envs.mdp.observations:{name}"
    for name in (
        "joint_pos", "joint_pos_rel", "joint_pos_limit_normalized", "joint_vel", "joint_vel_rel", "joint_effort",
    )
}  # fmt: skip
"""Isaac Lab's functions that give one number for each selected joint, in the articulation's order."""


# --- observations -----------------------------------------------------------------------------------------------------


def observation_groups(base: Any, seen: tuple[str, ...]) -> Iterator[ObservationGroup]:
    """Yield the groups that the network sees, in its order, and then the others."""
    manager = getattr(base, "observation_manager", None)
    spaces = base.single_observation_space
    if missing := [name for name in seen if name not in spaces.spaces]:
        raise RequestError(
            f"The policy sees the observation group {missing[0]!r}, which the environment has not.",
            code="export_shapes",
            advice=f"It has {sorted(spaces.spaces)}.",
        )
    start = 0
    for name in (*seen, *(name for name in spaces.spaces if name not in seen)):
        at = start if name in seen else None
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
    terms = [_item(cfg, term) for term in manager.active_terms[name]]
    frames = _frames(cfg)
    slices: Iterable[tuple[tuple[int, int], ...] | None] = _slices(sizes, frames) if flat else [None] * len(sizes)
    return ObservationGroup(
        name=name,
        names_known=True,
        start=start,
        size=sum(sizes),
        terms=tuple(
            _term(label, term, size, places, base)
            for label, term, size, places in zip(manager.active_terms[name], terms, sizes, slices, strict=True)
        ),
    )


def _frames(group: Any) -> int:
    """Return the number of samples that follow each other if all terms of a sample stand together, else 1."""
    length = getattr(group, "history_length", None) or 0
    by_time = getattr(group, "history_order", "term") == "time" and group.flatten_history_dim
    return length if by_time and length and group.concatenate_dim == -1 else 1


def _slices(sizes: list[int], frames: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield the columns of each term in its flat group."""
    frame = sum(sizes) // frames
    start = 0
    for size in sizes:
        width = size // frames
        yield tuple((frame * n + start, frame * n + start + width) for n in range(frames))
        start += width


def _term(name: str, cfg: Any, size: int, slices: tuple[tuple[int, int], ...] | None, base: Any) -> ObservationTerm:
    delay = (int(getattr(cfg, "delay_min_lag", 0)), int(getattr(cfg, "delay_max_lag", 0)))
    function = function_name(cfg.func)
    return ObservationTerm(
        name=name,
        size=size,
        slices=slices,
        function=function,
        joints=_joints(function, cfg, size, base),
        scale=numbers(cfg.scale),
        clip=(float(cfg.clip[0]), float(cfg.clip[1])) if cfg.clip else None,
        noise=_noise(cfg.noise),
        history_length=int(cfg.history_length),
        delay_steps=delay if delay[1] else None,
        modifiers=tuple(function_name(modifier.func) or "" for modifier in cfg.modifiers or ()),
    )


def _joints(function: str | None, cfg: Any, size: int, base: Any) -> tuple[str, ...] | None:
    selected = cfg.params.get("asset_cfg")
    if function not in _JOINT_FUNCTIONS or selected is None:
        return None
    names = selected.joint_names if selected.joint_names is not None else base.scene[selected.name].joint_names
    return tuple(names) if len(names) * max(int(cfg.history_length), 1) == size else None


def _noise(cfg: Any) -> dict[str, Any] | None:
    return None if cfg is None else {"type": type(cfg).__name__, **plain(cfg)}


# --- actions ----------------------------------------------------------------------------------------------------------


def action_terms(base: Any) -> Iterator[ActionTerm]:
    """Yield the action terms in the order of the network's output; a direct environment has one without a name."""
    manager = getattr(base, "action_manager", None)
    space = base.single_action_space
    limits = _bounds(space)
    if manager is None:
        size = _size(space)
        scale = numbers(getattr(base.cfg, "action_scale", None))
        yield ActionTerm(
            name=None,
            type=None,
            command=None,
            start=0,
            stop=size,
            joints=None,
            scale=each_of(scale, size),
            offset=None,
            clip=None,
            limits=limits,
        )
        return
    start = 0
    for name, size in zip(manager.active_terms, manager.action_term_dim, strict=True):
        yield _action(name, manager.get_term(name), start, size, limits)
        start += size


def _action(name: str, term: Any, start: int, size: int, limits: tuple[Interval, ...] | None) -> ActionTerm:
    scale, offset, clip = _affine(term, size)
    joints = getattr(term, "_joint_names", None)
    return ActionTerm(
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
