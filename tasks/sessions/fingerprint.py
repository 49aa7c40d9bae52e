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
from pathlib import Path
from typing import Any, TypedDict

from simyard.core.errors import RequestError, WorkloadError
from simyard.core.files import read_json, write_json
from simyard.core.specs import JobSpec
from simyard.requests.settings import MachineSettings
from simyard.runner.adapter import adapter_of
from simyard.runner.imported import Status, unchanged
from simyard.runner.messages import SessionFingerprint
from simyard.runner.workload import Workload
from simyard.store.keys import project_of
from simyard.tasks.attempt.supervise import gpu_count

_NOT_OF_THE_MACHINE = frozenset(
    ("_", "COLUMNS", "HISTFILE", "HOSTNAME", "LINES", "LS_COLORS", "MAIL", "OLDPWD", "PROMPT_COMMAND", "PS1", "PWD",
     "SHLVL", "STY", "TERM", "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "WINDOWID")
)  # fmt: skip
_NOT_OF_THE_MACHINE_EITHER = ("DBUS_", "MAKE", "PYTEST_", "SSH_", "TERM_", "TMUX", "VSCODE_", "XDG_SESSION_")
"""Variables, and beginnings of their names, that tell one terminal from another, and that no simulator reads."""

ANSWER_S = 30.0
"""Seconds for a process that has just checked a job to return its findings."""


def fingerprint(
    machine: MachineSettings, job: JobSpec, project: str, *, embedded_assets: bool = True
) -> SessionFingerprint:
    """Return the properties that a process must have for a job: two jobs with the same may meet in one.

    Args:
        machine: Settings of this machine.
        job: The job.
        project: Whose job it is: the URL of its store.
        embedded_assets: As for `MachineSettings.workload_env`.
    """
    env = machine.workload_env(
        embedded_assets=embedded_assets, accepts_eula=job.accepts_eula, project=project_of(project)
    )
    return SessionFingerprint(
        project=project,
        simulator=job.simulator,
        python=machine.python,
        device="gpu" if (gpu_count() if job.gpus is None else job.gpus) else "cpu",
        packages=tuple(package.sha256 for package in job.packages),
        callback=job.import_callback,
        environment={
            name: hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()[:16]
            for name, value in sorted(env.items())
            if name not in _NOT_OF_THE_MACHINE and not name.startswith(_NOT_OF_THE_MACHINE_EITHER)
        },
    )


def difference(one: SessionFingerprint, other: SessionFingerprint) -> str:
    """Return in words in what two fingerprints differ."""
    ours, theirs = one.to_json(), other.to_json()
    names = [name for name in ours if ours[name] != theirs[name] and name != "environment"]
    variables = {*one.environment, *other.environment}
    names += sorted(f"${name}" for name in variables if one.environment.get(name) != other.environment.get(name))
    return ", ".join(names)


def findings_path(machine: MachineSettings, job: JobSpec, *about: str) -> Path:
    """Return the file of the findings about a job's environment, or of those about something in it."""
    digest = hashlib.sha256(json.dumps(fingerprint(machine, job, "").to_json()).encode()).hexdigest()
    return machine.home / "cache" / "findings" / ".".join((digest, *about, "json"))


class _Kept(TypedDict):
    """The file of the findings, without what is checked by the status of every file in it."""

    jobs: list[str]
    """Task, library, named engine and named agent of the jobs whose checks they come from."""
    findings: dict[str, dict[str, Any]]
    """Of the simulator's adapter, for its `refuse_known`."""
    evidence: dict[str, Status]
    """Status of each file that they came from."""


class Findings:
    """Findings about the environment of one job."""

    def __init__(self, machine: MachineSettings, job: JobSpec) -> None:
        """Read the kept findings, if there are any."""
        self._job = job
        self._brings_code = bool(job.packages or job.import_callback)
        self._path = findings_path(machine, job)
        self._kept = _Kept(jobs=[], findings={}, evidence={})
        with suppress(OSError, ValueError, KeyError, TypeError):  # a broken file is as none
            read = read_json(self._path)
            self._kept = _Kept(jobs=read["jobs"], findings=read["findings"], evidence=read["evidence"])

    def refuse(self) -> None:
        """Refuse the job where that is certain; one that brings its own code is left to the simulator.

        Raises:
            RequestError: As the simulator's environment would.
        """
        if self._brings_code or not self._kept["findings"]:
            return
        try:
            adapter_of(self._job.simulator).refuse_known(self._job, self._kept["findings"])
        except RequestError:
            if unchanged(self._kept["evidence"]):
                raise

    def learn(self, workload: Workload) -> None:
        """Keep the findings of a process that has just checked the job, unless those of a like job are kept."""
        if self._brings_code or not workload.is_waiting:
            return
        kept = self._kept if unchanged(self._kept["evidence"]) else _Kept(jobs=[], findings={}, evidence={})
        like = " ".join(filter(None, (self._job.task, self._job.library, self._job.physics, self._job.agent)))
        if like in kept["jobs"]:
            return
        with suppress(WorkloadError, OSError):  # the next check finds it out again
            found = workload.findings(ANSWER_S)
            for name, new in found.findings.items():
                kept["findings"][name] = kept["findings"].get(name, {}) | new
            kept["jobs"] = sorted({*kept["jobs"], like})
            kept["evidence"] |= found.evidence
            write_json(self._path, kept)
