"""What the store holds: one frozen dataclass a document, written and read through `core/wire.py`.

Times are UTC in ISO 8601 unless a field says otherwise. A document without a `schema_version` is of the version of the
job's frozen spec beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from simyard.core.errors import Category, Failure
from simyard.core.specs import Facts, InputFile
from simyard.core.wire import ABSENT, Wire

Ended = Literal["succeeded", "failed", "canceled"]
"""How an attempt or a job ended."""


def ended(failure: Failure | None) -> Ended:
    """Return the status that follows from a failure; None is a success."""
    if failure is None:
        return "succeeded"
    return "canceled" if failure.category is Category.CANCELED else "failed"


# --- an attempt -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AttemptStatus(Wire):
    """The heartbeat of an attempt, `status.json`: written every few seconds."""

    status: Literal["running", "succeeded", "failed", "canceled"]
    """`running` until the outcome is about to be written."""
    stage: str
    """What it does, in words: `staging`, `working`; behind a colon may stand a count."""
    start_iteration: int
    """Iterations that were done before it."""
    done: int
    """Units of work done, those of earlier attempts included."""
    total: int
    """Units that the job does."""
    unit: str
    """What is counted, in the singular: `iteration`, `episode`, `step` or `check`."""
    reward: float | None
    """The newest mean return; None where none was seen."""
    host: str
    """The machine's name."""
    pid: int
    """The process that wrote it."""
    pid_space: str
    """Where that number means this process: a start of a machine, and a container of it."""
    process_began: float
    """When the process began, in seconds since 1970."""
    updated_at: str
    """When this was written."""
    began_at: str
    """When the attempt began."""
    facts: Facts | None = field(default=None, metadata=ABSENT)
    """What the simulator said of the job; None until it has."""


@dataclass(frozen=True, kw_only=True)
class Opened(Wire):
    """A file that the workload opened when its work was done."""

    name: str
    """The artifact's name; of a checkpoint the name that the library gave it."""
    sha256: str | None
    """None where it could not be read."""
    tensors: int | None = field(default=None, metadata=ABSENT)
    """How many tensors a checkpoint has; None for other files."""
    finite: bool | None
    """False when a weight is NaN or infinite; None where there are no weights."""
    error: str | None
    """Why it does not open; None where it does."""


@dataclass(frozen=True, kw_only=True)
class WorkloadAccount(Wire):
    """The workload's own account of its end, `workload.json` on the machine it ran on."""

    failure: Failure | None
    """None where it came through its own clean-up."""
    opened: tuple[Opened, ...]
    """What it opened, in order; of a training the newest checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Outcome(Wire):
    """How an attempt ended, `outcome.json`: written once, last."""

    number: int
    """The attempt, counted from 1."""
    status: Ended
    failure: Failure | None
    """Why it failed; None for a success."""
    refused: bool
    """Whether the request was bad, and nothing was simulated."""
    start_iteration: int
    """Iterations that were done before it."""
    done: int
    """Units of work done, those of earlier attempts included."""
    total: int
    """Units that the job does."""
    unit: str
    """What is counted, in the singular."""
    reward: float | None
    """The last mean return that was seen; None where none was."""
    exit_code: int | None
    """Of the workload; None where it was killed or did not start."""
    signal: str | None
    """What killed the workload: `SIGKILL`."""
    end_marker: bool
    """Whether the workload said that its work was done."""
    stopped_because: Failure | None
    """Why the supervisor ended the workload itself."""
    opened: tuple[Opened, ...]
    """What the workload opened when it was done."""
    facts: Facts | None
    """What the simulator said of the job; None where it was not asked."""
    timings: dict[str, float | None]
    """Seconds: `startup_s`, `total_s` and one named after the kind of job, such as `train_s`; null: not reached."""


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord(Wire):
    """A whole checkpoint in the store; `checkpoints.json` is a list of them, in the order of `by_iteration`."""

    name: str
    """File name, below the artifact folder `checkpoints/`."""
    key: str
    """Where the store has it."""
    sha256: str
    size_bytes: int
    iteration: int | None
    """Iterations that were finished when it was saved; None for the best so far, which a library keeps apart."""
    parent: str | None
    """SHA-256 of the checkpoint before it; None for the first one of a training from scratch."""

    @property
    def file(self) -> InputFile:
        """The checkpoint as an input of another attempt or job."""
        return InputFile(name=self.name, key=self.key, sha256=self.sha256, size_bytes=self.size_bytes)


def by_iteration(checkpoints: Iterable[CheckpointRecord]) -> list[CheckpointRecord]:
    """Return checkpoints, fewest iterations first and within one as they came; those without a number last."""
    return sorted(checkpoints, key=lambda one: (one.iteration is None, one.iteration or 0))


# --- a job ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ArtifactEntry(Wire):
    """A file that a job left."""

    name: str
    """Path below the job's `artifacts/`."""
    kind: str
    """What it is: `checkpoint`, `metrics`, `log` …; see `core/artifacts.py`."""
    size_bytes: int
    sha256: str
    iteration: int | None = None
    """Of a checkpoint, as in its record; other entries do not have it."""
    parent: str | None = None
    """Of a checkpoint, as in its record; other entries do not have it."""

    def document(self) -> dict[str, Any]:
        """Return the keys that the entry has: a checkpoint alone has an iteration and a parent."""
        keys = super().document()
        if self.kind != "checkpoint":
            del keys["iteration"], keys["parent"]
        return keys


