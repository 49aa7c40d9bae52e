"""Measure the code itself, one row a tree: `python benchmarks/source.py [--folders] [TREE…]`; without a tree, simyard.

Counts come from the syntax tree and the tokenizer, so they are the same for any Python project. Tests, examples,
benchmarks and generated files are not counted.
"""

import argparse
import ast
import io
import re
import statistics
import tokenize
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("core", "runner", "store", "sdk", "blocks", "tasks", "deployments", "flows", "service", "cli")
APART = {"tests", "test", "examples", "benchmarks", "docs", "build", "dist", "__pycache__"}
LONG = 60
"""Lines; a function above them is counted apart."""
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
_WH = re.compile(r"(\w+ )?(what|who|whom|whose|whoever|how|where|when|why|which)\b", re.IGNORECASE)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Figures:
    """The counts of a tree."""

    files: list[int] = field(default_factory=list)
    """Lines of each file."""
    functions: list[int] = field(default_factory=list)
    """Lines of each function, its docstring not counted."""
    nesting: list[int] = field(default_factory=list)
    """Deepest block of each function."""
    public: int = 0
    """Public functions, methods and classes."""
    documented: int = 0
    """Those of them with a docstring."""
    signatures: int = 0
    """Public functions and methods."""
    hinted: int = 0
    """Those of them whose parameters and result are all annotated."""
    docstrings: int = 0
    wh: int = 0
    """Docstrings that begin with what, who, how, where and the like, or with a verb and one of these."""
    doc_lines: int = 0
    comment_lines: int = 0
    any_dicts: int = 0
    """Times that `dict[str, Any]` is written."""
    string_reads: int = 0
    """Subscripts by a literal string, and `.get` with one."""

    def add(self, path: Path) -> None:
        """Count a file in."""
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        self.files.append(text.count("\n"))
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        self.comment_lines += sum(token.type == tokenize.COMMENT for token in tokens)
        self.any_dicts += text.count("dict[str, Any]")
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | Function):
                self._count_docstring(node)
            if isinstance(node, ast.Module | ast.ClassDef):
                self._count_field_docs(node)
            if isinstance(node, Function):
                self._count_function(node)
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
                self.string_reads += _is_text(node.slice)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
                self.string_reads += bool(node.args) and _is_text(node.args[0])

    def _count_docstring(self, node: ast.Module | ast.ClassDef | Function) -> None:
        said = ast.get_docstring(node)
        if not isinstance(node, ast.Module) and not node.name.startswith("_"):
            self.public += 1
            self.documented += said is not None
        if said is not None:
            self._count_text(said)

    def _count_field_docs(self, node: ast.Module | ast.ClassDef) -> None:
        """Count the strings that stand below fields and constants."""
        for above, below in pairwise(node.body):
            if isinstance(above, ast.Assign | ast.AnnAssign) and isinstance(below, ast.Expr) and _is_text(below.value):
                self._count_text(ast.literal_eval(below.value))

    def _count_text(self, said: str) -> None:
        self.docstrings += 1
        self.wh += bool(_WH.match(said))
        self.doc_lines += said.count("\n") + 1

    def _count_function(self, node: Function) -> None:
        first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
        self.functions.append((node.end_lineno or 0) - first.lineno + 2)
        self.nesting.append(_depth(node))
        if node.name.startswith("_"):
            return
        asked = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        self.signatures += 1
        self.hinted += node.returns is not None and all(a.annotation or a.arg in ("self", "cls") for a in asked)

    def row(self, name: str) -> str:
        """Return the figures as a row of a Markdown table."""
        lines = sum(self.files)
        cells = [
            f"{name}: {len(self.files)} files, {lines:,} lines",
            _spread(self.files),
            f"{_spread(self.functions)}; {sum(length > LONG for length in self.functions)} over {LONG}",
            f"{_quantile(self.nesting, 90)}/{max(self.nesting, default=0)}",
            f"{_share(self.documented, self.public)} / {_share(self.hinted, self.signatures)}",
            _share(self.comment_lines, lines),
            _share(self.doc_lines, lines),
            _share(self.wh, self.docstrings),
            str(self.any_dicts),
            f"{self.string_reads:,}",
        ]
        return f"| {' | '.join(cells)} |"


HEAD = (
    "tree", "lines a file med/p90/max", "lines a function med/p90/max", "nesting p90/max", "public documented / hinted",
    "comment lines", "docstring lines", "docstrings that begin with what, who, how, …",
    "`dict[str, Any]`", "reads by string",
)  # fmt: skip


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _depth(node: ast.AST) -> int:
    inside = [_depth(child) for child in ast.iter_child_nodes(node) if not isinstance(child, Function | ast.Lambda)]
    return max(inside, default=0) + isinstance(node, BLOCKS)


def _quantile(values: list[int], percent: int) -> int:
    return int(statistics.quantiles(values, n=100)[percent - 1]) if len(values) > 1 else sum(values)


def _spread(values: list[int]) -> str:
    return f"{_quantile(values, 50)}/{_quantile(values, 90)}/{max(values, default=0)}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"


def measure(*folders: Path) -> Figures:
    """Return the figures of all hand-written files below some folders."""
    figures = Figures()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            apart = APART & set(path.relative_to(folder).parts) or path.name.startswith("test_")
            if not apart and not path.read_text(encoding="utf-8").startswith("# Generated"):
                figures.add(path)
    return figures


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("trees", nargs="*", type=Path, help="other projects' source folders, to stand beside")
    parser.add_argument("--folders", action="store_true", help="a row for each of simyard's folders too")
    asked = parser.parse_args()
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    print(measure(*(ROOT / folder for folder in FOLDERS)).row("**simyard**"))
    for folder in FOLDERS if asked.folders else ():
        print(measure(ROOT / folder).row(folder))
    print(measure_tests().row("tests"))
    for tree in asked.trees:
        print(measure(tree).row(tree.name))


def measure_tests() -> Figures:
    """Return the figures of the tests."""
    figures = Figures()
    for path in sorted((ROOT / "tests").rglob("*.py")):
        figures.add(path)
    return figures


if __name__ == "__main__":
    main()
