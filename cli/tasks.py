"""`simyard tasks`: the registered tasks of this machine's simulator, and what each of them needs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from simyard.cli.shared import JSON, Columns, Group, emit, emit_rows
from simyard.core.terminal import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simyard.core.task_facts import TaskFacts
    from simyard.tasks.sessions.catalog import Catalog, TaskRow

_PACKAGE = click.option(
    "--package", metavar="PATH", help="Those that this package of yours registers: a folder, a wheel or an archive."
)


@click.group(cls=Group)
def tasks() -> None:
    """Look at the tasks that can be trained: what each needs, sees and does, and whether it runs here."""


@tasks.command("list")
@click.argument("text", required=False)
@click.option("--runnable", is_flag=True, help="Only those that can be trained on this machine.")
@click.option("--library", metavar="NAME", help="Only those that this library trains.")
@click.option("--physics", metavar="NAME", help="Only those that have this engine: newton, physx or kamino.")
@_PACKAGE
@JSON
def list_tasks(
    text: str | None, runnable: bool, library: str | None, physics: str | None, package: str | None, as_json: bool
) -> None:
    """List tasks, those with TEXT in their ids or descriptions if it is given.

    The first time it reads every configuration, which takes a minute; afterwards it answers at once, until something
    is installed or changed.
    """
    from simyard.tasks.sessions.catalog import chosen, row

    catalog = _catalog(quiet=as_json)
    found = catalog.all() if package is None else catalog.of_package(package, Path.cwd())
    rows = [row(facts) for facts in chosen(found, text=text, runnable=runnable, library=library, physics=physics)]
    columns: Columns = {
        "TASK": "task",
        "KIND": lambda row: row.kind or "",
        "LIBRARIES": lambda row: ", ".join(row.libraries),
        "AGENTS": lambda row: ", ".join(row.agents),
        "PHYSICS": lambda row: ", ".join(row.physics),
        "RUNS HERE": lambda row: "yes" if row.runnable else f"no: {'; '.join(row.why_not)}",
    }
    if rows and sys.stdout.isatty() and not as_json:
        _draw(rows, columns)
    else:
        emit_rows(rows, as_json, "No task fits.", columns)


def _draw(rows: Sequence[TaskRow], columns: Columns) -> None:
    """Print rows as wide as the terminal is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for title in columns:
        table.add_column(title, no_wrap=title == "TASK", overflow="fold")
    for row in rows:
        cells = [getattr(row, cell) if isinstance(cell, str) else cell(row) for cell in columns.values()]
        table.add_row(*(Text(plain(str(cell))) for cell in cells), style=None if row.runnable else "dim")
    Console().print(table)


@tasks.command()
@click.argument("task")
@click.option("--measure", is_flag=True, help="Make its environment once, to see what only that tells.")
@_PACKAGE
@JSON
def show(task: str, measure: bool, package: str | None, as_json: bool) -> None:
    """Show a task: agents, physics, assets, observations, actions, times, and whether its success is known."""
    catalog = _catalog(quiet=as_json)
    if package is None:
        found = catalog.one(task, measure=measure)
    else:
        (found,) = catalog.of_package(package, Path.cwd(), task, measure=measure)
    emit(found, as_json, lambda found: "\n".join(_lines(found)))


def _catalog(*, quiet: bool) -> Catalog:
    """Return the tasks of this machine's simulator, which say on the live line what they wait for."""
    from simyard.cli.live import LiveLine
    from simyard.requests.settings import MachineSettings
    from simyard.tasks.sessions.catalog import Catalog

    return Catalog(MachineSettings.from_env(), LiveLine(quiet=quiet).waiting)


def _lines(facts: TaskFacts) -> Iterator[str]:
    """Yield the lines of one task."""
    from simyard.tasks.shared.task_sheet import UNKNOWN, sheet

    yield f"{facts.task}  {'runs here' if facts.runnable else 'does not run here'}"
    said = sheet(facts)
    for heading, lines in said.items():
        for number, line in enumerate(lines):
            yield f"{'' if number else heading:16}  {line}"
    if facts.runnable and not facts.measured and any(UNKNOWN in line for lines in said.values() for line in lines):
        yield f"To know the rest now: simyard tasks show {facts.task} --measure"
