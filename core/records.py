"""Documents of the store: one frozen dataclass each, written and read through `core/wire.py`.

Times are UTC in ISO 8601 unless a field says otherwise. A document without a `schema_version` is of the version of the
job's frozen spec beside it.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, TypedDict

from simyard.core.errors import Category, Failure
from simyard.core.specs import Facts, InputFile
from simyard.core.stages import Stages
from simyard.core.wire import ABSENT, Wire, now

Ended = Literal["succeeded", "failed", "canceled"]
"""Final status of an attempt or a job."""


def ended(failure: Failure | None) -> Ended:
    """Return the status that follows from a failure; None is a success."""
    if failure is None:
        return "succeeded"
    return "canceled" if failure.category is Category.CANCELED else "failed"


# --- heartbeats -------------------------------------------------------------------------------------------------------


class ThisProcess(TypedDict):
    """The fields of a heartbeat that name its process and the time."""

    host: str
    pid: int
    pid_space: str
    process_began: float
    updated_at: str


def this_process() -> ThisProcess:
    """Return the fields of a heartbeat of this process, now."""
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "pid_space": _pid_space(),
        "process_began": _began(os.getpid()) or 0.0,
        "updated_at": now(),
    }


@dataclass(frozen=True, kw_only=True)
class Heartbeat(Wire):
    """The part that all heartbeats have: the process that wrote it, and the time."""

    host: str
    """The machine's name."""
    pid: int
    """The process that wrote it."""
    pid_space: str
    """Scope in which `pid` means this process: a start of a machine, and a container of it."""
    process_began: float
    """Start of the process, in seconds since 1970."""
    updated_at: str
    """Time of this heartbeat."""

    def is_own(self) -> bool:
        """Return whether this process wrote it."""
        return self.pid_space == _pid_space() and self.pid == os.getpid()

    def is_gone(self, silence_s: float) -> bool:
        """Return whether its process has died: seen at once where it ran, elsewhere by the age of the heartbeat."""
        if self.pid_space == _pid_space():
            began = _began(self.pid)
            # The kernel gives its own start in whole seconds, and corrects it with the clock.
            return began is None or abs(began - self.process_began) >= 2.0
        return (datetime.now(UTC) - datetime.fromisoformat(self.updated_at)).total_seconds() > silence_s


@cache
def _pid_space() -> str:
    """Return the scope of the process numbers seen here: this start of this machine, and this container of it.

    A host name tells neither: a container on the machine's network has the machine's.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"


def _began(pid: int) -> float | None:
    """Return the start of a process in seconds since 1970, which tells it from others of its number; None for none."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    boot = re.search(r"^btime (\d+)", Path("/proc/stat").read_text(), re.MULTILINE)
    ticks = int(fields[18])  # since the start of the machine
    return None if state == "Z" or boot is None else int(boot[1]) + ticks / os.sysconf("SC_CLK_TCK")


# --- price ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Cost(Wire):
    """GPU time that a job, a sweep or a managed run has taken, and its price."""

    gpu_seconds: float
    """Of every rank of every attempt, failed ones too; 0 on a CPU."""
    usd: float | None
    """Price of them; None where the site names no price."""


@dataclass(frozen=True, kw_only=True)
class Estimate(Wire):
    """Estimate of the time and the price of a job, a sweep or a managed run; None for what nothing measured tells.

    `usd` is the price of `gpu_seconds`, at the rate that held when the work was submitted.
    """

    seconds: float | None
    """The whole work, the simulator's start included."""
    gpu_seconds: float | None
    """Those of them that GPUs are held for, times the GPUs; 0 on a CPU."""
    usd: float | None
    """Price of them; None also where the site names no price."""
    usd_per_gpu_hour: float | None
    """Price of an hour of one GPU; None where the site names none."""
    iteration_s: float | None = field(default=None, metadata=ABSENT)
    """Seconds of an iteration of a training."""
    train_s: float | None = field(default=None, metadata=ABSENT)
    """Seconds of all its iterations."""
    gpu_memory_bytes: int | None = field(default=None, metadata=ABSENT)
    """Memory of each GPU."""
    how: str
    """The reckoning, in words; where nothing is known, it says so."""


