"""Films of an evaluation and of a rollout: kept while it runs, drawn afterwards, so no figure depends on them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypedDict

from simyard.core.artifacts import VIDEOS
from simyard.core.files import AttemptPaths
from simyard.core.specs import Evaluation
from simyard.runner.evaluation.episode_statistics import Episode, failed
from simyard.runner.progress import say_activity
from simyard.runner.video.encoding import VideoFacts, write
from simyard.runner.video.render import Renderer, why_not
from simyard.runner.video.trajectories import Drawn, Trajectory, TrajectoryRecorder, VideoError

MOST_FPS = 30
"""Pictures a second, at most: a control loop is often faster than anybody sees, and each picture takes its time."""
MOST_FRAMES = 3600
"""Pictures of a rollout's film: two minutes of 30 a second. What comes after is simulated and recorded, not drawn."""
SIZE = (480, 360)
"""Width and height of an evaluation's pictures: without a GPU the time they take is nearly all of their pixels'."""

_Return = TypedDict("_Return", {"return": float})
"""The key that cannot be a field of a class."""


class EpisodeVideo(VideoFacts, _Return):
    """Film of one episode, as `summary.json` lists it."""

    file: str
    """Its path in the output folder."""
    episode: int
    """Number of the episode, counted from 1."""
    env: int
    why: list[str]
    """Its roles: `first`, `best`, `worst` or its number, as the request named them."""
    length: int


@dataclass(frozen=True)
class _Take:
    """One episode as it was recorded."""

    episode: Episode
    trajectory: Trajectory


class EvaluationFilm:
    """The films of one evaluation; does nothing when none were asked for or none can be made."""

    def __init__(self, env: Any, wanted: Evaluation, paths: AttemptPaths, label: str) -> None:
        """Begin to record.

        Args:
            env: The environment.
            wanted: Which episodes to film.
            paths: The attempt's folders.
            label: Name of the folder below `videos/`; empty for none.
        """
        self._env = env
        self._wanted = wanted.videos
        self._folder = Path(VIDEOS.name) / label
        self._output = paths.output
        self._takes: dict[str, _Take] = {}
        self._problem: str | None = None
        self._recorder: TrajectoryRecorder | None = None
        self._longest = min(wanted.steps_per_episode, env.unwrapped.max_episode_length + 1)
        if self._wanted:
            try:
                self._recorder = TrajectoryRecorder(env, paths.root, self._longest)
            except VideoError as error:
                self._problem = error.reason

    def capture(self, steps: Any) -> None:
        """Record the state before a step; see `TrajectoryRecorder.capture`."""
        if self._recorder is None:
            return
        if int(steps.max()) < self._longest:
            self._recorder.capture(steps)
        else:
            self._problem = f"an episode is longer than the task's own limit of {self._longest - 1} steps"
            self._recorder.close()
            self._recorder = None

    def consider(self, episode: Episode) -> None:
        """Keep a completed episode if it is one of those wanted, as far as that is known by now."""
        if self._recorder is None:
            return
        roles = [role for role in self._wanted if self._fits(role, episode)]
        if roles:
            take = _Take(episode, self._recorder.take(episode.env, episode.length))
            self._takes |= dict.fromkeys(roles, take)

    def _fits(self, role: str, episode: Episode) -> bool:
        so_far = self._takes.get(role)
        match role:
            case "first":
                return episode.number == 1
            case "best":
                return so_far is None or episode.total > so_far.episode.total
            case "worst":
                return so_far is None or episode.total < so_far.episode.total
        return episode.number == int(role)

    def develop(self, alive: Callable[[], None] = lambda: None) -> tuple[list[EpisodeVideo] | None, str | None]:
        """Draw the episodes that were kept, before the environment is closed.

        Returns:
            The videos; or None and the reason why there are none. Both None where none were asked for.
        """
        if self._recorder is None:
            return None, self._problem
        self._recorder.close()
        plan: dict[int, list[str]] = {}  # the roles of each episode to draw
        for role in self._wanted:
            if role in self._takes:
                plan.setdefault(self._takes[role].episode.number, []).append(role)
        try:
            with Renderer.of_environment(self._env, SIZE) as renderer:
                return [self._draw(renderer, self._takes[roles[0]], roles, alive) for roles in plan.values()], None
        except VideoError as error:
            for path in (self._output / self._folder).glob("episode-*.mp4"):
                path.unlink()
            return None, error.reason

    def _draw(self, renderer: Renderer, take: _Take, roles: list[str], alive: Callable[[], None]) -> EpisodeVideo:
        episode, step_dt = take.episode, self._env.unwrapped.step_dt
        every = max(1, round(1 / (step_dt * MOST_FPS)))
        shown = Trajectory(take.trajectory.world, take.trajectory.coordinates[::every])
        say_activity(f"drawing episode {episode.number}: {', '.join(roles)}, {len(shown.coordinates)} frames")
        file = self._folder / f"episode-{episode.number:04d}.mp4"
        path = self._output / file
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = renderer.render(shown, path, fps=1 / (step_dt * every), alive=alive)
        return {
            "file": str(file),
            "episode": episode.number,
            "env": episode.env,
            "why": roles,
            "return": episode.total,
            "length": episode.length,
            **facts,
        }


