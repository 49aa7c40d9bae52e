"""Golden pairs of an export, `golden.json`: what a policy saw in its rollouts, and what its library's inference sent.

Standard library only, but for the arrays: the robot reads the file with this.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.artifacts import GOLDEN
from simyard.core.files import write_json
from simyard.core.foreign import parse_json
from simyard.core.wire import Wire

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROBOTS = 2
"""Environments that are kept: the memory of a batch is told from that of one robot."""
MOST_STEPS = 1100
MOST_BYTES = 16 * 2**20
"""Room for what is kept; images are large."""


@dataclass(frozen=True, kw_only=True)
class Numbers(Wire):
    """An array of float32."""

    name: str
    shape: tuple[int, ...]
    data: str
    """Little-endian, base64."""

    def array(self) -> NDArray[np.float32]:
        """Return the numbers.

        Raises:
            ValueError: If there are more or fewer than the shape says.
        """
        import numpy as np

        data = base64.b64decode(self.data, validate=True)
        if any(side < 0 for side in self.shape) or len(data) != 4 * math.prod(self.shape):
            raise ValueError(f"{self.name!r} has {len(data)} bytes, expected float32 of the shape {list(self.shape)}")
        return np.frombuffer(data, "<f4").astype(np.float32).reshape(self.shape)

    @classmethod
    def of(cls, name: str, array: NDArray[Any]) -> Numbers:
        """Return an array as a document has it."""
        data = base64.b64encode(array.astype("<f4").tobytes()).decode()
        return cls(name=name, shape=tuple(array.shape), data=data)


@dataclass(frozen=True, kw_only=True)
class Golden(Wire):
    """Steps of a few robots, one after another, with the ends of their episodes."""

    schema_version: int
    limit: float
    """Largest difference of an action that is allowed."""
    observations: tuple[Numbers, ...]
    """Of each input (steps, robots, *its shape), as the environment gave them."""
    actions: Numbers
    """(steps, robots, actions), as they reached the environment."""
    first_steps: Numbers
    """(steps, robots), 1 where an episode has begun: a memory is set back there."""


def write_golden(
    folder: Path,
    limit: float,
    observations: Mapping[str, NDArray[np.float32]],
    actions: NDArray[np.float32],
    first_steps: NDArray[np.bool_],
) -> None:
    """Write the first robots' steps, as many as there is room for.

    Args:
        folder: Where `golden.json` goes.
        limit: Largest difference allowed.
        observations: Of each input (steps, environments, *its shape).
        actions: (steps, environments, actions).
        first_steps: (steps, environments).
    """
    row = 4 * sum(math.prod(given.shape[2:]) for given in observations.values())
    robots = min(ROBOTS, actions.shape[1])
    steps = max(1, min(len(actions), MOST_STEPS, MOST_BYTES // (row * robots)))
    # The environment whose episodes end most often stands first: its memory is seen set back.
    often = sorted(range(actions.shape[1]), key=lambda n: -int(first_steps[1:steps, n].sum()))[:robots]
    golden = Golden(
        schema_version=1,
        limit=limit,
        observations=tuple(Numbers.of(name, given[:steps, often]) for name, given in observations.items()),
        actions=Numbers.of("actions", actions[:steps, often]),
        first_steps=Numbers.of("first_steps", first_steps[:steps, often]),
    )
    write_json(folder / GOLDEN.name, golden.to_json())


def read_golden(data: bytes) -> Golden:
    """Return the golden pairs in a file's bytes.

    Raises:
        ValueError: If they are none.
    """
    golden = Golden.from_json(parse_json(data))
    steps = golden.actions.shape[:2]
    if len(golden.actions.shape) != 3 or any(
        one.shape[:2] != steps for one in (*golden.observations, golden.first_steps)
    ):
        raise ValueError(f"The golden pairs are of {list(steps)} steps and robots, and not all of them have these.")
    return golden
