"""The fingerprint of a session: the properties that a process must share with a job to serve it.

It is simulator, interpreter, environment, device, the user's packages and the project. What is installed is not part of
it: a process compares the files that it has loaded with those on the disk before each job, which tells an upgrade, and
an edit too.
"""

from __future__ import annotations

import hashlib
from typing import Any

from simyard.core.specs import JobSpec
from simyard.requests.settings import Site

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