class RobustnessFilm(EvaluationFilm):
    """Films of the control arm as of any evaluation, and of the first failure in each of the worst arms."""

    WORST = 3
    """Arms of which a failure is filmed."""

    def __init__(
        self, env: Any, wanted: Evaluation, paths: AttemptPaths, label: str, arm_of: Callable[[int], int]
    ) -> None:
        """Begin to record.

        Args:
            env: The environment.
            wanted: Which episodes of the control arm to film.
            paths: The attempt's folders.
            label: Name of the folder below `videos/`; empty for none.
            arm_of: Returns the arm of an environment; 0 is the control arm.
        """
        super().__init__(env, wanted, paths, label)
        self._arms = [None, *(arm.name for arm in wanted.arms or ())]
        self._arm_of = arm_of

    def consider(self, episode: Episode) -> None:
        """Keep a completed episode if it is wanted, or the first failure of its arm."""
        name = self._arms[self._arm_of(episode.env)]
        if name is None:
            super().consider(episode)
        elif self._recorder is not None and name not in self._takes and failed(episode):
            self._takes[name] = _Take(episode, self._recorder.take(episode.env, episode.length))

    def choose(self, scores: Mapping[str, float]) -> None:
        """Have failures of the worst arms drawn too.

        Args:
            scores: Of each arm, by its name: the higher, the better.
        """
        if self._wanted:
            worst = sorted((name for name in self._takes if name in scores), key=scores.__getitem__)
            self._wanted = (*self._wanted, *worst[: self.WORST])


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
        self.wanted = False
        """False where there is to be no film: a task need not make pictures then."""
        self.fps = 1 / step_s
        """Pictures a second; Newton's are thinned to 30."""
        self._every = max(1, round(1 / (step_s * MOST_FPS)))
        self._calls = 0
        self._drawn: Drawn | None = None
        self._state: Any = None
        self._world = 0
        self._size: tuple[int, int] | None = None
        self._folder = folder
        self._file: IO[bytes] | None = None
        if wanted:
            self.force()

    def force(self) -> None:
        """Make a film, though the request may not ask for one; call it before `watch` or `add`.

        Raises:
            VideoError: If this machine cannot make one.
        """
        if self.wanted:
            return
        if reason := why_not():
            raise VideoError(reason)
        self.wanted = True
        # It lives as long as the film, and has no name: nothing is left of it, however the process ends.
        self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115

    def watch(self, model: Any, world: int = 0) -> None:
        """Choose the world of a Newton model to film; call it once, before `capture`."""
        self.watch_drawn(Drawn(model, lambda: None, by_joints=True), world)

    def watch_drawn(self, drawn: Drawn, world: int = 0) -> None:
        """Choose the world of an environment to film; call it once, before `capture_drawn`."""
        if self._file is not None:
            self._drawn, self._world = drawn, world

    def capture(self, state: Any) -> None:
        """Keep the state of the watched world, `newton.State`; call it every control step."""
        self._keep(lambda: state)

    def capture_drawn(self) -> None:
        """Keep the state of the watched world of an environment; call it every control step."""
        if self._drawn is not None:
            self._keep(self._drawn.state)

    def _keep(self, state: Callable[[], Any]) -> None:
        if self._file is None or self._drawn is None:
            return
        if self._calls % self._every == 0 and self._calls // self._every < MOST_FRAMES:
            self._state = state()
            self._file.write(self._drawn.values(self._state)[self._drawn.rows(self._world)].numpy().tobytes())
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

    def develop(self, path: Path, alive: Callable[[], None] = lambda: None) -> VideoFacts | None:
        """Draw and encode what was kept; the file appears when it is whole and every picture was decoded again.

        Returns:
            Facts of the video as it was decoded; None where nothing was kept.

        Raises:
            VideoError: If it cannot be drawn or encoded, or shows nothing.
        """
        if self._file is None or self._calls == 0:
            return None
        if self._size is not None:
            return write(self._pictures(alive), path, fps=min(self.fps, 60.0), size=self._size)
        import numpy as np

        assert self._drawn is not None
        self._file.seek(0)
        kept = self._drawn.rows(self._world)
        shape = self._drawn.values(self._state)[kept].numpy().shape
        shown = np.frombuffer(self._file.read(), np.float32).reshape(-1, *shape)
        with Renderer(self._drawn.model, self._state) as renderer:
            return renderer.render(Trajectory(self._world, shown), path, fps=self.fps / self._every, alive=alive)

    def _pictures(self, alive: Callable[[], None]) -> Iterator[bytes]:
        assert self._file is not None and self._size is not None
        self._file.seek(0)
        while picture := self._file.read(3 * self._size[0] * self._size[1]):
            alive()
            yield picture
