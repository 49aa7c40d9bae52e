"""The simulator's side of `test_video.py`, which the player calls: plays, records and films."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from simyard.runner.video.render import Renderer
from simyard.runner.video.trajectories import Trajectory, TrajectoryRecorder, VideoError

WORLDS = 4
STEPS = 60
LONGEST = 300
SMALL = (320, 240)
PUSH = torch.tensor([[-0.5], [0.0], [0.5], [-1.5]])
"""Added to random actions, so that episodes end: carts leave their rails, each in its own time."""


class Play:
    """One environment in which random actions are taken, and what came of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.episodes: list[Trajectory] = []
        """Those that ended, as the recorder had them."""
        self.lived: list[np.ndarray] = []
        """The same, as they were seen from outside."""
        self.figures: list[Any] = []
        self.meddled: set[str] = set()

    def run(self, env: Any, *, record: bool) -> None:
        """Take the steps."""
        env.reset()
        recorder = TrajectoryRecorder(env, self.folder, LONGEST) if record else None
        assert not list(self.folder.iterdir()), "the recorder's file has no name"
        taken = torch.zeros(WORLDS, dtype=torch.long)
        live: list[list[np.ndarray]] = [[] for _ in range(WORLDS)]
        for _ in range(STEPS):
            for world, row in enumerate(coordinates(env)):
                live[world].append(row)
            if recorder:
                before = everything(env)
                recorder.capture(taken)
                self.meddled |= changes(before, everything(env))
            _, reward, terminated, truncated, _ = env.step(torch.rand(WORLDS, 1) + PUSH)
            self.figures.append([reward.tolist(), *(row.tolist() for row in coordinates(env))])
            taken += 1
            for world in (terminated | truncated).nonzero().flatten().tolist():
                if recorder:
                    self.episodes.append(recorder.take(world, int(taken[world])))
                    self.lived.append(np.stack(live[world]))
                taken[world], live[world] = 0, []
        if recorder:
            recorder.close()


def coordinates(env: Any) -> np.ndarray:
    """Return the joint coordinates of each world, as the simulator has them."""
    state = env.unwrapped.sim.physics_manager.get_state_0()
    return np.array(state.joint_q.numpy()).reshape(WORLDS, -1)


def everything(env: Any) -> dict[str, Any]:
    """Return all that must not change: the random generators, and every array of the simulation's state and model."""
    import warp

    physics = env.unwrapped.sim.physics_manager
    holders = (physics.get_state_0(), physics.get_state_1(), physics.get_control(), physics.get_model())
    arrays = {
        f"{type(holder).__name__} {number} {name}": value.numpy().tobytes()
        for number, holder in enumerate(holders)
        for name, value in vars(holder).items()
        if isinstance(value, warp.array)
    }
    assert len(arrays) > 50
    generators = {"torch": torch.get_rng_state().tolist(), "numpy": np.random.get_state()[1].tolist()}
    return {**arrays, **generators, "random": random.getstate()}


