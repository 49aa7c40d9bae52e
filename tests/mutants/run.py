"""Put one bug at a time into a copy of the tree, and write down which test catches it, in which tier.

    python tests/mutants/run.py                 # those of mutants.toml that table.md has not, or not as they are now
    python tests/mutants/run.py half-checkpoint # these alone
    python tests/mutants/run.py --tier likely   # the tests that should catch each, and no others

The copy has an environment of its own, made of links: what the tests start, simulators and commands too, runs its code.
"""

import argparse
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("table.md")
MUTANTS = Path(__file__).with_name("mutants.toml")
SPREAD = ("-n2", "--dist=loadgroup", "--no-loadscope-reorder")
TIERS = {
    "likely": ("not long", ()),
    "likely-long": ("long", ()),
    "default": ("not long", SPREAD),
    "long": ("long", SPREAD),
}
"""The tests of each, and how they are run; a mutant that survives one meets the next."""
NAMED = {"likely": "default", "likely-long": "long"}
"""Those that a mutant names, and the tier that they are of: a minute tells whether they catch it, a tier takes many."""
BATCH = 8
"""After so many mutants the tests that caught them are run without: one that fails then too has caught nothing."""
LIMIT_S = {"likely": 1800, "likely-long": 3600, "default": 3600, "long": 4 * 3600}
"""Tests that hang have noticed nothing."""
NOT_YET = "not run yet"
SETTLED = ("default", "long", "none")
"""What need not be run again: the tier that caught it, or that nothing did."""
HEAD = "| mutant | promise | tier | caught by | s | of |\n|---|---|---|---|---|---|\n"
PASSED, FAILED, NO_TESTS = 0, 1, 5  # pytest's exit codes; the others mean that it could not run the tests


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One bug."""

    id: str
    promise: str
    file: str
    old: str
    new: str
    likely: list[str]
    needs: str = ""

    @property
    def digest(self) -> str:
        """Tells a mutant from the one its row was written for; its file may have moved."""
        return hashlib.sha256(json.dumps([self.old, self.new]).encode()).hexdigest()[:8]

    def tests(self) -> list[str]:
        """Return the likely tests that there are, the one that caught it last time first.

        Of a function that has got another name it is the whole file.
        """
        found = []
        for test in [*last_caught_by(self.id), *self.likely]:
            path, function = test.partition("::")[0], test.rpartition("::")[2]
            if (ROOT / path).exists():
                is_there = re.search(rf"def {function}\b", (ROOT / path).read_text(encoding="utf-8"))
                found.append(test if is_there else path)
        return list(dict.fromkeys(found))


class Copy:
    """A copy of the working tree, as it is now, whose environment is the tree's own with the copy's code in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.python = root / ".venv/bin/python"
        # Every write of a file gets a second of its own: a compiled module is told from its source by that.
        self._second = int(time.time())
        listed = subprocess.check_output(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, text=True)
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes((ROOT / name).read_bytes())
                (root / name).chmod((ROOT / name).stat().st_mode)
        self._link_environment()
        self._prove()

    def _link_environment(self) -> None:
        """Link what is installed, and simyard to the copy."""
        (farm,) = (ROOT / "build").glob("__editable__*")
        for link in farm.rglob("*"):
            if not link.is_dir() and link.suffix != ".pyc":  # compiled from the tree's own code
                assert link.is_symlink(), f"{link} is no link: the tree is installed in another way"
                _link(self.root / link.relative_to(ROOT), self.root / link.resolve().relative_to(ROOT))
        (packages,) = (ROOT / ".venv/lib").glob("python*/site-packages")
        for folder in (ROOT / ".venv", ROOT / ".venv/bin", packages):
            for entry in folder.iterdir():
                target = self.root / entry.relative_to(ROOT)
                if (entry / "plugInfo.json").is_file():  # PhysX follows no link to a plugin's folder
                    shutil.copytree(entry, target)
                elif entry.name not in ("bin", "lib", "lib64", "__pycache__"):
                    _link(target, entry)
        _link(self.root / ".venv/lib64", Path("lib"))
        own = [*(ROOT / ".venv/bin").iterdir(), *packages.glob("__editable__*.pth"), ROOT / ".venv/pyvenv.cfg"]
        for file in own:
            target = self.root / file.relative_to(ROOT)
            if file.is_symlink():  # Python itself: where it is called tells it which environment it is
                target.unlink()
                target.symlink_to(file.readlink())
            elif (data := file.read_bytes()) and str(ROOT).encode() in data and b"\0" not in data[:1000]:
                target.unlink()
                target.write_bytes(data.replace(str(ROOT).encode(), str(self.root).encode()))
                target.chmod(file.stat().st_mode)

    def _prove(self) -> None:
        """Require that Python, the command and its child processes run the copy's code."""
        with self.changed("sdk/__init__.py", lambda text: text + "\nraise SystemExit('this is the copy')\n"):
            nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import simyard'])"
            for command in (["-c", "import simyard"], [".venv/bin/simyard", "--version"], ["-c", nested]):
                said = self.call(command)
                assert "this is the copy" in said.stderr, f"{command} runs other code: {said.stdout}{said.stderr}"

    def changed(self, file, change):
        """Change a file while a `with` block runs."""
        return _Changed(self, self.root / file, change)

    def write(self, path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        self._second += 1
        os.utime(path, (self._second, self._second))

    def call(self, arguments: list[str]) -> subprocess.CompletedProcess:
        """Run the copy's Python."""
        command = [self.python, *arguments]
        return subprocess.run(command, cwd=self.root, env=_environment(), capture_output=True, text=True, check=False)

    def imports(self, file: str) -> str | None:
        """Return why a changed file cannot be read or imported; None where it can."""
        if not file.endswith(".py"):
            code = "import sys, yaml; yaml.safe_load(open(sys.argv[1]))" if file.endswith((".json", ".yaml")) else ""
        else:
            folder, _, name = file.removesuffix(".py").rpartition("/")
            parts = ["simyard", *folder.split("/"), *([] if name == "__init__" else [name])]
            code = f"import {'.'.join(part for part in parts if part != 'sdk')}"
        done = self.call(["-c", code, file])
        return (done.stderr.strip().splitlines() or ["it ends"])[-1] if done.returncode else None

    def pytest(self, tier: str | None, tests: list[str], *more: str) -> tuple[int, list[tuple[str, str]], str]:
        """Run tests, those of a tier alone if one is named; return pytest's exit code, failures and the last line."""
        mark, how = TIERS[tier] if tier else ("", ())
        command = [self.python, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", "-m", mark, *how, *more, *tests]
        process = subprocess.Popen(
            command, cwd=self.root, env=_environment(), text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            said, _ = process.communicate(timeout=LIMIT_S[tier or "default"])
        except BaseException as error:
            # As Ctrl-C would: what the tests have started ends with them.
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.communicate(timeout=120)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                return -1, [], f"no end after {LIMIT_S[tier]} s"
            raise
        found = re.findall(r"^(?:FAILED|ERROR) (\S+?(?:\[.*?\])?)(?: - (.*))?$", said, re.MULTILINE)
        found = [(re.sub(r"@\w+$", "", test), why) for test, why in found]  # the group that it was run in
        return process.returncode, found, (said.strip().splitlines() or [""])[-1]


class _Changed:
    def __init__(self, copy: Copy, path: Path, change) -> None:
        self._copy, self._path, self._before = copy, path, path.read_text(encoding="utf-8")
        self._after = change(self._before)

    def __enter__(self) -> None:
        self._copy.write(self._path, self._after)

    def __exit__(self, *_: object) -> None:
        self._copy.write(self._path, self._before)


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)


def _environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    # Wide enough for the line that says why a test failed.
    return {"OMP_NUM_THREADS": "1", **own, "COLUMNS": "400"}


def read_mutants() -> list[Mutant]:
    with MUTANTS.open("rb") as file:
        mutants = [Mutant(**entry) for entry in tomllib.load(file)["mutant"]]
    assert len({mutant.id for mutant in mutants}) == len(mutants), "two mutants have the same id"
    return mutants


def read_table(mutants: list[Mutant]) -> dict[str, list[str]]:
    """Return the cells of each row, by mutant; of one that was changed since, nothing."""
    rows = {mutant.id: row_of(mutant, NOT_YET, mutant.needs and f"needs a {mutant.needs}") for mutant in mutants}
    for line in TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else ():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)][1:-1]
        if cells and cells[0] in rows and cells[-1] == rows[cells[0]][-1]:
            rows[cells[0]] = cells
    return rows


