"""The command line. Exit codes: 0 succeeded, 1 the job failed, 2 bad request, 130 canceled."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from simyard import __version__
from simyard.core.errors import (
    EXIT_BAD_REQUEST,
    EXIT_CANCELED,
    EXIT_JOB_FAILED,
    EXIT_SUCCEEDED,
    RequestError,
    SimyardError,
)

if TYPE_CHECKING:
    from simyard.requests.jobs import Body, JobRequest

Request = TypeVar("Request", bound="Body")

STORE = click.option("--store", metavar="URL", help="Store: a folder, file://, s3://bucket/prefix or job-store/NAME.")
POOL = click.option("--pool", metavar="NAME", help="Run through this Prefect work pool; without it, in this process.")
SESSION = click.option(
    "--session", type=click.Choice(("auto", "off")), help="off: start a simulator for this job alone, warm or not."
)
SETTINGS = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a field, or add a Hydra override."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout.")
JSON_KEYS = ("job_id", "status", "store", "artifacts", "attempts", "error", "timings", "summary")
_EXITS = {"succeeded": EXIT_SUCCEEDED, "failed": EXIT_JOB_FAILED, "canceled": EXIT_CANCELED}


def _plainly(command: Callable[..., None]) -> Callable[..., None]:
    """Turn our own errors into one message and an exit code, without a traceback."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        as_json = bool(kwargs.get("as_json"))
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt as interrupt:
            click.echo(str(interrupt) or "Canceled before the job began.", err=True)
            _say_nothing_ran(as_json, "canceled", None)
            sys.exit(EXIT_CANCELED)
        except SimyardError as error:
            bad = isinstance(error, RequestError)
            click.echo(f"{'Bad request' if bad else 'Error'}: {error}", err=True)
            _say_nothing_ran(as_json, "failed", error.failure.to_json())
            sys.exit(EXIT_BAD_REQUEST if bad else EXIT_JOB_FAILED)

    return run


def _say_nothing_ran(as_json: bool, status: str, error: dict[str, Any] | None) -> None:
    if as_json:
        empty: dict[str, Any] = dict.fromkeys(JSON_KEYS)
        click.echo(json.dumps(empty | {"status": status, "artifacts": [], "attempts": 0, "error": error}))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="simyard")
def main() -> None:
    """Self-hosted robot-learning jobs on NVIDIA Isaac Lab, run by Prefect."""


@main.command()
@click.argument("arguments", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...")
@STORE
@POOL
@SETTINGS
@SESSION
@click.option("--from-job", metavar="ID", help="Run this job again, from its frozen spec, as a new job.")
@JSON
@_plainly
def train(
    arguments: tuple[str, ...],
    store: str | None,
    pool: str | None,
    settings: tuple[str, ...],
    session: str | None,
    from_job: str | None,
    as_json: bool,
) -> None:
    """Train a policy as CONFIG, a JSON file, says.

    Several settings may follow one --set: `--set numEnvs=64 maxIterations=10`.
    """
    from simyard.requests.jobs import TrainRequest

    config, more = _config_and_settings(arguments)
    if from_job is not None:
        if config or settings or more:
            raise RequestError(
                "--from-job takes no CONFIG and no --set.", code="bad_command", advice="It runs the frozen job again."
            )
        from simyard.cli import run as command

        _finish(command.repeat(from_job, store, pool, quiet=as_json), as_json)
    if config is None:
        raise RequestError("Missing CONFIG.", code="bad_command", advice="Name a JSON file, or --from-job ID.")
    request, base = _checked(TrainRequest, config, (*settings, *more, *_session(session)))
    from simyard.cli import run as command

    _finish(command.run(request, base, store, pool, quiet=as_json), as_json)


def _session(session: str | None) -> tuple[str, ...]:
    """Return `--session` as a setting."""
    return () if session is None else (f"computeConfig.session={session}",)


_POLICY_OPTIONS = (
    click.argument("arguments", nargs=-1, metavar="[CONFIG] [KEY=VALUE]..."),
    STORE,
    POOL,
    SETTINGS,
    SESSION,
    click.option("--job", "trained_by", metavar="ID", help="Take the policy of this training job, or of the `latest`."),
    click.option(
        "--which", metavar="WHICH", help="With --job: latest, best or iteration:N; to evaluate also all, every:N."
    ),
    JSON,
    _plainly,
)


def _policy_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what evaluation and export have in common."""
    for option in reversed(_POLICY_OPTIONS):
        command = option(command)
    return command


@main.command()
@_policy_options
def evaluate(**given: Any) -> None:
    """Measure a policy over a fixed number of completed episodes, as CONFIG, a JSON file, says.

    With --job no CONFIG is needed: `simyard evaluate --job latest --set numEpisodes=100 recordVideo=true`.
    """
    from simyard.requests.jobs import EvaluateRequest

    _run_with_policy(EvaluateRequest, **given)


@main.command("export-policy")
@_policy_options
def export_policy(**given: Any) -> None:
    """Export a policy as ONNX and TorchScript, and prove that they are the same policy.

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
    session: str | None,
    trained_by: str | None,
    which: str | None,
    as_json: bool,
) -> None:
    config, more = _config_and_settings(arguments)
    if which is not None and trained_by is None:
        raise RequestError("--which needs --job.", code="bad_command", advice="Name the training job, or `latest`.")
    if config is None and trained_by is None:
        raise RequestError("Missing CONFIG.", code="bad_command", advice="Name a JSON file, or --job ID.")
    if trained_by is not None:
        job_id = _newest_training(store) if trained_by == "latest" else trained_by
        source: dict[str, Any] = {"jobId": job_id, "which": "latest" if which is None else which}
        if match := re.fullmatch(r"iteration:(\d{1,9})", which or ""):
            source |= {"which": "iteration", "iteration": int(match.group(1))}
        more = [*more, f"fromJob={json.dumps(source)}"]
    request, base = _checked(model, config, (*settings, *more, *_session(session)))
    from simyard.cli import run as command

    _finish(command.run(request, base, store, pool, quiet=as_json), as_json)


