"""XML that somebody sent, read without a tree: no entity is ever expanded, and no document is too large or too deep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

from simyard.core.errors import RequestError

MOST_XML_BYTES = 32 << 20
"""Of a URDF or an MJCF file: the largest of real robots have less than 1 MiB."""
MOST_DAE_BYTES = 256 << 20
"""Of a COLLADA mesh, whose vertices are text."""
MOST_DEPTH = 500
"""Elements in each other."""
_MOST_TEXT = 4096
"""Characters of an element's text that are kept; paths are shorter, and the rest is vertices."""


@dataclass
class Element:
    """One element of an XML file."""

    tag: str
    """Its name, without a namespace's prefix."""
    attributes: dict[str, str]
    """Attributes of the element."""
    parent: str
    """The name of the element around it; empty for the root."""
    text: str = ""
    """The beginning of its text."""


def elements(path: Path, most_bytes: int = MOST_XML_BYTES) -> list[Element]:
    """Read an XML file's elements in their order, the root first.

    Raises:
        RequestError: If it is too large or too deep, has a DTD, or is not well formed.
    """
    if (size := path.stat().st_size) > most_bytes:
        raise bad_xml(path, f"has {size:,} bytes; allowed are {most_bytes:,}")
    found: list[Element] = []
    open_: list[Element] = []
    parser = expat.ParserCreate()

    def refuse_dtd(*_: Any) -> None:
        raise bad_xml(path, "has a DTD, which could make it grow without limit or read other files")

    def begin(tag: str, attributes: dict[str, str]) -> None:
        if len(open_) == MOST_DEPTH:
            raise bad_xml(path, f"has more than {MOST_DEPTH} elements in each other")
        prefix, _, name = tag.rpartition(":")
        if prefix == "xacro":
            raise bad_xml(path, "is a xacro template", "Expand it first: xacro FILE > robot.urdf")
        found.append(Element(name, attributes, open_[-1].tag if open_ else ""))
        open_.append(found[-1])

    def add(text: str) -> None:
        if open_ and len(open_[-1].text) < _MOST_TEXT:
            open_[-1].text += text[:_MOST_TEXT]

    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse_dtd
    parser.StartElementHandler, parser.CharacterDataHandler = begin, add
    parser.EndElementHandler = lambda _: open_.pop()
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        raise bad_xml(path, f"is not well-formed XML: {error}") from error
    return found


def bad_xml(path: Path, why: str, advice: str = "Send a plain XML file.") -> RequestError:
    """Return the error for an XML file that is not read."""
    return RequestError(f"{path.name!r} {why}.", code="asset_unreadable", advice=advice)
