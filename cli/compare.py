"""`simyard compare`: jobs side by side, on the terminal and as one file for a browser."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

import click

from simyard.cli.shared import STORE, Command, open_site, text_table
from simyard.core.terminal import plain

if TYPE_CHECKING:
    from simyard.store.store import Store
    from simyard.tasks.pages.comparison import Comparison, Row

MOST_FILM_BYTES = 8_000_000
"""A larger film is not put into the file."""
MOST_FILMS_BYTES = 40_000_000
"""Of all films in the file together."""


@click.command(cls=Command)
@click.argument("references", metavar="JOB JOB...", nargs=-1)
@click.option("--html", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write one self-contained file.")
@click.option("--open", "opens", is_flag=True, help="Show it in the browser; without --html from a file in the home.")
@STORE
def compare(references: tuple[str, ...], file: Path | None, opens: bool, store: str | None) -> None:
    """Compare two to eight jobs with the first: figures, settings, environments, cost; curves and films in a browser.

    JOB@model_50.pt is one checkpoint of a training, or of an evaluation that measured several.
    """
    from simyard.tasks.pages.comparison import compare as compared

    machine, _, opened = open_site(store)
    found = compared(opened, references)
    click.echo(plain(_described(found)))
    if file is None and opens:
        file = machine.home / "compare" / f"{'-'.join(side.job_id[-6:] for side in found.sides)}.html"
    if file is not None:
        from simyard.core.files import write_atomic

        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, _document(found, opened).encode())
        click.echo(f"page: {file}")
    if opens and file is not None:
        import webbrowser

        if not webbrowser.open(file.resolve().as_uri()):
            click.echo("There is no browser here: open the file in one.", err=True)


def _described(found: Comparison) -> str:
    from simyard.tasks.pages.compare_page import cell

    titles = ["", *(f">{n + 1}" for n in range(len(found.sides)))]

    def table(heading: str, rows: list[Row]) -> list[str]:
        cells = [[row.name, *(cell(value) + _mark(value) for value in row.cells)] for row in rows]
        return ["", heading, text_table(titles, cells)] if rows else []

    names = [f"{n + 1}  {side.reference}  {side.spec.name}" for n, side in enumerate(found.sides)]
    parts = [
        table("Figures", found.figures),
        table("Less job 1, with 95 % intervals (* has no zero in it)", found.differences),
        table("Settings that differ", found.settings),
        table("Environments where they differ", found.environment),
        table("Time and cost", found.cost),
    ]
    return "\n".join([*names, *(line for part in parts for line in part)])


def _mark(value: object) -> str:
    return "*" if getattr(value, "is_beyond_noise", False) else ""


def _document(found: Comparison, store: Store) -> str:
    """Return the page as one file, which loads nothing: films are in it, as far as they are small."""
    from simyard.store.keys import JobKeys
    from simyard.tasks.pages.compare_page import comparison_page

    sizes = {(n, entry.name): entry.size_bytes for n, side in enumerate(found.sides) for entry in side.state.artifacts}
    room = MOST_FILMS_BYTES

    def film(place: int, name: str) -> str | None:
        nonlocal room
        size = sizes[place, name]
        if size > min(MOST_FILM_BYTES, room):
            return None
        room -= size
        data = store.get_bytes(JobKeys(found.sides[place].job_id).artifact(name))
        return f"data:video/mp4;base64,{base64.b64encode(data).decode()}"

    return comparison_page(found, film, "", [None] * len(found.sides))