def _newest_training(store: str | None) -> str:
    from simyard.cli import run as command

    return command.newest_training(store)


@main.command()
@click.argument("configs", nargs=-1, required=True, metavar="CONFIG...", type=click.Path(path_type=Path))
@STORE
@POOL
@JSON
@_plainly
def run(configs: tuple[Path, ...], store: str | None, pool: str | None, as_json: bool) -> None:
    """Run several jobs, one after another in one simulator: train, evaluate and export a policy, say.

    An evaluation, an export or a rollout that names no policy takes that of the training before it.
    """
    from simyard.cli import run_all as command

    results = command.run_all(configs, store, pool, quiet=as_json)
    if as_json:
        click.echo(json.dumps({"jobs": [{key: result[key] for key in JSON_KEYS} for result in results]}))
    _exit_as(results)


@main.command()
@click.argument("arguments", nargs=-1, metavar="CONFIG [KEY=VALUE]...")
@STORE
@POOL
@SETTINGS
@SESSION
@click.option("--idempotency-key", metavar="KEY", help="Used again with the same request it means the same job.")
@click.option("--wait", is_flag=True, help="Stay until the job has ended; without it the job goes on by itself.")
@JSON
@_plainly
def submit(
    arguments: tuple[str, ...],
    store: str | None,
    pool: str | None,
    settings: tuple[str, ...],
    session: str | None,
    idempotency_key: str | None,
    wait: bool,
    as_json: bool,
) -> None:
    """Simulate and record a rollout as CONFIG, the JSON body of `POST /v0/jobs`, says."""
    from simyard.requests.rollout import SubmitRequest

    config, more = _config_and_settings(arguments)
    if config is None:
        raise RequestError("Missing CONFIG.", code="bad_command", advice="Name a JSON file.")
    request, base = _checked(SubmitRequest, config, (*settings, *more, *_session(session)))
    from simyard.cli import rollout as command

    result = command.submit(request, base, store, pool, idempotency_key, wait=wait, quiet=as_json or not wait)
    _end_as(result, as_json)


