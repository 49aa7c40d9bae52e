"""The list of jobs: filtered and sorted, and picked from to be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from simyard.service.job_page import TEMPLATES
from simyard.service.job_rows import MOST_JOBS, JobRow

PAGE_ROWS = 100
SORTS: dict[str, Callable[[JobRow], Any]] = {
    "newest": lambda row: row.created_at,
    "name": lambda row: row.name.lower(),
    "task": lambda row: row.task.lower(),
    "library": lambda row: row.library,
    "status": lambda row: row.status,
    "return": lambda row: row.reward,
    "success": lambda row: row.success,
    "time": lambda row: row.seconds,
    "cost": lambda row: row.usd,
    "tags": lambda row: row.tags or None,
}
"""What a list may be sorted by; rows that have none of it come last, either way."""
_GREATEST_FIRST = ("newest", "return", "success", "time", "cost")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The part of a list that is asked for."""

    text: str = ""
    """Part of id, name, task or note."""
    kind: str = ""
    task: str = ""
    library: str = ""
    status: str = ""
    tag: str = ""
    sort: str = "newest"
    turned: bool = False
    """Whether the list stands on its head."""
    page: int = 1

    def chosen(self, rows: Sequence[JobRow]) -> list[JobRow]:
        """Return the rows that fit, in order."""
        text, exact = self.text.casefold(), ("kind", "task", "library", "status")
        found = [
            row
            for row in rows
            if all(getattr(self, name) in ("", getattr(row, name)) for name in exact)
            and (not self.tag or self.tag in row.tags)
            and (not text or any(text in part.casefold() for part in (row.job_id, row.name, row.task, row.note)))
        ]
        key = SORTS[self.sort]
        with_it = [row for row in found if key(row) is not None]
        with_it.sort(key=key, reverse=(self.sort in _GREATEST_FIRST) != self.turned)
        return [*with_it, *(row for row in found if key(row) is None)]

    def query(self, **changes: Any) -> str:
        """Return the same as the query of an address, with changes."""
        fields = vars(self) | changes
        return urlencode({name: int(value) if value is True else value for name, value in fields.items() if value})


def job_list(
    rows: Sequence[JobRow], count: int, wanted: Wanted, link: Callable[[str], str], token: str, nonce: str, home: str
) -> str:
    """Return the page of the list.

    Args:
        rows: All rows of the project.
        count: The jobs that it has, those without a row among them.
        wanted: The part that is asked for.
        link: Returns the address of a job's page.
        token: Of the links between these pages.
        nonce: Name of the page's style in its policy.
        home: Address of the home page.
    """
    found = wanted.chosen(rows)
    first = (wanted.page - 1) * PAGE_ROWS
    shown = found[first : first + PAGE_ROWS]
    known = {
        name: sorted({getattr(row, name) for row in rows} - {""}) for name in ("kind", "task", "library", "status")
    }
    return TEMPLATES.render(
        "jobs.html.j2",
        title="Jobs", nonce=nonce, reload_ms=None, wanted=wanted, rows=shown, found=len(found), count=count,
        known=known, tags=sorted({tag for row in rows for tag in row.tags}), sorts=list(SORTS), first=first,
        page_rows=PAGE_ROWS, most_jobs=MOST_JOBS, token=token, links={row.job_id: link(row.job_id) for row in shown},
        home=home,
    )  # fmt: skip
