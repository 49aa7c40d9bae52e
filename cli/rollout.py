"""`simyard rollout`: a rollout is checked and staged, then run here or left to a process of its own. And `convert`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from simyard.cli.shared import (
    ARGUMENTS,
    JSON,
    POOL,
    SESSION,
    SETTINGS,
    STORE,
    Command,
    emit,
    end_as_job,
    open_site,
    read_request,
)

if TYPE_CHECKING:
    from simyard.convert import Conversion


@click.command(cls=Command)
@ARGUMENTS
@STORE
@POOL
@SETTINGS
@SESSION
@click.option("--idempotency-key", metavar="KEY", help="Used again with the same request it means the same job.")
@click.option("--wait", is_flag=True, help="Stay until the job has ended; without it the job goes on by itself.")
@JSON
def rollout(
    arguments: tuple[str, ...],
    store: str | None,
    pool: str | None,
    settings: tuple[str, ...],
    session: tuple[str, ...],
    idempotency_key: str | None,
    wait: bool,
    as_json: bool,
) -> None:
    """Simulate and record a rollout. CONFIG is the JSON body of `POST /v0/jobs`."""
    from simyard.requests.rollout import RolloutRequest

    request, base = read_request(RolloutRequest, arguments, settings, session)
    # The request is good: what runs it is imported now.
    from simyard.cli.jobs import watch_job
    from simyard.cli.run import execute, run_detached, told_of
    from simyard.store import keys
    from simyard.tasks.resolve import resolve
    from simyard.tasks.shared import history, idempotency
    from simyard.tasks.stage import stage

    machine, reference, opened = open_site(store)
    resolved = resolve(request, opened, keys.new_job_id(), base)
    job_id = resolved.spec.job_id
    if idempotency_key is not None:
        job_id = idempotency.claim(opened, idempotency_key, job_id, idempotency.content_of(resolved.spec))
        if opened.exists(keys.JobKeys(job_id).job):
            followed = watch_job(opened, job_id, quiet=as_json) if wait else history.job_status(opened, job_id)
            end_as_job(followed, as_json)
        resolved = replace(resolved, spec=replace(resolved.spec, job_id=job_id))
    if wait:
        end_as_job(execute(resolved, request, opened, reference, pool, machine, quiet=as_json)[0], as_json)

    # A process of its own takes the job to its end; it outlives this one and its terminal.
    told = told_of(resolved.spec, opened, pool or machine.pool, machine)
    stage(resolved, opened, told)
    run_detached(job_id, ["jobs", "resume", job_id], reference, pool, machine)
    end_as_job(history.job_status(opened, job_id), as_json)


@click.command(cls=Command)
@click.argument("rollout", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--to",
    type=click.Choice(("lerobot", "robomimic", "diffusion_policy")),
    required=True,
    help="A LeRobot dataset (v3.0), one HDF5 file, or a Zarr v2 replay buffer.",
)
@click.option("--film", type=click.Path(path_type=Path), help="For LeRobot: the render.mp4 of one environment.")
@JSON
def convert(rollout: Path, out: Path, to: str, film: Path | None, as_json: bool) -> None:
    """Convert a rollout for other training code. ROLLOUT is the rollout.zarr of a job."""
    from simyard import convert as converting

    with (
        open(os.devnull, "w") as nowhere,
        click.progressbar(length=100, label=out.name, file=nowhere if as_json else sys.stderr) as bar,
    ):
        found = converting.convert(
            rollout, out, to, lambda done, total: bar.update(100 * done // total - bar.pos), film=film
        )
    emit(found, as_json, _describe)


def _describe(found: Conversion) -> str:
    lines = [f"{found['episodes']} episodes, {found['steps']} steps in {found['out']}"]
    lines += [f"  {key:24} {name}" for key, name in sorted(found["keys"].items())]
    return "\n".join(lines)
