"""Every request that the clients send, and how its answer is read; no network here."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Generic, TypeVar, cast
from urllib.parse import quote, urlencode

from simyard.client.errors import (
    AnswerError,
    ApiError,
    AuthenticationError,
    BudgetError,
    ConfigurationError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    RateLimitError,
    ServerError,
    TransportError,
)
from simyard.client.files import safe_parts
from simyard.client.records import (
    AssetRecord,
    CheckpointRecord,
    DownloadPlace,
    EventRecord,
    JobRecord,
    TrainingRunRecord,
    UploadSlot,
)

Result = TypeVar("Result")
Body = Mapping[str, Any]

LOG = "command.stdout.log"
"""Log of the workload's output."""
MAX_KEY_LENGTH = 256
"""Of an idempotency key, in characters."""
FILES_READ_S = 300.0
"""Seconds that the other side may take to read files that it has got."""
_MAX_DETAIL = 2000
_ERRORS: dict[int, type[ApiError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    402: BudgetError,
    403: AuthenticationError,
    404: NotFoundError,
    409: ConflictError,
    422: InvalidRequestError,
    429: RateLimitError,
}


@dataclass(frozen=True)
class Answer:
    """Answer of the service."""

    status: int
    """The HTTP status."""
    headers: Mapping[str, str]
    """Headers; names in any case."""
    content: bytes
    """The body; empty where it went into a file."""

    @property
    def is_success(self) -> bool:
        """Whether the status is a 2xx."""
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The body as text."""
        return self.content.decode("utf-8", errors="replace")


@dataclass(frozen=True, kw_only=True)
class Call(Generic[Result]):
    """One request to the API."""

    method: str
    """`GET` or `POST`."""
    path: str
    """From the base URL on, quoted, with the query."""
    read: Callable[[Answer], Result]
    """Reader of a successful answer."""
    content: bytes | None = None
    """The JSON body."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Further headers."""
    is_repeatable: bool = True
    """Whether sending it twice does no more than sending it once."""
    least_timeout_s: float = 0.0
    """Least seconds that the answer may take, whatever the client's timeout: the service reads files first."""

    def __str__(self) -> str:
        return f"{self.method} {self.path.partition('?')[0]}"

    def result(self, answer: Answer) -> Result:
        """Read the answer.

        Raises:
            ApiError: If it is none of success.
            AnswerError: If it lacks what the API promises.
        """
        if not answer.is_success:
            raise api_error(answer)
        try:
            return self.read(answer)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise AnswerError(
                f"The answer to {self} is not what the API promises ({type(error).__name__}: {error}): "
                f"{answer.text[:200]!r}. Is base_url a simyard service?"
            ) from error


def headers(call: Call[Any], api_key: str) -> dict[str, str]:
    """Return the headers of a call; nothing else carries the key."""
    return {"Authorization": f"Bearer {api_key}", "Accept": "application/json", **call.headers}


def upload_headers(given: Mapping[str, Any], size_bytes: int) -> dict[str, str]:
    """Return the headers of an upload: what the service asks for, and the length, so that it is not sent in chunks."""
    kept = {str(key): str(value) for key, value in given.items() if str(key).lower() != "content-length"}
    return {**kept, "Content-Length": str(size_bytes)}


def transport_error(error: Exception) -> TransportError:
    """Return the error for a connection that failed; its text names neither key nor signed address."""
    return TransportError(f"There is no whole answer ({type(error).__name__}): {error}".rstrip(": "))


def api_error(answer: Answer, about: str = "") -> ApiError:
    """Return the error for an answer that is none of success.

    Args:
        answer: The answer.
        about: What was asked for, where the answer's text cannot know it.
    """
    code, fields, detail = None, (), answer.text.strip()
    try:
        body = json.loads(answer.content)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, dict) and "detail" in body:
        detail = body["detail"] if isinstance(body["detail"], str) else json.dumps(body["detail"], ensure_ascii=False)
        code = body["code"] if isinstance(body.get("code"), str) else None
        if isinstance(body["detail"], list) and all(isinstance(item, dict) for item in body["detail"]):
            fields = tuple(body["detail"])
            detail = "; ".join(map(_in_words, fields))
    if 300 <= answer.status < 400:
        detail = f"the service has moved to {answer.headers.get('location')!r}; set base_url"
    if not detail:
        detail = next((status.phrase for status in HTTPStatus if status == answer.status), "no reason was given")
    if len(detail) > _MAX_DETAIL:
        detail = detail[: _MAX_DETAIL - 1] + "…"
    default = ServerError if answer.status >= 500 else ApiError
    kind = _ERRORS.get(answer.status, default)
    return kind(answer.status, f"{about}{detail}", code, fields, _seconds(answer.headers.get("retry-after")))


