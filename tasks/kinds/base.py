"""A kind of job: its own part of the stages, which are the same for all, and the fields that all kinds share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from simyard.core.artifacts import SUMMARY, ArtifactType, promised
from simyard.core.evaluations import Evaluations
from simyard.core.files import AttemptPaths
from simyard.core.records import JobResult, Outcome
from simyard.core.specs import AttemptSpec, Facts, InputFile, JobSpec, Limits, ResumePoint
from simyard.core.stages import Stages
from simyard.core.wire import now
from simyard.requests.jobs import JobRequest
from simyard.runner.progress import Reader, counting_reader
from simyard.store.store import Store
from simyard.tasks.attempt.transfer import AttemptUploader
from simyard.tasks.shared.documents import ArtifactWriter
from simyard.tasks.shared.history import Artifact, Verdict
from simyard.tasks.shared.inputs import LocalInput


@dataclass(frozen=True)
class Resolved:
    """A frozen job and the local files it needs in the store."""

    spec: JobSpec
    inputs: tuple[LocalInput, ...] = ()


def common_fields(request: JobRequest, job_id: str, **more: Any) -> JobSpec:
    """Return the job with the fields that all kinds have in common, and more that its own kind knows."""
    limits, compute = request.timeouts, request.compute_config
    return JobSpec(
        job_id=job_id,
        name=request.name,
        description=request.description,
        gpus=compute.gpus_per_node if compute.num_nodes == 1 else compute.gpus_per_node or 1,
        nodes=compute.num_nodes,
        priority=compute.priority,
        accepts_eula=compute.accept_nvidia_eula,
        overrides=request.overrides,
        limits=Limits(
            wall_s=limits.wall_seconds,
            first_iteration_s=limits.first_iteration_seconds,
            iteration_s=limits.iteration_seconds,
            term_grace_s=limits.grace_seconds,
            close_grace_s=limits.close_seconds,
        ),
        session=compute.session == "auto" and compute.num_nodes * (compute.gpus_per_node or 1) == 1,
        retries=request.retries,
        created_at=now(),
        request=request.model_dump(mode="json", by_alias=True, exclude_unset=True),
        **more,
    )


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of a job."""

    reward: float | None = None
    """The one figure that a list shows: a mean return; None where none was measured."""
    summary: dict[str, Any] | None = None
    """Figures of the result, as the workload wrote them; of a training its speed; None where it left none."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Of a training: the summary of each tag, as in metrics.json."""
    stages: Stages | None = None
    """Of a training in stages: how they ran."""
    evaluations: Evaluations | None = None
    """Of a training whose checkpoints were evaluated while it went on."""
    notes: tuple[str, ...] = ()
    """What the figures say, for the report."""


class Kind:
    """One kind of job, seen from the stages."""

    name: ClassVar[str]
    unit: ClassVar[str]
    """Name of one unit of its progress, in the singular."""
    reward_name: ClassVar[str]
    """Name of `reward` in the report."""
    config: ClassVar[ArtifactType]
    """Artifact of the request as it came."""
    uploader_type: ClassVar[type[AttemptUploader]] = AttemptUploader
    """Class that sends an attempt's files to the store."""
    rebuilt: ClassVar[tuple[str, ...]] = ()
    """Beginnings of names that `keep` makes anew from all attempts."""

    def total(self, spec: JobSpec) -> int:
        """Return the number of units that the job does."""
        raise NotImplementedError

    def inputs(self, spec: JobSpec, resume: ResumePoint | None) -> list[InputFile]:
        """Return the files that an attempt fetches, besides packages, when it resumes from a checkpoint."""
        files = [file for policy in spec.policies for file in (policy.checkpoint, policy.normalizer)]
        files += [resume.checkpoint if resume else None, spec.agent_config.file if spec.agent_config else None]
        return [file for file in files if file is not None]

    def reader(self, attempt: AttemptSpec, facts: Facts) -> Reader:
        """Return the reader of the workload's output."""
        return counting_reader(self.unit)

    def uploader(
        self,
        store: Store,
        attempt: AttemptSpec,
        paths: AttemptPaths,
        facts: Facts | None,
        on_lines: Callable[[list[str]], None],
    ) -> AttemptUploader:
        """Return the uploader of the attempt's files."""
        total = self.total(attempt.job)
        return self.uploader_type(store, attempt, paths, facts, unit=self.unit, total=total, on_lines=on_lines)

    def missing(self, spec: JobSpec, outcome: Outcome, artifacts: tuple[Artifact, ...]) -> list[str]:
        """Return the missing parts of a job that reports a success, in words."""
        opened = (record.name for record in outcome.opened)
        return lacking((*promised(self.name), *opened), artifacts)

    def keep(self, spec: JobSpec, verdict: Verdict, writer: ArtifactWriter) -> Figures:
        """Keep artifacts made from the attempts' files; return the figures, by default of the workload's summary."""
        text = read_file(writer.store, verdict.artifacts, SUMMARY.name)
        summary: dict[str, Any] | None = json.loads(text) if text else None
        returns = summary["return"] if summary else None
        return Figures(reward=float(returns["mean"]) if returns else None, summary=summary)

    def headline(self, result: JobResult) -> str:
        """Return the outcome in a few words, for people."""
        raise NotImplementedError


def read_file(store: Store, artifacts: Iterable[Artifact], name: str) -> str | None:
    """Return the text of a file that the workload left; None when it left none."""
    key = next((artifact.key for artifact in artifacts if artifact.name == name), None)
    return store.get_bytes(key).decode() if key else None


def lacking(names: Iterable[str], artifacts: Iterable[Artifact]) -> list[str]:
    """Return the missing artifacts, in words."""
    have = {artifact.name for artifact in artifacts}
    return [f"no {name}" for name in dict.fromkeys(names) if name not in have]
