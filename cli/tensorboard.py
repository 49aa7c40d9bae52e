"""`simyard tensorboard`: the metrics of jobs, wherever their store is and while they run."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from simyard.cli.shared import STORE, Command, open_site_store

if TYPE_CHECKING:
    from simyard.store.store import Store

LOOK_S = 5.0
"""Between two looks at the store."""


@click.command(cls=Command)
@click.argument("job_ids", metavar="[JOB]...", nargs=-1)
@click.option("--latest", is_flag=True, help="The newest training that has succeeded; so it is without a JOB.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to listen on; left out, a free one.")
@STORE
def tensorboard(job_ids: tuple[str, ...], latest: bool, host: str, port: int, store: str | None) -> None:
    """Show the metrics of jobs in TensorBoard until Ctrl-C; without a JOB those of the newest training.

    Jobs that run are followed. TensorBoard starts with its own plug-ins alone: one of another package that does not
    load keeps the whole of it from starting.
    """
    from simyard.core.files import scratch
    from simyard.requests.jobs import LATEST, FromJob
    from simyard.tasks.kinds.policy_sources import training_of
    from simyard.tasks.shared.history import load_spec

    opened = open_site_store(store)
    if latest or not job_ids:
        newest = training_of(FromJob(job_id=LATEST), opened)
        assert newest is not None
        job_ids = (*job_ids, newest.job_id)
    for job_id in job_ids:
        load_spec(opened, job_id)

    with scratch("tensorboard") as folder:
        follow(opened, job_ids, folder)
        from tensorboard import default, program

        server = program.TensorBoard(plugins=default.get_static_plugins())
        server.configure(argv=["tensorboard", "--logdir", str(folder), "--host", host, "--port", str(port)])
        click.echo(f"TensorBoard: {server.launch()}  (Ctrl-C ends it)")
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(LOOK_S)
                follow(opened, job_ids, folder)


def follow(store: Store, job_ids: tuple[str, ...], folder: Path) -> None:
    """Copy what is new of the jobs' event files; files here grow in place, since TensorBoard keeps them open.

    Args:
        store: The jobs' store.
        job_ids: The jobs.
        folder: Where to; each attempt is a run of TensorBoard's.
    """
    from simyard.core.artifacts import EVENTS
    from simyard.store.keys import JobKeys

    for job_id in job_ids:
        job = JobKeys(job_id)
        for entry in store.list(job.attempts):
            attempt, _, name = entry.key.removeprefix(f"{job.attempts}/").partition("/files/")
            if not EVENTS.covers(name):
                continue
            local = folder / job_id / attempt / Path(name).name
            have = local.stat().st_size if local.exists() else 0
            if entry.size_bytes > have:
                local.parent.mkdir(parents=True, exist_ok=True)
                with local.open("ab") as file:
                    file.write(store.get_range(entry.key, have, entry.size_bytes - have))