@main.command("managed-train")
@click.argument("arguments", nargs=-1, metavar="CONFIG [KEY=VALUE]...")
@STORE
@POOL
@SETTINGS
@click.option("--wait", is_flag=True, help="Stay until the run has ended; without it the run goes on by itself.")
@JSON
@_plainly
def managed_train(
    arguments: tuple[str, ...],
    store: str | None,
    pool: str | None,
    settings: tuple[str, ...],
    wait: bool,
    as_json: bool,
) -> None:
    """Train in a loop of rollouts and calls of your own trainer, as CONFIG says.

    CONFIG is the JSON body of `POST /v1/training-runs`.
    """
    from simyard.requests.managed import TrainingRunRequest

    config, more = _config_and_settings(arguments)
    if config is None:
        raise RequestError("Missing CONFIG.", code="bad_command", advice="Name a JSON file.")
    request, base = _checked(TrainingRunRequest, config, (*settings, *more))
    from simyard.cli import managed as command

    standing = command.start(request, base, store, pool, wait=wait, quiet=as_json or not wait)
    _end_run_as(standing, as_json)


@main.group()
def runs() -> None:
    """Look at managed training runs; pause, resume and cancel them."""


@runs.command("list")
@STORE
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many, newest first.")
@JSON
@_plainly
def list_runs(store: str | None, limit: int, as_json: bool) -> None:
    """List runs, newest first."""
    from simyard.cli import managed as command

    found = command.list_runs(store, limit)
    click.echo(json.dumps(found) if as_json else command.table(found))


@runs.command("show")
@click.argument("run_id")
@STORE
@JSON
@_plainly
def show_run(run_id: str, store: str | None, as_json: bool) -> None:
    """Show how a run stands, its iterations and its checkpoints."""
    from simyard.cli import managed as command

    found = command.show(run_id, store)
    click.echo(json.dumps(found) if as_json else command.describe(found))


@runs.command("watch")
@click.argument("run_id")
@STORE
@JSON
@_plainly
def watch_run(run_id: str, store: str | None, as_json: bool) -> None:
    """Print a run's events as they come, until it has ended; exit as the run does."""
    from simyard.cli import managed as command
    from simyard.cli.site_store import open_site_store

    _end_run_as(command.watch(open_site_store(store), run_id, quiet=as_json), as_json)


@runs.command("pause")
@click.argument("run_id")
@STORE
@_plainly
def pause_run(run_id: str, store: str | None) -> None:
    """Begin nothing new; what is in progress comes to its end."""
    from simyard.cli import managed as command

    standing = command.say(run_id, store, "pause")
    click.echo(f"{run_id} begins nothing new. Let it go on: simyard runs resume {_named(standing)}")


@runs.command("resume")
@click.argument("run_id")
@STORE
@POOL
@click.option("--wait", is_flag=True, help="Stay until the run has ended.")
@JSON
@_plainly
def resume_run(run_id: str, store: str | None, pool: str | None, wait: bool, as_json: bool) -> None:
    """Let a paused run go on, or take up one whose process was lost, where it stopped."""
    from simyard.cli import managed as command

    _end_run_as(command.resume(run_id, store, pool, wait=wait, quiet=as_json or not wait), as_json)


@runs.command("cancel")
@click.argument("run_id")
@STORE
@_plainly
def cancel_run(run_id: str, store: str | None) -> None:
    """End a run now; its checkpoints are kept."""
    from simyard.cli import managed as command

    ended = command.say(run_id, store, "cancel")["status"] == "canceled"
    click.echo(f"{run_id} {'is canceled' if ended else 'will stop within seconds'}, and keeps what it has.")


@runs.command("verify")
@click.argument("run_id")
@STORE
@JSON
@_plainly
def verify_run(run_id: str, store: str | None, as_json: bool) -> None:
    """Read everything of a run, and check digests, lineage and events; exit 1 if something is wrong."""
    from simyard.cli import managed as command

    problems = command.verify(run_id, store, quiet=as_json)
    if as_json:
        click.echo(json.dumps({"run_id": run_id, "problems": problems}))
    else:
        click.echo("\n".join(problems) or f"{run_id}: every checkpoint, dataset, rollout and event is what it says.")
    sys.exit(EXIT_JOB_FAILED if problems else EXIT_SUCCEEDED)


