"""`simyard mirror`: jobs in trackers, also those that ran while a tracker was away."""

from __future__ import annotations

import sys

import click

from simyard.cli.shared import STORE, Command, open_site
from simyard.core.errors import EXIT_JOB_FAILED, RequestError


@click.command(cls=Command)
@click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)
@click.option(
    "--to", "names", multiple=True, type=click.Choice(("mlflow", "wandb")), help="Tracker; left out, the site's."
)
@STORE
def mirror(job_ids: tuple[str, ...], names: tuple[str, ...], store: str | None) -> None:
    """Tell MLflow or Weights & Biases of jobs, as SIMYARD_TRACKERS does while they run.

    A job that was told of already is gone on with. Exits with 1 where a tracker was not told all.
    """
    from simyard.requests.settings import trackers_from_env
    from simyard.tasks.shared.history import load_spec
    from simyard.tasks.trackers.mirror import Mirror

    machine, _, opened = open_site(store)
    chosen = names or trackers_from_env()
    if not chosen:
        raise RequestError(
            "No tracker is named.", code="no_tracker", advice="Give --to mlflow or --to wandb, or set SIMYARD_TRACKERS."
        )
    for job_id in job_ids:
        load_spec(opened, job_id)
    failed = False
    for name in chosen:
        folder = machine.home / "trackers" / name
        folder.mkdir(parents=True, exist_ok=True)
        for job_id in job_ids:
            one = Mirror(name, opened, job_id, folder)
            one.look()
            one.close()
            failed = failed or one.record.problem is not None
            click.echo(f"{job_id}  {name}  {one.record.problem or one.record.url or 'told'}")
    if failed:
        sys.exit(EXIT_JOB_FAILED)
