"""A kind of job: its own part of the stages, which are the same for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from simyard.core.artifacts import ArtifactType, promised
from simyard.core.files import AttemptPaths
from simyard.core.records import JobResult, Outcome
from simyard.core.specs import AttemptSpec, Facts, InputFile, JobSpec, Limits, ResumePoint
from simyard.requests.jobs import JobRequest
from simyard.runner.progress import Reader, counting_reader
from simyard.store.store import Store
from simyard.tasks.attempt.transfer import Mirror
from simyard.tasks.shared.artifact_writer import Keeper
from simyard.tasks.shared.inputs import LocalInput
from simyard.tasks.shared.verdict import Artifact, Verdict


@dataclass(frozen=True)
class Resolved:
    """A frozen job and the local files it needs in the store."""

    spec: JobSpec
    inputs: tuple[LocalInput, ...] = ()


def frame(request: JobRequest, job_id: str, **own: Any) -> JobSpec:
    """Return the job with what all kinds have in common; `own` are the fields that its kind knows."""
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
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        request=request.model_dump(mode="json", by_alias=True, exclude_unset=True),
        **own,
    )


class Kind:
    """One kind of job, seen from the stages."""

    name: ClassVar[str]
    unit: ClassVar[str]
    """Name of one unit of its progress, in the singular."""
    reward_name: ClassVar[str]
    """Name of `reward` in the report."""
    config: ClassVar[ArtifactType]
    """Artifact of the request as it came."""
    mirror_type: ClassVar[type[Mirror]] = Mirror
    """Class that carries an attempt's files to the store."""
    rebuilt: ClassVar[tuple[str, ...]] = ()
    """Beginnings of names that `keep` makes anew from all attempts."""

    def total(self, spec: JobSpec) -> int:
        """Return the number of units that the job does."""
        raise NotImplementedError

    def inputs(self, spec: JobSpec, resume: ResumePoint | None) -> list[InputFile]:
        """Return the files that an attempt fetches, besides packages, when it takes up `resume`."""
        files = (file for policy in spec.policies for file in (policy.checkpoint, policy.normalizer))
        return [file for file in files if file is not None]

    def reader(self, attempt: AttemptSpec, facts: Facts) -> Reader:
        """Return the reader of the workload's output."""
        return counting_reader(self.unit)

    def mirror(
        self,
        store: Store,
        attempt: AttemptSpec,
        paths: AttemptPaths,
        facts: Facts | None,
        on_lines: Callable[[list[str]], None],
    ) -> Mirror:
        """Return the attempt's way to the store."""
        total = self.total(attempt.job)
        return self.mirror_type(store, attempt, paths, unit=self.unit, total=total, on_lines=on_lines)

    def missing(self, spec: JobSpec, outcome: Outcome, artifacts: tuple[Artifact, ...]) -> list[str]:
        """Return the missing parts of a job that reports a success, in words."""
        opened = (record.name for record in outcome.opened)
        return lacking((*promised(self.name), *opened), artifacts)

    def keep(self, spec: JobSpec, verdict: Verdict, keeper: Keeper) -> dict[str, Any]:
        """Keep the artifacts made from the attempts' files, and return the job's figures."""
        raise NotImplementedError

    def reward(self, spec: JobSpec, figures: dict[str, Any]) -> float | None:
        """Return the one figure a list shows: a mean return; None where none was measured."""
        raise NotImplementedError

    def summary(self, figures: dict[str, Any]) -> dict[str, Any] | None:
        """Return those of the figures that belong in the result; None where the job has none."""
        return figures or None

    def headline(self, result: JobResult) -> str:
        """Return the outcome in a few words, for people."""
        raise NotImplementedError


def lacking(names: Iterable[str], artifacts: Iterable[Artifact]) -> list[str]:
    """Return the missing artifacts, in words."""
    have = {artifact.name for artifact in artifacts}
    return [f"no {name}" for name in dict.fromkeys(names) if name not in have]
