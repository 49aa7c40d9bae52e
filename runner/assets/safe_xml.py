"""XML that somebody sent, read piece by piece: every size has a limit, and nothing expands."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from xml.parsers import expat

from simyard.core.errors import RequestError

MOST_XML_BYTES = 32 << 20
"""Of a URDF or an MJCF file: the largest of real robots have less than 1 MiB."""
MOST_DAE_BYTES = 256 << 20
"""Of a COLLADA mesh, whose vertices are text."""
MOST_DEPTH = 500
"""Elements in each other."""
MOST_ELEMENTS = 200_000
"""Elements of a file: the largest of real robots have less than 10,000."""
MOST_TAG_BYTES = 1 << 20
"""Of one tag with its attributes, or of a comment."""
ENCODINGS = ("UTF-8", "UTF-16", "US-ASCII", "ISO-8859-1")
"""Those that expat decodes itself; for others it would ask Python, which knows many."""
SAFE_EXPAT = (2, 6, 0)
"""The first version that reads a long tag once; older ones read it again with each piece, up to the limit of a tag."""
EXPAND = "Expand it first: xacro FILE > robot.urdf"
_LEFT_BY_XACRO = ("xacro:property", "xacro:arg")
"""Definitions, which say nothing by themselves."""
_COMMENT = re.compile(rb"(?s)<!--(.*?)-->")
_PIECE = 256 << 10
_MOST_TEXT = 4096
"""Characters of an element's text that are kept: paths are shorter."""


@dataclass(slots=True)
class Element:
    """One element of an XML file."""

    tag: str
    """Its name, without a namespace's prefix."""
    attributes: dict[str, str]
    """Attributes of the element."""
    parent: str
    """The name of the element around it; empty for the root."""
    text: str = ""
    """The beginning of its text, where that was asked for."""


def elements(path: Path, most_bytes: int = MOST_XML_BYTES, texts: Collection[str] = ()) -> list[Element]:
    """Read an XML file's elements in their order, the root first.

    Args:
        path: The file.
        most_bytes: Its size that is still accepted.
        texts: Names of the elements whose text is kept.

    Raises:
        RequestError: If it passes a limit, is in an encoding of its own, has a DTD, or is not well formed.
    """
    found: list[Element] = []
    open_: list[Element] = []

    def begin(tag: str, attributes: dict[str, str]) -> None:
        found.append(Element(tag.rpartition(":")[2], attributes, open_[-1].tag if open_ else ""))
        open_.append(found[-1])

    def end(_: str) -> None:
        open_.pop()

    def add(text: str) -> None:
        if len(open_[-1].text) < _MOST_TEXT:
            open_[-1].text += text[:_MOST_TEXT]

    _read(path, most_bytes, begin, end, add, texts)
    return found


def tree(path: Path, most_bytes: int = MOST_XML_BYTES, *, foreign: bool = False) -> tuple[ET.Element, bool]:
    """Read an XML file as a tree that may be changed and written again, in UTF-8.

    Args:
        path: The file.
        most_bytes: Its size that is still accepted.
        foreign: Whether names with a prefix are kept as they stand. Readers of robots know none of them; some stumble
            over one that nothing declares, or take every element for another's where there is a default namespace.

    Returns:
        The root, and whether the file says the same to every reader as it stands.

    Raises:
        RequestError: As `elements`.
    """
    builder = ET.TreeBuilder()
    is_root = True
    skipped: list[str] = []
    with path.open("rb") as file:
        plain = file.read(2) not in (b"\xff\xfe", b"\xfe\xff")

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal plain, is_root
        if skipped or (":" in tag and not foreign and not is_root):
            skipped.append(tag)
            plain = False
            return
        is_root = False
        own = {name: value for name, value in attributes.items() if foreign or (":" not in name and name != "xmlns")}
        plain &= len(own) == len(attributes)
        builder.start(tag, own)

    def end(tag: str) -> None:
        if skipped:
            skipped.pop()
        else:
            builder.end(tag)

    def add(text: str) -> None:
        if not skipped:
            builder.data(text)

    encoding = _read(path, most_bytes, begin, end, add)
    return builder.close(), plain and encoding in ("UTF-8", "US-ASCII")


