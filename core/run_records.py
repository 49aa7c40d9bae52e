"""Documents of managed training runs and of promoted policies in the store, as those of jobs in `core/records.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from simyard.core.errors import Failure
from simyard.core.records import Cost, Ended, Estimate, Heartbeat
from simyard.core.specs import InputFile
from simyard.core.wire import ABSENT, Wire

# --- a managed run ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TrainerAttempt(Wire):
    """One call of the trainer: which, of what."""

    run_id: str
    iteration: int
    number: int
    """Counted from 1 in its iteration."""
    dataset_sha256: str
    checkpoint: InputFile | None
    """Checkpoint that it goes on from; None for none."""

    @property
    def name(self) -> str:
        """The name of its process or container."""
        return f"simyard-{self.run_id}-{self.iteration}-{self.number}"


@dataclass(frozen=True, kw_only=True)
class TrainerSecrets(Wire):
    """The values of the trainer's environment variables, which no other record holds; deleted when the run ends."""

    env: dict[str, str] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class TrainerStatus(Heartbeat):
    """The heartbeat of a call of the trainer, `status.json` of the call."""

    attempt: TrainerAttempt
    seconds: float = 0.0
    """Of its trainers so far: the running one, and those whose callers were killed."""


@dataclass(frozen=True, kw_only=True)
class TrainerOutcome(Wire):
    """Result of a call of the trainer, `outcome.json` of the call: written once, last."""

    number: int
    """The call, counted from 1 in its iteration."""
    status: Ended
    failure: Failure | None
    """Failure of the call or attempt; None for a success."""
    dataset_sha256: str
    """The dataset that it was called with."""
    seconds: float
    """Of the trainer's own process."""
    gpu_seconds: float
    """GPUs that it holds, times these seconds and those of trainers whose callers were killed in this call."""
    ended_at: str
    tail: tuple[str, ...]
    """The last lines that it printed; of a success none."""
    metrics: dict[str, Any] | None = field(default=None, metadata=ABSENT)
    """Metrics of the trainer; None for a failure."""
    checkpoint: InputFile | None = field(default=None, metadata=ABSENT)
    """The file that it left; None of a failure."""


@dataclass(frozen=True, kw_only=True)
class DatasetCheckpoint(Wire):
    """The checkpoint that drove the rollouts of a dataset, as in its lineage record."""

    checkpoint_id: str
    uri: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class DatasetRollout(Wire):
    """A rollout of a dataset."""

    job_id: str
    uri: str
    """URL of its `rollout.zarr`."""
    path: str
    """Place of the same below the manifest's folder, on the trainer's machine."""
    sha256: str
    size_bytes: int
    manifest_sha256: str
    """Digest of the job's own manifest."""
    seed: int
    num_envs: int
    steps: int
    """Control steps of each environment."""
    episodes: int | None
    recorded_steps: int | None
    mean_return: float | None
    """None where it was not measured."""
    success_rate: float | None
    """None where it was not measured."""


@dataclass(frozen=True, kw_only=True)
class DatasetArray(Wire):
    """An array that every rollout of a dataset has."""

    shape: tuple[int, ...]
    """Of one recorded step of one environment."""
    dtype: str


@dataclass(frozen=True, kw_only=True)
class DatasetManifest(Wire):
    """The dataset of an iteration, `datasets/<sha256>.json`: a trainer needs nothing else."""

    schema: Literal["simyard.dataset/1"] = "simyard.dataset/1"
    run_id: str
    iteration: int
    """Counted from 1."""
    iteration_id: str
    """`iter-0001`."""
    checkpoint: DatasetCheckpoint | None
    """Checkpoint that drove the rollouts; None where none did."""
    rollouts: tuple[DatasetRollout, ...]
    episodes: int | None
    """Of all rollouts; None where one of them did not count it."""
    recorded_steps: int | None
    """Of all rollouts; None where one of them did not count it."""
    arrays: dict[str, DatasetArray]
    """By path in a rollout: `data/reward`."""


@dataclass(frozen=True, kw_only=True)
class LineageRecord(Wire):
    """A checkpoint of a managed run, below `checkpoints/`."""

    checkpoint_id: str
    """`ckpt-`, its iteration and the beginning of its digest."""
    iteration: int
    """The one that made it; 0 for the checkpoint that the run began from."""
    parent: str | None
    """Id of the checkpoint before it; None for the first one."""
    dataset_sha256: str | None
    """The dataset that it was trained on; None for the checkpoint that the run began from."""
    uri: str
    """URL of the file."""
    sha256: str
    size_bytes: int
    file: InputFile
    """The checkpoint as an input of rollouts and calls of the trainer."""
    metrics: dict[str, Any]
    """Metrics of the trainer."""
    created_at: str