def last_caught_by(name: str) -> list[str]:
    """Return the function of the test that caught a mutant when it was run last, as it was then."""
    text = TABLE.read_text(encoding="utf-8") if TABLE.exists() else ""
    return re.findall(rf"^\| {re.escape(name)} \| .*? \| (?:default|long) \| `([^`\[]+)", text, re.MULTILINE)


def write_table(rows: dict[str, list[str]]) -> None:
    tiers = [row[2] for row in rows.values()]
    counts = ", ".join(f"{tiers.count(tier)} {tier}" for tier in dict.fromkeys(["default", "long", *sorted(tiers)]))
    title = f"# Which test catches which bug\n\nWritten by `make mutants`. {len(rows)} bugs: {counts}.\n\n"
    lines = [f"| {' | '.join(row)} |\n" for row in rows.values()]
    TABLE.write_text(title + HEAD + "".join(lines), encoding="utf-8")


def row_of(mutant: Mutant, tier: str, caught_by: str = "", seconds: float | None = None) -> list[str]:
    text = re.sub(r"(?<!\\)\|", r"\\|", " ".join(caught_by.split()))[:300]
    return [mutant.id, mutant.promise, tier, text, "" if seconds is None else f"{seconds:.0f}", mutant.digest]


def judge(mutant: Mutant, copy: Copy, last: str) -> tuple[list[str], str | None]:
    """Put one bug in; return the row that says what became of it, and the test that caught it."""
    began = time.monotonic()
    if (found := (copy.root / mutant.file).read_text(encoding="utf-8").count(mutant.old)) != 1:
        return row_of(mutant, "broken", f"`old` occurs {found} times in {mutant.file}"), None
    with copy.changed(mutant.file, lambda text: text.replace(mutant.old, mutant.new)):
        if problem := copy.imports(mutant.file):
            return row_of(mutant, "broken", problem), None
        seconds = 0.0
        for tier in TIERS:
            if tier in NAMED and not mutant.tests():
                continue
            code, failed, said = copy.pytest(tier, mutant.tests() if tier in NAMED else [], "-x")
            seconds = time.monotonic() - began
            if code == FAILED and failed:
                test, why = failed[0]
                row = row_of(mutant, NAMED.get(tier, tier), f"`{test}`: {why}", seconds)
                return row, test
            if code != PASSED and not (code == NO_TESTS and tier in NAMED):
                return row_of(mutant, "broken", f"the tests of the tier {tier} did not run: {said}", seconds), None
            if tier == last:
                break
    return row_of(mutant, "none" if last == "long" else NOT_YET, f"survived {last}", seconds), None