@main.command()
@click.argument("arguments", nargs=-1, metavar="CONFIG [KEY=VALUE]...")
@STORE
@POOL
@SETTINGS
@JSON
@_plainly
def retrain(
    arguments: tuple[str, ...], store: str | None, pool: str | None, settings: tuple[str, ...], as_json: bool
) -> None:
    """Train as CONFIG says, and promote the policy if it is better beyond noise than the promoted one.

    Exits 0 when that was decided, either way.
    """
    from simyard.requests.retrain import RetrainRequest

    config, more = _config_and_settings(arguments)
    if config is None:
        raise RequestError("Missing CONFIG.", code="bad_command", advice="Name a JSON file.")
    request, base = _checked(RetrainRequest, config, (*settings, *more))
    from simyard.cli import promotions as command

    entry, status = command.retrain(request, base, store, pool, quiet=as_json)
    if as_json:
        click.echo(json.dumps(entry))
    sys.exit(EXIT_BAD_REQUEST if status == "refused" else _EXITS[status])


@main.group()
def promotions() -> None:
    """Look at what retrainings have promoted, and go back."""


@promotions.command("list")
@STORE
@JSON
@_plainly
def list_promotions(store: str | None, as_json: bool) -> None:
    """List what is promoted, and the newest decision of each."""
    from simyard.cli import promotions as command

    found = command.list_promotions(store)
    click.echo(json.dumps(found) if as_json else command.table(found))


@promotions.command("show")
@click.argument("name")
@STORE
@JSON
@_plainly
def show_promotion(name: str, store: str | None, as_json: bool) -> None:
    """Show which policy is promoted, and every decision."""
    from simyard.cli import promotions as command

    found = command.show(name, store)
    click.echo(json.dumps(found) if as_json else command.describe(found))


@promotions.command("rollback")
@click.argument("name")
@STORE
@click.option("--why", default="", metavar="TEXT", help="The reason, for the history.")
@JSON
@_plainly
def roll_back(name: str, store: str | None, why: str, as_json: bool) -> None:
    """Go back to the policy that was promoted before; the history keeps both."""
    from simyard.cli import promotions as command

    entry = command.roll_back(name, store, why)
    click.echo(json.dumps(entry) if as_json else f"{name} is {entry['candidate']['job_id']} again.")


def _named(standing: dict[str, Any]) -> str:
    """Return how a command names a run: its id and its store."""
    return f"{standing['run_id']} --store {standing['store'].rpartition('/training-runs/')[0]}"


def _end_run_as(standing: dict[str, Any], as_json: bool) -> NoReturn:
    """Print how a run stands, and exit as it ended; one that has not is no failure."""
    if as_json:
        click.echo(json.dumps(standing))
    elif standing["status"] not in _EXITS:
        click.echo(f"{standing['run_id']} is {standing['status']}.")
        click.echo(f"Follow it: simyard runs watch {_named(standing)}")
    sys.exit(EXIT_BAD_REQUEST if standing["ended_by"] == "refused" else _EXITS.get(standing["status"], EXIT_SUCCEEDED))


def _end_as(standing: dict[str, Any], as_json: bool) -> NoReturn:
    """Print a result as `_finish` does; of a job that has not ended, how it stands, which is no failure."""
    if standing["status"] in _EXITS:
        _finish([standing], as_json)
    if as_json:
        click.echo(json.dumps({key: standing.get(key) for key in JSON_KEYS}))
    else:
        click.echo(f"{standing['job_id']} is {standing['status']}.")
        click.echo(
            f"Follow it: simyard jobs watch {standing['job_id']} --store {standing['store'].rpartition('/jobs/')[0]}"
        )
    sys.exit(EXIT_SUCCEEDED)


def _checked(model: type[Request], config: Path | None, settings: tuple[str, ...]) -> tuple[Request, Path]:
    """Return the request that a config makes, and the folder that its relative paths start from.

    It is refused before what runs it is imported.
    """
    from simyard.requests.config import check_config, read_config

    request = check_config(read_config(config, model, settings), model)
    return request, config.resolve().parent if config else Path.cwd()


