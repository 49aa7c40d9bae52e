"""Write the synchronous client from the asynchronous one: `make client`.

Each `sdk/client/async_NAME.py` gives a `sync_NAME.py` that differs in `async`, `await` and names alone. Operations that
asyncio and threads do differently stand in `concurrency.py`, twice, by hand.
"""

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "sdk" / "client"
SOURCES = sorted(FOLDER.glob("async_*.py"))
HEADER = "# Generated from {name} by `make client`: change that one.\n"
CHANGES = [
    (r"^.*# async only\n\n?", ""),  # lines that only asyncio needs
    (r"AsyncGenerator\[([\w.]+), None\]", r"Iterator[\1]"),
    (r"\b(async|await) ", ""),
    (r"\bAsync(?=[A-Z])", ""),  # AsyncClient, AsyncIterator, httpx.AsyncClient
    (r"\basync_", "sync_"),  # modules, and functions of concurrency.py
    (r"\basync(?=contextmanager)", ""),
    (r"\ba(?=(close|read|iter_bytes|iter_lines)\b)", ""),
    (r"\b__a(?=(enter|exit)__)", "__"),
    (r"\bTasks may", "Threads may"),
]


def generated(source: Path) -> str:
    """The text of the synchronous twin."""
    text = source.read_text(encoding="utf-8")
    for pattern, replacement in CHANGES:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    text = HEADER.format(name=source.name) + text
    for command in (["check", "--fix-only", "--quiet", "--select", "I,F401"], ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", twin(source), "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return text


def twin(source: Path) -> Path:
    """The path of the synchronous twin."""
    return source.with_name(source.name.replace("async_", "sync_"))


if __name__ == "__main__":
    for source in SOURCES:
        twin(source).write_text(generated(source), encoding="utf-8")
