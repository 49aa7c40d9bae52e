"""Output and ending of a command. Exit codes: 0 succeeded, 1 the job failed, 2 bad request, 130 canceled."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import click

from simyard.core.errors import (
    EXIT_BAD_REQUEST,
    EXIT_CANCELED,
    EXIT_JOB_FAILED,
    EXIT_SUCCEEDED,
    RequestError,
    SimyardError,
)
from simyard.core.records import JobResult, JobState

Found = TypeVar("Found")
Columns = Mapping[str, str | Callable[[Any], object]]
"""For each title, the key of its cells or a function of the row; where it begins with `>` the column stands right."""

JSON_KEYS = ("job_id", "status", "store", "artifacts", "attempts", "error", "timings", "summary")
EXITS = {"succeeded": EXIT_SUCCEEDED, "failed": EXIT_JOB_FAILED, "canceled": EXIT_CANCELED}


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
            click.echo(f"{'Bad request' if bad else 'Error'}: {error}", err=True)
            _say_nothing_ran(as_json, "failed", error.failure.to_json())
            sys.exit(EXIT_BAD_REQUEST if bad else EXIT_JOB_FAILED)


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
    """Print JSON on one line, or the text that `describe` makes of it."""
    click.echo(json.dumps(found) if as_json else describe(found))


def emit_rows(rows: Sequence[Mapping[str, Any]], as_json: bool, none: str, columns: Columns) -> None:
    """Print rows as JSON or as a table; `none` is the text for no rows at all."""
    cells = [[row[cell] if isinstance(cell, str) else cell(row) for cell in columns.values()] for row in rows]
    emit(rows, as_json, lambda rows: text_table(columns, cells) if rows else none)


def text_table(titles: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return rows below their titles, each column as wide as need be, right-aligned behind `>`."""
    sides = [">" if title.startswith(">") else "<" for title in titles]
    lines = [[title.lstrip(">") for title in titles], *([str(cell) for cell in row] for row in rows)]
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


def end_as_job(standing: JobState, as_json: bool) -> NoReturn:
    """Print a job's result as `end_as_jobs` does; of a job that has not ended, its status, which is no failure."""
    if isinstance(standing, JobResult):
        end_as_jobs([standing], as_json)
    if as_json:
        click.echo(json.dumps(shown_of(standing)))
    else:
        store = standing.store.rpartition("/jobs/")[0]
        click.echo(f"{standing.job_id} is {standing.status}.")
        click.echo(f"Follow it: simyard jobs watch {standing.job_id} --store {store}")
    sys.exit(EXIT_SUCCEEDED)


def shown_of(standing: JobState) -> dict[str, object]:
    """Return the fields of a job's result that `--json` prints; null for those that it has not yet."""
    fields = standing.to_json()
    return {key: fields.get(key) for key in JSON_KEYS}


def exit_as(results: Iterable[JobResult]) -> NoReturn:
    """Exit as the worst of several jobs says."""
    sys.exit(max(EXIT_BAD_REQUEST if result.refused else EXITS[result.status] for result in results))


def _say_nothing_ran(as_json: bool, status: str, error: dict[str, Any] | None) -> None:
    if as_json:
        empty: dict[str, Any] = dict.fromkeys(JSON_KEYS)
        click.echo(json.dumps(empty | {"status": status, "artifacts": [], "attempts": 0, "error": error}))
