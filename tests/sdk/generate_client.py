"""Write the synchronous client from the asynchronous one: `make client`.

Each `sdk/client/async_NAME.py` gives a `sync_NAME.py` that differs in `async`, `await` and names alone; definitions
that do not differ are imported from the asynchronous module. A name that differs begins with `async_` or `Async`.
Operations that asyncio and threads do differently stand in `concurrency.py`, twice, by hand.
"""

import ast
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
    (r"\bAwaitable\[(\w+)\]", r"\1"),
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
    lines = text.splitlines(keepends=True)
    tree = ast.parse(text)
    head, body = [HEADER.format(name=source.name)], []
    for node in tree.body:
        first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
        piece = "".join(lines[first - 1 : node.end_lineno])
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("simyard.client."):
            imports = [(f"from {node.module} import {alias.name}\n", alias.name) for alias in node.names]
            head += [line if _converted(name) == name else _converted(line) for line, name in imports]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            head.append(_converted(piece))
        elif _converted(piece) == piece and (names := _defined(node)):
            head += [f"from simyard.client.{source.stem} import {name}\n" for name in names]
        elif isinstance(node, ast.Expr):
            if node is tree.body[0]:  # the others speak of constants, which are imported
                head.append(_converted(piece))
        else:
            assert all(_converted(name) != name for name in _defined(node)), f"{source.name}: two of {_defined(node)}"
            body.append(_converted(piece))
    text = "".join([*head, *body])
    for command in (["check", "--fix-only", "--quiet", "--select", "I,F401"], ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", twin(source), "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return text


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _converted(text: str) -> str:
    for pattern, replacement in CHANGES:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def twin(source: Path) -> Path:
    """The path of the synchronous twin."""
    return source.with_name(source.name.replace("async_", "sync_"))


if __name__ == "__main__":
    for source in SOURCES:
        twin(source).write_text(generated(source), encoding="utf-8")
