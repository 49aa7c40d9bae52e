"""Sweeps in a store whose loop is the real one, and whose trainings are numbers: for tests of what people see."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simyard.core.errors import Category, Failure
from simyard.core.sweep_records import SeedRun
from simyard.requests.settings import MachineSettings
from simyard.requests.sweeps import SweepRequest
from simyard.store import keys
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.shared.control import LoopObserver
from simyard.tasks.sweeps.loop import Loop
from simyard.tasks.sweeps.plan import resolve_sweep, stage_sweep
from simyard.tasks.sweeps.state import Piece

RATE, ENTROPY = "agent.algorithm.learning_rate", "agent.algorithm.entropy_coef"
CONFIG: dict[str, Any] = {
    "name": "cartpole, six settings",
    "trainingConfig": {"task": "Isaac-Cartpole-Direct", "rlLibrary": "rsl_rl", "numEnvs": 64, "maxIterations": 60},
    "overrides": ["agent.save_interval=20"],
    "sweep": {
        "parameters": {RATE: {"values": [0.0003, 0.001, 0.003]}, ENTROPY: {"values": [0.0, 0.01]}},
        "seeds": 2, "parallel": 1, "scheduler": {"kind": "asha", "min_iterations": 20},
    },
}  # fmt: skip
"""A grid with the rungs 20 and 60, of which a third goes on."""
OF_TWO: dict[str, Any] = CONFIG | {
    "sweep": {
        "parameters": {RATE: {"values": [0.0003, 0.001, 0.003]}, ENTROPY: {"values": [0.0, 0.01]}},
        "seeds": 2, "parallel": 1,
        "objective": [{"metric": "Train/mean_reward"}, {"metric": "Train/mean_episode_length", "mode": "min"}],
    },
}  # fmt: skip
"""The same grid by two objectives, of which `lengths` is the second."""
DIVERGED = Failure(code="diverged", category=Category.USER, message="The policy diverged.", advice="Lower the rate.")


def returns(values: dict[str, Any], seed: int, iterations: int) -> float | None:
    """Return what a training reaches: most with a rate of 0.001; None where it fails."""
    if values.get(RATE) == 0.003 and values.get(ENTROPY) == 0.01:
        return None
    off = math.log10(values.get(RATE, 0.001) / 0.001)
    return (5 - 4 * off**2 - 10 * values.get(ENTROPY, 0.0) + 0.05 * (seed % 3)) * (1 - math.exp(-iterations / 20))


def lengths(values: dict[str, Any], seed: int) -> float:
    """Return the second objective of a training: least with a rate of 0.0003."""
    return 100 + 1e5 * values[RATE] + seed % 3


def put_sweep(
    store: Store,
    home: Path,
    config: dict[str, Any] = CONFIG,
    *,
    trainings: int | None = None,
    value: Callable[[dict[str, Any], int, int], float | None] = returns,
) -> str:
    """Put a sweep into a store, with so many trainings done of it, or all and its end; return its id."""
    machine = MachineSettings(home=home, store=store.url(), python=sys.executable)
    resolved = resolve_sweep(SweepRequest.model_validate(config), store, keys.new_sweep_id(), home, machine)
    stage_sweep(resolved, store)
    done = 0
    with Loop(resolved.spec, store, LoopObserver()) as loop:
        while (pieces := loop.pieces()) or not loop.is_over:
            for piece in pieces:
                if trainings is not None and done >= trainings:
                    return resolved.spec.sweep_id
                values, of_two = loop.state.members[piece.setting].values, len(loop.asked.metrics) > 1
                loop.take(piece, _trained(store, values, piece, value, of_two=of_two))
                done += 1
        loop.conclude()
    return resolved.spec.sweep_id


def _trained(store: Store, values: dict[str, Any], piece: Piece, value: Any, *, of_two: bool) -> SeedRun:
    """Return how a training went, and put its curve into the store."""
    job_id, reached = keys.new_job_id(), value(values, piece.seed, piece.iterations)
    begin = piece.earlier.iterations if piece.earlier else 0
    if reached is not None:
        curve = [f"{step},{value(values, piece.seed, step + 1)}\n" for step in range(begin, piece.iterations)]
        store.put_bytes(JobKeys(job_id).artifact("metrics.csv"), "".join(["step,Train/mean_reward\n", *curve]).encode())
    return SeedRun(
        seed=piece.seed, jobs=(*(piece.earlier.jobs if piece.earlier else ()), job_id), iterations=piece.iterations,
        status="failed" if reached is None else "succeeded" if piece.is_last else "waiting", value=reached,
        others=(lengths(values, piece.seed),) if of_two and reached is not None else None,
        failure=DIVERGED if reached is None else None, gpu_seconds=10.0 * (piece.iterations - begin),
    )  # fmt: skip
