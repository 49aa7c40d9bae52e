"""Text of others, made safe to print: a terminal obeys what is printed on it."""

from __future__ import annotations

import re

# Sequences as ECMA-48 has them, each begun by ESC and another character or by one C1 character: CSI (colours, moves),
# then the strings (OSC sets the clipboard, the title and links; DCS, SOS, PM, APC), then all others of ESC. A string
# that does not end within its line is none, so that nothing is hidden behind it.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x80-\x9f\n]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]"
)
# All other characters that do something, have a line read backwards, or that no stream can encode.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """Return a text without a terminal's styling and orders; lines and tabs stay."""
    return _CONTROLS.sub("\ufffd", _SEQUENCES.sub("", text))
