"""A request -> a frozen sweep, and a setting of it -> the jobs that train and measure it.

A job of a sweep is known by its content: the same training of the same code is one job, in this sweep or another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from simyard.core.artifacts import METRICS_SUMMARY
from simyard.core.errors import RequestError, unknown
from simyard.core.records import Estimate
from simyard.core.specs import JobSpec, ResumePoint
from simyard.core.wire import Wire, now_ms
from simyard.requests.jobs import EvaluateRequest, EvaluationConfig, FromJob
from simyard.requests.settings import MachineSettings
from simyard.requests.sweeps import Measurement, SweepRequest
from simyard.store import keys
from simyard.store.keys import JobKeys, SweepKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.kinds.base import Resolved
from simyard.tasks.resolve import resolve, settle
from simyard.tasks.shared import idempotency
from simyard.tasks.shared.estimates import as_placed, job_like
from simyard.tasks.shared.inputs import LocalInput
from simyard.tasks.shared.usage import require_price
from simyard.tasks.stage import send_inputs
from simyard.tasks.sweeps.price import estimate_sweep

_UNNAMED = "job-" + "0" * 26
"""The id of the training that stands for all of them."""
_FOR_PEOPLE = (
    "job_id", "name", "description", "priority", "accepts_eula", "limits", "session", "retries", "created_at",
    "from_job", "request", "notes", "renamed_from", "schema_version", "resume",
)  # fmt: skip
"""Fields of a job that do not change what it computes; `resume` is told by the digests of its files."""
_THAT_LOGS = ("task", "library", "agent", "agent_config", "overrides", "packages", "stages")
"""Fields of a job on which the tags that it logs depend."""
UNKNOWN_METRIC = "unknown_metric"
"""Code of the failure of a sweep whose objective no training of its task logs, or no evaluation measures."""


@dataclass(frozen=True, kw_only=True)
class SweepSpec(Wire):
    """Everything fixed about a sweep."""

    sweep_id: str
    request: dict[str, Any]
    """As it came."""
    template: JobSpec
    """The training without any parameter's value."""
    versions: dict[str, str] | None
    """Versions that decide the result, as the simulator told them before the sweep began; None where it was not
    asked, since it is elsewhere."""
    usd_per_gpu_hour: float | None
    """Price of a GPU hour in US dollars; None where the site names none."""
    created_at: str
    """UTC, ISO 8601."""

    @cached_property
    def asked(self) -> SweepRequest:
        """The request, read."""
        return SweepRequest.model_validate(self.request)


@dataclass(frozen=True)
class ResolvedSweep:
    """A frozen sweep and the local files it needs in the store."""

    spec: SweepSpec
    inputs: tuple[LocalInput, ...]

    @property
    def probes(self) -> list[Resolved]:
        """Trainings that have every value at least once, or both ends of its range: what the simulator checks."""
        seed = self.spec.asked.seeds[0]
        return [
            Resolved(training(self.spec, values, seed, resume=self.spec.template.resume), self.inputs)
            for values in self.spec.asked.probes
        ]


def resolve_sweep(
    request: SweepRequest, store: Store, sweep_id: str, base: Path, machine: MachineSettings
) -> ResolvedSweep:
    """Turn a request into a frozen sweep; writes nothing.

    Args:
        request: The checked request.
        store: Where the sweep will live.
        sweep_id: The new sweep's id.
        base: Folder that relative paths start from.
        machine: Settings of this machine.

    Raises:
        RequestError: If a training of it would be refused.
    """
    require_price(machine, request.sweep.budget.max_credits, "sweep.budget.maxCredits")
    template = resolve(request.training({}, request.seeds[0]), store, _UNNAMED, base)
    _require_metric(request, template.spec, store)
    spec = SweepSpec(
        sweep_id=keys.check_sweep_id(sweep_id),
        request=request.model_dump(mode="json", by_alias=True, exclude_unset=True),
        template=template.spec,
        versions=None,
        usd_per_gpu_hour=machine.usd_per_gpu_hour,
        created_at=now_ms(),
    )
    resolved = ResolvedSweep(spec, template.inputs)
    assert resolved.probes  # each of them can be
    return resolved


def _require_metric(request: SweepRequest, template: JobSpec, store: Store) -> None:
    """Raise `RequestError` for a metric that a training of the same task and overrides did not log."""
    metrics = [one.metric for one in request.sweep.objectives if one.metric and one.measurement is None]
    source = job_like(template, store) if metrics else None
    other = store.get_record_or_none(JobKeys(source).job, JobSpec) if source else None
    if other is None or any(getattr(other, name) != getattr(template, name) for name in _THAT_LOGS):
        return
    tags = store.get_json_or_none(JobKeys(other.job_id).artifact(METRICS_SUMMARY.name))
    for metric in metrics:
        if tags and metric not in tags:
            raise unknown("sweep.objective.metric", metric, tags, code=UNKNOWN_METRIC)


