"""Training, by the code path of `isaaclab train`."""

from __future__ import annotations

from simyard.core.files import AttemptPaths
from simyard.core.specs import AttemptSpec, Facts
from simyard.runner.isaaclab import kit
from simyard.runner.isaaclab import lookup as isaaclab_lookup
from simyard.runner.isaaclab import overrides as isaaclab_overrides
from simyard.runner.isaaclab import scripts as isaaclab_scripts
from simyard.runner.isaaclab.environment import stepped
from simyard.runner.isaaclab.training_state import ANEW, keeper_of
from simyard.runner.progress import say_note
from simyard.runner.rl import Resumption, Scale, get_library


def train(attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
    """Train, by the code path of `isaaclab train`."""
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
            agent_cfg=isaaclab_overrides.agent_of(job.task, library, facts.overrides) if is_known else {},
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
        num_envs=job.num_envs,
        seed=job.seed,
        max_iterations=library.limit(job.last_iteration, attempt.start_iteration),
        device=facts.device,
        backend_args=tuple(library.arguments(Scale(num_envs=job.num_envs, rollout=facts.rollout))),
        hydra_args=(*facts.overrides, *resumed_with),
    )

    # Learn: here, or in a process for each GPU. The library saves, and the supervisor takes what it saves.
    if attempt.world is not None:
        from simyard.runner.isaaclab.ranks import train_together

        if attempt.start_iteration:
            say_note(f"{ANEW}: of {job.ranks} ranks no state is kept")
        train_together(request, attempt, attempt.world, paths)
        return
    keeper = keeper_of(attempt, facts, paths)
    with kit.only_if(facts.kit), stepped(attempt.start_iteration * facts.rollout), library.kept_by(keeper):
        code = train_by_isaaclab(request)
    if code:
        raise RuntimeError(f"isaaclab_rl.entrypoints.train returned {code}")
