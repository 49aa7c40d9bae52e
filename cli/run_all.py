"""`simyard run`: several configs, one after another, in one simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic.alias_generators import to_camel

from simyard.blocks.reference import absolute, open_store
from simyard.cli.live import LiveLine
from simyard.cli.run import execute_in
from simyard.core.specs import Bounds
from simyard.requests.config import check_config, model_of, read_config
from simyard.requests.jobs import JobRequest, TrainRequest
from simyard.requests.rollout import SubmitRequest
from simyard.requests.settings import Site
from simyard.store import keys
from simyard.tasks.resolve import resolve
from simyard.tasks.sessions.pool import Sessions

_SOURCES = ("checkpoint_path", "policy_s3_uri", "policy_path", "from_job")


@dataclass(frozen=True)
class _Step:
    config: Path
    request: JobRequest
    job_id: str


def run_all(configs: Sequence[Path], reference: str | None, pool: str | None, *, quiet: bool) -> list[dict[str, Any]]:
    """Run the job of each config; the first that does not succeed is the last.

    Args:
        configs: JSON files of any kinds.
        reference: The store, as the user named it.
        pool: The work pool; None runs them in this process.
        quiet: Whether to print nothing.

    Returns:
        The results of the jobs that ran.

    Raises:
        RequestError: If one of them is bad; when its config tells that, nothing was created.
    """
    site = Site.from_env()
    reference = absolute(reference or site.store)
    store = open_store(reference)
    steps = _plan(configs)
    results: list[dict[str, Any]] = []
    with Sessions(site, Bounds()) as sessions:
        for number, step in enumerate(steps):
            base = step.config.resolve().parent
            resolved = resolve(step.request, store, step.job_id, base)
            if not quiet and len(steps) > 1:
                LiveLine().say(f"{number + 1} of {len(steps)}: {step.request.name}")
            results += execute_in(sessions, resolved, step.request, store, reference, pool, quiet=quiet)
            if results[-1]["status"] != "succeeded":
                if left := [str(other.config) for other in steps[number + 1 :]]:
                    LiveLine().say(f"not run:     {', '.join(left)}")
                break
    return results


def _plan(configs: Sequence[Path]) -> list[_Step]:
    """Check all configs, and let those without a policy take that of the training before them."""
    steps: list[_Step] = []
    trained: str | None = None
    for path in configs:
        config = read_config(path, TrainRequest)
        model = model_of(config)
        job_id = keys.new_job_id()
        if trained is not None and model is not TrainRequest:
            config = _with_policy(config, model, trained)
        steps.append(_Step(path, check_config(config, model), job_id))
        trained = job_id if model is TrainRequest else trained
    return steps


def _with_policy(config: dict[str, Any], model: type[JobRequest], trained: str) -> dict[str, Any]:
    """Name the training as the source of the policy, where a policy is needed and none is named."""
    if model is SubmitRequest:
        control = config.get("control")
        if not isinstance(control, dict) or control.get("task_mode") != "policy" or "policy" in config:
            return config
        return config | {"policy": {"from_job": {"job_id": trained}}}
    assert model.SECTION is not None
    key = next(name for name in (model.SECTION, to_camel(model.SECTION)) if name in config)
    section = config[key]
    if not isinstance(section, dict) or any(name in section for s in _SOURCES for name in (s, to_camel(s))):
        return config
    return config | {key: section | {"fromJob": {"jobId": trained}}}