def _config_and_settings(arguments: tuple[str, ...]) -> tuple[Path | None, list[str]]:
    """Tell the config from the settings that may follow one `--set`."""
    more = [text for text in arguments if "=" in text and not os.path.exists(text)]
    files = [text for text in arguments if text not in more]
    if len(files) > 1:
        raise RequestError(
            f"Unexpected argument {files[1]!r} after {files[0]!r}.",
            code="bad_command",
            advice="Name one CONFIG; a setting looks like numEnvs=64.",
        )
    return (Path(files[0]) if files else None), more


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--kind", required=True, metavar="KIND", help="robot, scene, isaac_lab_task_package or checkpoint.")
@click.option("--metadata", default="{}", metavar="JSON", help="An object to keep with it, of at most 64 kB.")
@STORE
@JSON
@_plainly
def upload(path: Path, kind: str, metadata: str, store: str | None, as_json: bool) -> None:
    """Upload the file PATH as an asset, and print the id that jobs name it by.

    The same bytes are one asset: uploaded again, nothing is sent, and kind and metadata are replaced. An upload that
    was interrupted goes on where it stopped.
    """
    from simyard.cli import assets as command

    record = command.upload(path, kind, metadata, store)
    click.echo(json.dumps(record) if as_json else record["asset_id"])


@main.group()
def assets() -> None:
    """Look at uploaded robots, scenes, task packages and checkpoints."""


@assets.command("list")
@STORE
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many, newest first.")
@JSON
@_plainly
def list_assets(store: str | None, limit: int, as_json: bool) -> None:
    """List assets, the newest upload first."""
    from simyard.cli import assets as command

    found = command.list_assets(store, limit)
    click.echo(json.dumps(found) if as_json else command.table(found))


@assets.command("show")
@click.argument("asset_id")
@STORE
@JSON
@_plainly
def show_asset(asset_id: str, store: str | None, as_json: bool) -> None:
    """Show what an asset is."""
    from simyard.cli import assets as command

    record = command.show(asset_id, store)
    click.echo(json.dumps(record) if as_json else command.describe(record))


@main.group()
def jobs() -> None:
    """Look at jobs, cancel them, fetch what they left."""


@jobs.command("list")
@STORE
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many, newest first.")
@JSON
@_plainly
def list_jobs(store: str | None, limit: int, as_json: bool) -> None:
    """List jobs, newest first."""
    from simyard.cli import jobs as command

    found = command.list_jobs(store, limit)
    click.echo(json.dumps(found) if as_json else command.table(found))


@jobs.command()
@click.argument("job_id")
@STORE
@JSON
@_plainly
def show(job_id: str, store: str | None, as_json: bool) -> None:
    """Show how a job stands and what it left."""
    from simyard.cli import jobs as command

    status = command.show(job_id, store)
    click.echo(json.dumps(status) if as_json else command.describe(status))


@jobs.command()
@click.argument("job_id")
@STORE
@JSON
@_plainly
def watch(job_id: str, store: str | None, as_json: bool) -> None:
    """Show stage, progress and new lines of a job's logs, live, until it has ended; exit as the job does."""
    from simyard.cli import watch as command
    from simyard.cli.site_store import open_site_store

    _end_as(command.watch(open_site_store(store), job_id, quiet=as_json), as_json)


@jobs.command()
@click.argument("job_id")
@STORE
@_plainly
def cancel(job_id: str, store: str | None) -> None:
    """Ask a job to stop; what it saved is kept."""
    from simyard.cli import jobs as command

    click.echo(command.cancel(job_id, store))


@jobs.command()
@click.argument("job_id")
@STORE
@click.option("--pool", metavar="NAME", help="As for `simyard train`.")
@JSON
@_plainly
def retry(job_id: str, store: str | None, pool: str | None, as_json: bool) -> None:
    """Go on with a job that failed or was interrupted, from its last valid checkpoint."""
    from simyard.cli import run as command

    _finish(command.rerun(job_id, store, pool, quiet=as_json), as_json)


@jobs.command()
@click.argument("job_id")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@STORE
@click.option("--only", metavar="PATTERN", help="Glob of artifact names, such as 'checkpoints/*'.")
@_plainly
def download(job_id: str, folder: Path, store: str | None, only: str | None) -> None:
    """Download a job's artifacts into FOLDER, checking every digest."""
    from simyard.cli import jobs as command

    count = command.download(job_id, folder, store, only)
    click.echo(f"{count} files in {folder}")


