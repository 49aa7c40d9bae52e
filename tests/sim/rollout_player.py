"""The simulator's side of `test_task_rollouts.py`, which the player calls: checks and runs prepared rollouts."""

import shutil
from pathlib import Path

from policy_player import NEWTON, TASK, save_untrained

from simyard.core.errors import RequestError
from simyard.core.files import AttemptPaths, read_json, write_json
from simyard.core.specs import AttemptSpec
from simyard.runner.adapter import adapter_of
from simyard.runner.isaaclab.environment import fresh_environment
from simyard.runner.rl import get_library
from simyard.runner.session import run_alone


def play_all(folder: Path, names: list[str]) -> None:
    """Check and run the jobs prepared in folders, one after another.

    A checkpoint is made first, of an untrained policy for the cartpole, and given to every job that has a policy. Each
    job has an attempt.json; it gets facts.json and what a rollout leaves, or refused.json.
    """
    make_checkpoint(folder / "model_0.pt")
    for name in names:
        play(AttemptPaths(folder / name), folder / "model_0.pt")


def make_checkpoint(path: Path) -> None:
    overrides = [NEWTON, "agent.device=cpu"]
    with fresh_environment(TASK, get_library("rsl_rl"), overrides, num_envs=1, seed=3, device="cpu") as (env, cfg):
        save_untrained(env, cfg, path)


def play(paths: AttemptPaths, checkpoint: Path) -> None:
    job = AttemptSpec.from_json(read_json(paths.spec)).job
    files = {}  # the checkpoint too is opened before anything is simulated
    for policy in job.policies:
        files[policy.checkpoint.sha256] = Path(shutil.copy(checkpoint, paths.inputs / policy.checkpoint.name))
    try:
        facts = adapter_of(job.simulator)().check(job, paths.overlay if job.packages else None, files)
    except RequestError as error:
        write_json(paths.root / "refused.json", error.failure.to_json())
        return
    write_json(paths.facts, facts.to_json())
    run_alone(paths)
