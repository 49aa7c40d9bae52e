"""The service from Python: `Client` and `AsyncClient`, their handles and their errors."""

from simyard.client.async_client import AsyncClient
from simyard.client.async_submissions import AsyncJob
from simyard.client.errors import (
    AnswerError,
    ApiError,
    AuthenticationError,
    BudgetError,
    ConfigurationError,
    ConflictError,
    IntegrityError,
    InvalidRequestError,
    JobCanceledError,
    JobError,
    JobFailedError,
    JobTimeoutError,
    NotFoundError,
    RateLimitError,
    ServerError,
    SimyardClientError,
    SweepCanceledError,
    SweepError,
    SweepFailedError,
    TrainingRunCanceledError,
    TrainingRunError,
    TrainingRunFailedError,
    TransportError,
    UnsafeNameError,
)
from simyard.client.sync_client import Client
from simyard.client.sync_submissions import Job

HardsimClient = Client
"""Name of `Client` in programs that were written for `hardsim`."""

__all__ = [
    "AnswerError",
    "ApiError",
    "AsyncClient",
    "AsyncJob",
    "AuthenticationError",
    "BudgetError",
    "Client",
    "ConfigurationError",
    "ConflictError",
    "HardsimClient",
    "IntegrityError",
    "InvalidRequestError",
    "Job",
    "JobCanceledError",
    "JobError",
    "JobFailedError",
    "JobTimeoutError",
    "NotFoundError",
    "RateLimitError",
    "ServerError",
    "SimyardClientError",
    "SweepCanceledError",
    "SweepError",
    "SweepFailedError",
    "TrainingRunCanceledError",
    "TrainingRunError",
    "TrainingRunFailedError",
    "TransportError",
    "UnsafeNameError",
]
