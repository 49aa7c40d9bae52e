"""Files that are fetched for requests: a share of them a key, in minutes, and only while somebody waits for them.

A source may be slow by mistake or on purpose. So a download keeps up a least rate, its time follows from its size, and
it ends when the sender of the request hangs up. All downloads together take the threads that the application has on top
of those that answer everything else.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from simyard.core.errors import RequestError
from simyard.service import outbound

AT_ONCE = 32
"""Downloads of all keys together."""
OF_A_KEY = 8
LEAST_BYTES_S = 64_000
"""Bytes a second that must come, on average over half a minute, once the first half has gone."""
FIRST_S = 120.0
"""Until the answer begins, and besides what its size asks for."""
BYTES_S = 2_000_000
"""Bytes a second that the time of a whole file is reckoned with."""
MOST_S = 1800.0
"""The longest download; a file of 20 GB must come at 12 MB/s."""


class Downloads:
    """Counts the downloads of each key that go on now."""

    def __init__(self) -> None:
        self._going_on: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def share(self, key_id: str) -> Iterator[None]:
        """Take one of a key's downloads while the body runs.

        Raises:
            RequestError: The key, or all keys together, have as many as they may.
        """
        with self._lock:
            if self._going_on[key_id] >= OF_A_KEY or self._going_on.total() >= AT_ONCE:
                raise RequestError(
                    f"{self._going_on[key_id]} files are being fetched for this API key, {self._going_on.total()} in "
                    f"all; allowed at once are {OF_A_KEY} and {AT_ONCE}.",
                    code="too_many_downloads",
                    advice="Send the request again when one has ended; or upload the file.",
                )
            self._going_on[key_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._going_on[key_id] -= 1


def seconds_for(size: int) -> float:
    """Return the time that a file of this many bytes may take."""
    return min(FIRST_S + size / BYTES_S, MOST_S)


def download(
    url: str, target: Path, private_hosts: frozenset[str], most_bytes: int, is_gone: Callable[[], bool], what: str
) -> None:
    """Fetch a file from an address that a user gave.

    Args:
        url: The address.
        target: Where to; it must not be there yet.
        private_hosts: As for `outbound.check_url`.
        most_bytes: The largest file that is taken.
        is_gone: Returns whether nobody waits for it any more.
        what: The field's name, for errors.

    Raises:
        RequestError: The address is refused or does not answer, or the file is too large or comes too slowly.
    """
    patience = outbound.Patience(FIRST_S, least_bytes_s=LEAST_BYTES_S, is_gone=is_gone)
    with outbound.sent("GET", url, private_hosts, what, patience=patience) as answer:
        if answer.status != 200:
            raise RequestError(
                f"{what}: {urlsplit(url).hostname} answered {answer.status}.",
                code="missing_file",
                advice="Give the URL of the file itself: redirects are not followed.",
            )
        sizes = [int(value) for name, value in answer.headers if name.lower() == b"content-length"]
        announced = sizes[0] if sizes else most_bytes
        patience.whole_s = seconds_for(announced)
        _check_size(announced, most_bytes, what)
        size = 0
        with target.open("xb") as file:
            for piece in answer.iter_stream():
                size += len(piece)
                _check_size(size, most_bytes, what)
                file.write(piece)


def _check_size(size: int, most_bytes: int, what: str) -> None:
    if size > most_bytes:
        raise RequestError(
            f"{what}: the file has more than {most_bytes:,} bytes.",
            code="too_large",
            advice="The owner sets the limit: SIMYARD_MAX_UPLOAD_GB.",
        )
