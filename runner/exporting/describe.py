"""The contract of an exported policy from its Isaac Lab environment, and what the checklist asks of that."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.errors import RequestError
from simyard.core.files import sha256_of
from simyard.runner.exporting.contract import (
    FILES,
    ONNX,
    SCHEMA_VERSION,
    Articulation,
    Checkpoint,
    Contract,
    ExportedFile,
    Port,
    Statistics,
)
from simyard.runner.exporting.formats import onnx_ports
from simyard.runner.exporting.plain import common_row, each_of, function_name, plain
from simyard.runner.exporting.terms import action_terms, observation_groups
from simyard.runner.rl import LIBRARIES

if TYPE_CHECKING:
    from simyard.runner.rl.base import Normalizer, Policy

_PACKAGES = ("simyard", "isaaclab", "torch", "onnx", "numpy")
"""Besides those of the libraries."""


def describe(
    env: Any, policy: Policy, folder: Path, *, task: str, checkpoint_sha256: str, iteration: int | None
) -> Contract:
    """Return the contract of a policy that was exported from an environment.

    Args:
        env: The gymnasium environment the policy was built with.
        policy: The policy.
        folder: Where `policy.onnx` and `policy.pt` are.
        task: The task's registered id.
        checkpoint_sha256: Of the exported checkpoint.
        iteration: Policy updates behind it, where known.

    Raises:
        RequestError: If the environment's observations or actions are not what the exported network takes and gives.
    """
    base = env.unwrapped
    (input_name, input_shape), (output_name, output_shape) = onnx_ports(folder / FILES[ONNX])
    groups = tuple(observation_groups(base, policy.observation_groups))
    actions = tuple(action_terms(base))
    for what, shape, has in (
        ("observations", input_shape, sum(g.size for g in groups if g.start is not None)),
        ("actions", output_shape, sum(term.size for term in actions)),
    ):
        if shape != (None, has):
            raise RequestError(
                f"The exported network has {what} of the shape {shape}, but the environment has {has} of them.",
                code="export_shapes",
                advice=f"The policy sees the observation groups {list(policy.observation_groups)}.",
            )
    return Contract(
        schema_version=SCHEMA_VERSION,
        task=task,
        library=policy.library,
        checkpoint=Checkpoint(sha256=checkpoint_sha256, iteration=iteration),
        versions=dict(_versions()),
        control_period_s=float(base.step_dt),
        physics_dt_s=float(base.physics_dt),
        decimation=int(base.cfg.decimation),
        input=Port(name=input_name, shape=input_shape, dtype="float32"),
        output=Port(name=output_name, shape=output_shape, dtype="float32"),
        observation_groups=groups,
        actions=actions,
        normalizer=_statistics(policy.normalizer()),
        articulations=tuple(_articulations(base)),
        files=tuple(exported_file(folder, format_) for format_ in FILES),
    )


def events(env: Any) -> dict[str, Any] | None:
    """Return the environment's events by name: mode, function and parameters, ranges among them, as plain JSON.

    Returns:
        Nothing in it where the environment has no events; None where it does not say (events of its own code).
    """
    manager = getattr(env.unwrapped, "event_manager", None)
    if manager is None:
        return {} if hasattr(env.unwrapped, "observation_manager") else None
    found = {}
    for mode, names in manager.active_terms.items():
        for name in names:
            term = manager.get_term_cfg(name)
            params = {key: plain(value) for key, value in term.params.items()}
            found[name] = {"mode": mode, "function": function_name(term.func), "params": params}
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


def _statistics(normalizer: Normalizer | None) -> Statistics | None:
    if normalizer is None:
        return None
    return Statistics(
        mean=normalizer.mean,
        divisor=normalizer.divisor,
        clip=normalizer.clip,
        clip_before=normalizer.clip_before,
    )


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