def write_tree(root: ET.Element, path: Path) -> None:
    """Write a tree in place of a file."""
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _read(
    path: Path,
    most_bytes: int,
    begin: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None],
    add: Callable[[str], None],
    texts: Collection[str] | None = None,
) -> str:
    """Parse an XML file within the limits, and hand on its tags and the text of these, or all, elements.

    Returns:
        The encoding that it declares; empty for a file that only lenient readers take.
    """
    if (size := path.stat().st_size) > most_bytes:
        raise bad_xml(path, f"has {size:,} bytes; allowed are {most_bytes:,}")
    open_: list[str] = []
    count = 0
    declared = "UTF-8"
    parser = expat.ParserCreate()

    def check_encoding(version: str, encoding: str | None, standalone: int) -> None:
        nonlocal declared
        declared = (encoding or declared).upper()
        if encoding is not None and declared not in ENCODINGS:
            raise bad_xml(path, f"is in the encoding {encoding[:40]!r}", f"Allowed: {', '.join(ENCODINGS)}.")

    def refuse_dtd(*_: Any) -> None:
        raise bad_xml(path, "has a DTD, which could make it grow without limit or read other files")

    def deeper(tag: str, attributes: dict[str, str]) -> None:
        nonlocal count
        if len(open_) == MOST_DEPTH:
            raise bad_xml(path, f"has more than {MOST_DEPTH} elements in each other")
        if count == MOST_ELEMENTS:
            raise bad_xml(path, f"has more than {MOST_ELEMENTS:,} elements", "Leave out what nothing refers to.")
        count += 1
        if tag.startswith("xacro:") and tag not in _LEFT_BY_XACRO:
            raise bad_xml(path, "is a xacro template", EXPAND)
        begin(tag, attributes)
        open_.append(tag.rpartition(":")[2])
        choose_text()

    def higher(tag: str) -> None:
        end(tag)
        open_.pop()
        choose_text()

    def choose_text() -> None:
        parser.CharacterDataHandler = add if texts is None or (open_ and open_[-1] in texts) else None

    parser.XmlDeclHandler = check_encoding
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse_dtd
    parser.StartElementHandler, parser.EndElementHandler = deeper, higher
    try:
        stream, as_it_stands = _opened(path, most_bytes)
        with stream as file:
            fed = 0
            while piece := file.read(_PIECE):
                parser.Parse(piece, False)
                fed += len(piece)
                # Between two pieces the parser stands before the tag that it does not have whole.
                if fed - max(0, parser.CurrentByteIndex) > MOST_TAG_BYTES:
                    long = f"has a tag or a comment of more than {MOST_TAG_BYTES:,} bytes"
                    where = f"in line {parser.CurrentLineNumber}"
                    raise bad_xml(path, f"{long} {where}", "Put long data into a file of its own.")
            parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise bad_xml(path, f"is not well-formed XML: {error}") from error
    return declared if as_it_stands else ""


def _opened(path: Path, most_bytes: int) -> tuple[BinaryIO, bool]:
    """Open a file, a robot's without blank lines before it, `--` in comments and NULs behind it, as many readers do.

    Returns:
        The content, and whether nothing was taken out.
    """
    if most_bytes > MOST_XML_BYTES:
        return path.open("rb"), True
    data = path.read_bytes()
    clean = data.lstrip()
    if b"\0" in data[-16:] and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        clean = clean.rstrip(b"\0 \t\r\n")
    if any(b"--" in comment or comment.endswith(b"-") for comment in _COMMENT.findall(clean)):
        clean = _COMMENT.sub(lambda comment: b"\n" * comment[0].count(b"\n"), clean)  # lines keep their numbers
    return io.BytesIO(clean), len(clean) == len(data)


def bad_xml(path: Path, why: str, advice: str = "Send a plain XML file.") -> RequestError:
    """Return the error for an XML file that is not read."""
    return RequestError(f"{path.name!r} {why}.", code="asset_unreadable", advice=advice)