# --- an attempt -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AttemptStatus(Heartbeat):
    """The heartbeat of an attempt, `status.json`: written every few seconds."""

    status: Literal["running", "succeeded", "failed", "canceled"]
    """`running` until the outcome is about to be written."""
    stage: str
    """Current activity, in words: `staging`, `working`; behind a colon may stand a count."""
    start_iteration: int
    """Iterations that were done before it."""
    done: int
    """Units of work done, those of earlier attempts included."""
    total: int
    """Units that the job does."""
    unit: str
    """Name of one unit of work, in the singular: `iteration`, `episode`, `step` or `check`."""
    reward: float | None
    """The newest mean return; None where none was seen."""
    began_at: str
    """Start of the attempt."""
    facts: Facts | None = field(default=None, metadata=ABSENT)
    """The simulator's facts about the job; None until it has reported them."""
    estimate: Estimate | None = field(default=None, metadata=ABSENT)
    """The job by its own first iterations; None until there are enough of them."""


@dataclass(frozen=True, kw_only=True)
class Opened(Wire):
    """A file that the workload opened when its work was done."""

    name: str
    """The artifact's name; of a checkpoint the name that the library gave it."""
    sha256: str | None
    """Digest of the file; None where it could not be read."""
    tensors: int | None = field(default=None, metadata=ABSENT)
    """Number of tensors in a checkpoint; None for other files."""
    finite: bool | None
    """Whether every weight is finite, neither NaN nor infinite; None where there are no weights."""
    error: str | None
    """Error on opening the file; None where it opens."""


@dataclass(frozen=True, kw_only=True)
class WorkloadAccount(Wire):
    """The workload's own account of its end, `workload.json` on the machine it ran on."""

    failure: Failure | None
    """Failure of the workload; None where it came through its own clean-up."""
    opened: tuple[Opened, ...]
    """Files that it opened, in order; of a training the newest checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Outcome(Wire):
    """Result of an attempt, `outcome.json`: written once, last."""

    number: int
    """The attempt, counted from 1."""
    status: Ended
    failure: Failure | None
    """Failure of the attempt; None for a success."""
    refused: bool
    """Whether the request was bad, and nothing was simulated."""
    start_iteration: int
    """Iterations that were done before it."""
    done: int
    """Units of work done, those of earlier attempts included."""
    total: int
    """Units that the job does."""
    unit: str
    """Name of one unit of work, in the singular."""
    reward: float | None
    """The last mean return that was seen; None where none was."""
    exit_code: int | None
    """Of the workload; None where it was killed or did not start."""
    signal: str | None
    """Name of the signal that killed the workload: `SIGKILL`."""
    end_marker: bool
    """Whether the workload said that its work was done."""
    stopped_because: Failure | None
    """The supervisor's reason for ending the workload itself."""
    opened: tuple[Opened, ...]
    """Files that the workload opened when it was done."""
    facts: Facts | None
    """The simulator's facts about the job; None where it was not asked."""
    notes: tuple[str, ...] | None = field(default=None, metadata=ABSENT)
    """Notes of the workload for the report; None for none."""
    ended_early: str | None = field(default=None, metadata=ABSENT)
    """Reason for which a training ended before its limit, by a rule of its library's or its job's; None where it did
    not."""
    timings: dict[str, float | None]
    """Seconds: `startup_s`, `total_s` and one named after the kind of job, such as `train_s`; null: not reached."""


@dataclass(frozen=True, kw_only=True)
class MachineReady(Wire):
    """A machine that has arrived at the barrier of its attempt, `ready.json`; of the first one `go.json`: all have."""

    at: str
    host: str | None = field(default=None, metadata=ABSENT)
    """The machine's name; `go.json` has none."""


