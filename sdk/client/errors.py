"""Errors of a client.

    SimyardClientError
    ├── ConfigurationError      an argument, a setting or a local file is wrong: nothing was sent
    ├── ApiError                the service said no
    │   ├── InvalidRequestError 400, 422
    │   ├── AuthenticationError 401, 403
    │   ├── BudgetError         402
    │   ├── NotFoundError       404
    │   ├── ConflictError       409
    │   ├── RateLimitError      429
    │   └── ServerError         5xx
    ├── TransportError          no answer, or half of one
    ├── AnswerError             an answer that the API does not promise
    ├── IntegrityError          a file came, and is another one
    ├── UnsafeNameError         an artifact's name would lead out of the folder
    ├── JobError                JobFailedError, JobCanceledError
    ├── TrainingRunError        TrainingRunFailedError, TrainingRunCanceledError
    ├── SweepError              SweepFailedError, SweepCanceledError
    └── JobTimeoutError         a job, a training run or a sweep was not over in time

None of them ever holds the API key. All can be pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class SimyardClientError(Exception):
    """Base of everything that the clients raise on purpose."""


class ConfigurationError(SimyardClientError):
    """Raised before anything is sent, when an argument, a setting or a local file is wrong."""


class ApiError(SimyardClientError):
    """Raised for a request that the service refuses; the common statuses have classes of their own."""

    def __init__(
        self,
        status_code: int,
        detail: str,
        code: str | None = None,
        fields: tuple[Mapping[str, Any], ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(status_code, detail, code, fields, retry_after_s)
        self.status_code = status_code
        """The HTTP status."""
        self.detail = detail
        """Message for people: the problem, then the advice."""
        self.code = code
        """A stable name such as `bad_config`; None where the answer has none."""
        self.fields = fields
        """The fields that are wrong, with `loc`, `msg` and `type`; of status 422."""
        self.retry_after_s = retry_after_s
        """How long the service asks to wait, in seconds; None where it does not say."""

    def __str__(self) -> str:
        return f"HTTP {self.status_code}: {self.detail}"


class InvalidRequestError(ApiError):
    """Raised for 400 and 422: the request is malformed or impossible."""


class AuthenticationError(ApiError):
    """Raised for 401 and 403: the key is wrong, or lacks the right."""


class BudgetError(ApiError):
    """Raised for 402: the project's budget does not allow it."""


class NotFoundError(ApiError):
    """Raised for 404: it is not there, or is another project's."""


class ConflictError(ApiError):
    """Raised for 409: the idempotency key was used for another request, or the state forbids it."""


class RateLimitError(ApiError):
    """Raised for 429, after the retries."""


class ServerError(ApiError):
    """Raised for 5xx, after the retries."""


class TransportError(SimyardClientError):
    """Raised for a request without a whole answer, after the retries."""


class AnswerError(SimyardClientError):
    """Raised for an answer against the API's promise: is `base_url` a simyard service?"""


class IntegrityError(SimyardClientError):
    """Raised for a downloaded file without the size or the SHA-256 that the service names; it is not kept."""


class UnsafeNameError(SimyardClientError):
    """Raised for an artifact's name that is absolute or would lead out of the folder."""


class JobError(SimyardClientError):
    """Raised for a job that ended without a success."""

    def __init__(self, job_id: str, status: str, record: Mapping[str, Any]) -> None:
        super().__init__(job_id, status, record)
        self.job_id = job_id
        """The job."""
        self.status = status
        """`failed` or `canceled`."""
        self.record = record
        """The whole job, as the service gave it."""

    def __str__(self) -> str:
        return f"Job {self.job_id} {self.status}: {_reason(self.record)}"


class JobFailedError(JobError):
    """Raised for a job that failed."""


class JobCanceledError(JobError):
    """Raised for a job that was canceled."""


class TrainingRunError(SimyardClientError):
    """Raised for a managed training run that ended without a success."""

    def __init__(self, run_id: str, status: str, record: Mapping[str, Any]) -> None:
        super().__init__(run_id, status, record)
        self.run_id = run_id
        """The run."""
        self.status = status
        """`failed` or `canceled`."""
        self.record = record
        """The whole run, as the service gave it."""

    def __str__(self) -> str:
        return f"Training run {self.run_id} {self.status}: {_reason(self.record)}"


class TrainingRunFailedError(TrainingRunError):
    """Raised for a managed training run that failed."""


class TrainingRunCanceledError(TrainingRunError):
    """Raised for a managed training run that was canceled."""


class SweepError(SimyardClientError):
    """Raised for a sweep that ended without a success."""

    def __init__(self, sweep_id: str, status: str, record: Mapping[str, Any]) -> None:
        super().__init__(sweep_id, status, record)
        self.sweep_id = sweep_id
        """The sweep."""
        self.status = status
        """`failed` or `canceled`."""
        self.record = record
        """The whole sweep, as the service gave it."""

    def __str__(self) -> str:
        return f"Sweep {self.sweep_id} {self.status}: {_reason(self.record)}"


class SweepFailedError(SweepError):
    """Raised for a sweep that failed."""


class SweepCanceledError(SweepError):
    """Raised for a sweep that was canceled."""


class JobTimeoutError(SimyardClientError, TimeoutError):
    """Raised for a job, a training run or a sweep that was not over in time. It goes on."""


def _reason(record: Mapping[str, Any]) -> str:
    return str(record.get("error") or "the service gives no reason")
