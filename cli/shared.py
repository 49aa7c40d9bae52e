"""Options of the commands, the request that they make, the site's store, output, and exit codes.

Exit codes: 0 succeeded, 1 the job failed, 2 bad request, 130 canceled.
"""

from __future__ import annotations

import copy
import errno
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from simyard.cli.prefect_server import no_access
from simyard.core.errors import (
    EXIT_BAD_REQUEST,
    EXIT_CANCELED,
    EXIT_JOB_FAILED,
    EXIT_SUCCEEDED,
    Failure,
    RequestError,
    SimyardError,
)
from simyard.core.records import Estimate, JobResult, JobState
from simyard.core.terminal import plain
from simyard.core.wire import Wire

if TYPE_CHECKING:
    from simyard.requests.jobs import Body
    from simyard.requests.settings import MachineSettings
    from simyard.store.store import Store
    from simyard.tasks.shared.listing import Unreadable

Request = TypeVar("Request", bound="Body")
Found = TypeVar("Found")
Columns = Mapping[str, str | Callable[[Any], object]]
"""For each title, the key of its cells or a function of the row; where it begins with `>` the column stands right."""

JSON_KEYS = (
    "job_id", "status", "store", "artifacts", "attempts", "error", "timings", "summary", "cost",
    "estimated_seconds", "estimated_usd", "estimate",
)  # fmt: skip
EXITS = {"succeeded": EXIT_SUCCEEDED, "failed": EXIT_JOB_FAILED, "canceled": EXIT_CANCELED}


def _as_setting(ctx: click.Context, param: click.Parameter, session: str | None) -> tuple[str, ...]:
    return () if session is None else (f"computeConfig.session={session}",)


ARGUMENTS = click.argument("arguments", nargs=-1, metavar="CONFIG [KEY=VALUE]...")
ARGUMENTS_OR_NONE = click.argument("arguments", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...")
STORE = click.option("--store", metavar="URL", help="Store: a folder, file://, s3://bucket/prefix or job-store/NAME.")
POOL = click.option("--pool", metavar="NAME", help="Run through this Prefect work pool; without it, in this process.")
SESSION = click.option(
    "--session", type=click.Choice(("auto", "off")), callback=_as_setting,
    help="off: start a simulator for this job alone, warm or not.",
)  # fmt: skip
SETTINGS = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a field, or add a Hydra override."
)
LIMIT = click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many, newest first."
)
VIEW = click.option("--view", is_flag=True, help="Show the simulation in a browser on this machine while it runs.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout.")


class Finite(click.FloatRange):
    """A range that has no place for `nan`, which no comparison shuts out."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is no number.", param, ctx)
        return number


def config_and_settings(arguments: tuple[str, ...]) -> tuple[Path | None, list[str]]:
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


def check_request(model: type[Request], config: Path | None, settings: tuple[str, ...]) -> tuple[Request, Path]:
    """Return the request that a config makes, and the folder that its relative paths start from.

    It is refused before what runs it is imported.
    """
    from simyard.requests.config import check_config, read_config

    request = check_config(read_config(config, model, settings), model)
    return request, config.resolve().parent if config else Path.cwd()


def read_request(
    model: type[Request], arguments: tuple[str, ...], settings: tuple[str, ...], session: tuple[str, ...] = ()
) -> tuple[Request, Path]:
    """Check the request of a command that needs a config, as `check_request` does."""
    config, more = config_and_settings(arguments)
    if config is None:
        raise RequestError("Missing CONFIG.", code="bad_command", advice="Name a JSON file.")
    return check_request(model, config, (*settings, *more, *session))


def open_site_store(reference: str | None) -> Store:
    """Open the store a command names, or the site's own."""
    from simyard.blocks.reference import open_store
    from simyard.requests.settings import MachineSettings

    return open_store(reference or MachineSettings.from_env().store)


def open_site(reference: str | None) -> tuple[MachineSettings, str, Store]:
    """Return this machine's settings, and the store of a command: an address that holds in any folder, and itself."""
    from simyard.blocks.reference import absolute, open_store
    from simyard.requests.settings import MachineSettings

    machine = MachineSettings.from_env()
    reference = absolute(reference or machine.store)
    return machine, reference, open_store(reference)


class Terminated(BaseException):
    """Raised by a handler of SIGTERM."""


class Command(click.Command):
    """A command that turns our own errors into one message and an exit code, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        as_json = bool(ctx.params.get("as_json"))
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            click.echo(str(interrupt) or "Canceled before the job began.", err=True)
            _say_nothing_ran(as_json, "canceled", None)
            sys.exit(EXIT_CANCELED)
        except SimyardError as error:
            bad = isinstance(error, RequestError)
            click.echo(plain(f"{'Bad request' if bad else 'Error'}: {error}"), err=True)
            _say_nothing_ran(as_json, "failed", error.failure)
            sys.exit(EXIT_BAD_REQUEST if bad else EXIT_JOB_FAILED)
        except BaseException as error:
            if (known := _known_end(error)) is None:
                raise
            message, code = known
            click.echo(message, err=True)
            _say_nothing_ran(as_json, "failed", None)
            sys.exit(code)


def _known_end(error: BaseException | None) -> tuple[str, int] | None:
    """Return message and exit code for an end that is no fault of the code; None for any other.

    Inside Prefect's engine other errors follow from the one that counts.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = f" ({error.filename!r})" if error.filename else ""
            return f"Error: {error.strerror}{place}. Make room on that disk, then {GO_ON}", EXIT_JOB_FAILED
        if isinstance(error, Terminated) or type(error).__name__ == "TerminationSignal":
            return f"Ended by SIGTERM. What was saved is kept: {GO_ON}", 128 + signal.SIGTERM
        httpx = sys.modules.get("httpx")
        if httpx and isinstance(error, httpx.HTTPStatusError) and (refused := no_access(error)):
            return f"Error: {refused}", EXIT_BAD_REQUEST
        if httpx and isinstance(error, httpx.TransportError):
            return f"Error: The Prefect server went away: {error}. When it is back, {GO_ON}", EXIT_JOB_FAILED
        error = error.__cause__ or error.__context__
    return None


