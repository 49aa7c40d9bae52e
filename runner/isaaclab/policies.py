"""Trained policies, checked against the task that they are to play, before the simulator starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError, unknown
from simyard.core.specs import SAFE_GLOBALS, JobSpec
from simyard.runner.evaluation.episode_statistics import TERMINATED, TIME_OUT
from simyard.runner.exporting.checklist import parse_answers
from simyard.runner.exporting.evidence import parse_limits
from simyard.runner.rl import LIBRARIES
from simyard.runner.rl import safe_load as checkpoint_files
from simyard.runner.rl.checkpoints import expected_of, inspect


def check_policies(job: JobSpec, env_cfg: dict[str, Any], agent_cfg: dict[str, Any], files: Mapping[str, Path]) -> None:
    """Open every checkpoint that is here, and compare it with the task.

    Raises:
        RequestError: If one does not fit, or the job asks for what the task does not have.
    """
    if job.policies and "possible_agents" in env_cfg:
        raise RequestError(
            f"Task {job.task!r} has several agents.",
            code="multi_agent",
            advice="Evaluation and export take tasks with one agent.",
        )
    if job.evaluation and job.evaluation.success_termination:
        _require_termination(job.evaluation.success_termination, env_cfg)
    if job.export:
        parse_answers(job.export.answers)
        parse_limits(job.export.action_limits)
    expected = expected_of(job.library, env_cfg, agent_cfg, job.task)
    for policy in job.policies:
        if path := files.get(policy.checkpoint.sha256):
            inspect(path, library=job.library, expected=expected, allowed_globals=safe_globals())


def safe_globals() -> tuple[str, ...]:
    """Return the classes that this site allows in checkpoints besides plain tensors."""
    return tuple(name.strip() for name in os.environ.get(SAFE_GLOBALS, "").split(",") if name.strip())


def refuse_pickled_code(checkpoint: Path) -> None:
    """Raise `RequestError` unless the checkpoint loads as plain tensors and containers.

    Every library loads checkpoints with pickle, which runs whatever code a file from outside names.
    """
    checkpoint_files.load(checkpoint)
    for name, library in LIBRARIES.items():
        if library.has_pickled_settings(checkpoint):
            raise RequestError(
                f"Checkpoint {checkpoint.name!r} is not plain weights: {name} pickles its settings beside them, and "
                "runs them to resume.",
                code="unsafe_checkpoint",
                advice=f"Only {name} checkpoints that a job of this store wrote can be resumed: use resume.from_job.",
            )


def _require_termination(name: str, env_cfg: dict[str, Any]) -> None:
    terms = env_cfg.get("terminations")
    known = [key for key, value in terms.items() if value is not None] if terms else [TERMINATED, TIME_OUT]
    if name not in known:
        raise unknown("successTermination", name, known, code="unknown_termination")
