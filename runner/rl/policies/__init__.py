"""Trained policies: each library's own inference, and its network. To add one: write its file, name it here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError, unknown
from simyard.runner.rl.policies.base import Normalizer, Policy, undisturbed
from simyard.runner.rl.policies.rl_games import RlGamesPolicy
from simyard.runner.rl.policies.rsl_rl import RslRlPolicy
from simyard.runner.rl.policies.sb3 import Sb3Policy
from simyard.runner.rl.policies.skrl import SkrlPolicy

POLICIES: dict[str, type[Policy]] = {
    policy.library: policy for policy in (RslRlPolicy, SkrlPolicy, RlGamesPolicy, Sb3Policy)
}


def load_policy(
    library_name: str, env: Any, agent_cfg: Any, checkpoint: Path, normalizer: Path | None = None
) -> Policy:
    """Build a library's agent on an environment and load a checkpoint into it; see `Policy`.

    Nothing outside the policy changes: random numbers go on as if it had not been built, and what is given stays as
    it is.

    Raises:
        RequestError: If the checkpoint does not fit the environment and the agent's configuration.
    """
    if library_name not in POLICIES:
        raise unknown("rlLibrary", library_name, POLICIES, code="unknown_library")
    if hasattr(env.unwrapped, "possible_agents"):
        raise RequestError(
            f"The task has several agents ({', '.join(env.unwrapped.possible_agents)}); a policy here is for one.",
            code="multi_agent_task",
            advice="Use a task with one agent.",
        )
    try:
        with undisturbed(str(env.unwrapped.device)):
            return POLICIES[library_name](env, agent_cfg, checkpoint, normalizer)
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise RequestError(
            f"Checkpoint {checkpoint.name!r} does not fit the task and its agent configuration: {_first(error)}",
            code="checkpoint_wrong_shape",
            advice="Give the task and the overrides it was trained with.",
        ) from error


def _first(error: RuntimeError) -> str:
    """Return the first of torch's complaints: it has a line for every tensor."""
    return " ".join(line.strip() for line in str(error).splitlines()[:2])


__all__ = ["POLICIES", "Normalizer", "Policy", "load_policy"]
