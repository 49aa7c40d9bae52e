"""News of a job for a page that is open: its elements as they change, and lines of its logs, each once.

Nothing is kept of those who follow: the id of each event says how far they have read, so they go on where they were
wherever they connect again, to this copy of the service, to another, or to the next start.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import AsyncIterator, Callable

import anyio
import anyio.to_thread

from simyard.core.artifacts import shown_as
from simyard.core.errors import RequestError, SimyardError
from simyard.service.job_look import SHARED_S, JobLook
from simyard.service.job_page import LOG_LINES

LOOK_S = 1.0
QUIET_S = 15.0
"""Seconds after which a line is sent that says nothing, so that a dead connection is noticed."""
RENDERED_S = 5.0
"""Seconds after which a page is made anew though the job has nothing new: a heartbeat may be too old by now."""
RETRY_MS = 2000
"""Milliseconds after which a browser connects again."""
MOST_STREAMS = 500
"""Pages that follow a job through one copy of the service."""
_PLACE = re.compile(r"\d{1,6}(:\d{1,15})*")

logger = logging.getLogger("simyard.service")

Elements = Callable[[JobLook], tuple[dict[str, str], bool]]
"""From a look at a job to its page's elements by id, and whether it has ended."""


class Streams:
    """Counts the pages that follow a job now."""

    def __init__(self) -> None:
        self.open = 0

    def require_room(self) -> None:
        """Raise `RequestError` where no more may follow."""
        if self.open >= MOST_STREAMS:
            raise RequestError(
                f"{self.open} pages follow jobs here.",
                code="too_many_requests",
                advice="Wait some seconds; the page itself shows how the job stands.",
            )


class Follower:
    """One open page, and how much of the job it has been told."""

    def __init__(self, look: Callable[[float], JobLook], elements: Elements, place: str | None) -> None:
        """Begin.

        Args:
            look: Looks at the job, which others may have done so many seconds ago.
            elements: Makes the page's elements.
            place: Id of the last event that the page got; None for none.
        """
        self._look = look
        self._elements = elements
        self._logs = [row.name for row in shown_as("log")]
        self._told: dict[str, int] = {}
        self._version = -1
        self._made = -1e9
        self._attempt = 0
        self._seen: dict[str, int] = {}
        if place and _PLACE.fullmatch(place):
            self._attempt, *seen = map(int, place.split(":"))
            self._seen = dict(zip(self._logs, seen, strict=False))

    def news(self) -> tuple[str, bool]:
        """Return the next event, empty for none, and whether it is the last."""
        look, now = self._look(SHARED_S), time.monotonic()
        if look.version == self._version and now - self._made < RENDERED_S:
            return "", False
        self._version, self._made = look.version, now
        elements, has_ended = self._elements(look)
        changed = {name: html for name, html in elements.items() if self._told.get(name) != hash(html)}
        self._told |= {name: hash(html) for name, html in changed.items()}

        # Lines of the newest attempt's logs.
        numbers, lines = look.attempt_numbers, {}
        if numbers and numbers[-1] != self._attempt:
            self._attempt, self._seen = numbers[-1], {}
        for name in self._logs if numbers else ():
            some, self._seen[name] = look.new_lines(self._attempt, name, self._seen.get(name), LOG_LINES)
            if some:
                lines[name] = some
        if not changed and not lines:
            return "", has_ended
        place = ":".join(str(number) for number in (self._attempt, *(self._seen.get(name, 0) for name in self._logs)))
        return f"id: {place}\nevent: news\ndata: {json.dumps({'elements': changed, 'lines': lines})}\n\n", has_ended


async def stream(follower: Follower, streams: Streams) -> AsyncIterator[str]:
    """Yield events until the job has ended, is gone, or nobody may follow it any more."""
    streams.open += 1
    try:
        yield f"retry: {RETRY_MS}\n\n"
        said = time.monotonic()
        while True:
            try:
                event, is_last = await anyio.to_thread.run_sync(follower.news)
            except RequestError:  # it was deleted, or the key was revoked
                event, is_last = "", True
            except SimyardError as error:  # the store is away for a moment
                logger.warning("%s", error)
                event, is_last = "", False
            if event or time.monotonic() - said > QUIET_S:
                yield event or ": nothing new\n\n"
                said = time.monotonic()
            if is_last:
                yield "event: end\ndata: {}\n\n"
                return
            await anyio.sleep(LOOK_S)
    finally:
        streams.open -= 1
