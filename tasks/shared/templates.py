"""Jinja2 templates: reports in Markdown, pages in HTML."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.tasks.shared.text import interval, number

if TYPE_CHECKING:
    from jinja2 import Environment


class Templates:
    """The templates of a folder; Jinja2 is imported when the first one is rendered.

    Args:
        folder: Where they lie.
        filters: Functions that format a value, by the name that templates use.
    """

    def __init__(self, folder: Path, **filters: Callable[..., str]) -> None:
        self._folder = folder
        self._filters = filters

    @cached_property
    def environment(self) -> Environment:
        """The environment, in which a name that is not given is an error."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(self._folder),
            autoescape=lambda name: name is None or not name.endswith(".md.j2"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        environment.filters.update(self._filters)
        return environment

    def render(self, template: str, /, **given: Any) -> str:
        """Return the text of a template.

        Args:
            template: Name of its file.
            given: The values it shows.
        """
        return self.environment.get_template(template).render(given)


REPORTS = Templates(
    Path(__file__).parents[1] / "templates",
    number=number,
    interval=interval,
    rate=lambda value: "not measured" if value is None else f"{value:.3f}",
)
"""The reports: one template for each kind of job, for managed runs and for retrainings."""
