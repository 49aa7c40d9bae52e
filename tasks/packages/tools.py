"""The child processes of an installation: uv or pip, and the workload's Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from simyard.core.errors import RequestError
from simyard.core.files import open_inside
from simyard.tasks.packages.probe import Answer, Question
from simyard.tasks.shared.guard import Guarded

_PROBE = Path(__file__).with_name("probe.py")
_TAIL_LINES = 20

# What a build may see of the environment of this process, which can hold credentials.
_BUILD_VARIABLES = (
    *("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ"),
    *("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "MAX_JOBS", "CUDA_HOME", "TORCH_CUDA_ARCH_LIST"),
    *("ISAACLAB_PATH", "ISAACSIM_PATH"),
)


class PackageTools:
    """Builds, installs and asks, with uv if there is one and otherwise with pip; one deadline, one log."""

    def __init__(self, python: str, work: Path, log: Path, timeout_s: float) -> None:
        """Make ready in a folder.

        Args:
            python: The workload's Python.
            work: An empty folder that belongs to this installation.
            log: File for all output; it is emptied.
            timeout_s: Seconds for everything that is done with this.
        """
        self._python = python
        self._work = work
        self._log = log
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._environment = _clean_environment(work)
        log.write_bytes(b"")
        self._uv = self._find_uv()

    def _find_uv(self) -> str | None:
        beside = str(Path(self._python).with_name("uv")) if os.sep in self._python else None
        for found in (beside, shutil.which("uv")):
            # A shim can be on PATH with nothing behind it.
            if found and Path(found).is_file() and self._run([found, "--version"]) == 0:
                return found
        return None

    def build(self, project: Path, requires: Sequence[str]) -> Path:
        """Build a wheel from a project folder, with the build tools that are installed.

        Args:
            project: Folder with a pyproject.toml or a setup.py.
            requires: What its build needs; it is looked at when the build has failed.

        Raises:
            RequestError: The build failed.
        """
        out = self._work / "wheels"
        flags = ["--no-index", "--no-build-isolation"]
        if self._uv:
            tool = [self._uv, "build", "--wheel", "--offline", "--no-config", "--no-cache", "--python", self._python]
            status = self._run([*tool, *flags, "--out-dir", str(out), str(project)])
        else:
            tool = [self._python, "-m", "pip", "wheel", "--no-deps", "--no-cache-dir", "--use-pep517"]
            status = self._run([*tool, *flags, "--wheel-dir", str(out), str(project)])
        wheels = [path for path in out.glob("*.whl") if _is_own(out, path)]
        if status or len(wheels) != 1:
            raise RequestError(
                f"The package could not be built (exit status {status}). {self._tail()}",
                code="package_build_failed",
                advice=self._build_advice(requires),
            )
        return wheels[0]

    def _build_advice(self, requires: Sequence[str]) -> str:
        # Before version 70.1 setuptools needs `wheel` for this command, and projects seldom say so.
        unsaid = ["wheel"] if "invalid command 'bdist_wheel'" in self._tail() else []
        missing = self.ask(requires=[*requires, *unsaid])["missing"]
        if missing:
            return (
                f"Its build needs what is not installed: {'; '.join(missing)}. Nothing is downloaded for a job: "
                "send a wheel instead ('python -m build --wheel')."
            )
        return "'python -m build --wheel' shows the same at home, and the wheel that it makes can be sent as well."

    def install(self, wheel: Path, target: Path) -> None:
        """Install a wheel into a new folder.

        Raises:
            RequestError: It could not be installed.
        """
        flags = ["--no-deps", "--no-index", "--target", str(target), str(wheel)]
        if self._uv:
            tool = [self._uv, "pip", "install", "--offline", "--no-config", "--no-cache", "--python", self._python]
            status = self._run([*tool, "--link-mode", "copy", *flags])
        else:
            tool = [self._python, "-m", "pip", "install", "--no-compile", "--no-cache-dir", "--no-warn-script-location"]
            status = self._run([*tool, "--root-user-action", "ignore", *flags])
        if status:
            raise RequestError(
                f"{wheel.name!r} could not be installed (exit status {status}). {self._tail()}",
                code="package_install_failed",
                advice="Build the wheel again, for this Python and platform.",
            )

    def ask(self, **question: Unpack[Question]) -> Answer:
        """Ask the workload's Python about its environment.

        Raises:
            RequestError: That Python does not run.
        """
        # Files without a name: a build can have left anything in the folder.
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout:
            stdin.write(json.dumps(question).encode())
            stdin.seek(0)
            status = self._run([self._python, "-P", str(_PROBE)], stdin=stdin, stdout=stdout)
            stdout.seek(0)
            answered = stdout.read()
        try:
            answer: Answer = json.loads(answered.splitlines()[-1])
        except (IndexError, ValueError) as error:
            raise RequestError(
                f"The Python {self._python!r} gives no answer (exit status {status}). {self._tail()}",
                code="package_python",
                advice="Name the Python that has Isaac Lab, 3.11 or later.",
            ) from error
        return answer

    def _run(self, command: Sequence[str], **streams: Any) -> int:
        """Run a command to its end, its output to the log, and return its exit status."""
        with open(os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW), "ab") as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, **streams}
            child = Guarded(command, env=self._environment, cwd=self._work, stderr=log, **streams)
        try:
            return child.process.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise RequestError(
                f"The package was not installed within {self._timeout_s:g} s. {self._tail()}",
                code="package_timeout",
                advice="Send a wheel, which needs no build, or allow more time.",
            ) from error
        finally:
            child.end()

    def _tail(self) -> str:
        try:
            with open_inside(self._log.parent, self._log.name) as log:
                lines = log.read().decode(errors="replace").splitlines()
        except OSError as error:
            lines = [f"{self._log.name}: {error.strerror}"]
        return "\n".join(["The log ends:", *(f"    {line[:300]}" for line in lines[-_TAIL_LINES:]), ""])


def _is_own(folder: Path, path: Path) -> bool:
    """Tell whether a build left a regular file of its own there."""
    try:
        open_inside(folder, path.name).close()
    except OSError:
        return False
    return True


def _clean_environment(work: Path) -> dict[str, str]:
    for name in ("home", "tmp"):
        (work / name).mkdir()
    return {
        # Packages can be installed for the user, and HOME is another one here.
        "PYTHONUSERBASE": os.path.expanduser("~/.local"),
        **{name: os.environ[name] for name in (*_BUILD_VARIABLES, "PYTHONUSERBASE") if name in os.environ},
        "HOME": str(work / "home"),
        "TMPDIR": str(work / "tmp"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "UV_PYTHON_DOWNLOADS": "never",
    }
