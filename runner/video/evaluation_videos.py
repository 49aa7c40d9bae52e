"""Videos of an evaluation: episodes are chosen while measured and drawn afterwards, so no figure depends on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simyard.core.artifacts import VIDEOS
from simyard.core.files import AttemptPaths
from simyard.core.specs import Evaluation
from simyard.runner.evaluation.episode_statistics import Episode
from simyard.runner.progress import say_activity
from simyard.runner.video.render import Renderer
from simyard.runner.video.trajectories import Trajectory, TrajectoryRecorder, VideoError

MOST_FPS = 30
"""Pictures a second, at most: a control loop is often faster than anybody sees, and each picture takes its time."""
SIZE = (480, 360)
"""Width and height of a picture: without a GPU the time it takes is nearly all of its pixels'."""


@dataclass(frozen=True)
class _Take:
    """One episode as it was recorded."""

    episode: Episode
    trajectory: Trajectory


class Film:
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

    def develop(self, alive: Callable[[], None] = lambda: None) -> tuple[list[dict[str, Any]] | None, str | None]:
        """Draw the episodes that were kept, before the environment is closed.

        Args:
            alive: Called now and then.

        Returns:
            The videos, each with `file`, `episode`, `env`, `why`, `return`, `length` and what was seen when it was
            decoded; or None and the reason why there are none. Both None where none were asked for.
        """
        if self._recorder is None:
            return None, self._problem
        self._recorder.close()
        by_number: dict[int, list[str]] = {}
        for role in self._wanted:
            if role in self._takes:
                by_number.setdefault(self._takes[role].episode.number, []).append(role)
        try:
            with Renderer.of_environment(self._env, SIZE) as renderer:
                return [self._draw(renderer, self._takes[roles[0]], roles, alive) for roles in by_number.values()], None
        except VideoError as error:
            for path in (self._output / self._folder).glob("episode-*.mp4"):
                path.unlink()
            return None, error.reason

    def _draw(self, renderer: Renderer, take: _Take, roles: list[str], alive: Callable[[], None]) -> dict[str, Any]:
        episode, step_dt = take.episode, self._env.unwrapped.step_dt
        every = max(1, round(1 / (step_dt * MOST_FPS)))
        shown = replace(take.trajectory, coordinates=take.trajectory.coordinates[::every])
        say_activity(f"drawing episode {episode.number}: {', '.join(roles)}, {len(shown.coordinates)} frames")
        file = self._folder / f"episode-{episode.number:04d}.mp4"
        path = self._output / file
        path.parent.mkdir(parents=True, exist_ok=True)
        seen = renderer.render(shown, path, fps=1 / (step_dt * every), alive=alive)
        return {
            "file": str(file),
            "episode": episode.number,
            "env": episode.env,
            "why": roles,
            "return": episode.total,
            "length": episode.length,
            **seen,
        }
