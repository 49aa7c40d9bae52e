"""The client: its settings, and the methods that the other modules give it."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from simyard.client.async_http import AsyncHttp
from simyard.client.async_submissions import AsyncSubmissions
from simyard.client.async_sweeps import AsyncSweeps
from simyard.client.async_tasks import AsyncTasks
from simyard.client.async_training_runs import AsyncTrainingRuns
from simyard.client.settings import DEFAULT_URL, Settings


class AsyncClient(AsyncSubmissions, AsyncSweeps, AsyncTasks, AsyncTrainingRuns):
    """The service from Python. Tasks may share one; use it as a context, or close it.

    Every method raises `ApiError` (by its status a subclass) when the service refuses, `TransportError` when there is
    no answer, and `ConfigurationError` before anything is sent when an argument is wrong. Requests that may be
    repeated are, on 429, 500, 502, 503, 504 and without an answer: all but `resume_training_run` and `resume_sweep`. A
    submission carries an idempotency key, so that a repeated one is the same job.
    """

    def __init__(
        self,
        api_key: str,
        base_url: str = DEFAULT_URL,
        timeout_s: float = 30.0,
        max_retries: int = 3,
        retry_backoff_s: float = 0.5,
    ) -> None:
        """Set the service's address, the key and the limits. Nothing is sent yet.

        Args:
            api_key: A key of the project, `sy_live_…`.
            base_url: The service's address.
            timeout_s: Seconds to wait for a connection, and for the next bytes of an answer.
            max_retries: Further tries of a request that may be repeated.
            retry_backoff_s: The pause before the second try, in seconds; it doubles with each further one, up to 30 s.
                Where the service says `Retry-After`, no less than that, and an error if that is more than 120 s.

        Raises:
            ConfigurationError: If one of them is bad.
        """
        self._http = AsyncHttp(
            Settings(
                api_key=api_key,
                base_url=base_url,
                timeout_s=timeout_s,
                max_retries=max_retries,
                retry_backoff_s=retry_backoff_s,
            )
        )

    @classmethod
    def from_env(cls) -> Self:
        """Make a client of `SIMYARD_API_KEY`, `SIMYARD_API_URL` and `SIMYARD_HTTP_TIMEOUT_S`, `_RETRIES`, `_BACKOFF_S`.

        Without that key they are read as `HARDSIM_API_KEY`, `HARDSIM_API_URL` and so on.

        Raises:
            ConfigurationError: If the key is missing or a value is bad.
        """
        return cls(**vars(Settings.from_env()))

    @property
    def base_url(self) -> str:
        """The service's address."""
        return self._http.settings.base_url

    @property
    def timeout_s(self) -> float:
        """Seconds to wait for a connection, and for the next bytes of an answer."""
        return self._http.settings.timeout_s

    @property
    def max_retries(self) -> int:
        """Further tries of a request that may be repeated."""
        return self._http.settings.max_retries

    @property
    def retry_backoff_s(self) -> float:
        """The pause before the second try; seconds."""
        return self._http.settings.retry_backoff_s

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    aclose = close  # async only

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"
