"""What makes a page unusable by keyboard or screen reader, as far as its HTML alone tells."""

import html.parser
from typing import Any

VOID = ("meta", "link", "br", "input", "line", "circle", "polyline", "polygon")
NAMED = ("a", "button", "summary", "h1", "h2", "th", "label", "option")
"""Elements that say nothing without text."""


class _Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: list[str] = []
        self.headings: list[int] = []
        self._open: list[list[Any]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [str(given["id"])] if "id" in given else []
        inside = [name for name, *_ in self._open]
        is_named = bool(given.get("aria-label")) or "label" in inside
        if tag in ("input", "select", "textarea") and given.get("type") != "hidden" and not is_named:
            self.found.append(f"<{tag}> has no label: {given}")
        if tag == "svg" and not (given.get("role") == "img" and given.get("aria-label")):
            self.found.append("a chart has no text")
        if tag == "progress" and not given.get("aria-label"):
            self.found.append("a progress has no label")
        if tag == "html" and not given.get("lang"):
            self.found.append("the page has no language")
        if int(given.get("tabindex") or 0) > 0:
            self.found.append(f"<{tag}> changes the order of the keyboard")
        if tag in ("h1", "h2", "h3"):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self._open.append([tag, bool(given.get("aria-label")), given])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        return

    def handle_data(self, data: str) -> None:
        if data.strip():
            for element in self._open:
                element[1] = True

    def handle_endtag(self, tag: str) -> None:
        name, says_something, given = self._open.pop()
        is_corner = name == "th" and given.get("scope") == "col"
        if name in NAMED and not says_something and not is_corner:
            self.found.append(f"<{name}> says nothing: {given}")


def problems(text: str) -> list[str]:
    """Return what is wrong with a page, in words."""
    reader = _Reader()
    reader.feed(text)
    found = [*reader.found, *(f"the id {one!r} is there twice" for one in reader.ids if reader.ids.count(one) > 1)]
    if reader.headings[:1] != [1] or reader.headings.count(1) != 1:
        found.append("the page does not begin with its one heading")
    return found