@dataclass(frozen=True, kw_only=True)
class JobResult(Wire):
    """How a job ended, `result.json`."""

    job_id: str
    kind: str
    """`train`, `evaluate`, `export` or `rollout`."""
    status: Ended
    store: str
    """URL of the job's folder."""
    artifacts: tuple[ArtifactEntry, ...]
    """By name."""
    attempts: int
    """How many attempts it took."""
    error: Failure | None
    """Why it did not succeed."""
    timings: dict[str, float | None]
    """Seconds of all attempts together; null where none measured it."""
    done: int
    """Units of work done."""
    total: int
    """Units that the job does."""
    unit: str
    """What is counted, in the singular."""
    reward: float | None
    """The one figure a list shows: a mean return; None where none was measured."""
    summary: dict[str, Any] | None
    """Figures of an evaluation, an export or a rollout; of a training on several GPUs what they gained."""
    refused: bool
    """Whether the request was bad, and nothing was simulated."""
    notes: tuple[str, ...]
    """What was fitted, in words."""
    updated_at: str
    """When it was judged."""


@dataclass(frozen=True, kw_only=True)
class JobStatus(Wire):
    """How a job stands that has no result yet: made of its attempts, and shown; no file of the store."""

    job_id: str
    status: Literal["queued", "running", "interrupted", "canceled"]
    """`interrupted` where its process is gone; `canceled` where its last attempt was and nobody has judged it."""
    store: str
    """URL of the job's folder."""
    attempts: int
    """How many have begun."""
    stage: str | None
    """What the newest attempt does; None where it has ended or none has begun."""
    done: int | None
    """Units of work done; None where no attempt has begun, as with all that follow."""
    total: int | None
    unit: str | None
    reward: float | None
    updated_at: str | None
    """When the newest attempt wrote its heartbeat; None also where it has ended."""
    error: Failure | None
    """Of the newest attempt, where it has failed; another one may make it good."""
    artifacts: tuple[ArtifactEntry, ...] = ()
    """None yet."""


JobStanding = JobStatus | JobResult
"""How a job stands, ended or not."""


@dataclass(frozen=True, kw_only=True)
class Manifest(Wire):
    """The commit marker of a success, `artifact_manifest.json`: written last."""

    schema_version: int
    job_id: str
    kind: str
    """Of the job."""
    created_at: str
    artifacts: tuple[ArtifactEntry, ...]
    """Every file of the job, by name."""


@dataclass(frozen=True, kw_only=True)
class CancelMark(Wire):
    """A request to stop a job, `cancel.json`: its supervisor looks for it every few seconds."""

    requested_at: str


# --- beside the jobs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AssetRecord(Wire):
    """An uploaded file, `asset.json`: written after the file."""

    asset_id: str
    """`asset-` and the digest."""
    kind: str
    """`robot`, `scene`, `isaac_lab_task_package` or `checkpoint`."""
    filename: str
    """Of the newest upload."""
    sha256: str
    size_bytes: int
    content_type: str
    """Media type, by the file's ending."""
    metadata: dict[str, Any]
    """The user's own, as JSON."""
    created_at: str
    """When these bytes were first uploaded."""


@dataclass(frozen=True, kw_only=True)
class ApiKey(Wire):
    """What is kept of a key of the HTTP API."""

    key_id: str
    """The part that is no secret."""
    sha256: str
    """Of the whole key. It has 256 random bits, so a slow hash would add nothing."""
    project: str
    """Whose jobs and assets it sees."""
    scopes: tuple[str, ...]
    """What it is good for: of `tasks/shared/api_keys.py`'s `SCOPES`."""
    name: str
    """For people."""
    created_at: str
    revoked_at: str | None = None
    """Since when it is good for nothing."""
    max_active_jobs: int | None = None
    """Jobs and runs that may be waiting or running at once."""
    requests_per_minute: int | None = None
    """Of each copy of the service."""
    max_credits: float | None = None
    """USD of GPU time that its jobs may cost in all."""

    def allows(self, scope: str) -> bool:
        """Return whether the key is good for this."""
        return scope in self.scopes or "admin" in self.scopes


@dataclass(frozen=True, kw_only=True)
class IdempotencyRecord(Wire):
    """The job or run that an idempotency key stands for."""

    id: str
    """Of the job or run."""
    sha256: str
    """Of what was asked for, as JSON with sorted keys."""
    created_at: str


@dataclass(frozen=True, kw_only=True)
class NotificationRecord(Wire):
    """The delivery of a webhook, `notification.json` beside the result that it told of."""

    delivered: bool
    """Whether the receiver took it; False once it was given up."""
    url: str
    event: str
    """`job.succeeded`, `training_run.failed` …"""
    delivery_id: str
    """The same for every try of one delivery."""
    deliveries: int
    """How many tries it took."""
    problem: str | None
    """Why the last try was not taken."""
    at: str
