"""Traces: the motion of an environment's first episodes step by step, and where two engines' motions part."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

MOST_ENVS = 64
"""Environments that are traced: the first ones."""
MOST_STEPS = 1000
"""Steps of each that are traced."""
REPLAYED_STEPS = 100
"""Actions that are replayed in another engine."""
APART = 0.1
"""Two motions are apart where a quantity differs by more than this share of its standard deviation."""
POSITION = " position"
"""Ending of the name of a joint's position."""
POSE = ("x", "y", "z", "qx", "qy", "qz", "qw")
"""Parts of a pose."""
_TURNS = tuple(f"root {part}" for part in POSE[3:])
"""Endings of quantities that are not compared: a rotation has two quaternions; `down` tells how a body tilts."""


class Divergence(TypedDict):
    """First steps at which the motions of pairs are apart; None where none is."""

    pairs: int
    """Pairs of episodes that were compared."""
    same_start: int
    """Pairs whose very first states are equal."""
    apart: int
    """Pairs that come apart before one of the two ends."""
    earliest_step: int | None
    median_step: int | None
    """Of the pairs that come apart."""
    median_s: float | None
    """The same in simulated seconds."""
    quantity: str | None
    """Quantity that differs the most there, in most pairs."""


@dataclass(frozen=True)
class Trace:
    """Motion of first episodes: the states on which actions were taken, and the actions."""

    names: tuple[str, ...]
    """Names of the quantities."""
    states: Array
    """`(steps, environments, quantities)`."""
    lengths: Array
    """`(environments,)`, steps of each first episode, as far as it was traced."""
    actions: list[Any]
    """The first ones of all environments, a tensor for each step, as the environment took them."""
    step_s: float
    """Seconds of a step."""


class Tracer:
    """Stands in an environment's `step` and keeps the first episodes; it only reads.

    Joints and bodies are named, since engines may order them differently.
    """

    def __init__(self, env: Any) -> None:
        """Take the place.

        Args:
            env: The gymnasium environment, at any depth of wrappers, each of whose environments begins an episode.
        """
        import torch

        self._base = env.unwrapped
        self._step = self._base.step
        self._base.step = self._record
        self._count = min(self._base.num_envs, MOST_ENVS)
        self._states: list[Array] = []
        self._actions: list[Any] = []
        self._lengths = torch.zeros(self._count, dtype=torch.long)
        self._running = torch.ones(self._count, dtype=torch.bool)

    def _record(self, action: Any) -> Any:
        traced = len(self._states) < MOST_STEPS and bool(self._running.any())
        if traced:
            import torch

            columns = [value[: self._count].reshape(self._count, -1) for _, value in quantities(self._base)]
            self._states.append(torch.cat(columns, dim=1).float().cpu().numpy())
            if len(self._actions) < REPLAYED_STEPS:
                self._actions.append(action.clone())
        answer = self._step(action)
        if traced:
            self._lengths += self._running
            self._running &= ~(answer[2] | answer[3])[: self._count].cpu()
        return answer

    def close(self) -> Trace:
        """Give the place back, and return what was kept."""
        import numpy as np

        self._base.step = self._step
        names = [name for names, _ in quantities(self._base) for name in names]
        states = np.stack(self._states)
        return Trace(tuple(names), states, self._lengths.numpy(), self._actions, float(self._base.step_dt))


def quantities(base: Any) -> Iterator[tuple[list[str], Any]]:
    """Yield names and values of all that moves: joints of robots, and roots of robots and objects that are free."""
    scene = base.scene
    things = {**scene.articulations, **scene.rigid_objects}
    for name, thing in things.items():
        prefix, data = "" if len(things) == 1 else f"{name} ", thing.data
        if name in scene.articulations:
            yield [f"{prefix}{joint}{POSITION}" for joint in thing.joint_names], data.joint_pos.torch
            yield [f"{prefix}{joint} velocity" for joint in thing.joint_names], data.joint_vel.torch
        if name in scene.rigid_objects or not thing.is_fixed_base:
            place = data.root_pose_w.torch.clone()
            place[:, :3] -= scene.env_origins
            yield [f"{prefix}root {axis}" for axis in POSE], place
            yield [f"{prefix}root down {axis}" for axis in POSE[:3]], data.projected_gravity_b.torch
            yield [f"{prefix}root {part}{axis}" for part in "vw" for axis in POSE[:3]], data.root_vel_w.torch


def replay(env: Any, actions: list[Any], begin: Callable[[], None], alive: Callable[[], None]) -> Trace:
    """Take actions of another engine in this one, whatever comes of them: open loop.

    Args:
        env: The gymnasium environment; its policy's episodes are over.
        actions: As a `Trace` has them; the first `REPLAYED_STEPS` are taken.
        begin: Brings the environment to where the policy began.
        alive: Called for every step.
    """
    import torch

    begin()
    tracer = Tracer(env)
    with torch.inference_mode():
        for action in actions:
            env.unwrapped.step(action.clone())
            alive()
    return tracer.close()


def apart(reference: Trace, other: Trace) -> tuple[Divergence, list[dict[str, float | int]]]:
    """Compare two traces of the same starts.

    Args:
        reference: Gives each quantity's scale: its standard deviation over all steps.
        other: The same environments in another engine.

    Returns:
        Where the pairs come apart, and a row a step: the pairs that are still there, and for each quantity the median
        of their differences, in standard deviations.
    """
    import numpy as np

    # The quantities that both have and that move, side by side.
    names = [name for name in reference.names if name in other.names and not name.endswith(_TURNS)]
    ours, theirs = (one.states[..., [one.names.index(name) for name in names]] for one in (reference, other))
    steps = np.arange(len(ours))[:, None]
    scale = np.nanstd(np.where((steps < reference.lengths)[..., None], ours, np.nan), axis=(0, 1))
    moving = scale > 1e-6
    ours, theirs, scale = ours[..., moving], theirs[..., moving], scale[moving]
    names = [name for name, moves in zip(names, moving, strict=True) if moves]

    # Only as long as both episodes last.
    count = min(len(ours), len(theirs))
    lengths = np.minimum(reference.lengths, other.lengths)
    there = steps[:count] < lengths
    gaps = np.nan_to_num(np.abs(ours[:count] - theirs[:count]) / scale, nan=np.inf)
    gaps[~there] = 0.0
    far = (gaps > APART).any(axis=2)
    pairs = far.any(axis=0)
    first = far.argmax(axis=0)[pairs]
    largest = Counter(names[index] for index in gaps[first, pairs.nonzero()[0]].argmax(axis=1))
    median = int(np.median(first)) if len(first) else None
    found: Divergence = {
        "pairs": len(lengths),
        "same_start": int((gaps[0] < 1e-3).all(axis=1).sum()),
        "apart": int(pairs.sum()),
        "earliest_step": int(first.min()) if len(first) else None,
        "median_step": median,
        "median_s": None if median is None else round(median * reference.step_s, 4),
        "quantity": largest.most_common(1)[0][0] if largest else None,
    }
    curves: list[dict[str, float | int]] = []
    for step in range(count):
        if pairs_left := int(there[step].sum()):
            middle = np.median(gaps[step, there[step]], axis=0)
            values = {name: _rounded(value) for name, value in zip(names, middle, strict=True)}
            curves.append({"step": step, "pairs": pairs_left, **values})
    return found, curves


def _rounded(value: float) -> float:
    return float(f"{value:.4g}") if math.isfinite(value) else math.inf
