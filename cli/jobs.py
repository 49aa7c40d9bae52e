"""`simyard jobs`: all from the store; Prefect is asked only to cancel what has not begun."""

from __future__ import annotations

import fnmatch
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from simyard.cli.shared import (
    JSON,
    LIMIT,
    STORE,
    Columns,
    Group,
    emit,
    emit_rows,
    end_as_job,
    end_as_jobs,
    open_site_store,
    reckoned,
    renamed,
)
from simyard.core.artifacts import STDOUT, USER_LOG
from simyard.core.errors import RequestError

if TYPE_CHECKING:
    from simyard.core.records import JobState
    from simyard.core.specs import JobSpec
    from simyard.store.store import Store

POLL_S = 1.0
LOGS = (STDOUT.name, USER_LOG.name)
FIRST_LINES = 10
"""Lines of each log that are shown from before the watch."""


@click.group(cls=Group)
def jobs() -> None:
    """Look at jobs, resume and cancel them, fetch what they left."""


@jobs.command("list")
@STORE
@LIMIT
@JSON
def list_jobs(store: str | None, limit: int, as_json: bool) -> None:
    """List jobs, newest first."""
    from simyard.store import keys
    from simyard.tasks.shared import history
    from simyard.tasks.shared.listing import newest, shown

    opened = open_site_store(store)
    columns: Columns = {
        "JOB": "job_id",
        "KIND": "kind",
        "STATUS": "status",
        ">DONE": lambda row: f"{row['done'] if row['done'] is not None else '?'}/{row['total'] or '?'}",
        ">RETURN": lambda row: "" if row["reward"] is None else f"{row['reward']:.2f}",
        "NAME": lambda row: f"{row['name']} ({row['task']})",
    }

    def read(job_id: str) -> dict[str, object]:
        spec, known = shown(history.load_spec(opened, job_id)), shown(history.job_status(opened, job_id))
        fields = ("status", "done", "total", "unit", "reward", "attempts")
        return {
            "job_id": job_id, "kind": spec.kind, "name": spec.name, "task": spec.task, "created_at": spec.created_at,
            **{name: getattr(known, name) for name in fields}, "cost": known.to_json().get("cost"),
            **reckoned(known.estimate),
        }  # fmt: skip

    page = newest((name for name in opened.list_dirs(keys.JOBS) if name.startswith("job-")), read, limit)
    emit_rows(page.found, as_json, "No jobs in this store yet.", columns, page.unreadable)


@jobs.command()
@click.argument("job_id")
@STORE
@JSON
def show(job_id: str, store: str | None, as_json: bool) -> None:
    """Show a job's status and artifacts."""
    from simyard.tasks.shared import history

    opened = open_site_store(store)
    spec = history.load_spec(opened, job_id)
    emit(history.job_status(opened, job_id), as_json, lambda known: _describe(spec, known))


def _describe(spec: JobSpec, known: JobState) -> str:
    from simyard.core.records import JobResult
    from simyard.tasks.shared import estimates, usage

    counted = f"{known.done} of {known.total} {known.unit}s" if known.unit else "nothing yet"
    lines = [
        f"{known.job_id}  {known.status}",
        f"store       {known.store}",
        f"progress    {counted}, {known.attempts} attempt(s)",
    ]
    if known.reward is not None:
        lines.append(f"reward      {known.reward:.3f}")
    if known.estimate:
        lines.append(f"estimate    {estimates.as_told(known.estimate, spec)}")
    if isinstance(known, JobResult) and known.cost:
        lines.append(f"cost        {usage.cost_in_words(known.cost)}")
    if known.error:
        lines += [f"error       {known.error.message}", f"advice      {known.error.advice}"]
    lines += [f"  {entry.size_bytes:>12,}  {entry.name}" for entry in known.artifacts]
    return "\n".join(lines)


@jobs.command()
@click.argument("job_id")
@click.option("--tag", "add", multiple=True, metavar="TAG", help="Add a tag; may be repeated.")
@click.option("--untag", "remove", multiple=True, metavar="TAG", help="Remove a tag; may be repeated.")
@click.option("--note", metavar="TEXT", help="Set the note; an empty one removes it.")
@STORE
@JSON
def label(
    job_id: str, add: tuple[str, ...], remove: tuple[str, ...], note: str | None, store: str | None, as_json: bool
) -> None:
    """Give a job tags and a note, by which lists find it; without an option show them."""
    from simyard.tasks.shared import history, labels

    opened = open_site_store(store)
    if add or remove or note is not None:
        found = labels.change(opened, job_id, by="command line", add=add, remove=remove, note=note)
    else:
        history.load_spec(opened, job_id)
        found = labels.read(opened, job_id)
    emit(found, as_json, lambda shown: "\n".join([", ".join(shown.tags) or "no tags", *filter(None, [shown.note])]))