class _Finite(click.FloatRange):
    """A range that has no place for `nan`, which no comparison shuts out."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is no number.", param, ctx)
        return number


@main.group()
def sessions() -> None:
    """Keep simulators warm on this machine, for jobs that come later."""


@sessions.command("start")
@click.argument("arguments", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...")
@STORE
@SETTINGS
@click.option("--idle-minutes", type=_Finite(min=0.1, max=100_000), default=60.0, show_default=True,
              help="It ends when it has had no job for so long.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1), default=200, show_default=True,
              help="Its process is replaced after so many.")  # fmt: skip
@click.option("--memory-gb", type=_Finite(min=0.5, max=10_000), default=16.0, show_default=True,
              help="Its process is replaced when a job leaves it larger.")  # fmt: skip
@JSON
@_plainly
def start_session(
    arguments: tuple[str, ...],
    store: str | None,
    settings: tuple[str, ...],
    idle_minutes: float,
    jobs: int,
    memory_gb: float,
    as_json: bool,
) -> None:
    """Start a simulator and leave it ready for jobs of the store; exit when it is ready.

    With CONFIG, of a training or a rollout, it also loads the kernels of that task, by a moment of that very job.
    Jobs use it that have its device, its packages, its environment variables and its store.
    """
    from simyard.cli import sessions as command
    from simyard.core.specs import Bounds

    config, more = _config_and_settings(arguments)
    bounds = Bounds(jobs=jobs, memory_bytes=int(memory_gb * 1e9), idle_s=idle_minutes * 60)
    state = command.start(config, (*settings, *more), store, bounds, quiet=as_json)
    click.echo(json.dumps(state) if as_json else state["session_id"])


@sessions.command("list")
@JSON
@_plainly
def list_sessions(as_json: bool) -> None:
    """List what this machine keeps warm."""
    from simyard.cli import sessions as command

    found = command.list_sessions()
    click.echo(json.dumps(found) if as_json else command.table(found))


@sessions.command("stop")
@click.argument("session_id", required=False)
@click.option("--all", "every", is_flag=True, help="All of them.")
@JSON
@_plainly
def stop_session(session_id: str | None, every: bool, as_json: bool) -> None:
    """End a session; one in the middle of a job ends after it."""
    from simyard.cli import sessions as command

    if (session_id is None) != every:
        raise RequestError("Name a session, or --all.", code="bad_command", advice="See `simyard sessions list`.")
    ended = command.stop(session_id, quiet=as_json)
    click.echo(json.dumps(ended) if as_json else "\n".join(f"{name} has ended." for name in ended))


@main.group("keys")
def api_keys() -> None:
    """Say who may use the HTTP API."""


@api_keys.command("create")
@click.option("--project", default="default", show_default=True, help="Whose jobs and assets it sees.")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", default=("jobs", "training", "assets"),
              show_default=True, help="jobs, training, assets or admin; may be repeated.")  # fmt: skip
@click.option("--name", default="", metavar="TEXT", help="For people.")
@click.option("--max-active-jobs", type=click.IntRange(min=1), metavar="N", help="Jobs and runs at once.")
@click.option("--requests-per-minute", type=click.IntRange(min=1), metavar="N", help="Of each copy of the service.")
@click.option("--max-credits", type=_Finite(min=0), metavar="USD", help="GPU time that its jobs may cost in all.")
@STORE
@JSON
@_plainly
def create_key(as_json: bool, **given: Any) -> None:
    """Make a key and print it: nobody can tell it again, the store keeps a digest."""
    from simyard.cli import keys as command

    made = command.create(given.pop("store"), **given)
    shown = f"{made['key']}\nIts webhooks are signed with {made['webhook_secret']}"
    click.echo(json.dumps(made) if as_json else shown)


@api_keys.command("list")
@STORE
@JSON
@_plainly
def list_keys(store: str | None, as_json: bool) -> None:
    """List keys, oldest first."""
    from simyard.cli import keys as command

    found = command.list_keys(store)
    click.echo(json.dumps(found) if as_json else command.table(found))


@api_keys.command("revoke")
@click.argument("key_id")
@STORE
@_plainly
def revoke_key(key_id: str, store: str | None) -> None:
    """Make a key good for nothing, for good."""
    from simyard.cli import keys as command

    revoked = command.revoke(store, key_id)
    click.echo(f"{revoked['key_id']} is revoked; every copy of the service knows within seconds.")


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the API listens; 0.0.0.0 for everybody.")
@click.option("--port", type=click.IntRange(1, 65535), default=8400, show_default=True, help="Of the API.")
@click.option("--prefect-port", type=click.IntRange(1, 65535), default=4200, show_default=True,
              help="Of the Prefect server, where PREFECT_API_URL names none.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="How many run at once.")
@STORE
@_plainly
def up(host: str, port: int, prefect_port: int, jobs: int, store: str | None) -> None:
    """Run a whole site on this machine: Prefect server, worker, HTTP API; what is there already is used.

    It stays until Ctrl-C or SIGTERM, and starts again what dies. Jobs that it interrupts go on at the next start.
    """
    from simyard.cli import up as command

    command.up(command.Plan(host=host, port=port, prefect_port=prefect_port, jobs=jobs), store)


@main.command()
@click.option("--pool", metavar="NAME", help="A pool of GPU machines; without it what prefect.yaml has is sent.")
@click.option(
    "--type",
    "pool_type",
    default="process",
    show_default=True,
    metavar="TYPE",
    help="Who starts an attempt: process, docker, kubernetes or ecs.",
)
@click.option("--image", metavar="IMAGE", help="Of the pool's containers.")
@click.option("--gpus", type=click.IntRange(0, 100_000), help="GPUs that the pool's jobs may hold together.")
@click.option(
    "--project-gpus", multiple=True, metavar="PROJECT=N", help="GPUs that a project's jobs may hold together."
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A variable of the base job template.")
@STORE
@click.option("--block", metavar="NAME", help="Save job-store/NAME: --store with the AWS_* credentials of this shell.")
@click.option("--accept-nvidia-eula", "accept_eula", is_flag=True, help="For all jobs of the pool.")
@click.option("--json", "as_json", is_flag=True, help="Print what changed as one JSON object.")
@_plainly
def deploy(as_json: bool, **wishes: Any) -> None:
    """Have the Prefect server of PREFECT_API_URL know pools, deployments, limits and the store.

    Done twice it changes nothing.
    """
    from simyard.cli.deploy import Wishes
    from simyard.cli.deploy import deploy as command

    changes = command(Wishes(**wishes), quiet=as_json)
    if as_json:
        click.echo(json.dumps(changes))


@main.command()
@click.option("--pool", metavar="NAME", help="Look at this work pool, and have a machine of it look at itself.")
@STORE
@click.option("--json", "as_json", is_flag=True, help="Print all checks as one JSON object.")
@_plainly
def doctor(pool: str | None, store: str | None, as_json: bool) -> None:
    """Check a site: server, pool, worker, clocks, store, and the simulator's machine; say how to mend what failed.

    Without --pool the simulator is looked for on this machine. Exits 1 when something failed.
    """
    from simyard.cli.doctor import doctor as command

    checks = command.doctor(pool, store, quiet=as_json)
    failed = any(check.state == "failed" for check in checks)
    if as_json:
        found = [asdict(check) for check in checks]
        click.echo(json.dumps({"status": "failed" if failed else "ok", "checks": found}))
    sys.exit(EXIT_JOB_FAILED if failed else EXIT_SUCCEEDED)


@main.command()
@click.argument("rollout", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--to",
    type=click.Choice(("diffusion_policy", "robomimic")),
    required=True,
    help="A Zarr v2 replay buffer, or one HDF5 file.",
)
@JSON
@_plainly
def convert(rollout: Path, out: Path, to: str, as_json: bool) -> None:
    """Convert ROLLOUT, the rollout.zarr of a job, into OUT, for other people's training code."""
    from simyard.cli import convert as command

    found = command.convert(rollout, out, to, quiet=as_json)
    click.echo(json.dumps(found) if as_json else command.describe(found))


def _finish(results: list[dict[str, Any]], as_json: bool) -> NoReturn:
    """Print the result, with that of the job that followed it, and exit as the worst of them says."""
    if as_json:
        first, *followers = ({key: result[key] for key in JSON_KEYS} for result in results)
        click.echo(json.dumps(first | ({"export": followers[0]} if followers else {})))
    _exit_as(results)


def _exit_as(results: list[dict[str, Any]]) -> NoReturn:
    """Exit as the worst of them says."""
    sys.exit(max(EXIT_BAD_REQUEST if result["refused"] else _EXITS[result["status"]] for result in results))
