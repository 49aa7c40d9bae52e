"""Estimates of the room that a job's files take on a disk, from its configuration alone: nothing was simulated yet.

Logs, tables and pictures are left out: beside these they are small.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from simyard.core.specs import JobSpec, Room
from simyard.runner.rl import Library, Scale
from simyard.runner.rl.checkpoints import expected_of

_HIDDEN = (256, 256)
_OUTSIDE = 64
"""Sizes of a network, and of what it takes and gives, where the configuration does not tell."""
_BYTES_A_WEIGHT = 4 * 3 * 2
"""Of a float32 and two moments of its optimiser, for an actor and a critic alike."""
_LEAST_CHECKPOINT = 15_000
_FILM_BYTES_A_S = 100_000
_FILM_S = 120.0
"""Length of the longest film."""


def of_training(job: JobSpec, library: Library, config: Any, scale: Scale) -> Room | None:
    """Return the room for a training's checkpoints; None where the library does not tell how many.

    Args:
        job: The job.
        library: Its library.
        config: The resolved configuration of its task, `env` and `agent`.
        scale: The job's sizes.
    """
    if not (count := library.checkpoints(config.agent, job.max_iterations, scale)):
        return None
    if job.resume is not None:
        size, like = job.resume.checkpoint.size_bytes, "as large as the one it goes on from"
    else:
        network = expected_of(job.library, config.env, config.agent, job.task)
        hidden = network.hidden or _HIDDEN
        sizes = (network.inputs or max(_OUTSIDE, *hidden), *hidden, network.outputs or _OUTSIDE)
        weights = sum((before + 1) * after for before, after in pairwise(sizes))
        size, like = _LEAST_CHECKPOINT + weights * _BYTES_A_WEIGHT, f"of a network of {'-'.join(map(str, hidden))}"
    return Room(size_bytes=count * size, what=f"{count:,} checkpoints {like}")


def of_rollout(job: JobSpec, step_s: float, numbers: int = 0) -> Room:
    """Return the room for a rollout's arrays before they are compressed, and for its film.

    Args:
        job: The job.
        step_s: Seconds of a control step.
        numbers: Of one step of one environment, as far as they are known before; pictures are.
    """
    wanted = job.rollout
    assert wanted is not None
    pictures = sum(camera.width * camera.height * 3 for camera in wanted.cameras or ())
    steps = job.num_envs * wanted.steps
    size = steps * (4 * numbers + pictures)
    what = [f"{steps:,} recorded steps before compression"]
    if wanted.video:
        size += _film(wanted.steps * step_s)
        what.append("a film")
    return Room(size_bytes=size, what=" and ".join(what))


def of_films(lengths_s: Iterable[float]) -> Room | None:
    """Return the room for films of these lengths; None where there is none."""
    sizes = [_film(length_s) for length_s in lengths_s]
    return Room(size_bytes=sum(sizes), what=f"{len(sizes)} films") if sizes else None


def _film(length_s: float) -> int:
    return int(_FILM_BYTES_A_S * min(length_s, _FILM_S))