@jobs.command()
@click.argument("job_id")
@STORE
@JSON
def watch(job_id: str, store: str | None, as_json: bool) -> None:
    """Follow a job until it has ended. Shows stage, progress and new lines of its logs; exits as the job does."""
    end_as_job(watch_job(open_site_store(store), job_id, quiet=as_json), as_json)


def watch_job(store: Store, job_id: str, *, quiet: bool) -> JobState:
    """Follow a job to its end, from the store alone; return its result.

    Raises:
        RequestError: If there is no such job.
    """
    from simyard.cli.live import LiveLine
    from simyard.cli.run import say_ending
    from simyard.core.records import JobResult
    from simyard.runner.progress import JobProgress
    from simyard.tasks.shared import history
    from simyard.tasks.shared.logs import LogFollower

    history.load_spec(store, job_id)
    live, follower = LiveLine(quiet=quiet), LogFollower(store, job_id, LOGS, FIRST_LINES)
    while True:
        state = history.job_status(store, job_id)
        while not quiet and (lines := follower.new_lines(state.attempts)):
            for name, line in lines:
                live.say(f"{name}: {line}")
        if isinstance(state, JobResult):
            say_ending(state, store, live)
            return state
        if state.status == "interrupted":
            return state
        stage = state.stage or state.status
        live(
            JobProgress(
                stage=stage, done=state.done or 0, total=state.total or 0, unit=state.unit or "",
                reward=state.reward,
            )
        )  # fmt: skip
        time.sleep(POLL_S)


@jobs.command()
@click.argument("job_id")
@STORE
def cancel(job_id: str, store: str | None) -> None:
    """Ask a job to stop; what it saved is kept."""
    from simyard.tasks.shared import history

    opened = open_site_store(store)
    history.load_spec(opened, job_id)
    status = history.job_status(opened, job_id).status
    if status in history.ENDED:
        click.echo(f"{job_id} has {status} already.")
        return
    from simyard.tasks.launch import ask_to_cancel

    ask_to_cancel(opened, job_id)  # its supervisor looks every few seconds
    click.echo(f"{job_id} will stop within seconds and keep what it saved.")


@jobs.command()
@click.argument("job_id")
@STORE
@click.option("--pool", metavar="NAME", help="As for `simyard train`.")
@JSON
def resume(job_id: str, store: str | None, pool: str | None, as_json: bool) -> None:
    """Resume a job from its last valid checkpoint. The job has failed or was interrupted."""
    from simyard.cli import run

    end_as_jobs(run.resume(job_id, store, pool, quiet=as_json), as_json)


jobs.add_command(renamed(resume, "retry", "jobs resume"))


@jobs.command()
@click.argument("job_id")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@STORE
@click.option("--only", metavar="PATTERN", help="Glob of artifact names, such as 'checkpoints/*'.")
def download(job_id: str, folder: Path, store: str | None, only: str | None) -> None:
    """Download a job's artifacts into FOLDER, checking every digest."""
    from simyard.store import keys
    from simyard.tasks.shared import history

    opened = open_site_store(store)
    history.load_spec(opened, job_id)
    known = history.job_status(opened, job_id)
    if known.status not in history.ENDED:
        raise RequestError(
            f"{job_id} has not ended: it is {known.status}.", code="not_ended", advice="Wait, or cancel it."
        )
    chosen = [entry for entry in known.artifacts if only is None or fnmatch.fnmatch(entry.name, only)]
    if not chosen:
        names = ", ".join(entry.name for entry in known.artifacts)
        raise RequestError(f"No artifact matches {only!r}.", code="no_artifact", advice=f"There are: {names}.")
    job = keys.JobKeys(job_id)
    with click.progressbar(length=len(chosen), label=job_id, file=sys.stderr) as bar:
        for entry in chosen:
            opened.get_file(job.artifact(entry.name), folder / entry.name, sha256=entry.sha256)
            bar.update(1)
    click.echo(f"{len(chosen)} files in {folder}")
