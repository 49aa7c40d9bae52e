"""Write the parts of the documents that come from code and data: `make pages`.

`docs/errors.md` has every failure that the code can give, from `core/errors.py` and from the calls that make one; the
table of instances in `docs/aws.md` comes from `deployments/instances.json`; `docs/reference/` comes from
`reference_pages.py`.
"""

import ast
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reference_pages import reference_pages

from simyard.core.errors import SIGNATURES

ROOT = Path(__file__).parents[1]
FOLDERS = ("core", "runner", "store", "sdk", "blocks", "deployments", "tasks", "flows", "service", "cli")
CATEGORIES = {
    "user": "The request, the task or the package: never tried again",
    "resource": "The job did not fit the machine: never tried again as it is",
    "infra": "The machine, the driver, the network, the store: tried again",
    "canceled": "Somebody stopped it",
}
BY_CLASS = {"RequestError": "user", "unknown": "user", "StoreError": "infra"}
MOST = 4
"""Messages of one code that the table shows."""

MARK = "<!-- below: made by `make pages` -->\n"


@dataclass(frozen=True)
class Failure:
    """One place in the code that gives a failure."""

    code: str
    category: str
    message: str
    advice: str


def failures(path: Path) -> Iterator[Failure]:
    """Yield what a module can give: each call with a constant `code`, and each default of one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    categories = {function.name: _category(function) for function in functions}
    within = {id(node): function for function in functions for node in ast.walk(function)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for node in calls:
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        name = _name(node)
        code = given.get("code")
        if not (isinstance(code, ast.Constant) and isinstance(code.value, str)):
            continue
        named = given.get("category")
        category = _last(named) if named else BY_CLASS.get(name) or categories.get(name) or "user"
        said = given.get("message") or (node.args[0] if node.args else None)
        message, advice = _text(said), _text(given.get("advice"))
        if name == "unknown":
            message, advice = f"Unknown {message} ….", "One of those that the message names."
        messages = [message]
        if not message.strip(" ….:;,") and (function := within.get(id(node))):  # its callers say it
            messages = [_text(call.args[0]) for call in calls if _name(call) == function.name and call.args]
            messages = messages or [(ast.get_docstring(function) or "").partition("\n")[0]]
        yield from (Failure(code.value, category, message, advice) for message in messages)


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _category(function: ast.FunctionDef) -> str:
    """Return the category of what a function makes, as far as it says one."""
    named = [k.value for node in ast.walk(function) if isinstance(node, ast.Call) for k in node.keywords
             if k.arg == "category"]  # fmt: skip
    made = [BY_CLASS[node.func.id] for node in ast.walk(function) if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name) and node.func.id in BY_CLASS]  # fmt: skip
    return _last(named[0]) if named else made[0] if made else ""


def _last(node: ast.expr) -> str:
    name = node.attr if isinstance(node, ast.Attribute) else ""
    return name.lower() if name.lower() in CATEGORIES else "user"


def _text(node: ast.expr | None) -> str:
    """Return a message as far as it stands in the code, with `…` for what is put into it."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)
        case ast.BinOp(left=left, right=right):
            return _text(left) + _text(right)
        case None:
            return ""
        case _:
            return "…"


def _row(*cells: str) -> str:
    return f"| {' | '.join(' '.join(cell.split()).replace('|', '&#124;') for cell in cells)} |\n"


def _several(texts: list[str]) -> str:
    found = [text for text in dict.fromkeys(texts) if text.strip(" ….:;,")]
    return "<br>".join(found[:MOST]) + ("<br>and others" if len(found) > MOST else "") or "…"


def errors_page() -> str:
    """Return the page of errors: what a person wrote above the mark, and what the code says below it."""
    errors = ROOT / "docs" / "errors.md"
    written, mark, _ = errors.read_text(encoding="utf-8").partition(MARK)
    page = f"""{written}{mark}
## Known by a line of a log

The first line that one of these patterns finds explains the end of a simulation.

| code | mends it | the line | do |
|---|---|---|---|
"""
    for known in SIGNATURES:
        line = re.sub(r"\\w[*+]|\.\*", "…", known.pattern).replace("\\", "")
        page += _row(f"`{known.code}`", str(known.category), f"`{line}`", known.advice)
    found: dict[str, list[Failure]] = {}
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for failure in failures(path):
            found.setdefault(failure.code, []).append(failure)
    anchored: set[str] = set()
    for category, title in CATEGORIES.items():
        page += f"\n## {title}\n\nCategory `{category}`.\n\n| code | it says | do |\n|---|---|---|\n"
        for code, several in sorted(found.items()):
            own = [failure for failure in several if failure.category == category]
            if own:
                messages, advice = [f.message for f in own], [f.advice for f in own]
                anchor = "" if code in anchored else f'<a id="{code}"></a>'
                anchored.add(code)
                page += _row(f"`{code}`", f"{anchor}{_several(messages)}", _several(advice))
    return page


def instances_table() -> str:
    """Return the table of instances, and where its figures are from."""
    data = json.loads((ROOT / "deployments" / "instances.json").read_text(encoding="utf-8"))
    table = "| instance | GPUs | GPU memory | vCPUs | memory | USD an hour | for |\n|---|---|---|---|---|---|---|\n"
    for row in data["instances"]:
        price = "fill in" if row["usd_per_hour"] is None else f"{row['usd_per_hour']:.2f}"
        gpus, memory = f"{row['gpus']} x {row['gpu']}", f"{row['vram_gb']} GB"
        table += _row(row["name"], gpus, memory, str(row["vcpus"]), f"{row['memory_gb']} GB", price, row["for"])
    return f"{table}\nRegion {data['region']}. Hardware: {data['hardware']}. Prices: {data['prices']}.\n"


def pages() -> dict[Path, str]:
    """Return every page that is made, or has a part that is, with the text that it must have."""
    aws = ROOT / "docs" / "aws.md"
    marks = r"(<!-- instances: made by `make pages` -->\n).*?(<!-- end -->)"
    text, count = re.subn(marks, rf"\g<1>{instances_table()}\g<2>", aws.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert count == 1, "docs/aws.md has no place for the table of instances"
    return {ROOT / "docs" / "errors.md": errors_page(), aws: text, **reference_pages()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT), file=sys.stderr)
