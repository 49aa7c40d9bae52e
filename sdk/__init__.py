"""simyard: robot-learning jobs on NVIDIA Isaac Lab. `Client` and `AsyncClient` talk to its service."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simyard.client import (
        AnswerError,
        ApiError,
        AsyncClient,
        AsyncJob,
        AuthenticationError,
        BudgetError,
        Client,
        ConfigurationError,
        ConflictError,
        HardsimClient,
        IntegrityError,
        InvalidRequestError,
        Job,
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

__version__ = "0.1.0"
"""Written here: to ask for an installed distribution's costs the command line a fifth of its start."""

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


def __getattr__(name: str) -> Any:
    # Only when it is asked for: the runner's part of this package needs the standard library alone, the client httpx.
    if name in __all__:
        return getattr(importlib.import_module("simyard.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
