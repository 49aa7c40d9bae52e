"""A kind of job: its own part of the stages, which are the same for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from simyard.core.artifacts import ArtifactType, promised
from simyard.core.files import AttemptPaths
from simyard.core.records import JobResult, Outcome
from simyard.core.specs import AttemptSpec, Facts, InputFile, JobSpec, ResumePoint
from simyard.runner.progress import Reader, counting_reader
from simyard.store.store import Store
from simyard.tasks.attempt.uploader import Mirror
from simyard.tasks.shared.documents import Keeper
from simyard.tasks.shared.history import Artifact, Verdict


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
