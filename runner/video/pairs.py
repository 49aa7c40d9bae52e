"""Films of one episode in several physics engines, side by side.

What was recorded are states, so any engine's can be shown: each is written into a small environment of Newton's, whose
viewer draws it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.artifacts import VIDEOS
from simyard.core.errors import RequestError
from simyard.core.files import AttemptPaths
from simyard.core.specs import Facts, JobSpec
from simyard.runner.evaluation.across import Played, traced
from simyard.runner.evaluation.traces import MOST_ENVS, POSE, POSITION, Trace
from simyard.runner.isaaclab.environment import fresh_environment
from simyard.runner.isaaclab.lookup import overrides_under
from simyard.runner.progress import say_activity
from simyard.runner.rl import get_library
from simyard.runner.video.films import MOST_FPS, SIZE, EpisodeVideo
from simyard.runner.video.render import Renderer
from simyard.runner.video.trajectories import Drawn, Trajectory, VideoError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

SHOWN_BY = "newton"
"""The engine whose viewer draws all of them."""


def film_pairs(
    job: JobSpec, facts: Facts, paths: AttemptPaths, played: Sequence[Played], label: str, alive: Callable[[], None]
) -> tuple[list[EpisodeVideo] | None, str | None]:
    """Draw the pairs that a job asks for, the first engine on the left.

    Args:
        job: The job.
        facts: Of its check.
        paths: The attempt's folders.
        played: The policy in every engine, the first one first.
        label: Name of the folder below `videos/`; empty for none.
        alive: Called now and then.

    Returns:
        The videos; or None and the reason why there are none. Both None where none were asked for.
    """
    assert job.evaluation is not None
    if not (plan := _plan(job.evaluation.videos, played)):
        return None, f"only the first {MOST_ENVS} pairs can be filmed" if job.evaluation.videos else None
    folder = Path(VIDEOS.name) / label
    (paths.output / folder).mkdir(parents=True, exist_ok=True)
    made: list[EpisodeVideo] = []
    try:
        overrides = overrides_under(SHOWN_BY, job, facts.device, facts.overrides)
        with fresh_environment(
            job.task, get_library(job.library), overrides,
            num_envs=1, seed=job.seed, device=facts.device, agent=job.agent,
        ) as (env, _):  # fmt: skip
            env.reset()
            step_s = float(env.unwrapped.step_dt)
            every = max(1, round(1 / (step_s * MOST_FPS)))
            with Renderer.of_environment(env, SIZE) as renderer:
                for pair, roles in plan.items():
                    say_activity(f"drawing pair {pair + 1}: {', '.join(roles)}")
                    shown = [Trajectory(0, _coordinates(env, traced(one), pair, every)) for one in played]
                    file, first = folder / f"pair-{pair + 1:04d}.mp4", played[0].pairs[pair]
                    drawn = renderer.render_beside(shown, paths.output / file, fps=1 / (step_s * every), alive=alive)
                    made.append({
                        "file": str(file), "episode": pair + 1, "env": first.env, "why": roles, "return": first.total,
                        "length": first.length, **drawn,
                    })  # fmt: skip
    except (VideoError, RequestError) as error:
        for video in made:
            (paths.output / video["file"]).unlink()
        return None, error.reason if isinstance(error, VideoError) else str(error)
    return made, None


def _plan(wanted: Sequence[str], played: Sequence[Played]) -> dict[int, list[str]]:
    """Return the roles of each pair to draw: `worst` is the one that loses the most in another engine."""
    totals = [[episode.total for episode in one.pairs][:MOST_ENVS] for one in played]
    pairs = range(len(totals[0]))
    losses = [max(totals[0][pair] - other[pair] for other in totals[1:]) for pair in pairs]
    plan: dict[int, list[str]] = {}
    for role in wanted:
        match role:
            case "first":
                pair = 0
            case "best":
                pair = max(pairs, key=totals[0].__getitem__)
            case "worst":
                pair = max(pairs, key=losses.__getitem__)
            case _:
                pair = int(role) - 1
        if pair in pairs:
            plan.setdefault(pair, []).append(role)
    return plan


def _coordinates(env: Any, trace: Trace, pair: int, every: int) -> Array:
    """Return the joint coordinates of Newton's model for each picture of one traced episode."""
    import numpy as np
    import torch

    base = env.unwrapped
    drawn, states = Drawn.of_environment(env), trace.states[: int(trace.lengths[pair]) : every, pair]
    rows = []
    for state in states:
        values = dict(zip(trace.names, state, strict=True))
        for write, key, value in _writes(base, values):
            write(**{key: torch.tensor([value], device=base.device)})
        rows.append(drawn.values(drawn.state())[drawn.rows(0)].numpy().copy())
    return np.stack(rows)


def _writes(base: Any, values: dict[str, float]) -> Iterator[tuple[Any, str, list[float]]]:
    """Yield what brings the first environment into a state: functions of Isaac Lab's, and their arguments."""
    things = {**base.scene.articulations, **base.scene.rigid_objects}
    for name, thing in things.items():
        prefix = "" if len(things) == 1 else f"{name} "
        if name in base.scene.articulations:
            joints = [values[f"{prefix}{joint}{POSITION}"] for joint in thing.joint_names]
            yield thing.write_joint_position_to_sim_index, "position", joints
        if f"{prefix}root {POSE[0]}" in values:
            pose = [values[f"{prefix}root {name}"] for name in POSE]
            place = [here + origin for here, origin in zip(pose[:3], base.scene.env_origins[0].tolist(), strict=True)]
            yield thing.write_root_pose_to_sim_index, "root_pose", [*place, *pose[3:]]
