"""Proof of a bundle on the computer that is to run it: parity with the golden pairs, and the time of a step."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from simyard.core.artifacts import GOLDEN
from simyard.core.wire import Wire
from simyard.policy.bundle import opened
from simyard.policy.runner import PolicyRunner
from simyard.runner.exporting.contract import ONNX
from simyard.runner.exporting.golden import Golden, read_golden

STEPS = 10_000
"""Steps whose time is taken."""


@dataclass(frozen=True, kw_only=True)
class Report(Wire):
    """Findings of one check."""

    schema_version: int
    ok: bool
    reasons: tuple[str, ...]
    """Failures, a sentence each; none where it is fine."""
    task: str
    sha256: str
    """Of the ONNX file."""
    machine: str
    """Processor's kind, system and Python."""
    runtime: str
    rows: int
    """Golden pairs compared."""
    largest: float | None
    """Largest difference of an action; None where it is not a number."""
    limit: float
    resets: int
    """Times that a memory was set back among them."""
    steps: int
    """Steps whose time was taken."""
    p50_ms: float
    p99_ms: float
    max_ms: float
    control_period_ms: float

    def lines(self) -> Iterator[str]:
        """Yield the report for people."""
        yield f"{self.task} on {self.machine}, {self.runtime}"
        found = "not a number" if self.largest is None else f"{self.largest:.2g}"
        yield f"parity:  largest difference {found} in {self.rows} pairs, {self.resets} resets (allowed {self.limit:g})"
        yield (
            f"latency: p50 {self.p50_ms:.3f} ms, p99 {self.p99_ms:.3f} ms, max {self.max_ms:.3f} ms in {self.steps} "
            f"steps; the control period is {self.control_period_ms:g} ms"
        )
        yield "fine" if self.ok else f"failed: {' '.join(self.reasons)}"


def check(path: Path, steps: int = STEPS) -> Report:
    """Check a bundle here.

    Args:
        path: The zip.
        steps: Steps whose time is taken.

    Raises:
        ValueError: If it is no bundle, or its files do not belong together.
    """
    with opened(path) as folder:
        policy = PolicyRunner.load(folder)
        golden = read_golden((folder / GOLDEN.name).read_bytes())
        sha256 = hashlib.sha256((folder / policy.contract.file(ONNX).name).read_bytes()).hexdigest()
    inputs = [port.name for port in policy.contract.inputs[: len(golden.observations)]]
    if [one.name for one in golden.observations] != inputs:
        raise ValueError(
            f"The golden pairs are of {[one.name for one in golden.observations]}, the policy of {inputs}."
        )
    largest = _parity(policy, golden)
    took = _latency(policy, golden, steps)
    period = policy.control_period_s * 1000
    p50, p99, most = (float(np.quantile(took, at)) for at in (0.5, 0.99, 1.0))
    reasons = []
    if largest is None or largest > golden.limit:
        found = "are not numbers" if largest is None else f"differ by {largest:.3g}"
        reasons.append(f"The actions {found}, {golden.limit:g} is allowed.")
    if p99 > period:
        reasons.append(f"A step takes {p99:.3g} ms (p99), more than the control period of {period:g} ms.")
    begun = golden.first_steps.array()
    return Report(
        schema_version=1,
        ok=not reasons,
        reasons=tuple(reasons),
        task=policy.contract.task,
        sha256=sha256,
        machine=f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        runtime=f"onnxruntime {onnxruntime.__version__}",
        rows=int(np.prod(golden.actions.shape[:2])),
        largest=largest,
        limit=golden.limit,
        resets=int(begun[1:].sum()),
        steps=steps,
        p50_ms=p50,
        p99_ms=p99,
        max_ms=most,
        control_period_ms=period,
    )


def _parity(policy: PolicyRunner, golden: Golden) -> float | None:
    """Return the largest difference over the golden steps, one after another, as the robot takes them."""
    given = {one.name: one.array() for one in golden.observations}
    wanted, begun = golden.actions.array(), golden.first_steps.array() != 0
    worst = 0.0
    for robot in range(wanted.shape[1]):
        policy.reset()
        for step in range(len(wanted)):
            if begun[step, robot]:
                policy.reset()
            try:
                actions = policy.act({name: values[step, robot] for name, values in given.items()})
            except (FloatingPointError, ValueError):
                return None
            # The contract's limits may cut off what training's environment was sent.
            difference = np.abs(actions.astype(np.float64) - policy.limited(wanted[step, robot]))
            if not np.isfinite(difference).all():
                return None
            worst = max(worst, float(difference.max()))
    policy.reset()
    return worst


def _latency(policy: PolicyRunner, golden: Golden, steps: int) -> NDArray[np.float64]:
    """Return the milliseconds of each of many steps at batch 1, memory and checks included."""
    given = {one.name: one.array().reshape(-1, *one.shape[2:]) for one in golden.observations}
    rows = len(next(iter(given.values())))
    took = np.empty(steps)
    for step in range(-min(100, steps), steps):  # the first ones warm up
        feeds = {name: values[step % rows] for name, values in given.items()}
        began = time.perf_counter()
        policy.act(feeds)
        if step >= 0:
            took[step] = (time.perf_counter() - began) * 1000
    return took
