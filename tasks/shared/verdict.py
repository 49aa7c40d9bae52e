"""What collecting finds: the job's files, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from simyard.core.errors import Failure
from simyard.tasks.shared.history import PastAttempt


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file of the job."""

    name: str
    """Path below `artifacts/`."""
    kind: str
    key: str
    """Where it lies now."""
    size_bytes: int
    sha256: str | None = None
    """Known for what was hashed and opened before it left the machine; the others are hashed when kept."""
    extra: dict[str, Any] = field(default_factory=dict)
    """For a checkpoint: `iteration` and `parent`."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How the job ended."""

    status: str
    """`succeeded`, `failed` or `canceled`."""
    failure: Failure | None
    artifacts: tuple[Artifact, ...]
    attempts: tuple[PastAttempt, ...]
    chain: tuple[tuple[PastAttempt, int | None], ...]
    """The attempts whose work was kept, each with the iteration at which the next took over."""

    @property
    def outcome(self) -> dict[str, Any]:
        """The last attempt's own account; empty when it left none."""
        return (self.attempts[-1].outcome or {}) if self.attempts else {}
