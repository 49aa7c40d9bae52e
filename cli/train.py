"""`simyard train`, `evaluate`, `export-policy`, and `run`: several of them in one simulator."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simyard.cli.shared import (
    ARGUMENTS_OR_NONE,
    JSON,
    POOL,
    SESSION,
    SETTINGS,
    STORE,
    VIEW,
    Command,
    check_request,
    config_and_settings,
    end_as_jobs,
    exit_as,
    shown_of,
)
from simyard.core.errors import RequestError

if TYPE_CHECKING:
    from simyard.requests.jobs import JobRequest


@click.command(cls=Command)
@ARGUMENTS_OR_NONE
@STORE
@POOL
@SETTINGS
@SESSION
@VIEW
@click.option("--from-job", metavar="ID", help="Run this job again, from its frozen spec, as a new job.")
@click.option("--seeds", metavar="N", help="Train with so many seeds, or with these (1,2,7), and compare: a sweep.")
@JSON
def train(
    arguments: tuple[str, ...],
    store: str | None,
    pool: str | None,
    settings: tuple[str, ...],
    session: tuple[str, ...],
    view: bool,
    from_job: str | None,
    seeds: str | None,
    as_json: bool,
) -> None:
    """Train a policy. CONFIG is a JSON file.

    Several settings may follow one --set: `--set numEnvs=64 maxIterations=10`.
    """
    from simyard.requests.jobs import TrainRequest

    config, more = config_and_settings(arguments)
    if from_job is not None:
        if config or settings or more or seeds:
            raise RequestError(
                "--from-job takes no CONFIG, no --set and no --seeds.",
                code="bad_command",
                advice="It runs the frozen job again.",
            )
        from simyard.cli import run as body

        end_as_jobs(body.repeat(from_job, store, pool, quiet=as_json, view=view), as_json)
    if config is None:
        raise RequestError("Missing CONFIG.", code="bad_command", advice="Name a JSON file, or --from-job ID.")
    if seeds is not None:
        if view:
            raise RequestError(
                "--view shows one training, and --seeds has several.", code="bad_command", advice="Leave one of them."
            )
        from simyard.cli.sweep import begin
        from simyard.requests.sweeps import SweepRequest

        given = f"[{seeds}]" if "," in seeds else seeds
        sweep, base = check_request(SweepRequest, config, (*settings, *more, *session, f"sweep.seeds={given}"))
        begin(sweep, base, store, pool, wait=True, as_json=as_json)
    request, base = check_request(TrainRequest, config, (*settings, *more, *session))
    from simyard.cli import run as body

    end_as_jobs(body.run(request, base, store, pool, quiet=as_json, view=view), as_json)


_POLICY_OPTIONS = (
    ARGUMENTS_OR_NONE,
    STORE,
    POOL,
    SETTINGS,
    SESSION,
    click.option("--job", "trained_by", metavar="ID", help="Take the policy of this training job, or of the `latest`."),
    click.option(
        "--which", metavar="WHICH", help="With --job: latest, best or iteration:N; to evaluate also all, every:N."
    ),
    JSON,
)


def _policy_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that evaluation and export have in common."""
    for option in reversed(_POLICY_OPTIONS):
        command = option(command)
    return command


@click.command(cls=Command)
@_policy_options
@click.option(
    "--across", metavar="ENGINES", help="Play every episode in several engines and compare them: newton,physx, say."
)
@VIEW
@click.option("--record", is_flag=True, help="Keep failed episodes as data, in rollout.zarr.")
def evaluate(across: str | None, record: bool, settings: tuple[str, ...], **given: Any) -> None:
    """Measure a policy over completed episodes. CONFIG is a JSON file and says how many.

    With --job no CONFIG is needed: `simyard evaluate --job latest --set numEpisodes=100 recordVideo=true`.
    """
    from simyard.requests.jobs import EvaluateRequest

    if across is not None:
        engines = [name.strip() for name in across.split(",")]
        settings = (*settings, f"across={json.dumps(engines)}")
    if record:
        settings = (*settings, "record=true")
    _run_with_policy(EvaluateRequest, settings=settings, **given)


@click.command("export-policy", cls=Command)
@_policy_options
def export_policy(**given: Any) -> None:
    """Export a policy, and prove the export. The files are ONNX and TorchScript.

    With --job no CONFIG is needed: `simyard export-policy --job latest --which best`.
    """
    from simyard.requests.jobs import ExportRequest

    _run_with_policy(ExportRequest, **given)


def _run_with_policy(
    model: type[JobRequest],
    arguments: tuple[str, ...],
    store: str | None,
    pool: str | None,
    settings: tuple[str, ...],
    session: tuple[str, ...],
    trained_by: str | None,
    which: str | None,
    as_json: bool,
    view: bool = False,
) -> None:
    config, more = config_and_settings(arguments)
    if which is not None and trained_by is None:
        raise RequestError("--which needs --job.", code="bad_command", advice="Name the training job, or `latest`.")
    if config is None and trained_by is None:
        raise RequestError("Missing CONFIG.", code="bad_command", advice="Name a JSON file, or --job ID.")
    if trained_by is not None:
        if trained_by == "latest":
            from simyard.cli.run import newest_training

            trained_by = newest_training(store)
        source: dict[str, Any] = {"jobId": trained_by, "which": "latest" if which is None else which}
        if match := re.fullmatch(r"iteration:(\d{1,9})", which or ""):
            source |= {"which": "iteration", "iteration": int(match.group(1))}
        more = [*more, f"fromJob={json.dumps(source)}"]
    request, base = check_request(model, config, (*settings, *more, *session))
    from simyard.cli import run as body

    end_as_jobs(body.run(request, base, store, pool, quiet=as_json, view=view), as_json)


@click.command(cls=Command)
@click.argument("configs", nargs=-1, required=True, metavar="CONFIG...", type=click.Path(path_type=Path))
@STORE
@POOL
@JSON
def run(configs: tuple[Path, ...], store: str | None, pool: str | None, as_json: bool) -> None:
    """Run several jobs in one simulator. They run one after another: train, evaluate and export a policy, say.

    An evaluation, an export or a rollout that names no policy takes that of the training before it.
    """
    from simyard.cli.run import run_all

    results = run_all(configs, store, pool, quiet=as_json)
    if as_json:
        click.echo(json.dumps({"jobs": [shown_of(result) for result in results]}))
    exit_as(results)