def prove(caught: list[tuple[list[str], str | None]], copy: Copy) -> list[list[str]]:
    """Run the tests that caught bugs once more, without any; return the rows, which say so where one fails then too."""
    tests = list(dict.fromkeys(test for _, test in caught if test))
    code, failed, said = copy.pytest(None, tests) if tests else (PASSED, [], "")
    sick = {test: "fails without it" for test, _ in failed}
    if code not in (PASSED, FAILED):
        sick = dict.fromkeys(tests, f"did not run again: {said}")
    for row, test in caught:
        if test in sick:
            row[2:4] = ["broken", f"`{test}` {sick[test]}"]
            print(*row[:4], sep=" | ", flush=True)
    return [row for row, _ in caught]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("mutants", nargs="*", help="which ones; by default those without a result")
    parser.add_argument("--tier", choices=TIERS, default="long", help="how far to go where nothing catches it")
    parser.add_argument("--again", action="store_true", help="run those that have a result too")
    parser.add_argument(
        "--in-process", action="store_true", help="leave out what needs a simulator, server or container"
    )
    asked = parser.parse_args()
    # A shell has what it starts in the background ignore it, and what that starts would, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    mutants = read_mutants()
    named = {mutant.id: mutant for mutant in mutants}
    if strange := [name for name in asked.mutants if name not in named]:
        parser.error(f"there is no mutant {strange[0]!r}")
    rows = read_table(mutants)
    todo = [named[name] for name in asked.mutants] or [
        mutant
        for mutant in mutants
        if (asked.again or rows[mutant.id][2] not in SETTLED) and not (asked.in_process and mutant.needs)
    ]
    with tempfile.TemporaryDirectory(prefix="simyard-mutants-") as folder:
        copy = Copy(Path(folder))
        for some in itertools.batched(todo, BATCH):
            caught = []
            for mutant in some:
                row, test = judge(mutant, copy, asked.tier)
                print(row[0], row[2], row[4], row[3], sep=" | ", flush=True)
                caught.append((row, test))
            proved = {row[0]: row for row in prove(caught, copy)}
            write_table(read_table(mutants) | proved)  # another run may have written meanwhile
    rows = read_table(mutants)
    return 0 if all(rows[mutant.id][2] in ("default", "long") for mutant in todo) else 1


if __name__ == "__main__":
    sys.exit(main())
