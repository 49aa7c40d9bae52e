"""HTML by construction: what is no `Html` is text, and text is escaped. Nothing here knows what a job is."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

DASH = "–"  # noqa: RUF001 - it stands where nothing was measured
RELOAD_MS = 3000
"""How often a page that is live looks again."""


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, attributes: Mapping[str, Any] | None = None, *content: Any) -> Html:
    """Return an element.

    Args:
        name: Of the element.
        attributes: By name; one that is None or False is left out, one that is True has no value.
        content: `Html` as it is, anything else as text, None as nothing.
    """
    given = "".join(
        f" {key}" if value is True else f' {key}="{html.escape(str(value))}"'
        for key, value in (attributes or {}).items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(content)}</{name}>")


_VOID = {"meta", "link", "br"}


def join(content: Iterable[Any]) -> Html:
    """Return the parts one after the other."""
    return Html(
        "".join(part if isinstance(part, Html) else html.escape(str(part)) for part in content if part is not None)
    )


def shown(value: Any) -> str:
    """Return a value for people: four digits of a fraction, a dash for None."""
    if value is None or value == "":
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(heads: Iterable[str], rows: Iterable[Iterable[Any]], *, numbers: Iterable[str] = ()) -> Html:
    """Return a table that scrolls by itself where it is wider than the screen.

    Args:
        heads: Of the columns.
        rows: Their cells, as `shown` shows them, or `Html`.
        numbers: The heads of columns that are aligned at the right.
    """
    heads, right = list(heads), set(numbers)
    classes = [{"class": "number"} if head in right else None for head in heads]
    head = tag("tr", None, *(tag("th", kind, text) for text, kind in zip(heads, classes, strict=True)))
    body = (
        tag("tr", None, *(tag("td", kind, cell_of(cell)) for cell, kind in zip(row, classes, strict=True)))
        for row in rows
    )
    return tag("div", {"class": "wide"}, tag("table", None, tag("thead", None, head), tag("tbody", None, *body)))


def cell_of(value: Any) -> Any:
    """Return what stands in a cell."""
    return value if isinstance(value, Html) else shown(value)


def pairs(given: Iterable[tuple[str, Any]]) -> Html:
    """Return a list of names and values."""
    return tag("dl", None, *(tag("div", None, tag("dt", None, k), tag("dd", None, cell_of(v))) for k, v in given))


def folded(identifier: str, summary: str, *content: Any, is_open: bool = False) -> Html:
    """Return what shows at a click; with its identifier it stays open when the page is renewed."""
    return tag("details", {"id": identifier, "open": is_open}, tag("summary", None, summary), *content)


def section(title: str, *content: Any) -> Html | None:
    """Return a part of the page; None where it would be empty."""
    return tag("section", None, tag("h2", None, title), *content) if any(content) else None


def document(title: str, nonce: str, *content: Any, live: bool = False) -> str:
    """Return a whole page.

    Args:
        title: In the window's frame.
        nonce: What the page's policy knows its style and script by.
        content: Of the page.
        live: Whether the page renews itself, until one comes that does not.
    """
    without_script = tag("noscript", None, tag("meta", {"http-equiv": "refresh", "content": RELOAD_MS // 1000}))
    head = tag(
        "head",
        None,
        tag("meta", {"charset": "utf-8"}),
        tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("meta", {"name": "color-scheme", "content": "light dark"}),
        tag("link", {"rel": "icon", "href": "data:,"}),
        without_script if live else None,
        tag("title", None, title),
        tag("style", {"nonce": nonce}, Html(_STYLE)),
    )
    script = tag("script", {"nonce": nonce}, Html(_SCRIPT)) if live else None
    body = tag("body", None, tag("main", {"data-live": live}, *content), script)
    return f"<!doctype html>\n{tag('html', {'lang': 'en'}, head, body)}\n"


# What is open stays open, and nothing flickers or scrolls: only what is inside <main> is exchanged.
_SCRIPT = """
const look = async () => {
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (answer.ok) {
      const page = document.createElement("template");
      page.innerHTML = await answer.text();
      const fresh = page.content.querySelector("main");
      for (const part of fresh.querySelectorAll("details")) {
        part.open = document.getElementById(part.id)?.open ?? part.open;
      }
      document.querySelector("main").replaceWith(fresh);
      document.title = page.content.querySelector("title").textContent;
      if (!("live" in fresh.dataset)) return;
    }
  } catch { /* The service is away: look again. */ }
  setTimeout(look, EVERY_MS);
};
setTimeout(look, EVERY_MS);
""".replace("EVERY_MS", str(RELOAD_MS))

_STYLE = """
:root { --ground: #fff; --part: #f6f7f9; --text: #1c2128; --faint: #5c6672; --line: #d9dee4; --accent: #1f6feb;
  --good: #1a7f37; --bad: #c62828; --warn: #8a5a00; --idle: #5c6672; }
@media (prefers-color-scheme: dark) { :root { --ground: #12161b; --part: #1b2129; --text: #e4e8ed; --faint: #9aa5b1;
  --line: #313a45; --accent: #6ea8fe; --good: #57c271; --bad: #ff8a80; --warn: #e3b341; --idle: #9aa5b1; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 16px 20px 48px; }
h1 { font-size: 24px; line-height: 1.25; margin: 4px 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 28px 0 10px; }
p { margin: 6px 0; overflow-wrap: anywhere; }
a { color: var(--accent); }
code, pre { font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.faint { color: var(--faint); }
.status { display: inline-block; padding: 1px 10px; border-radius: 12px; border: 1px solid currentColor;
  font-size: 14px; font-weight: 600; }
.running { color: var(--accent); } .succeeded { color: var(--good); } .failed { color: var(--bad); }
.canceled { color: var(--warn); } .queued { color: var(--idle); }
.failure { border-left: 4px solid var(--bad); background: var(--part); padding: 10px 14px; margin: 14px 0; }
.failure.canceled { border-color: var(--warn); color: inherit; }
.failure strong { font-weight: 600; }
progress { width: 100%; height: 12px; accent-color: var(--accent); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); gap: 10px 18px; margin: 14px 0; }
dt { color: var(--faint); font-size: 13px; }
dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; min-width: 50%; }
th, td { text-align: left; padding: 5px 16px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td a { overflow-wrap: anywhere; }
td:first-child { min-width: 120px; }
th { color: var(--faint); font-weight: 500; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
details { border: 1px solid var(--line); border-radius: 6px; margin: 8px 0; }
summary { cursor: pointer; padding: 7px 12px; }
details > :not(summary) { margin: 0; padding: 8px 12px; border-top: 1px solid var(--line); }
pre { background: var(--part); overflow-x: auto; margin: 0; white-space: pre; }
.tail { background: var(--part); display: flex; flex-direction: column-reverse; max-height: 420px; overflow: auto; }
.tail pre { overflow: visible; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); gap: 14px; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; padding: 8px 10px 4px; min-width: 0; }
figcaption { font-size: 13px; display: flex; justify-content: space-between; gap: 10px; }
figcaption span:first-child { overflow-wrap: anywhere; }
figcaption span:last-child { color: var(--faint); white-space: nowrap; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--faint); font: 10px system-ui, sans-serif; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .curve { fill: none; stroke: var(--accent); stroke-width: 1.5; stroke-linejoin: round; }
svg .point { fill: var(--accent); }
video { width: 100%; border-radius: 6px; background: #000; }
footer { margin-top: 32px; color: var(--faint); font-size: 13px; }
"""
