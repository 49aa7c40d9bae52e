"""Requests, answers and files over HTTP, sent again where that may help."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar, cast
from urllib.parse import quote, urlencode

import httpx

from simyard.client.concurrency import CHUNK_BYTES, async_call, async_chunks, async_sleep
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
    SimyardClientError,
    TransportError,
)
from simyard.client.files import Download
from simyard.client.settings import LIMITS, LOOPBACK, OVER, Deadline, Outage, Settings, Tries, certificates

FILES_READ_S = 300.0
"""Seconds that the other side may take to read files that it has got."""
MAX_KEY_LENGTH = 256
"""Of an idempotency key, in characters."""
MAX_PAGE = 1000
"""Records in one page of a list."""
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

Result = TypeVar("Result")
Record = TypeVar("Record", bound=Mapping[str, object])


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


class AsyncHttp:
    """The connections of one client."""

    def __init__(self, settings: Settings) -> None:
        """Take the client's settings. Nothing is sent yet."""
        self.settings = settings
        # No proxy leads back to this machine, whatever the environment says.
        direct = httpx.AsyncHTTPTransport(verify=certificates(), limits=LIMITS)
        self._client = httpx.AsyncClient(
            headers={"User-Agent": "simyard"}, verify=certificates(), limits=LIMITS,
            mounts={f"all://{name}": direct for name in LOOPBACK},
        )  # fmt: skip

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def send(
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
                    response = await self._client.request(
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
            await async_sleep(pause_s)

        try:
            return read(response)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise AnswerError(
                f"The answer to {method} {path} is not what the API promises ({type(error).__name__}: {error}): "
                f"{text_of(response)[:200]!r}. Is base_url a simyard service?"
            ) from error

    async def pages(self, path: str, kind: type[Record], name: str, limit: int) -> list[Record]:
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
            page, following = await self.send("GET", path, one_page(kind, name), query=query)
            found += page
            if len(found) >= limit or following in (None, cursor):
                return found
            cursor = following

    async def wait_until_over(
        self, about: str, look: Callable[[], Awaitable[Record]], poll_interval_s: float, timeout_s: float
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
                record = await look()
            except SimyardClientError as error:
                outage.tolerate(error)
            else:
                outage.end()
                if record["status"] in OVER:
                    return record
            await async_sleep(deadline.pause_s())

    @asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, str | int]) -> AsyncGenerator[httpx.Response, None]:
        """Send a request once, and give its answer while it comes.

        Raises:
            ApiError: If the service refuses.
            httpx.RequestError: If the connection breaks, now or later.
        """
        async with self._client.stream(
            "GET", self._address(path, query), headers=self._headers(), timeout=self.settings.timeout_s
        ) as response:
            if not response.is_success:
                await response.aread()
                raise api_error(response)
            yield response

    async def send_file(self, path: Path, name: str, method: str, url: str, headers: Mapping[str, str]) -> None:
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
            response = await self._client.request(
                method,
                self.settings.url(url),
                content=async_chunks(file),
                # The length is said, so that the file is not sent in chunks.
                headers={**kept, "Content-Length": str(os.fstat(file.fileno()).st_size)},
                timeout=self._timeout(FILES_READ_S),
            )
        if not response.is_success:
            raise api_error(response, f"upload of {name!r}: ")

    async def fetch(self, place_path: str, into: Download, timeout_s: float) -> bytes:
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
            place = await self.send("GET", place_path, one(DownloadPlace, "url"))
            into.sha256 = place.get("sha256") or into.sha256
            into.size_bytes = place["size_bytes"] if place.get("size_bytes") is not None else into.size_bytes
            try:
                await self._fetch_once(self.settings.url(place["url"]), into, timeout_s)
                return into.finish()
            except SimyardClientError as error:
                pause_s = tries.pause_s(error)
            await async_sleep(pause_s)

    async def _fetch_once(self, url: str, into: Download, timeout_s: float) -> None:
        with transport_errors():
            async with self._client.stream(
                "GET", url, headers=into.headers(), timeout=timeout_s, follow_redirects=True
            ) as response:
                # 416: nothing is left to fetch, or another file is there now.
                if response.is_success or response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    into.begin(response.status_code, response.headers.get("content-range"))
                    async for chunk in response.aiter_bytes(CHUNK_BYTES):
                        await async_call(into.take, chunk)
                    return
                await response.aread()
        raise api_error(response, f"download of {into.target.name if into.target else 'the file'!r}: ")

    async def fetch_file(
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
            await self.fetch(place_path, into, self.settings.timeout_s)
        return str(target)

    async def file_url(self, place_path: str) -> str:
        """Return the signed address that an endpoint tells, good for a while, from which anybody may fetch a file."""
        return self.settings.url((await self.send("GET", place_path, one(DownloadPlace, "url")))["url"])

    def _headers(self) -> dict[str, str]:
        """Return the headers of every request to the API; nothing else carries the key."""
        return {"Authorization": f"Bearer {self.settings.api_key}", "Accept": "application/json"}

    def _address(self, path: str, query: Mapping[str, str | int] | None) -> str:
        return self.settings.url(f"{path}?{urlencode(query)}" if query else path)

    def _timeout(self, least_s: float) -> httpx.Timeout:
        return httpx.Timeout(self.settings.timeout_s, read=max(self.settings.timeout_s, least_s))


@contextmanager
def transport_errors() -> Iterator[None]:
    """Raise the client's own error where a connection fails; its text names neither key nor signed address."""
    try:
        yield
    except (httpx.RequestError, httpx.InvalidURL) as error:
        text = f"There is no whole answer ({type(error).__name__}): {error}".rstrip(": ")
        raise TransportError(text) from error


def one(kind: type[Record], *texts: str) -> Callable[[httpx.Response], Record]:
    """Return a reader of one record.

    Args:
        kind: Its type.
        texts: Keys that it must have, each with a text.
    """

    def read(response: httpx.Response) -> Record:
        data = json.loads(response.content)
        if not isinstance(data, dict):
            raise TypeError(f"{type(data).__name__}, not an object")
        for key in texts:
            if not isinstance(data[key], str) or not data[key]:
                raise ValueError(f"{key!r} is {data[key]!r}")
        return cast("Record", data)

    return read


def many(kind: type[Record], name: str) -> Callable[[httpx.Response], list[Record]]:
    """Return a reader of the list of records that an object has under a name."""
    return lambda response: _listed(json.loads(response.content), kind, name)


def one_page(kind: type[Record], name: str) -> Callable[[httpx.Response], tuple[list[Record], str | None]]:
    """Return a reader of one page of a list: the records, and the cursor of the next page; None for the last one."""

    def read(response: httpx.Response) -> tuple[list[Record], str | None]:
        page = json.loads(response.content)
        cursor = page.get("next_cursor")
        if not isinstance(cursor, str | None):
            raise TypeError(f"next_cursor is {cursor!r}")
        return _listed(page, kind, name), cursor

    return read


def _listed(data: Any, kind: type[Record], name: str) -> list[Record]:
    items = data[name]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise TypeError(f"{name!r} is no list of objects")
    return cast("list[Record]", items)


def text_of(response: httpx.Response) -> str:
    """Return the body as text."""
    return response.content.decode("utf-8", errors="replace")


def api_error(response: httpx.Response, about: str = "") -> ApiError:
    """Return the error for an answer that is none of success.

    Args:
        response: The answer, read whole.
        about: The purpose of the request, where the answer's text cannot know it.
    """
    status = response.status_code
    code, fields, detail = None, (), text_of(response).strip()
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, dict) and "detail" in body:
        detail = body["detail"] if isinstance(body["detail"], str) else json.dumps(body["detail"], ensure_ascii=False)
        code = body["code"] if isinstance(body.get("code"), str) else None
        if isinstance(body["detail"], list) and all(isinstance(item, dict) for item in body["detail"]):
            fields = tuple(body["detail"])
            detail = "; ".join(map(_in_words, fields))
    if 300 <= status < 400:
        detail = f"the service has moved to {response.headers.get('location')!r}; set base_url"
    if not detail:
        detail = next((known.phrase for known in HTTPStatus if known == status), "no reason was given")
    if len(detail) > _MAX_DETAIL:
        detail = detail[: _MAX_DETAIL - 1] + "…"

    # The service gives seconds; a date, which a proxy may give, says nothing to a skewed clock.
    retry_after = response.headers.get("retry-after", "").strip()
    retry_after_s = float(retry_after) if retry_after.isdecimal() else None
    kind = _ERRORS.get(status, ServerError if status >= 500 else ApiError)
    return kind(status, f"{about}{detail}", code, fields, retry_after_s)


def _in_words(problem: Mapping[str, Any]) -> str:
    """Return the message about one wrong field; the service's own messages begin with the field's name already."""
    place = problem.get("loc")
    parts = [str(part) for part in place] if isinstance(place, list) else []
    if len(parts) > 1 and parts[0] in ("body", "query", "path", "header"):
        parts = parts[1:]
    name, message = ".".join(parts), str(problem.get("msg"))
    return message if message.startswith(name) else f"{name}: {message}"


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


def checked_limit(limit: int) -> dict[str, str | int]:
    """Return the query for so many of a list.

    Raises:
        ConfigurationError: If it is no whole number, or less than 1.
    """
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ConfigurationError(f"limit is {limit!r}: give a whole number of at least 1.")
    return {"limit": limit}


def segment(name: str, value: str) -> str:
    """Return an id as a segment of a path.

    Args:
        name: Name of the argument, for the error.
        value: The id.

    Raises:
        ConfigurationError: If it is none.
    """
    if not isinstance(value, str) or not value.strip() or value.strip() in (".", ".."):
        raise ConfigurationError(f"{name} is {value!r}: give an id that the service gave.")
    return quote(value.strip(), safe="")
