"""Pages of lists: how many rows, where the next page begins, and the records that cannot be read."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from fastapi import Query

from simyard.core.errors import RequestError
from simyard.tasks.shared.listing import Page

DEFAULT_LIMIT = 100
Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str | None, Query(max_length=400, description="`next_cursor` of the page before.")]


def place_of(cursor: str | None) -> str | None:
    """Return the place in a list that a cursor stands for; None for the beginning.

    Raises:
        RequestError: It was not made here.
    """
    if cursor is None:
        return None
    try:
        return base64.b64decode(cursor.encode(), altchars=b"-_", validate=True).decode()
    except ValueError as error:
        raise RequestError(
            f"The cursor {cursor!r} is none.",
            code="bad_cursor",
            advice="Give next_cursor of the page before, or none to begin.",
        ) from error


def answer_of(name: str, page: Page[Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the answer that has a page.

    Args:
        name: Key of the rows.
        page: The page.
        rows: Its records, as the API shows them.
    """
    cursor = page.more and base64.urlsafe_b64encode(page.more.encode()).decode()
    return {name: rows, "next_cursor": cursor, "unreadable": [record.to_json() for record in page.unreadable]}
