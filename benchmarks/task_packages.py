"""Try task packages in the form that GitHub gives them: each is installed and imported, or refused with its reason.

    .venv/bin/python benchmarks/task_packages.py REPOSITORY_OR_ZIP...

A repository is a git folder, bare or not; its newest commit is packed below one folder, as GitHub's "Download ZIP"
does. Prints what became of each. Nothing is downloaded.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from simyard.core.errors import Failure, RequestError
from simyard.tasks.packages.install import InstalledPackage, install

PYTHONS = (".py", ".toml", ".cfg", ".in", ".md", ".yaml", ".json")
REGISTER = """
import json, sys
from pathlib import Path
import gymnasium, isaaclab_tasks
from simyard.core.errors import RequestError
from simyard.runner.isaaclab.foreign_imports import require_registered
from simyard.runner.isaaclab.lookup import register_tasks, registered_tasks
before = set(registered_tasks())
overlay, callback = Path(sys.argv[1]), sys.argv[2] or None
try:
    register_tasks(overlay, callback)
    added = sorted(set(registered_tasks()) - before)
    if not added:
        require_registered("any", overlay, registered_tasks())
    print("FOUND " + json.dumps({"tasks": added}))
except RequestError as error:
    print("FOUND " + json.dumps({"failure": error.failure.to_json()}))
"""


def pack(repository: Path, folder: Path) -> Path:
    """Pack the newest commit of a repository as GitHub does."""
    parts = [part for part in repository.resolve().parts if part not in ("repo", ".git")]
    name = parts[-1].rpartition("+")[2]
    archive = folder / f"{name}-main.zip"
    git = [
        "git",
        "-C",
        str(repository),
        "archive",
        "--format=zip",
        f"--prefix={name}-main/",
        "-o",
        str(archive),
        "HEAD",
    ]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    if done.returncode:  # an object that the copy lacks: only what Python needs, then
        listed = ["git", "-C", str(repository), "ls-tree", "-r", "--name-only", "HEAD"]
        names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()
        subprocess.run([*git, "--", *(name for name in names if name.endswith(PYTHONS))], check=True)
    return archive


def register(package: InstalledPackage, overlay: Path, callback: str = "") -> tuple[list[str], Failure | None]:
    """Import what registers the tasks, as a job does; return them, or the failure."""
    wanted = callback or ("" if package.task_entry_points else package.modules[0])
    child = [sys.executable, "-c", REGISTER, str(overlay), wanted]
    done = subprocess.run(child, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    if not lines:
        raise SystemExit(done.stderr[-2000:])
    found = json.loads(lines[-1].removeprefix("FOUND "))
    return found.get("tasks", []), Failure.from_json(found["failure"]) if "failure" in found else None


def main() -> None:
    for given in map(Path, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as folder:
            overlay = Path(folder) / "overlay"
            archive = given if given.suffix == ".zip" else pack(given, Path(folder))
            print(f"## {archive.name}", flush=True)
            try:
                package = install(archive, overlay, python=sys.executable, scratch=Path(folder) / "scratch")
            except RequestError as error:
                print(f"refused: {error.failure.code}: {error}\n", flush=True)
                continue
            left = f"; the build left out files in {len(package.left_out)} folders" if package.left_out else ""
            print(f"installed: {package.name} {package.version}{left}", flush=True)
            tasks, failure = register(package, overlay)
            if failure and failure.code == "package_registers_nothing":
                print(f"with its only module: {failure.code}: {failure.message} {failure.advice}", flush=True)
                tasks, failure = register(package, overlay, failure.advice.split("'")[1])
            print(f"refused: {failure.code}: {failure.message} {failure.advice}\n" if failure else f"tasks: {tasks}\n")


if __name__ == "__main__":
    main()