def _in_words(problem: Mapping[str, Any]) -> str:
    """Return the message about one wrong field; the service's own messages begin with the field's name already."""
    place = problem.get("loc")
    parts = [str(part) for part in place] if isinstance(place, list) else []
    if len(parts) > 1 and parts[0] in ("body", "query", "path", "header"):
        parts = parts[1:]
    name, message = ".".join(parts), str(problem.get("msg"))
    return message if message.startswith(name) else f"{name}: {message}"


def _seconds(text: str | None) -> float | None:
    """Read `Retry-After`. The service gives seconds; a date, which a proxy may give, says nothing to a skewed clock."""
    return float(text) if text is not None and text.strip().isdecimal() else None


def checked_key(key: str | None) -> str:
    """Return an idempotency key that can be sent; a new one for None.

    Raises:
        ConfigurationError: If it is empty, too long, or not printable ASCII.
    """
    if key is None:
        return f"auto-{uuid.uuid4().hex}"
    text = key.strip() if isinstance(key, str) else ""
    if not text or len(text) > MAX_KEY_LENGTH or not (text.isascii() and text.isprintable()):
        raise ConfigurationError(
            f"idempotency_key is {key!r}: give 1 to {MAX_KEY_LENGTH} printable ASCII characters, or leave it out."
        )
    return text


def _get(path: str, read: Callable[[Answer], Result], **query: Any) -> Call[Result]:
    return Call(method="GET", path=f"{path}?{urlencode(query)}" if query else path, read=read)


def _post(
    path: str,
    read: Callable[[Answer], Result],
    body: Body | None = None,
    *,
    key: str | None = None,
    again: bool = True,
    least_timeout_s: float = 0.0,
) -> Call[Result]:
    headers = {} if key is None else {"Idempotency-Key": key}
    content = None
    if body is not None:
        headers["Content-Type"] = "application/json"
        try:
            content = json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigurationError(f"The request cannot be written as JSON: {error}.") from error
    return Call(
        method="POST",
        path=path,
        read=read,
        content=content,
        headers=headers,
        is_repeatable=again,
        least_timeout_s=least_timeout_s,
    )


def _id(name: str, value: str) -> str:
    if not isinstance(value, str) or not value.strip() or value.strip() in (".", ".."):
        raise ConfigurationError(f"{name} is {value!r}: give an id that the service gave.")
    return quote(value.strip(), safe="")


def _limit(limit: int) -> int:
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ConfigurationError(f"limit is {limit!r}: give a whole number of at least 1.")
    return limit


def _object(*keys: str) -> Callable[[Answer], Any]:
    """Return a reader of an object that has these keys, each a text."""

    def read(answer: Answer) -> Any:
        data = json.loads(answer.content)
        if not isinstance(data, dict):
            raise TypeError(f"{type(data).__name__}, not an object")
        for key in keys:
            if not isinstance(data[key], str) or not data[key]:
                raise ValueError(f"{key!r} is {data[key]!r}")
        return data

    return read


def _items(name: str) -> Callable[[Answer], Any]:
    """Return a reader of the list of objects that an object has under a name."""

    def read(answer: Answer) -> Any:
        items = json.loads(answer.content)[name]
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise TypeError(f"{name!r} is no list of objects")
        return items

    return read


def _job(answer: Answer) -> JobRecord:
    data = _object("job_id", "status")(answer)
    for artifact in data.setdefault("artifacts", []):
        if not isinstance(artifact["name"], str):
            raise TypeError(f"an artifact's name is {artifact['name']!r}")
    return cast(JobRecord, data)


def _submitted(answer: Answer) -> JobRecord:
    return cast(JobRecord, _object("job_id")(answer))


# Jobs


def create_job(body: Body, key: str | None) -> Call[JobRecord]:
    """Submit a job of any kind."""
    return _post("/v0/jobs", _submitted, body, key=checked_key(key), least_timeout_s=FILES_READ_S)


def list_jobs(limit: int) -> Call[list[JobRecord]]:
    """List jobs, newest first."""
    return _get("/v0/jobs", _items("jobs"), limit=_limit(limit))


def get_job(job_id: str) -> Call[JobRecord]:
    """Read a job."""
    return _get(f"/v0/jobs/{_id('job_id', job_id)}", _job)


def cancel_job(job_id: str) -> Call[JobRecord]:
    """Ask a job to end."""
    return _post(f"/v0/jobs/{_id('job_id', job_id)}/cancel", _job)


def get_logs(job_id: str, name: str, tail: int) -> Call[str]:
    """Read the end of a log."""
    return _get(logs_path(job_id), lambda answer: answer.text, **logs_query(name, tail))


def logs_path(job_id: str) -> str:
    """Return the path of a job's logs."""
    return f"/v0/jobs/{_id('job_id', job_id)}/logs"


