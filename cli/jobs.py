"""`simyard jobs`: all from the store; Prefect is asked only to cancel what has not begun."""

from __future__ import annotations

import fnmatch
import sys
from pathlib import Path
from typing import Any

import click

from simyard.cli.site_store import open_site_store
from simyard.core.errors import RequestError
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.shared import history
from simyard.tasks.shared.history import load_spec


def list_jobs(reference: str | None, limit: int) -> list[dict[str, Any]]:
    """Return the newest jobs, each with its name, task and status."""
    store = open_site_store(reference)
    newest = [name for name in reversed(store.list_dirs(keys.JOBS)) if name.startswith("job-")][:limit]
    return [_row(store, job_id) for job_id in newest]


def _row(store: Store, job_id: str) -> dict[str, Any]:
    status = history.job_status(store, job_id)
    spec = load_spec(store, job_id)
    shown = {name: status.get(name) for name in ("status", "done", "total", "unit", "reward", "attempts")}
    return {
        "job_id": job_id,
        "kind": spec.kind,
        "name": spec.name,
        "task": spec.task,
        "created_at": spec.created_at,
    } | shown


def table(rows: list[dict[str, Any]]) -> str:
    """Return the list as text."""
    if not rows:
        return "No jobs in this store yet."
    lines = [f"{'JOB':31} {'KIND':8} {'STATUS':11} {'DONE':>9} {'RETURN':>8}  NAME"]
    for row in rows:
        done = f"{row['done'] if row['done'] is not None else '?'}/{row['total'] or '?'}"
        reward = "" if row["reward"] is None else f"{row['reward']:.2f}"
        what = f"{row['name']} ({row['task']})"
        lines.append(f"{row['job_id']:31} {row['kind']:8} {row['status']:11} {done:>9} {reward:>8}  {what}")
    return "\n".join(lines)


def show(job_id: str, reference: str | None) -> dict[str, Any]:
    """Return how a job stands."""
    store = open_site_store(reference)
    load_spec(store, job_id)
    return history.job_status(store, job_id)


def describe(status: dict[str, Any]) -> str:
    """Return a job's status as text."""
    lines = [f"{status['job_id']}  {status['status']}", f"store       {status['store']}"]
    counted = f"{status['done']} of {status['total']} {status['unit']}s" if status["unit"] else "nothing yet"
    lines.append(f"progress    {counted}, {status['attempts']} attempt(s)")
    if status["reward"] is not None:
        lines.append(f"reward      {status['reward']:.3f}")
    if error := status["error"]:
        lines += [f"error       {error['message']}", f"advice      {error['advice']}"]
    lines += [f"  {entry['size_bytes']:>12,}  {entry['name']}" for entry in status["artifacts"]]
    return "\n".join(lines)


def cancel(job_id: str, reference: str | None) -> str:
    """Ask the job's supervisor to stop, through the store; it looks every few seconds."""
    store = open_site_store(reference)
    load_spec(store, job_id)
    status = history.job_status(store, job_id)["status"]
    if status in history.ENDED:
        return f"{job_id} has {status} already."
    from simyard.tasks.launch import ask_to_cancel  # with it come attempts, which a list needs not

    ask_to_cancel(store, job_id)
    return f"{job_id} will stop within seconds and keep what it saved."


def download(job_id: str, folder: Path, reference: str | None, only: str | None) -> int:
    """Download a job's artifacts; return how many.

    Raises:
        RequestError: If the job has not ended or no name matches.
        StoreError: If a file is not what the job's result says.
    """
    store = open_site_store(reference)
    load_spec(store, job_id)
    status = history.job_status(store, job_id)
    if status["status"] not in history.ENDED:
        raise RequestError(
            f"{job_id} has not ended: it is {status['status']}.", code="not_ended", advice="Wait, or cancel it."
        )
    names = [entry["name"] for entry in status["artifacts"]]
    chosen = [entry for entry in status["artifacts"] if only is None or fnmatch.fnmatch(entry["name"], only)]
    if not chosen:
        raise RequestError(
            f"No artifact matches {only!r}.", code="no_artifact", advice=f"There are: {', '.join(names)}."
        )
    job = keys.JobKeys(job_id)
    with click.progressbar(length=len(chosen), label=job_id, file=sys.stderr) as bar:
        for entry in chosen:
            store.get_file(job.artifact(entry["name"]), folder / entry["name"], sha256=entry["sha256"])
            bar.update(1)
    return len(chosen)