def stage_sweep(resolved: ResolvedSweep, store: Store, *, is_here: bool = False) -> Estimate:
    """Put into the store what the trainings need, and then the sweep itself, which makes it exist. Idempotent.

    Args:
        resolved: The sweep.
        store: Its store.
        is_here: Whether its trainings run in this process.

    Returns:
        The estimate of the sweep.
    """
    send_inputs(resolved.inputs, store)
    spec, key = resolved.spec, SweepKeys(resolved.spec.sweep_id)
    if store.exists(key.sweep) and (known := store.get_record_or_none(key.estimate, Estimate)) is not None:
        return known
    template = as_placed(spec.template, None) if is_here else spec.template
    made = estimate_sweep(spec.asked, template, store, spec.usd_per_gpu_hour)
    store.put_record(key.estimate, made)
    if not store.exists(key.sweep):
        store.put_json(key.sweep, spec.to_json())
    return made


def load_sweep(store: Store, sweep_id: str) -> SweepSpec:
    """Read a frozen sweep.

    Raises:
        RequestError: If the store has no such sweep.
    """
    try:
        return SweepSpec.from_json(store.get_json(SweepKeys(keys.check_sweep_id(sweep_id)).sweep))
    except KeyNotFound as error:
        raise RequestError(
            f"There is no sweep {sweep_id!r} in {store.url()}.",
            code="unknown_sweep",
            advice="See `simyard sweep list`.",
        ) from error


# --- the jobs ---------------------------------------------------------------------------------------------------------


def training(
    sweep: SweepSpec, values: Mapping[str, Any], seed: int, *, iterations: int | None = None,
    resume: ResumePoint | None = None, number: int = 0,
) -> JobSpec:  # fmt: skip
    """Return the training of a setting with one seed, which has no id of its own yet.

    Args:
        sweep: The sweep.
        values: Of the parameters, by path.
        seed: Of the training.
        iterations: That it makes; None for all that the config says.
        resume: What it goes on from; None begins anew.
        number: Of the setting, for the name.
    """
    template = sweep.template
    asked = sweep.asked.training(values, seed, iterations=None if template.stages else iterations)
    section = asked.training_config
    name = f"{sweep.asked.name}: setting {number}, seed {seed}"
    is_other = "trainingConfig.agent" in values or "trainingConfig.rlLibrary" in values
    return settle(
        replace(
            template,
            name=name[:200],
            task=section.task if "trainingConfig.task" in values else template.task,
            renamed_from=None if "trainingConfig.task" in values else template.renamed_from,
            library=section.rl_library,
            agent=section.agent if is_other else template.agent,
            physics=asked.physics,
            num_envs=section.num_envs,
            seed=seed,
            max_iterations=template.max_iterations if template.stages else section.max_iterations,
            overrides=asked.overrides,
            resume=resume,
            created_at=now_ms(),
            request=asked.model_dump(mode="json", by_alias=True, exclude_unset=True) | {"name": name[:200]},
        )
    )


def evaluation(sweep: SweepSpec, trained: JobSpec, store: Store) -> JobSpec:
    """Return the evaluation that measures a trained policy, which has no id of its own yet."""
    objective = sweep.asked.sweep.evaluated
    assert objective is not None
    measured = objective.measurement or Measurement()
    which = "best" if objective.which == "best" else "latest"
    section = EvaluationConfig(
        from_job=FromJob(job_id=trained.job_id, which=which),
        record_video=False,
        **{name: value for name, value in measured.model_dump().items() if value is not None},
    )
    request = EvaluateRequest(
        name=f"{trained.name[:180]}, measured", training_config=section, retries=sweep.template.retries
    )
    return replace(resolve(request, store, _UNNAMED).spec, created_at=now_ms())


def by_content(spec: JobSpec, versions: Mapping[str, str] | None, store: Store) -> JobSpec:
    """Return a job under the id that its content stands for: the one that it was first claimed with.

    What is claimed and was never staged, since its process died between, is staged under that id by the next to come.
    """
    document = {name: value for name, value in spec.to_json().items() if name not in _FOR_PEOPLE}
    document["agent_config"] = spec.agent_config and [spec.agent_config.file.sha256, spec.agent_config.mode]
    document["packages"] = [package.sha256 for package in spec.packages]
    document["policies"] = [
        [file.sha256 for file in (policy.checkpoint, policy.normalizer) if file] for policy in spec.policies
    ]
    if spec.resume is not None:
        state = spec.resume.state
        document["resume"] = [spec.resume.checkpoint.sha256, spec.resume.iteration, state and state.sha256]
    content = {"job": document, "versions": dict(versions or {})}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return replace(spec, job_id=idempotency.claim(store, f"content {digest}", keys.new_job_id(), content))