def logs_query(name: str, tail: int, *, follow: bool = False) -> dict[str, str | int]:
    """Return the query for a log: its name and the number of lines."""
    if not isinstance(tail, int) or isinstance(tail, bool) or tail < 0:
        raise ConfigurationError(f"tail is {tail!r}: give a whole number of lines.")
    query: dict[str, str | int] = {"name": name, "tail": tail}
    return query | {"follow": "true"} if follow else query


def follow_logs(job_id: str, name: str, tail: int) -> Call[None]:
    """Read a log line by line while the job runs; the answer is streamed, so nothing reads it whole."""
    return _get(logs_path(job_id), lambda answer: None, **logs_query(name, tail, follow=True))


def find_artifact(job_id: str, name: str) -> Call[DownloadPlace]:
    """Ask for the URL of an artifact."""
    path = quote("/".join(safe_parts(name)), safe="/")
    return _get(f"/v0/jobs/{_id('job_id', job_id)}/artifacts/{path}/download-url", _object("url"))


# Inputs


def presign_upload(
    filename: str, content_type: str, size_bytes: int, *, register: bool, kind: str | None, metadata: Body | None
) -> Call[UploadSlot]:
    """Ask for a URL to send a file to."""
    body = {
        "filename": filename,
        "content_type": content_type,
        "size_bytes": size_bytes,
        "register_asset": register,
        "asset_kind": kind,
        "metadata": dict(metadata or {}),
    }
    return _post("/v0/inputs/presign-upload", _object("upload_url", "input_uri"), body)


def register_asset(
    input_uri: str,
    filename: str | None,
    content_type: str | None,
    size_bytes: int | None,
    kind: str | None,
    metadata: Body | None,
) -> Call[AssetRecord]:
    """Make an uploaded file an asset. The same bytes are the same asset, so it may be repeated."""
    given = {
        "input_uri": input_uri,
        "filename": filename,
        "content_type": content_type,
        "size_bytes": size_bytes,
        "kind": kind,
        "metadata": None if metadata is None else dict(metadata),
    }
    body = {key: value for key, value in given.items() if value is not None}
    return _post("/v0/assets/register", _object("asset_id"), body, least_timeout_s=FILES_READ_S)


def get_asset(asset_id: str) -> Call[AssetRecord]:
    """Read an asset."""
    return _get(f"/v0/assets/{_id('asset_id', asset_id)}", _object("asset_id"))


def list_assets(limit: int) -> Call[list[AssetRecord]]:
    """List assets, newest first."""
    return _get("/v0/assets", _items("assets"), limit=_limit(limit))


# Managed training runs


def create_run(body: Body, key: str | None) -> Call[TrainingRunRecord]:
    """Submit a managed training run."""
    return _post("/v1/training-runs", _object("run_id"), body, key=checked_key(key), least_timeout_s=FILES_READ_S)


def list_runs(limit: int) -> Call[list[TrainingRunRecord]]:
    """List runs, newest first."""
    return _get("/v1/training-runs", _items("runs"), limit=_limit(limit))


def get_run(run_id: str) -> Call[TrainingRunRecord]:
    """Read a run."""
    return _get(_run(run_id), _object("run_id", "status"))


def pause_run(run_id: str) -> Call[TrainingRunRecord]:
    """Ask a run to begin nothing new."""
    return _post(f"{_run(run_id)}/pause", _object("run_id", "status"))


def resume_run(run_id: str) -> Call[TrainingRunRecord]:
    """Ask a run to go on: not repeatable, because the second request would meet a run that goes on already."""
    return _post(f"{_run(run_id)}/resume", _object("run_id", "status"), again=False)


def cancel_run(run_id: str) -> Call[TrainingRunRecord]:
    """Ask a run to end."""
    return _post(f"{_run(run_id)}/cancel", _object("run_id", "status"))


def list_iterations(run_id: str, limit: int) -> Call[list[dict[str, Any]]]:
    """List a run's iterations, oldest first."""
    return _get(f"{_run(run_id)}/iterations", _items("iterations"), limit=_limit(limit))


def list_checkpoints(run_id: str, limit: int) -> Call[list[CheckpointRecord]]:
    """List a run's checkpoints, newest first."""
    return _get(f"{_run(run_id)}/checkpoints", _items("checkpoints"), limit=_limit(limit))


def list_events(run_id: str, limit: int) -> Call[list[EventRecord]]:
    """List the newest events of a run, the oldest of them first."""
    return _get(f"{_run(run_id)}/events", _items("events"), limit=_limit(limit))


def find_checkpoint(run_id: str, checkpoint_id: str) -> Call[DownloadPlace]:
    """Ask for the URL of a checkpoint."""
    path = f"{_run(run_id)}/checkpoints/{_id('checkpoint_id', checkpoint_id)}/download-url"
    return _get(path, _object("url"))


def _run(run_id: str) -> str:
    return f"/v1/training-runs/{_id('run_id', run_id)}"
