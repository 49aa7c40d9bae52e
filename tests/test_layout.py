"""Who imports whom, and what is installed: the rules of docs/architecture.md."""

import ast
import json
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers import HANG_S

ROOT = Path(__file__).parents[1]
FOLDERS = ("blocks", "cli", "core", "deployments", "flows", "runner", "sdk", "service", "store", "tasks")
PACKAGES: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]

LAYERS = {
    "core": set(),
    "runner": {"core"},
    "store": {"core"},
    "sdk/requests": {"runner", "core"},
    "sdk/client": set(),
    "sdk": {"sdk/client", "cli", "runner", "core"},
    "blocks": {"store", "core"},
    "deployments": {"core"},
    "tasks": {"deployments", "sdk/requests", "blocks", "store", "runner", "core"},
    "flows": {"deployments", "tasks", "sdk/requests", "blocks", "store", "runner", "core"},
    "service": {"tasks", "sdk/requests", "blocks", "store", "runner", "core"},
    "cli": {"deployments", "flows", "tasks", "sdk", "sdk/requests", "blocks", "store", "runner", "core"},
}
"""What each folder may import, besides itself."""


@dataclass(frozen=True)
class Import:
    """One imported module."""

    path: Path
    line: int
    module: str
    inside_function: bool
    """Or for the type checker alone."""

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    @property
    def part(self) -> str:
        """The folder of `LAYERS` it stands in, `runner` say; empty for a module that is not ours."""
        if self.top != "simyard":
            return ""
        name = self.module.split(".")[1] if "." in self.module else ""
        return next((folder for folder in (name, f"sdk/{name}") if folder in LAYERS), "sdk")

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.module}"


def imports(path: Path) -> Iterator[Import]:
    """Yield every module that a file imports."""

    def walk(node: ast.AST, inside: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(path, node.lineno, alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names = [node.module or ""]
            if node.module and node.module.partition(".")[0] == "simyard":  # `from simyard.store import keys`
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (Import(path, node.lineno, name, inside) for name in names)
        for child in ast.iter_child_nodes(node):
            deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
                isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            )
            yield from walk(child, inside or deferred)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False)


def part_of(path: Path) -> str:
    """The folder of `LAYERS` that a file stands in."""
    folder, *rest = path.relative_to(ROOT).parts
    return f"{folder}/{rest[0]}" if f"{folder}/{rest[0]}" in LAYERS else folder


def test_imports_go_one_way() -> None:
    wrong = []
    for path in SOURCES:
        part = part_of(path)
        allowed = {part, *LAYERS.get(part, set())}
        wrong += [str(found) for found in imports(path) if found.part and found.part not in allowed]
    assert not wrong


def test_what_the_workload_imports_is_the_standard_library_alone() -> None:
    files = (path for folder in ("core", "runner") for path in (ROOT / folder).rglob("*.py"))
    found = [item for path in files for item in imports(path)]
    foreign = [
        item for item in found if item.top not in sys.stdlib_module_names and item.part not in ("runner", "core")
    ]
    assert foreign, "the adapters import the simulator somewhere"
    assert not [str(item) for item in foreign if not item.inside_function]
    assert not [str(item) for item in foreign if item.top in ("prefect", "pydantic", "obstore", "simyard")]


def test_the_store_knows_neither_prefect_nor_pydantic() -> None:
    found = [item for path in (ROOT / "store").rglob("*.py") for item in imports(path)]
    assert not [str(item) for item in found if item.top in ("prefect", "pydantic")]


def test_nothing_imports_our_folders_by_their_bare_names() -> None:
    others = [path for folder in ("tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")]
    found = [item for path in (*SOURCES, *others) for item in imports(path)]
    assert not [str(item) for item in found if item.top in FOLDERS]


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    source = runpy.run_path(str(ROOT / "benchmarks" / "source.py"))
    figures = source["measure"](*(ROOT / folder for folder in FOLDERS))
    assert figures.docstrings > 3000
    assert figures.wh <= 0.03 * figures.docstrings


def test_every_package_is_listed() -> None:
    there = {str(path.parent.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).rglob("__init__.py")}
    assert there == set(PACKAGES.values())
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(PACKAGES)
    assert not [folder for folder in there if not (ROOT / folder / "py.typed").exists()]


def test_every_seeded_bug_still_fits_the_code() -> None:
    """One that fits no more is caught by nothing, and nobody sees it."""
    mutants = tomllib.loads((ROOT / "tests/mutants/mutants.toml").read_text())["mutant"]
    fits = [(ROOT / mutant["file"]).read_text().count(mutant["old"]) for mutant in mutants]
    unfit = [(mutant["id"], found) for mutant, found in zip(mutants, fits, strict=True) if found != 1]
    assert not unfit, "`old` of tests/mutants/mutants.toml stands exactly once in its file: give it the new text"
    assert len({mutant["id"] for mutant in mutants}) == len(mutants)


def test_importing_the_runner_brings_in_nothing_foreign(tmp_path: Path) -> None:
    modules = [
        ".".join(["simyard", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
        for folder in ("core", "runner")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__main__.py"
    ]
    code = f"import sys\nfor name in {modules!r}: __import__(name)\nprint(*{{n.split('.')[0] for n in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    foreign = {"prefect", "pydantic", "obstore", "torch", "isaaclab", "numpy"} & set(done.stdout.split())
    assert not foreign
    assert "simyard" in done.stdout


def test_bare_names_are_not_importable(tmp_path: Path) -> None:
    code = f"import importlib.util, json\nprint(json.dumps([n for n in {FOLDERS!r} if importlib.util.find_spec(n)]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_wheel_holds_the_tree_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("simyard-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = set()
    for package, folder in PACKAGES.items():
        files = [path for path in (ROOT / folder).iterdir() if path.is_file() and path.name != "setup.sh"]
        expected |= {f"{package.replace('.', '/')}/{path.name}" for path in files}
    for data in ("deployments/pools", "runner/newton/models", "service/templates", "tasks/templates"):
        expected |= {f"simyard/{data}/{path.name}" for path in (ROOT / data).iterdir()}
    expected |= {f"simyard/{path.relative_to(ROOT)}" for path in (ROOT / "cli" / "templates").rglob("*.txt")}
    assert inside == expected
