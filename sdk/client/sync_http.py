# Generated from async_http.py by `make client`: change that one.
"""Requests, answers and files over HTTP, sent again where that may help."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx

from simyard.client.async_http import (
    FILES_READ_S,
    MAX_PAGE,
    DownloadPlace,
    Record,
    Result,
    api_error,
    checked_limit,
    one,
    one_page,
    text_of,
    transport_errors,
)
from simyard.client.concurrency import CHUNK_BYTES, sync_call, sync_chunks, sync_sleep
from simyard.client.errors import (
    AnswerError,
    ConfigurationError,
    SimyardClientError,
)
from simyard.client.files import Download
from simyard.client.settings import LIMITS, LOOPBACK, OVER, Deadline, Outage, Settings, Tries, certificates


class Http:
    """The connections of one client."""

    def __init__(self, settings: Settings) -> None:
        """Take the client's settings. Nothing is sent yet."""
        self.settings = settings
        # No proxy leads back to this machine, whatever the environment says.
        direct = httpx.HTTPTransport(verify=certificates(), limits=LIMITS)
        self._client = httpx.Client(
            headers={"User-Agent": "simyard"}, verify=certificates(), limits=LIMITS,
            mounts={f"all://{name}": direct for name in LOOPBACK},
        )  # fmt: skip

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def send(
        self,
        method: str,
        path: str,
        read: Callable[[httpx.Response], Result],
        *,
        query: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
        key: str | None = None,
        again: bool = True,
        least_timeout_s: float = 0.0,
    ) -> Result:
        """Send a request to the API, again if the failure may pass.

        Args:
            method: `GET` or `POST`.
            path: Path of the endpoint, quoted.
            read: Reader of a successful answer.
            query: The query; not quoted.
            body: The JSON body.
            key: The idempotency key.
            again: Whether sending it twice does no more than sending it once.
            least_timeout_s: Least seconds that the answer may take, whatever the client's timeout: the service reads
                files first.

        Raises:
            ConfigurationError: If the body cannot be written as JSON; nothing is sent.
            ApiError: If the service refuses.
            AnswerError: If the answer lacks what the API promises.
            TransportError: If there is no whole answer.
        """
        headers = self._headers() if key is None else {**self._headers(), "Idempotency-Key": key}
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            try:
                content = json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
            except (TypeError, ValueError, RecursionError) as error:
                raise ConfigurationError(f"The request cannot be written as JSON: {error}.") from error

        tries = Tries(self.settings)
        while True:
            try:
                with transport_errors():
                    response = self._client.request(
                        method,
                        self._address(path, query),
                        content=content,
                        headers=headers,
                        timeout=self._timeout(least_timeout_s),
                    )
                if not response.is_success:
                    raise api_error(response)
                break
            except SimyardClientError as error:
                if not again:
                    raise
                pause_s = tries.pause_s(error)
            sync_sleep(pause_s)

        try:
            return read(response)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise AnswerError(
                f"The answer to {method} {path} is not what the API promises ({type(error).__name__}: {error}): "
                f"{text_of(response)[:200]!r}. Is base_url a simyard service?"
            ) from error

    def pages(self, path: str, kind: type[Record], name: str, limit: int) -> list[Record]:
        """Return so many records of a list that comes in pages; fewer where it has no more.

        Args:
            path: Path of the endpoint, quoted.
            kind: Type of the records.
            name: Key of the records in a page.
            limit: The most to return.

        Raises:
            ConfigurationError: If `limit` is no whole number, or less than 1.
        """
        checked_limit(limit)
        found: list[Record] = []
        cursor: str | None = None
        while True:
            query: dict[str, str | int] = {"limit": min(limit - len(found), MAX_PAGE)}
            query |= {"cursor": cursor} if cursor else {}
            page, following = self.send("GET", path, one_page(kind, name), query=query)
            found += page
            if len(found) >= limit or following in (None, cursor):
                return found
            cursor = following

    def wait_until_over(
        self, about: str, look: Callable[[], Record], poll_interval_s: float, timeout_s: float
    ) -> Record:
        """Look at a job or a run until it is over; a service that is away for a while does not end the wait.

        Args:
            about: Its name, for the error.
            look: Reads its record.
            poll_interval_s: How often to look, in seconds.
            timeout_s: How long to wait, in seconds.

        Raises:
            JobTimeoutError: If it is not over in time.
        """
        deadline = Deadline(about, poll_interval_s, timeout_s)
        outage = Outage(self.settings)
        while True:
            try:
                record = look()
            except SimyardClientError as error:
                outage.tolerate(error)
            else:
                outage.end()
                if record["status"] in OVER:
                    return record
            sync_sleep(deadline.pause_s())

    @contextmanager
    def stream(self, path: str, query: Mapping[str, str | int]) -> Iterator[httpx.Response]:
        """Send a request once, and give its answer while it comes.

        Raises:
            ApiError: If the service refuses.
            httpx.RequestError: If the connection breaks, now or later.
        """
        with self._client.stream(
            "GET", self._address(path, query), headers=self._headers(), timeout=self.settings.timeout_s
        ) as response:
            if not response.is_success:
                response.read()
                raise api_error(response)
            yield response

    def send_file(self, path: Path, name: str, method: str, url: str, headers: Mapping[str, str]) -> None:
        """Send a file once to an address that the service gave, which needs no key.

        Args:
            path: The file.
            name: Its name, for the error.
            method: `PUT`.
            url: The address.
            headers: Headers that the service asks for.
        """
        kept = {str(key): str(value) for key, value in headers.items() if str(key).lower() != "content-length"}
        with transport_errors(), path.open("rb") as file:
            response = self._client.request(
                method,
                self.settings.url(url),
                content=sync_chunks(file),
                # The length is said, so that the file is not sent in chunks.
                headers={**kept, "Content-Length": str(os.fstat(file.fileno()).st_size)},
                timeout=self._timeout(FILES_READ_S),
            )
        if not response.is_success:
            raise api_error(response, f"upload of {name!r}: ")

    def fetch(self, place_path: str, into: Download, timeout_s: float) -> bytes:
        """Fetch a file; after an interruption the rest, from a new address.

        Args:
            place_path: Path of the endpoint that tells the file's address.
            into: Takes the bytes.
            timeout_s: How long to wait for the next bytes, in seconds.

        Returns:
            The bytes, where they are kept in memory.
        """
        tries = Tries(self.settings)
        while True:
            place = self.send("GET", place_path, one(DownloadPlace, "url"))
            into.sha256 = place.get("sha256") or into.sha256
            into.size_bytes = place["size_bytes"] if place.get("size_bytes") is not None else into.size_bytes
            try:
                self._fetch_once(self.settings.url(place["url"]), into, timeout_s)
                return into.finish()
            except SimyardClientError as error:
                pause_s = tries.pause_s(error)
            sync_sleep(pause_s)

    def _fetch_once(self, url: str, into: Download, timeout_s: float) -> None:
        with transport_errors():
            with self._client.stream(
                "GET", url, headers=into.headers(), timeout=timeout_s, follow_redirects=True
            ) as response:
                # 416: nothing is left to fetch, or another file is there now.
                if response.is_success or response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    into.begin(response.status_code, response.headers.get("content-range"))
                    for chunk in response.iter_bytes(CHUNK_BYTES):
                        sync_call(into.take, chunk)
                    return
                response.read()
        raise api_error(response, f"download of {into.target.name if into.target else 'the file'!r}: ")

    def fetch_file(
        self,
        place_path: str,
        target: Path,
        stop: threading.Event | None = None,
        sha256: str | None = None,
        size_bytes: int | None = None,
    ) -> str:
        """Fetch a file to a path; return the path."""
        with Download(target, stop) as into:
            into.sha256, into.size_bytes = sha256, size_bytes
            self.fetch(place_path, into, self.settings.timeout_s)
        return str(target)

    def file_url(self, place_path: str) -> str:
        """Return the signed address that an endpoint tells, good for a while, from which anybody may fetch a file."""
        return self.settings.url((self.send("GET", place_path, one(DownloadPlace, "url")))["url"])

    def _headers(self) -> dict[str, str]:
        """Return the headers of every request to the API; nothing else carries the key."""
        return {"Authorization": f"Bearer {self.settings.api_key}", "Accept": "application/json"}

    def _address(self, path: str, query: Mapping[str, str | int] | None) -> str:
        return self.settings.url(f"{path}?{urlencode(query)}" if query else path)

    def _timeout(self, least_s: float) -> httpx.Timeout:
        return httpx.Timeout(self.settings.timeout_s, read=max(self.settings.timeout_s, least_s))