GO_ON = "resume the job or the run, or start it again where there is none yet."


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


def renamed(command: click.Command, name: str, new: str) -> click.Command:
    """Return a command under its former name, hidden from `--help`; run, it says its new name on stderr."""
    alias = copy.copy(command)
    alias.name, alias.hidden = name, True
    alias.deprecated = f"It is `simyard {new}` now; the next release drops the old name."
    return alias


def emit(found: Found, as_json: bool, describe: Callable[[Found], str]) -> None:
    """Print JSON on one line, a record as its document, or the text that `describe` makes of it."""
    if as_json:
        click.echo(json.dumps(found.to_json() if isinstance(found, Wire) else found))
    else:
        click.echo(plain(describe(found)))


def emit_rows(
    rows: Sequence[Mapping[str, Any] | Wire], as_json: bool, none: str, columns: Columns,
    unreadable: Sequence[Unreadable] = (),
) -> None:  # fmt: skip
    """Print rows, records among them, as JSON or as a table.

    Args:
        rows: The rows.
        as_json: Whether to print JSON.
        none: The text for no rows at all.
        columns: Titles and cells of the table.
        unreadable: Records of the list that cannot be read; each is a line below the table, and an object with `id`
            and `unreadable` behind the others.
    """
    documents = [row.to_json() if isinstance(row, Wire) else row for row in rows]
    cells = [
        [document[cell] if isinstance(cell, str) else cell(row) for cell in columns.values()]
        for row, document in zip(rows, documents, strict=True)
    ]
    bad = [{"id": record.id, "unreadable": record.error} for record in unreadable]
    lines = [f"{record.id}  cannot be read: {record.error}" for record in unreadable]
    table = [text_table(columns, cells)] if cells else [] if lines else [none]
    emit([*documents, *bad], as_json, lambda found: "\n".join([*table, *lines]))


def text_table(titles: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return rows below their titles, each column as wide as need be, right-aligned behind `>`."""
    sides = [">" if title.startswith(">") else "<" for title in titles]
    lines = [[title.lstrip(">") for title in titles], *([plain(str(cell)) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)).rstrip()
        for line in lines
    )


def end_as_jobs(results: Sequence[JobResult], as_json: bool) -> NoReturn:
    """Print a job's result, with that of the job that followed it, and exit as the worst of them says."""
    if as_json:
        first, *followers = map(shown_of, results)
        click.echo(json.dumps(first | ({"export": followers[0]} if followers else {})))
    exit_as(results)


def end_as_job(state: JobState, as_json: bool) -> NoReturn:
    """Print a job's result as `end_as_jobs` does; of a job that has not ended, its status, which is no failure."""
    from simyard.tasks.shared.estimates import as_told

    if isinstance(state, JobResult):
        end_as_jobs([state], as_json)
    if as_json:
        click.echo(json.dumps(shown_of(state)))
    else:
        store = state.store.rpartition("/jobs/")[0]
        click.echo(f"{state.job_id} is {state.status}.")
        if state.estimate:
            click.echo(f"estimate:    {as_told(state.estimate)}")
        click.echo(f"Follow it: simyard jobs watch {state.job_id} --store {store}")
    sys.exit(EXIT_SUCCEEDED)


def shown_of(state: JobState) -> dict[str, object]:
    """Return the fields of a job's result that `--json` prints; null for those that it has not yet."""
    fields = state.to_json() | reckoned(state.estimate)
    return {key: fields.get(key) for key in JSON_KEYS}


def reckoned(estimate: Estimate | None) -> dict[str, object]:
    """Return the fields of an estimate that `--json` prints, of jobs, sweeps and managed runs alike."""
    seconds, usd = (None, None) if estimate is None else (estimate.seconds, estimate.usd)
    return {"estimated_seconds": seconds, "estimated_usd": usd, "estimate": estimate and estimate.to_json()}


def exit_as(results: Iterable[JobResult]) -> NoReturn:
    """Exit as the worst of several jobs says."""
    sys.exit(max(EXIT_BAD_REQUEST if result.refused else EXITS[result.status] for result in results))


def _say_nothing_ran(as_json: bool, status: str, failure: Failure | None) -> None:
    if as_json:
        known = {"status": status, "artifacts": [], "attempts": 0, "error": failure and failure.to_json()}
        click.echo(json.dumps(dict.fromkeys(JSON_KEYS) | known))