@dataclass(frozen=True, kw_only=True)
class IterationRecord(Wire):
    """Result of an iteration, `iteration.json`: with it the iteration counts."""

    iteration: int
    """Counted from 1."""
    iteration_id: str
    """`iter-0001`."""
    status: Literal["succeeded", "failed"]
    failure: Failure | None
    """Failure of the iteration; None where it left a checkpoint."""
    checkpoint_id: str | None
    """The checkpoint that it made; None where it failed, as with all that follow up to `recorded_steps`."""
    dataset_sha256: str | None
    rollouts: tuple[str, ...]
    """Their job ids."""
    trainer_attempt: int | None
    """The call of the trainer that left the checkpoint."""
    trainer_seconds: float | None
    episodes: int | None
    recorded_steps: int | None
    mean_return: float | None
    """Of the rollouts; None where it was not measured."""
    success_rate: float | None
    """Of the rollouts; None where it was not measured."""
    metrics: dict[str, Any]
    """Metrics of the trainer."""
    metric: float | None
    """The one that the run's success criteria name; None where it was not measured."""
    metric_of: str | None
    """Id of the checkpoint that the metric speaks of."""
    gpu_seconds: float
    """Of all its rollouts and calls."""
    seconds: float
    """Of the process that ended it."""
    rollouts_seconds: float | None
    """From its begin to the dataset; None where it has none."""
    ended_at: str


@dataclass(frozen=True, kw_only=True)
class BestCheckpoint(Wire):
    """The checkpoint of a run that was measured best."""

    iteration: int
    """The one whose metric says so."""
    checkpoint_id: str
    metric: float | None
    """Value of the metric; None where no checkpoint was measured: then it is the last one."""


@dataclass(frozen=True, kw_only=True)
class Event(Wire):
    """An event of a managed run, below `events/`."""

    event_id: str
    """`evt-` and its number, counted from 1."""
    created_at: str
    event_type: str
    """One of `tasks/managed/record.py`'s `EVENT_TYPES`."""
    about: str
    """Identity of the event within the run: the same thing happens once."""
    message: str
    """For people."""
    data: dict[str, Any]
    """For programs."""


@dataclass(frozen=True, kw_only=True)
class DesiredStateMark(Wire):
    """Desired state of a run, `wish.json`."""

    wanted: Literal["run", "pause", "cancel"]
    requested_at: str


@dataclass(frozen=True, kw_only=True)
class DriverStatus(Heartbeat):
    """The heartbeat of the process that drives a run, `status.json`: written every few seconds."""

    stage: str
    """Current activity, in words."""
    wanted: Literal["run", "pause", "cancel"]
    """Desired state, wherever it was asked for."""
    current_iteration: int
    """The iteration in progress, counted from 1."""
    credits: float
    """Cost of the run so far, in credits."""
    estimate: Estimate | None = field(default=None, metadata=ABSENT)
    """The run by its own iterations; None before the first one has ended."""


@dataclass(frozen=True, kw_only=True)
class WorkerStatus(Heartbeat):
    """The heartbeat of a rollout worker, `status.json` of its slot."""

    flow_run: str
    """Id of the flow run that is this worker."""


@dataclass(frozen=True, kw_only=True)
class WorkerCommand(Wire):
    """A command to a rollout worker, `order-<n>.json` of its slot."""

    do: Literal["check", "rollout", "trainer", "end"]
    """To check the trainer, make an attempt at a rollout, call the trainer, or end."""
    job_id: str | None = field(default=None, metadata=ABSENT)
    """The staged rollout; None for other commands."""
    attempt: TrainerAttempt | None = field(default=None, metadata=ABSENT)
    """The call of the trainer; None for other commands."""
    given_at: str


@dataclass(frozen=True, kw_only=True)
class WorkerReply(Wire):
    """The reply to a command, `answer-<n>.json` of its slot."""

    failure: Failure | None
    """Failure of the command; None where it was done."""


@dataclass(frozen=True, kw_only=True)
class IterationCounts(Wire):
    """Number of iterations of a run by their end."""

    succeeded: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class RunHeader(Wire):
    """The fields that every answer about a run begins with."""

    run_id: str
    name: str
    project_id: str
    max_iterations: int
    store: str
    """URL of the run's folder."""
    created_at: str
    estimate: Estimate | None = field(default=None, metadata=ABSENT)
    """By its own iterations, while it runs and has made one; else that of its submission; None for one of 0.1."""


@dataclass(frozen=True, kw_only=True)
class RunResult(RunHeader):
    """Result of a run, `result.json`."""

    status: Ended
    stage: str
    """`done`."""
    ended_by: str
    """The policy that ended it; `canceled`, or `refused` where the trainer could not be called."""
    current_iteration: int
    """Number of iterations that ended."""
    iterations: IterationCounts
    best: BestCheckpoint | None
    """Best checkpoint; None where no iteration succeeded."""
    credits: float
    """Cost in credits."""
    cost: Cost | None = field(default=None, metadata=ABSENT)
    """The same in GPU seconds and USD; None for a run of simyard 0.1."""
    error: Failure | None
    """Failure of the run; None otherwise."""
    updated_at: str
    """Time of the end."""


