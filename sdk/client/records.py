"""Records in the service's answers. It may add keys; those that are here it always gives."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

JobStatus = Literal["queued", "running", "succeeded", "failed", "canceled"]
RunStatus = Literal["queued", "running", "paused", "succeeded", "failed", "canceled"]


class FailureRecord(TypedDict):
    """Failure of a job or a run."""

    code: str
    """Stable name, such as `cuda_out_of_memory`."""
    category: str
    """Category, by those who can mend it: `user`, `resource`, `infra` or `canceled`."""
    message: str
    """Description of the failure."""
    advice: str
    """Advice on the next step."""


class ArtifactRecord(TypedDict):
    """One file of a job."""

    name: str
    """Its name; may hold `/`."""
    kind: str
    """Kind of artifact, such as `checkpoint`."""
    size_bytes: int
    """Its size."""
    sha256: str
    """Its digest."""


class JobRecord(TypedDict):
    """One job."""

    job_id: str
    """The job's id."""
    kind: str
    """`train`, `evaluate`, `export` or `rollout`."""
    name: str
    """Display name."""
    task: str | None
    """Task that is simulated."""
    status: JobStatus
    """Current status."""
    stage: str | None
    """Current stage."""
    done: float | None
    """Units done so far, of `total`."""
    total: float | None
    """Units to do in all."""
    unit: str | None
    """Unit of the two: `iterations`, `episodes`, `steps`."""
    reward: float | None
    """The last mean reward; None where nothing measured it."""
    attempt_count: int
    """Attempts so far."""
    error: str | None
    """The first failure, then what to do."""
    failure: FailureRecord | None
    """The same for programs."""
    artifacts: list[ArtifactRecord]
    """Files to download."""
    summary: dict[str, Any] | None
    """The result in figures."""
    timings: dict[str, Any] | None
    """Durations of the job's parts, in seconds."""
    created_at: str
    """ISO 8601, UTC."""
    project_id: str
    """Project that it belongs to."""
    page_url: str
    """The job's page, for people."""
    estimated_credits: NotRequired[float | None]
    """In the answer to a submission: what the job may cost."""
    estimated_usd: NotRequired[float | None]
    """The same in USD."""
    billing_model: NotRequired[str]
    """Billing model, such as `gpu_seconds`."""
    billing_price_id: NotRequired[str]
    """Id of the price."""
    gpu_hourly_rate_usd: NotRequired[float]
    """That price, USD for an hour of one GPU."""


class AssetRecord(TypedDict):
    """One uploaded file."""

    asset_id: str
    """Id by which jobs name it."""
    kind: str | None
    """Kind of asset, such as `robot`."""
    filename: str
    """Its name."""
    sha256: str
    """Its digest."""
    size_bytes: int
    """Its size."""
    content_type: str | None
    """Its media type."""
    metadata: dict[str, Any]
    """Metadata from the uploader."""
    created_at: str
    """ISO 8601, UTC."""


class TrainingRunRecord(TypedDict):
    """One managed training run."""

    run_id: str
    """The run's id."""
    project_id: str
    """Project that it belongs to."""
    name: str
    """Display name."""
    status: RunStatus
    """Current status."""
    stage: str | None
    """Current stage."""
    current_iteration: int | None
    """The iteration it is in."""
    max_iterations: int
    """Iterations that it may have at most."""
    credits: float | None
    """Cost so far, in credits."""
    ended_by: str | None
    """The policy that ended it."""
    error: str | None
    """The first failure, then what to do."""
    failure: FailureRecord | None
    """The same for programs."""
    created_at: str
    """ISO 8601, UTC."""


class CheckpointRecord(TypedDict):
    """One checkpoint of a managed training run."""

    checkpoint_id: str
    """Its id within the run."""
    iteration: int
    """The iteration that made it."""
    sha256: NotRequired[str]
    """Its digest."""
    size_bytes: NotRequired[int]
    """Its size."""


class EventRecord(TypedDict):
    """Something that happened in a managed training run."""

    event_id: str
    """Its id; ids grow."""
    event_type: str
    """Such as `checkpoint.created`."""
    created_at: str
    """ISO 8601, UTC."""
    message: str
    """For people."""
    data: dict[str, Any]
    """For programs."""


class UploadSlot(TypedDict):
    """Address to send a file to."""

    upload_url: str
    """The address, signed."""
    upload_method: str
    """`PUT`."""
    upload_headers: dict[str, str]
    """Headers that must be sent."""
    input_uri: str
    """URI of the file, once it is there."""
    expires_at: NotRequired[str | None]
    """End of the address's validity; ISO 8601, UTC."""
    asset_id: NotRequired[str | None]
    """The asset, where the file is one already."""


class DownloadPlace(TypedDict):
    """Address to fetch a file from, without the API key."""

    url: str
    """The address, signed."""
    name: NotRequired[str]
    """The file's name."""
    size_bytes: NotRequired[int | None]
    """Its size."""
    sha256: NotRequired[str | None]
    """Its digest."""
    expires_at: NotRequired[str | None]
    """End of the address's validity; ISO 8601, UTC."""
