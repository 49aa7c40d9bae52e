"""The film of a rollout: one environment, drawn after the simulation from what was captured meanwhile."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.runner.video.evaluation_videos import MOST_FPS
from simyard.runner.video.render import Renderer, why_not, write
from simyard.runner.video.trajectories import Trajectory, VideoError, part

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

MOST_FRAMES = 3600
"""Pictures of one film: two minutes of 30 a second. What comes after is simulated and recorded, and not drawn."""


class RolloutFilm:
    """Films one world of a Newton simulation, or takes pictures that the task makes itself.

    Each picture, or the joint coordinates it is drawn from, goes to a file without a name, so memory does not grow with
    the film. Where no film is wanted every call does nothing.
    """

    def __init__(self, folder: Path, step_s: float, *, wanted: bool) -> None:
        """Begin.

        Args:
            folder: Where there is room.
            step_s: Seconds between two calls of `capture` or `add`.
            wanted: Whether the request asks for a film.

        Raises:
            VideoError: If this machine cannot make one: better now than after the simulation.
        """
        if wanted and (reason := why_not()):
            raise VideoError(reason)
        self.wanted = wanted
        """False where the request asks for no film: a task need not make pictures then."""
        self.fps = 1 / step_s
        """Pictures a second; Newton's are thinned to 30."""
        self._every = max(1, round(1 / (step_s * MOST_FPS)))
        self._calls = 0
        self._model: Any = None
        self._state: Any = None
        self._world = 0
        self._size: tuple[int, int] | None = None
        # It lives as long as the film, and has no name: nothing is left of it, however the process ends.
        self._file = tempfile.TemporaryFile(dir=folder) if wanted else None  # noqa: SIM115

    def watch(self, model: Any, world: int = 0) -> None:
        """Choose the world of a Newton model to film; call it once, before `capture`."""
        if self._file is not None:
            self._model, self._world = model, world
            self._coordinates = part(model.joint_coord_world_start, world)

    def capture(self, state: Any) -> None:
        """Keep the state of the watched world, `newton.State`; call it every control step."""
        if self._file is None or self._model is None:
            return
        if self._calls % self._every == 0 and self._calls // self._every < MOST_FRAMES:
            self._file.write(state.joint_q[self._coordinates].numpy().tobytes())
            self._state = state
        self._calls += 1

    def add(self, picture: Any) -> None:
        """Keep a picture of the task's own making, `(height, width, 3)` bytes; all of one size, and even.

        Raises:
            ValueError: If it is of another form.
        """
        if self._file is None or self._calls >= MOST_FRAMES:
            return
        import numpy as np

        pixels = np.asarray(picture)
        size = (pixels.shape[1], pixels.shape[0]) if pixels.ndim == 3 else None
        if size is None or pixels.dtype != np.uint8 or pixels.shape[2] != 3 or size[0] % 2 or size[1] % 2:
            raise ValueError(
                f"A picture is (height, width, 3) of uint8 with even sides, not {pixels.shape} of {pixels.dtype}."
            )
        if size != (self._size or size):
            raise ValueError(f"A picture of {size[0]}x{size[1]} after one of {self._size}: all have one size.")
        self._size = size
        self._file.write(pixels.tobytes())
        self._calls += 1

    def develop(self, path: Path, alive: Callable[[], None] = lambda: None) -> dict[str, Any] | None:
        """Draw and encode what was kept; the file appears when it is whole and every picture was decoded again.

        Args:
            path: The `.mp4` file.
            alive: Called for every picture.

        Returns:
            What was seen when it was decoded; None where nothing was kept.

        Raises:
            VideoError: If it cannot be drawn or encoded, or shows nothing.
        """
        if self._file is None or self._calls == 0:
            return None
        if self._size is not None:
            return write(self._pictures(alive), path, fps=min(self.fps, 60.0), size=self._size)
        import numpy as np

        self._file.seek(0)
        rows = np.frombuffer(self._file.read(), np.float32)
        shown = rows.reshape(-1, self._coordinates.stop - self._coordinates.start)
        with Renderer(self._model, self._state) as renderer:
            return renderer.render(Trajectory(self._world, shown), path, fps=self.fps / self._every, alive=alive)

    def _pictures(self, alive: Callable[[], None]) -> Iterator[bytes]:
        assert self._file is not None and self._size is not None
        self._file.seek(0)
        while picture := self._file.read(3 * self._size[0] * self._size[1]):
            alive()
            yield picture
