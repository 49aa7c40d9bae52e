"""Requests and files over HTTP, sent again where that may help."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from simyard.client import calls
from simyard.client.calls import Answer, Call, Result
from simyard.client.concurrency import CHUNK_BYTES, async_call, async_chunks, async_sleep
from simyard.client.errors import ConfigurationError, SimyardClientError
from simyard.client.files import Download, content_type
from simyard.client.records import DownloadPlace, UploadSlot
from simyard.client.settings import LIMITS, Settings, certificates


class AsyncHttp:
    """The connections of one client."""

    def __init__(self, settings: Settings) -> None:
        """Take the client's settings. Nothing is sent yet."""
        self.settings = settings
        self._client = httpx.AsyncClient(headers={"User-Agent": "simyard"}, verify=certificates(), limits=LIMITS)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def send(self, call: Call[Result]) -> Result:
        """Send a request, again if it may be repeated and the failure may pass."""
        tries = 0
        while True:
            tries += 1
            try:
                with _transport_errors():
                    response = await self._client.request(
                        call.method,
                        self.settings.url(call.path),
                        content=call.content,
                        headers=calls.headers(call, self.settings.api_key),
                        timeout=self._timeout(call.least_timeout_s),
                    )
                return call.result(Answer(response.status_code, response.headers, response.content))
            except SimyardClientError as error:
                pause_s = self.settings.pause_s(tries, error) if call.is_repeatable else None
                if pause_s is None:
                    raise
            await async_sleep(pause_s)

    @asynccontextmanager
    async def stream(self, call: Call[None]) -> AsyncGenerator[httpx.Response, None]:
        """Send a request once, and give its answer while it comes.

        Raises:
            ApiError: If the service refuses.
            httpx.RequestError: If the connection breaks, now or later.
        """
        async with self._client.stream(
            call.method,
            self.settings.url(call.path),
            headers=calls.headers(call, self.settings.api_key),
            timeout=self.settings.timeout_s,
        ) as response:
            if not response.is_success:
                raise calls.api_error(Answer(response.status_code, response.headers, await response.aread()))
            yield response

    async def upload(
        self, path: Path, name: str, *, register: bool, kind: str | None, metadata: Mapping[str, Any] | None
    ) -> UploadSlot:
        """Send a file to an address that the service gives; after an interruption to a new one, from the start."""
        tries = 0
        while True:
            tries += 1
            try:
                size = path.stat().st_size
            except OSError as error:
                raise ConfigurationError(f"{str(path)!r} cannot be read: {error.strerror}.") from error
            slot = await self.send(
                calls.presign_upload(name, content_type(name), size, register=register, kind=kind, metadata=metadata)
            )
            try:
                with _transport_errors(), path.open("rb") as file:
                    response = await self._client.request(
                        slot.get("upload_method") or "PUT",
                        self.settings.url(slot["upload_url"]),
                        content=async_chunks(file),
                        headers=calls.upload_headers(slot.get("upload_headers") or {}, os.fstat(file.fileno()).st_size),
                        timeout=self._timeout(calls.FILES_READ_S),
                    )
                if response.is_success:
                    return slot
                answer = Answer(response.status_code, response.headers, response.content)
                raise calls.api_error(answer, f"upload of {name!r}: ")
            except SimyardClientError as error:
                pause_s = self.settings.pause_s(tries, error)
                if pause_s is None:
                    raise
            await async_sleep(pause_s)

    async def fetch(self, locate: Call[DownloadPlace], into: Download, timeout_s: float) -> bytes:
        """Fetch a file; after an interruption the rest, from a new address.

        Args:
            locate: The request for the file's address.
            into: Takes the bytes.
            timeout_s: How long to wait for the next bytes, in seconds.

        Returns:
            The bytes, where they are kept in memory.
        """
        tries = 0
        while True:
            tries += 1
            place = await self.send(locate)
            into.sha256 = place.get("sha256") or into.sha256
            into.size_bytes = place["size_bytes"] if place.get("size_bytes") is not None else into.size_bytes
            try:
                await self._fetch_once(self.settings.url(place["url"]), into, timeout_s)
                return into.finish()
            except SimyardClientError as error:
                pause_s = self.settings.pause_s(tries, error)
                if pause_s is None:
                    raise
            await async_sleep(pause_s)

    async def _fetch_once(self, url: str, into: Download, timeout_s: float) -> None:
        with _transport_errors():
            async with self._client.stream(
                "GET", url, headers=into.headers(), timeout=timeout_s, follow_redirects=True
            ) as response:
                if response.is_success or response.status_code == 416:
                    into.begin(response.status_code, response.headers.get("content-range"))
                    async for chunk in response.aiter_bytes(CHUNK_BYTES):
                        await async_call(into.take, chunk)
                    return
                answer = Answer(response.status_code, response.headers, await response.aread())
        raise calls.api_error(answer, f"download of {into.target.name if into.target else 'the file'!r}: ")

    async def fetch_file(
        self,
        locate: Call[DownloadPlace],
        target: Path,
        stop: threading.Event | None = None,
        sha256: str | None = None,
        size_bytes: int | None = None,
    ) -> str:
        """Fetch a file to a path; return the path."""
        with Download(target, stop) as into:
            into.sha256, into.size_bytes = sha256, size_bytes
            await self.fetch(locate, into, self.settings.timeout_s)
        return str(target)

    def _timeout(self, least_s: float) -> httpx.Timeout:
        return httpx.Timeout(self.settings.timeout_s, read=max(self.settings.timeout_s, least_s))


@contextmanager
def _transport_errors() -> Iterator[None]:
    """Raise the client's own error where a connection fails."""
    try:
        yield
    except (httpx.RequestError, httpx.InvalidURL) as error:
        raise calls.transport_error(error) from error
