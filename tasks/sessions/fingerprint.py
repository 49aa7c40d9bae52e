"""The fingerprint of a session, and the findings that are kept by it.

A fingerprint has the properties that a process must share with a job to serve it: simulator, interpreter, environment,
device, the user's packages and the project. What is installed is not part of it: a process compares the files that it
has loaded with those on the disk before each job, which tells an upgrade, and an edit too.

Findings are those of earlier checks about the simulator's environment: they refuse a bad job before anything starts.
They are kept with the status of every file that they came from: all modules that were imported, their folders, and what
says which distributions are installed. They count while all of them are unchanged, and refuse only: a job that they do
not refuse is checked by the simulator all the same.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import Any

from simyard.core.errors import RequestError, WorkloadError
from simyard.core.files import read_json, write_json
from simyard.core.specs import JobSpec
from simyard.requests.settings import Site
from simyard.runner.imported import unchanged
from simyard.runner.simulators import ADAPTERS
from simyard.runner.workload import Workload

_NOT_OF_THE_MACHINE = frozenset(
    ("_", "COLUMNS", "HISTFILE", "HOSTNAME", "LINES", "LS_COLORS", "MAIL", "OLDPWD", "PROMPT_COMMAND", "PS1", "PWD",
     "SHLVL", "STY", "TERM", "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "WINDOWID")
)  # fmt: skip
_NOT_OF_THE_MACHINE_EITHER = ("DBUS_", "MAKE", "PYTEST_", "SSH_", "TERM_", "TMUX", "VSCODE_", "XDG_SESSION_")
"""Variables, and beginnings of their names, that tell one terminal from another, and that no simulator reads."""

Needs = dict[str, Any]
"""Plain JSON."""


def needs(site: Site, job: JobSpec, project: str, *, embedded_assets: bool = True) -> Needs:
    """Return the properties that a process must have for a job: two jobs with the same may meet in one.

    Args:
        site: This machine.
        job: The job.
        project: Whose job it is: the URL of its store.
        embedded_assets: As for `Site.workload_env`.
    """
    env = site.workload_env(embedded_assets=embedded_assets, accepts_eula=job.accepts_eula)
    return {
        "project": project,
        "simulator": job.simulator,
        "python": site.python,
        "device": "gpu, if there is one" if job.gpus is None else "gpu" if job.gpus else "cpu",
        "packages": [package.sha256 for package in job.packages],
        "callback": job.import_callback,
        "environment": {name: _digest(value) for name, value in sorted(env.items()) if _is_of_the_machine(name)},
    }


def difference(one: Needs, other: Needs) -> str:
    """Return in words in what two needs differ."""
    names = [name for name in one if one[name] != other.get(name) and name != "environment"]
    ours, theirs = one["environment"], other.get("environment", {})
    names += sorted(f"${name}" for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    return ", ".join(names)


def _is_of_the_machine(name: str) -> bool:
    return name not in _NOT_OF_THE_MACHINE and not name.startswith(_NOT_OF_THE_MACHINE_EITHER)


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()[:16]


ANSWER_S = 30.0
"""Seconds for a process that has just checked a job to return its findings."""


class Findings:
    """Findings about the environment of one job."""

    def __init__(self, site: Site, job: JobSpec) -> None:
        """Read the kept findings, if there are any."""
        self._job = job
        own = needs(site, job, "")
        self._path = site.home / "cache" / "findings" / f"{hashlib.sha256(json.dumps(own).encode()).hexdigest()}.json"
        self._kept: dict[str, Any] = {"jobs": [], "findings": {}, "evidence": {}}
        with suppress(OSError, ValueError, KeyError, TypeError):  # a broken file is as none
            read = read_json(self._path)
            self._kept = {name: read[name] for name in self._kept}

    def refuse(self) -> None:
        """Refuse the job where that is certain; one that brings its own code is left to the simulator.

        Raises:
            RequestError: As the simulator's environment would.
        """
        if self._brings_code() or not self._kept["findings"]:
            return
        try:
            ADAPTERS[self._job.simulator].refuse_known(self._job, self._kept["findings"])
        except RequestError:
            if unchanged(self._kept["evidence"]):
                raise

    def learn(self, workload: Workload) -> None:
        """Keep the findings of a process that has just checked the job, unless those of a like job are kept."""
        what = f"{self._job.task} {self._job.library}"
        if self._brings_code() or not workload.is_waiting:
            return
        kept = self._kept if unchanged(self._kept["evidence"]) else {"jobs": [], "findings": {}, "evidence": {}}
        if what in kept["jobs"]:
            return
        with suppress(WorkloadError, OSError):  # the next check finds it out again
            findings, evidence = workload.findings(ANSWER_S)
            for name, found in findings.items():
                kept["findings"][name] = kept["findings"].get(name, {}) | found
            kept |= {"jobs": sorted({*kept["jobs"], what}), "evidence": kept["evidence"] | evidence}
            write_json(self._path, kept)

    def _brings_code(self) -> bool:
        return bool(self._job.packages or self._job.import_callback)
