"""Lists of records, page by page: the newest first, several read at once, and none lost to a bad one among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Generic, Protocol, TypeVar

from simyard.core.errors import RequestError, SimyardError, StoreError
from simyard.core.foreign import require_plain
from simyard.core.wire import Wire

READS_AT_ONCE = 16
SHOWN_DEPTH = 100
"""Levels of a record that is shown: more than anything has that was checked when it came."""
_GONE = ("unknown_job", "unknown_run", "unknown_sweep", "unknown_asset", "unknown_promotion")
_DAMAGED = ("bad_json", "digest_mismatch")
"""Codes of a store that answers, and holds something else than was written."""


class Document(Protocol):
    """A record that can be shown."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""


Shown = TypeVar("Shown", bound=Document)
Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Unreadable(Wire):
    """A record of a list that cannot be read or shown."""

    id: str
    """Of the job, run, asset, key or promotion."""
    error: str
    """What is wrong with it."""


@dataclass
class Page(Generic[Found]):
    """A part of a list."""

    found: list[Found] = field(default_factory=list)
    """The records that can be read."""
    unreadable: list[Unreadable] = field(default_factory=list)
    """The others."""
    more: str | None = None
    """Where the next page begins; None at the end of the list."""

    def add(self, found: Found | Unreadable) -> None:
        """Put one more where it belongs."""
        if isinstance(found, Unreadable):
            self.unreadable.append(found)
        else:
            self.found.append(found)


def newest(
    names: Iterable[str], read: Callable[[str], Found], limit: int | None = None, after: str | None = None
) -> Page[Found]:
    """Return a page of records whose names sort by time, the newest first.

    Args:
        names: The names of all.
        read: Reads one; it raises `RequestError` for one that is not there yet, or any more.
        limit: The most that the page may have; None for all.
        after: What the page before said that the next one begins at.

    Raises:
        StoreError: The store cannot be reached or read at all.
    """
    waiting = sorted((name for name in names if after is None or name < after), reverse=True)
    page: Page[Found] = Page()
    begin = 0
    while begin < len(waiting):
        room = len(waiting) if limit is None else limit - len(page.found) - len(page.unreadable)
        if room <= 0:
            page.more = waiting[begin - 1]
            break
        for one in read_each(waiting[begin : begin + room], read):
            if one is not None:
                page.add(one)
        begin += room
    return page


def read_each(names: Sequence[str], read: Callable[[str], Found]) -> list[Found | Unreadable | None]:
    """Read records, several at once; return them in order, with None for those that are not there.

    Raises:
        StoreError: The store cannot be reached or read at all.
    """

    def attempt(name: str) -> Found | Unreadable | None:
        try:
            return read(name)
        except SimyardError as error:
            if isinstance(error, RequestError) and error.failure.code in _GONE:
                return None
            if isinstance(error, StoreError) and error.failure.code not in _DAMAGED:
                raise
            return _unreadable(name, str(error))
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            return _unreadable(name, f"{type(error).__name__}: {error}")

    return list(_readers().map(attempt, names))


def shown(record: Shown) -> Shown:
    """Return a record as it is.

    Raises:
        StoreError: Its JSON is none that an answer can have; an earlier version kept what it was given.
    """
    try:
        require_plain(record.to_json(), SHOWN_DEPTH)
    except (ValueError, RecursionError) as error:
        raise StoreError(
            f"The record cannot be shown: {error}.",
            code="bad_json",
            advice="Write it anew: upload the asset again.",
        ) from error
    return record


def _unreadable(name: str, why: str) -> Unreadable:
    return Unreadable(id=name, error=why[:500].encode(errors="backslashreplace").decode())


@cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READS_AT_ONCE, "list")
