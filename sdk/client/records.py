"""What the service answers with. It may add keys; those that are here it always gives."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

JobStatus = Literal["queued", "running", "succeeded", "failed", "canceled"]
RunStatus = Literal["queued", "running", "paused", "succeeded", "failed", "canceled"]


class FailureRecord(TypedDict):
    """Why a job or a run failed."""

    code: str
    """Stable name, such as `cuda_out_of_memory`."""
    category: str
    """Who can mend it: `user`, `resource`, `infra` or `canceled`."""
    message: str
    """What happened."""
    advice: str
    """What to do next."""


class ArtifactRecord(TypedDict):
    """One file of a job."""

    name: str
    """Its name; may hold `/`."""
    kind: str
    """What it is, such as `checkpoint`."""
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
    """What is simulated."""
    status: JobStatus
    """Where it is."""
    stage: str | None
    """What it does at the moment."""
    done: float | None
    """How many of `total`."""
    total: float | None
    """How many there will be."""
    unit: str | None
    """Of what: `iterations`, `episodes`, `steps`."""
    reward: float | None
    """The last mean reward; None where nothing measured it."""
    attempt_count: int
    """Attempts so far."""
    error: str | None
    """The first failure, then what to do."""
    failure: FailureRecord | None
    """The same for programs."""
    artifacts: list[ArtifactRecord]
    """What there is to download."""
    summary: dict[str, Any] | None
    """The result in figures."""
    timings: dict[str, Any] | None
    """Where the time went, in seconds."""
    created_at: str
    """ISO 8601, UTC."""
    project_id: str
    """Whose it is."""
    page_url: str
    """The job's page, for people."""
    estimated_credits: NotRequired[float | None]
    """In the answer to a submission: what the job may cost."""
    estimated_usd: NotRequired[float | None]
    """The same in USD."""
    billing_model: NotRequired[str]
    """How it is reckoned."""
    billing_price_id: NotRequired[str]
    """By which price."""
    gpu_hourly_rate_usd: NotRequired[float]
    """That price, USD for an hour of one GPU."""


class AssetRecord(TypedDict):
    """One uploaded file."""

    asset_id: str
    """What jobs name it by."""
    kind: str | None
    """What it is, such as `robot`."""
    filename: str
    """Its name."""
    sha256: str
    """Its digest."""
    size_bytes: int
    """Its size."""
    content_type: str | None
    """Its media type."""
    metadata: dict[str, Any]
    """What the uploader said about it."""
    created_at: str
    """ISO 8601, UTC."""


class TrainingRunRecord(TypedDict):
    """One managed training run."""

    run_id: str
    """The run's id."""
    project_id: str
    """Whose it is."""
    name: str
    """Display name."""
    status: RunStatus
    """Where it is."""
    stage: str | None
    """What it does at the moment."""
    current_iteration: int | None
    """The iteration it is in."""
    max_iterations: int
    """How many it may have."""
    credits: float | None
    """What it has cost."""
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
    """Where a file may be sent."""

    upload_url: str
    """The address, signed."""
    upload_method: str
    """`PUT`."""
    upload_headers: dict[str, str]
    """Headers that must be sent."""
    input_uri: str
    """What the file is named by, once it is there."""
    expires_at: NotRequired[str | None]
    """Until when the address is good; ISO 8601, UTC."""
    asset_id: NotRequired[str | None]
    """The asset, where the file is one already."""


class DownloadPlace(TypedDict):
    """Where a file may be fetched, without the API key."""

    url: str
    """The address, signed."""
    name: NotRequired[str]
    """The file's name."""
    size_bytes: NotRequired[int | None]
    """Its size."""
    sha256: NotRequired[str | None]
    """Its digest."""
    expires_at: NotRequired[str | None]
    """Until when the address is good; ISO 8601, UTC."""
