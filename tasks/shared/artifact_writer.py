"""Puts files below a job's `artifacts/`, and remembers each for the manifest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from simyard.core.artifacts import ArtifactType
from simyard.core.records import ArtifactEntry
from simyard.store.keys import JobKeys
from simyard.store.store import Store, sha256_file
from simyard.tasks.shared.verdict import Artifact


@dataclass
class Keeper:
    """One verdict's files."""

    store: Store
    job: JobKeys
    scratch: Path
    entries: list[ArtifactEntry] = field(default_factory=list)
    fetched: dict[str, Path] = field(default_factory=dict)

    def fetch(self, key: str) -> Path:
        """Return a local copy of an object; each is read from the store once."""
        if key not in self.fetched:
            local = self.scratch / f"fetched-{len(self.fetched)}"
            self.store.get_file(key, local)
            self.fetched[key] = local
        return self.fetched[key]

    def copy(self, artifact: Artifact) -> None:
        """Keep a file that an attempt left; one without a digest is read to get it."""
        digest = artifact.sha256 or sha256_file(self.fetch(artifact.key))
        self.store.copy(artifact.key, self.job.artifact(artifact.name))
        self.entries.append(
            ArtifactEntry(
                name=artifact.name, kind=artifact.kind, size_bytes=artifact.size_bytes, sha256=digest,
                iteration=artifact.iteration, parent=artifact.parent,
            )
        )  # fmt: skip

    def add(self, made: ArtifactType) -> None:
        """Keep a file that was made in the scratch folder under its artifact name."""
        path = self.scratch / made.name
        self.store.put_file(self.job.artifact(made.name), path)
        size = path.stat().st_size
        self.entries.append(ArtifactEntry(name=made.name, kind=made.kind, size_bytes=size, sha256=sha256_file(path)))
