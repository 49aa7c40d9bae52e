"""Hooks of the documents' site: links to files beside `docs/` are names there, since the site has documents alone."""

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?!reference/|docs/)([^)\s]+)\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return a page's text, in which a link that leaves the documents is its words and the file's name."""
    up = "../" * page.file.src_uri.count("/")

    def named(link: re.Match[str]) -> str:
        is_inside = up and not link[0].partition("](")[2].startswith(f"{up}../")
        return link[0] if is_inside else f"{link[1]} (`{link[2].partition('#')[0]}`)"

    return _OUTSIDE.sub(named, markdown)
