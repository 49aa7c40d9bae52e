"""Training, by the code path of `isaaclab train`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from simyard.core.files import AttemptPaths
from simyard.core.specs import AttemptSpec, Facts
from simyard.runner.isaaclab import kit
from simyard.runner.isaaclab import lookup as isaaclab_lookup
from simyard.runner.isaaclab import overrides as isaaclab_overrides
from simyard.runner.isaaclab import scripts as isaaclab_scripts
from simyard.runner.isaaclab.agents import registered_agent
from simyard.runner.isaaclab.environment import stepped
from simyard.runner.isaaclab.training_state import ANEW, keeper_of
from simyard.runner.progress import say_note, say_stopped
from simyard.runner.rl import Resumption, Scale, get_library
from simyard.runner.rl.base import TrainingWatch


def train(
    attempt: AttemptSpec,
    facts: Facts,
    paths: AttemptPaths,
    *,
    steps_done: int | None = None,
    more_arguments: tuple[str, ...] = (),
    made: Callable[[Any], None] = lambda env: None,
    anew: bool = False,
) -> None:
    """Train, by the code path of `isaaclab train`.

    Args:
        attempt: The attempt; a stage of one is a training like any other.
        facts: The simulator's facts about it.
        paths: Its folder.
        steps_done: Steps that the environment goes on counting from; None reckons them from the iterations.
        more_arguments: For Isaac Lab's command line.
        made: Called with the innermost environment when it is made, before its first reset.
        anew: Whether simulation and episodes begin anew on purpose, as in a stage that begins.
    """
    job = attempt.job
    library = get_library(job.library)

    # Prepare: open the checkpoint safely, then let the library shape it for its own way of resuming.
    checkpoint, resumed_with = None, list[str]()
    if attempt.resume is not None:
        source = paths.inputs / attempt.resume.checkpoint.name
        if not attempt.resume.trusted:
            isaaclab_lookup.refuse_pickled_code(source)
        folder = paths.inputs / "resume"
        folder.mkdir(exist_ok=True)
        is_own = attempt.resume != job.resume
        is_known = facts.flavor == "api"
        resumption = Resumption(
            checkpoint=source,
            folder=folder,
            start_iteration=attempt.start_iteration,
            share=(job.last_iteration - attempt.start_iteration) / max(job.max_iterations, 1),
            scale=Scale(num_envs=job.num_envs, rollout=facts.rollout),
            seed=job.seed,
            agent_cfg=isaaclab_overrides.agent_of(job.task, library, facts.overrides, job.agent) if is_known else {},
            given=frozenset() if is_own else job.overridden,
        )
        checkpoint, resumed_with = library.prepare_resume(resumption)
    if facts.flavor == "scripts":
        isaaclab_scripts.run(attempt, facts, library, checkpoint, paths)
        return

    # Build: the request to Isaac Lab, which makes environment, agent and runner of it.
    from isaaclab_rl.entrypoints import TrainingRequest
    from isaaclab_rl.entrypoints import train as train_by_isaaclab

    request = TrainingRequest(
        backend=job.library,
        task=job.task,
        checkpoint=str(checkpoint) if checkpoint else None,
        agent=registered_agent(job.task, library, job.agent),
        num_envs=job.num_envs,
        seed=job.seed,
        max_iterations=library.limit(job.last_iteration, attempt.start_iteration),
        device=facts.device,
        backend_args=(*library.arguments(Scale(num_envs=job.num_envs, rollout=facts.rollout)), *more_arguments),
        hydra_args=(*facts.overrides, *resumed_with),
    )

    # Learn: here, or in a process for each GPU. The library saves, and the supervisor takes what it saves.
    if attempt.world is not None:
        from simyard.runner.isaaclab.ranks import train_together

        if attempt.start_iteration:
            say_note(f"{ANEW}: of {job.ranks} ranks no state is kept")
        train_together(request, attempt, attempt.world, paths)
        return
    steps = attempt.start_iteration * facts.rollout if steps_done is None else steps_done
    keeper = keeper_of(attempt, facts, paths, anew=anew)
    began, stop = time.monotonic(), StopWatch(attempt, paths) if job.stop_when else None
    watched = library.watched(stop) if stop else nullcontext()
    with kit.only_if(facts.kit), stepped(steps, made, order=job.order), watched, library.kept_by(keeper):
        code = train_by_isaaclab(request)
    if code:
        raise RuntimeError(f"isaaclab_rl.entrypoints.train returned {code}")
    if stop is not None and stop.why is not None:  # Isaac Lab takes it for an interruption, and does not say the time
        say_stopped(stop.done, stop.why)
        print(f"Training time: {time.monotonic() - began:.2f} seconds")


class StopWatch(TrainingWatch):
    """Ends a training behind the iteration in which its supervisor asks for that."""

    def __init__(self, attempt: AttemptSpec, paths: AttemptPaths) -> None:
        self.first_iteration = self.done = attempt.start_iteration
        self.seconds = 0.0
        self.why: str | None = None
        """Reason of the end; None while nobody has asked for it."""
        self._paths, self._last = paths, attempt.job.last_iteration

    def begin(self, env: Any) -> None:
        """Do nothing: the environment says nothing about the end."""

    def iterated(self, iteration: int, metrics: Mapping[str, float], seconds: float) -> bool:
        """Count an iteration, and look whether it is to be the last one."""
        self.done = iteration + 1
        if self.done < self._last and self._paths.stop.exists():
            with self._paths.open(self._paths.stop) as file:
                self.why = str(json.loads(file.read())["why"])
        return self.why is not None

    def saving(self, file: Path) -> None:
        """Do nothing: a checkpoint needs nothing beside it."""
