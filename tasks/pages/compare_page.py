"""The comparison of jobs as a page, and as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from simyard.tasks.pages.comparison import Comparison, Difference
from simyard.tasks.pages.sheets import MOST_ROWS
from simyard.tasks.shared.documents import DASH, Templates, interval, shown, size, span

Link = Callable[[int, str], str | None]
"""From the place of a job and the name of its artifact to its address; None for one that is not there to be shown."""

PAGES = Path(__file__).parents[1] / "templates"
FILTERS: dict[str, Callable[..., str]] = {
    "shown": shown,
    "size": size,
    "span": lambda seconds: shown(span(seconds)),
    "percent": lambda rate: DASH if rate is None else f"{100 * rate:.1f} %",
    "bounds": lambda bounds: DASH if bounds is None else interval(bounds),
}
TEMPLATES = Templates(PAGES, **FILTERS)


@dataclass(frozen=True, kw_only=True)
class Around:
    """Addresses of the pages from which all others are found."""

    home: str
    jobs: str
    """Of the list."""
    sweeps: str
    """Of their list."""


def comparison_page(
    found: Comparison, link: Link, nonce: str, pages: Sequence[str | None], around: Around | None = None
) -> str:
    """Return the page of a comparison.

    Args:
        found: The comparison.
        link: Returns the address of an artifact.
        nonce: Name of the page's style and script in its policy.
        pages: Address of each job's page; None where there is none to lead to.
        around: Addresses of other pages; None for a file that leads nowhere.
    """
    films = [[(n, name, link(n, name)) for n, name in group] for group in found.films]
    return TEMPLATES.render(
        "compare.html.j2",
        title=" / ".join(side.spec.name for side in found.sides)[:200],
        nonce=nonce, around=around, reload_ms=None,
        found=found, pages=pages, films=films, most_rows=MOST_ROWS, cell=cell,
    )  # fmt: skip


def cell(value: object) -> str:
    """Return a cell of a table in words."""
    if isinstance(value, Difference):
        bounds = f" {interval(value.interval_95)}" if value.interval_95 else ""
        return f"{value.mean:+.4g}{bounds}"
    if isinstance(value, list | tuple) and len(value) == 2:
        return interval((value[0], value[1]))
    return shown(value)