@dataclass(frozen=True, kw_only=True)
class MachineLost(Wire):
    """A machine whose flow run ended without an outcome, `machine_lost.json`: only Prefect knows it."""

    message: str


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord(Wire):
    """A whole checkpoint in the store; `checkpoints.json` is a list of them, in the order of `by_iteration`."""

    name: str
    """File name, below the artifact folder `checkpoints/`."""
    key: str
    """Key of the checkpoint in the store."""
    sha256: str
    size_bytes: int
    iteration: int | None
    """Iterations that were finished when it was saved; None for the best so far, which a library keeps apart."""
    parent: str | None
    """SHA-256 of the checkpoint before it; None for the first one of a training from scratch."""
    stages: Stages | None = field(default=None, metadata=ABSENT)
    """The job's stages when it was saved; None for a job without."""
    state: InputFile | None = field(default=None, metadata=ABSENT)
    """The state of the training that was saved with it; None where none is kept."""

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
    """Kind of file: `checkpoint`, `metrics`, `log` …; see `core/artifacts.py`."""
    size_bytes: int
    sha256: str
    iteration: int | None = None
    """Of a checkpoint, as in its record; other entries do not have it."""
    parent: str | None = None
    """Of a checkpoint, as in its record; other entries do not have it."""
    stage: str | None = field(default=None, metadata=ABSENT)
    """Name of the stage that a checkpoint was saved in; None for a job without stages."""

    def document(self) -> dict[str, object]:
        """Return the keys that the entry has: a checkpoint alone has an iteration and a parent."""
        keys = super().document()
        if self.kind != "checkpoint":
            del keys["iteration"], keys["parent"]
        return keys


@dataclass(frozen=True, kw_only=True)
class JobResult(Wire):
    """Result of a job, `result.json`."""

    job_id: str
    kind: str
    """`train`, `evaluate`, `export` or `rollout`."""
    status: Ended
    store: str
    """URL of the job's folder."""
    artifacts: tuple[ArtifactEntry, ...]
    """By name."""
    attempts: int
    """Number of attempts that the job took."""
    error: Failure | None
    """Failure of the job; None for a success."""
    timings: dict[str, float | None]
    """Seconds of all attempts together; null where none measured it."""
    done: int
    """Units of work done."""
    total: int
    """Units that the job does."""
    unit: str
    """Name of one unit of work, in the singular."""
    reward: float | None
    """The one figure a list shows: a mean return; None where none was measured."""
    summary: dict[str, Any] | None
    """Figures of an evaluation, an export or a rollout; of a training its speed, and what several GPUs gained."""
    refused: bool
    """Whether the request was bad, and nothing was simulated."""
    notes: tuple[str, ...]
    """Adjustments to the request, in words."""
    updated_at: str
    """Time of the verdict."""
    estimate: Estimate | None = field(default=None, metadata=ABSENT)
    """The estimate that was made when it was submitted; None for a job of simyard 0.1."""
    cost: Cost | None = field(default=None, metadata=ABSENT)
    """GPU time and price of all attempts; None for a job of simyard 0.1."""


@dataclass(frozen=True, kw_only=True)
class JobStatus(Wire):
    """Status of a job that has no result yet: made of its attempts, and shown; no file of the store."""

    job_id: str
    status: Literal["queued", "running", "interrupted", "canceled"]
    """`interrupted` where its process is gone; `canceled` where its last attempt was and nobody has judged it."""
    store: str
    """URL of the job's folder."""
    attempts: int
    """Number of attempts that have begun."""
    stage: str | None
    """Current activity of the newest attempt; None where it has ended or none has begun."""
    done: int | None
    """Units of work done; None where no attempt has begun, as with all that follow."""
    total: int | None
    unit: str | None
    reward: float | None
    updated_at: str | None
    """Time of the newest attempt's heartbeat; None also where it has ended."""
    error: Failure | None
    """Of the newest attempt, where it has failed; another one may make it good."""
    artifacts: tuple[ArtifactEntry, ...] = ()
    """None yet."""
    estimate: Estimate | None = field(default=None, metadata=ABSENT)
    """By its own first iterations, once there are enough of them; before that the one of its submission."""


