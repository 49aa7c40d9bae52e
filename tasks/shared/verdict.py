"""Findings of the collect stage: the job's files, and its result."""

from __future__ import annotations

from dataclasses import dataclass

from simyard.core.errors import Failure
from simyard.core.records import Ended, Outcome
from simyard.tasks.shared.history import PastAttempt


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file of the job."""

    name: str
    """Path below `artifacts/`."""
    kind: str
    key: str
    """Present key in the store."""
    size_bytes: int
    sha256: str | None = None
    """Known for what was hashed and opened before it left the machine; the others are hashed when kept."""
    iteration: int | None = None
    """Of a checkpoint, as in its record."""
    parent: str | None = None
    """Of a checkpoint, as in its record."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Result of the job."""

    status: Ended
    failure: Failure | None
    artifacts: tuple[Artifact, ...]
    attempts: tuple[PastAttempt, ...]
    chain: tuple[tuple[PastAttempt, int | None], ...]
    """The attempts whose work was kept, each with the iteration at which the next took over."""

    @property
    def outcome(self) -> Outcome | None:
        """The last attempt's own account; None when it left none."""
        return self.attempts[-1].outcome if self.attempts else None