@dataclass(frozen=True, kw_only=True)
class RunStatus(RunHeader):
    """Status of a run that has no result yet: made of its heartbeat, and shown; no file of the store."""

    status: Literal["queued", "running", "paused", "interrupted"]
    """`interrupted` where nobody drives it any more."""
    stage: str | None
    """Current activity of its process; None where none has begun."""
    current_iteration: int
    """The iteration in progress; 0 where none has begun."""
    credits: float
    """Cost so far, in credits."""
    updated_at: str | None
    """Time of the heartbeat; None where there is none."""
    ended_by: str | None = None
    """None: it has not ended."""
    error: Failure | None = None
    """None: it has not ended."""


RunState = RunStatus | RunResult
"""Status of a managed run, ended or not."""


# --- promoted policies ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PolicyCheckpoint(Wire):
    """The checkpoint of a training that a policy is."""

    name: str
    """File name."""
    key: str
    """Key in the store."""
    sha256: str
    iteration: int | None
    """Iterations that were finished when it was saved."""


@dataclass(frozen=True, kw_only=True)
class EngineShare(Wire):
    """A policy in a physics engine beside the one it was measured in."""

    physics: str
    kept: float | None
    """Share of its metric that it keeps there; None where the metric is 0, or not measured."""
    interval_95: tuple[float, float] | None
    """Confidence interval of the share, by pairs of episodes; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class PolicyEvaluation(Wire):
    """The figures of a policy from its evaluation."""

    job_id: str
    """The evaluation."""
    metric: str
    """`return` or `success_rate`."""
    mean: float | None
    """Of the metric over the episodes; None where none measured it."""
    interval_95: tuple[float, float] | None
    """Confidence interval of the mean; None where there is none."""
    episodes: int
    """Number of episodes that measured it."""
    seed: int
    across: tuple[EngineShare, ...] | None = field(default=None, metadata=ABSENT)
    """The policy in other engines; None where it was measured in one."""


@dataclass(frozen=True, kw_only=True)
class PolicyRecord(Wire):
    """A policy that was promoted, or compared with the promoted one."""

    job_id: str
    """The training."""
    checkpoint: PolicyCheckpoint
    task: str
    library: str
    evaluation: PolicyEvaluation
    promoted_at: str | None = field(default=None, metadata=ABSENT)
    """Time of its promotion; None for one that was not promoted yet."""


@dataclass(frozen=True, kw_only=True)
class MetricDifference(Wire):
    """The new policy's metric less the promoted one's."""

    mean: float
    interval_95: tuple[float, float] | None
    """Confidence interval of the difference; None where too few episodes measured it."""


@dataclass(frozen=True, kw_only=True)
class PromotionDecision(Wire):
    """One decision about a promotion, below `<name>.history/`: written once."""

    number: int = 0
    """Counted from 1; 0 until it is written, as number, time and id are given then."""
    at: str = ""
    """Time at which it was written."""
    id: str = ""
    """Random digits, by which a writer that lost the answer knows its own decision again."""
    decision: Literal["promoted", "kept", "not_trained", "not_measured", "rolled_back"]
    """`promoted`: the new policy is better beyond noise, or the first; `kept`: it is not, so the promoted one stays;
    `not_trained`: the training left no policy; `not_measured`: an evaluation failed; `rolled_back`: somebody went back
    to the policy promoted before."""
    why: str
    """In words."""
    by: str | None = None
    """The person who made it; None for the comparison."""
    job_id: str | None = None
    """The training that led to it; None for a rollback."""
    start: str | None = None
    """Start of the training, in words."""
    candidate: PolicyRecord | None = None
    """The policy that was decided on; of a rollback, the one that is promoted again."""
    incumbent: PolicyRecord | None = None
    """The policy that was promoted until then, with its figures of this time."""
    difference: MetricDifference | None = None
    """None where nothing was compared."""
    min_delta: float | None = None
    """The least gain that was asked for."""
    error: Failure | None = None
    """Failure of the job that ended the retraining; None where nothing failed."""
    estimate: Estimate | None = field(default=None, metadata=ABSENT)
    """Of its training and evaluations, made before them; None for a rollback, and for a decision of simyard 0.1."""
    cost: Cost | None = field(default=None, metadata=ABSENT)
    """Of its training and evaluations; None likewise."""


@dataclass(frozen=True, kw_only=True)
class Promotion(Wire):
    """The promoted policy of a name and every decision, `promotions/<name>.json`: made from the decisions."""

    schema_version: int = 1
    name: str
    current: PolicyRecord | None
    """The promoted policy; None while none is."""
    history: tuple[PromotionDecision, ...]
    """Every decision, newest last."""
