"""`simyard` alone: the site, the last jobs, and the command that is worth running next."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import TYPE_CHECKING

import click

from simyard.cli.shared import text_table
from simyard.core.errors import SimyardError
from simyard.core.terminal import plain

if TYPE_CHECKING:
    from simyard.core.records import JobState
    from simyard.core.specs import JobSpec
    from simyard.requests.settings import MachineSettings
    from simyard.store.store import Store

LAST_JOBS = 5
MORE = "All commands: simyard --help. Complete them: simyard completion --help"


def show_standing() -> None:
    """Print where one stands and what to do next; nothing is written, and no server asked."""
    from simyard.blocks.reference import BLOCK_PREFIX, open_store
    from simyard.requests.settings import MachineSettings

    machine = MachineSettings.from_env_in_part()
    lines = [f"site:   {_site(machine)}", f"store:  {machine.store}"]
    is_folder = "://" not in machine.store and not machine.store.startswith(BLOCK_PREFIX)
    try:
        is_there = not is_folder or Path(machine.store).exists()
        rows = _last_jobs(open_store(machine.store)) if is_there else []
    except SimyardError as error:
        click.echo(plain("\n".join([*lines, f"        {error}", "", "next:   simyard doctor", MORE])))
        return
    if rows:
        shown = [(spec.job_id, spec.kind, known.status, f"{spec.name} ({spec.task})") for spec, known in rows]
        lines += ["", text_table(("JOB", "KIND", "STATUS", "NAME"), shown)]
    else:
        lines.append("        no jobs yet")
    click.echo(plain("\n".join([*lines, "", *_next(rows), "", MORE])))


def _site(machine: MachineSettings) -> str:
    """Return whether `simyard up` runs here, in words."""
    lock = machine.home / "up" / "lock"
    try:
        with lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it goes with the file
    except FileNotFoundError:
        pass
    except OSError:
        return f"up, as process {lock.read_text().strip() or 'unknown'}; the API key is in {machine.home / 'api-key'}"
    return "not up: jobs run in this process (start a server, a worker and the API: simyard up)"


def _last_jobs(store: Store) -> list[tuple[JobSpec, JobState]]:
    from simyard.store import keys
    from simyard.tasks.shared import history
    from simyard.tasks.shared.listing import newest

    def read(job_id: str) -> tuple[JobSpec, JobState]:
        return history.load_spec(store, job_id), history.job_status(store, job_id)

    names = (name for name in store.list_dirs(keys.JOBS) if name.startswith("job-"))
    return newest(names, read, LAST_JOBS).found


def _next(rows: list[tuple[JobSpec, JobState]]) -> list[str]:
    """Return the commands that are worth running next, with why."""
    if not rows:
        found = [
            ("simyard init my_robot_task", "a task of your own that trains as it is"),
            ("simyard tasks list --runnable", "Isaac Lab's tasks that train here"),
        ]
    else:
        spec, known = rows[0]
        follow = {
            "train": ("simyard evaluate --job latest", "measure the policy, with films"),
            "evaluate": ("simyard export-policy --job latest", "take it to a robot"),
        }.get(spec.kind, ("simyard jobs list", "all jobs"))
        found = {
            "succeeded": [follow],
            "failed": [
                (f"simyard jobs show {spec.job_id}", "why it failed, and what mends it"),
                (f"simyard jobs resume {spec.job_id}", "go on from its last checkpoint"),
            ],
            "interrupted": [(f"simyard jobs resume {spec.job_id}", "go on from its last checkpoint")],
            "canceled": [(f"simyard jobs resume {spec.job_id}", "go on from its last checkpoint")],
        }.get(known.status, [(f"simyard jobs watch {spec.job_id}", "follow it")])
    width = max(len(command) for command, _ in found)
    return [
        f"{'next:' if not index else '':7} {command:{width}}  # {why}" for index, (command, why) in enumerate(found)
    ]