def changes(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Return the names of what is not as before."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def first_picture(env: Any, trajectory: Trajectory, kind: type[Renderer] = Renderer) -> np.ndarray:
    with kind.of_environment(env, SMALL) as renderer:
        return next(renderer.frames([trajectory], 60.0)).copy()


class AllWorlds(Renderer):
    """What it would be without choosing a world: the proof that the others would be seen."""

    def _show(self, world: int, camera: Any) -> None:
        super()._show(world, camera)
        self._viewer.set_visible_worlds(None)
        self._viewer.set_world_offsets((0.0, 0.0, 0.0))


def environment(physics: str = "newton_mjwarp", *, drawn: bool = True) -> Any:
    import isaaclab_tasks  # noqa: F401

    from simyard.runner.isaaclab.adapter import without_pinned_memory
    from simyard.runner.isaaclab.environment import fresh_environment
    from simyard.runner.rl import get_library

    without_pinned_memory()
    overrides = [f"physics={physics}"]
    return fresh_environment(
        "Isaac-Cartpole-Direct", get_library("rsl_rl"), overrides, num_envs=WORLDS, seed=7, device="cpu", drawn=drawn
    )


def film(folder: Path) -> dict[str, Any]:
    return dict(_film(folder))


def _film(folder: Path) -> Iterator[tuple[str, Any]]:
    """Film in one environment, then measure the same without filming in another, and film in that one too."""
    work, videos = folder / "work", folder / "videos"
    work.mkdir()
    videos.mkdir()
    with environment() as (env, _):
        play = Play(work)
        play.run(env, record=True)
        yield "meddled", sorted(play.meddled)
        yield "episodes", len(play.episodes)
        yield "as lived", all(np.array_equal(a.coordinates, b) for a, b in zip(play.episodes, play.lived, strict=True))
        before = everything(env)
        longest, other = sorted(play.episodes, key=lambda episode: -len(episode.coordinates))[:2]
        began = time.perf_counter()
        with Renderer.of_environment(env, SMALL) as renderer:
            for name, trajectory in (("longest", longest), ("other", other)):
                yield name, renderer.render(trajectory, videos / f"{name}.mp4", fps=60)
        yield "seconds", time.perf_counter() - began
        yield "drawing meddled", sorted(changes(before, everything(env)))
        alone, among = first_picture(env, longest), first_picture(env, longest, AllWorlds)
        env.step(torch.rand(WORLDS, 1))
        yield "alone", [np.array_equal(alone, first_picture(env, longest)), not np.array_equal(alone, among)]
        broken = Trajectory(1, longest.coordinates.copy())
        broken.coordinates[3] = np.nan
        yield "not finite", reason(lambda: Renderer.of_environment(env).render(broken, videos / "broken.mp4", fps=60))
        yield "no room", reason(lambda: TrajectoryRecorder(env, work, 10**12))
    with environment() as (env, _):
        again = Play(work)
        again.run(env, record=False)
        yield "same figures", again.figures == play.figures
        again.run(env, record=True)
        with Renderer.of_environment(env) as renderer:
            shortest = min(again.episodes, key=lambda episode: len(episode.coordinates))
            yield "second", renderer.render(shortest, videos / "second.mp4", fps=60)
    yield "left", [path.name for path in (*work.iterdir(), *sorted(videos.iterdir()))]


def film_physx(folder: Path) -> dict[str, Any]:
    """Film under PhysX, and do the same without filming."""
    figures, found = [], dict[str, Any]()
    for drawn in (True, False):
        with environment("ovphysx", drawn=drawn) as (env, _):
            base = env.unwrapped
            torch.manual_seed(1)
            env.reset()
            recorder = TrajectoryRecorder(env, folder, LONGEST) if drawn else None
            taken, episodes, lived = torch.zeros(WORLDS, dtype=torch.long), [], []
            for _ in range(STEPS):
                if recorder:
                    recorder.capture(taken)
                _, reward, terminated, truncated, _ = env.step(torch.rand(WORLDS, 1) + PUSH)
                lived.append([reward.tolist(), base.cartpole.data.joint_pos.torch.tolist()])
                taken += 1
                for world in (terminated | truncated).nonzero().flatten().tolist():
                    if recorder:
                        episodes.append(recorder.take(world, int(taken[world])))
                    taken[world] = 0
            figures.append(lived)
            if recorder:
                longest = max(episodes, key=lambda episode: len(episode.coordinates))
                ways = longest.coordinates[..., :3]
                with Renderer.of_environment(env, SMALL) as renderer:
                    found["longest"] = renderer.render(longest, folder / "longest.mp4", fps=60)
                found |= {"episodes": len(episodes), "steps": len(longest.coordinates)}
                found["moved"] = float(np.ptp(ways, axis=0).max())
    return {**found, "same figures": figures[0] == figures[1]}


def reason(work: Any) -> str | None:
    try:
        work()
    except VideoError as error:
        return error.reason
    return None