JobState = JobStatus | JobResult
"""Status of a job, ended or not."""


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


@dataclass(frozen=True, kw_only=True)
class TrackerRecord(Wire):
    """The job's run in a tracker of experiments, `trackers/<name>.json`: written by the process that tells it."""

    tracker: str
    """`mlflow` or `wandb`."""
    run_id: str | None
    """Its id there; None where it could not be begun yet."""
    url: str | None
    """Its page; None where it has none."""
    last_step: int | None
    """The last step whose metrics were sent; None where none were."""
    ended: bool
    """Whether all of an ended job was sent."""
    problem: str | None
    """Problem of the last try; None where it went well."""
    updated_at: str


@dataclass(frozen=True, kw_only=True)
class SpentRecord(Wire):
    """GPU time of a job that was deleted to make room, which budgets go on counting."""

    job_id: str
    gpu_seconds: float


# --- beside the jobs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AssetRecord(Wire):
    """An uploaded file, `asset.json`: written after the file."""

    asset_id: str
    """`asset-` and the digest."""
    kind: str
    """`robot`, `scene`, `isaac_lab_task_package`, `checkpoint` or `config`."""
    filename: str
    """Of the newest upload."""
    sha256: str
    size_bytes: int
    content_type: str
    """Media type, by the file's ending."""
    metadata: dict[str, Any]
    """The user's own, as JSON."""
    created_at: str
    """Time of the first upload of these bytes."""


@dataclass(frozen=True, kw_only=True)
class ApiKey(Wire):
    """Record of a key of the HTTP API.

    Version 2 has the scope `code`; the keys of version 1 ran code of their senders, and go on doing so.
    """

    SCHEMA_VERSIONS: ClassVar[tuple[int, ...]] = (1, 2)

    key_id: str
    """The part that is no secret."""
    sha256: str
    """Of the whole key. It has 256 random bits, so a slow hash would add nothing."""
    project: str
    """Project of the jobs and assets that it sees."""
    scopes: tuple[str, ...]
    """Scopes that it grants: of `tasks/shared/api_keys.py`'s `SCOPES`."""
    name: str
    """For people."""
    created_at: str
    revoked_at: str | None = None
    """Time of its revocation; None while it is valid."""
    max_active_jobs: int | None = None
    """Jobs and runs that may be waiting or running at once."""
    requests_per_minute: int | None = None
    """Of each copy of the service."""
    max_credits: float | None = None
    """USD of GPU time that its jobs may cost in all."""
    schema_version: int = 1

    @property
    def grants(self) -> tuple[str, ...]:
        """The scopes, with the one that had no name when the key was made."""
        return self.scopes if self.schema_version > 1 or "admin" in self.scopes else (*self.scopes, "code")

    def allows(self, scope: str) -> bool:
        """Return whether the key is good for this."""
        return scope in self.grants or "admin" in self.scopes


@dataclass(frozen=True, kw_only=True)
class Place(Wire):
    """One of the places that an API key has for jobs and managed runs, taken before the work is staged."""

    id: str
    """Of the job or run that has it."""
    taken_at: str


@dataclass(frozen=True, kw_only=True)
class JobLabels(Wire):
    """The tags and the note that people gave a job, `labels/<job_id>.json`: the newest replace all before."""

    job_id: str
    tags: tuple[str, ...]
    """Sorted, each once."""
    note: str
    """Plain text; empty for none."""
    by: str
    """Id of the API key that set them, or `command line`."""
    updated_at: str


@dataclass(frozen=True, kw_only=True)
class IdempotencyRecord(Wire):
    """The job or run that an idempotency key stands for."""

    id: str
    """Of the job or run."""
    sha256: str
    """Digest of the request, as JSON with sorted keys."""
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
    """Number of tries."""
    problem: str | None
    """Problem of the last try; None where the receiver took it."""
    at: str
