"""The part of a contract for other simulators: drives, rewards, terminations and starts of an Isaac Lab environment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from simyard.runner.exporting.contract import ActionTerm, Drive, Function, Interval, Simulation
from simyard.runner.exporting.plain_values import common_row, each_of, function_name, named, numbers


def simulation(base: Any, actions: Sequence[ActionTerm]) -> Simulation | None:
    """Return how a policy was simulated; None for a scene whose robot is not the only articulation."""
    robots = dict(base.scene.articulations)
    if len(robots) != 1:
        return None
    ((name, robot),) = robots.items()
    limits = common_row(robot.data.soft_joint_pos_limits.torch)
    velocities = common_row(robot.data.default_joint_vel.torch)
    return Simulation(
        robot=name,
        fixed_base=bool(robot.is_fixed_base),
        substeps=int(getattr(base.sim.cfg.physics, "num_substeps", 1) or 1),
        episode_steps=int(base.max_episode_length),
        joint_limits=None if limits is None else tuple(_interval(low, high) for low, high in limits),
        default_velocities=each_of(velocities, len(robot.joint_names)),
        drives=tuple(_drives(robot)),
        rewards=_functions(base, "reward_manager"),
        terminations=_functions(base, "termination_manager"),
        resets=_resets(base),
    )


def _drives(robot: Any) -> Iterator[Drive]:
    data, order = robot.data, list(robot.joint_names)
    for name, cfg in robot.cfg.actuators.items():
        joints = tuple(robot.find_joints(cfg.joint_names_expr)[1])
        places = [order.index(joint) for joint in joints]
        # What an explicit actuator computes is no gain of the engine's: its own numbers are with it.
        own = robot.actuators[name]
        implicit = "Implicit" in type(cfg).__name__

        def row(value: Any, own_value: Any = None, *, places: list[int] = places) -> tuple[float, ...] | None:
            if hasattr(own_value, "detach"):
                return each_of(common_row(own_value), len(places))
            return each_of(common_row(value.torch[:, places]), len(places))

        gains = None if implicit else own
        limit = common_row(data.joint_effort_limits.torch[:, places])
        delay = (int(getattr(cfg, "min_delay", 0) or 0), int(getattr(cfg, "max_delay", 0) or 0))
        yield Drive(
            name=name,
            type=function_name(type(cfg)),
            joints=joints,
            stiffness=row(data.joint_stiffness, getattr(gains, "stiffness", None)),
            damping=row(data.joint_damping, getattr(gains, "damping", None)),
            effort_limit=None if limit is None else tuple(one if one < 1e8 else None for one in limit),
            armature=row(data.joint_armature),
            friction=row(data.joint_friction_coeff),
            delay_steps=delay if delay[1] else None,
        )


def _functions(base: Any, manager_name: str) -> tuple[Function, ...] | None:
    manager = getattr(base, manager_name, None)
    if manager is None:
        return None
    found = []
    for name in manager.active_terms:
        term = manager.get_term_cfg(name)
        weight = numbers(getattr(term, "weight", None))
        found.append(
            Function(
                name=name,
                function=function_name(term.func),
                params=named(term.params, base),
                weight=weight[0] if weight else None,
                time_out=getattr(term, "time_out", None),
            )
        )
    return tuple(found)


def _resets(base: Any) -> tuple[Function, ...] | None:
    manager = getattr(base, "event_manager", None)
    if manager is None:
        return () if hasattr(base, "observation_manager") else None
    terms = [(name, manager.get_term_cfg(name)) for name in manager.active_terms.get("reset", ())]
    return tuple(
        Function(name=name, function=function_name(term.func), params=named(term.params, base)) for name, term in terms
    )


def _interval(low: float, high: float) -> Interval:
    most = 1e8  # what an engine writes for no limit
    return low if math.isfinite(low) and low > -most else None, high if math.isfinite(high) and high < most else None
